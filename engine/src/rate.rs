//! The least rate that is asked of a peer, over windows of a length.
//! Must not know: clocks, sockets, which direction the bytes take.

use std::time::Duration;

/// No window is shorter: networks stall for some seconds without anybody's fault.
const SHORTEST_WINDOW: Duration = Duration::from_secs(5);

/// Bytes a second, in each window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeastRate {
    /// 0: any rate will do.
    rate: u64,
    window: Duration,
}

impl LeastRate {
    /// `timeout`: the time that a peer has for a single byte. A window is as long, so that it may pause for less.
    pub(crate) fn new(rate: u64, timeout: Duration) -> LeastRate {
        LeastRate { rate, window: timeout.max(SHORTEST_WINDOW) }
    }
}

/// How a peer does in the window that is running.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// For so long the peer has been waited for.
    waited: Duration,
    /// Bytes so far when it began.
    bytes: u64,
}

impl Pace {
    /// A window begins, `bytes` having come or gone before it.
    pub(crate) fn new(bytes: u64) -> Pace {
        Pace { waited: Duration::ZERO, bytes }
    }

    /// The peer has been waited for.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Whether the window is over and fewer bytes than `least` asks for have moved in it; `bytes` have by now. Where it is
    /// over, the next begins.
    pub(crate) fn is_too_slow(&mut self, bytes: u64, least: LeastRate) -> bool {
        if self.waited < least.window {
            return false;
        }
        let asked = u128::from(least.rate) * self.waited.as_millis();
        let moved = u128::from(bytes.saturating_sub(self.bytes)) * 1000;
        *self = Pace::new(bytes);
        moved < asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_too_slow_at_the_end_of_a_window_only() {
        let seconds = Duration::from_secs;
        // The rate and the timeout; of each step the wait, the bytes so far, and whether that is too slow.
        type Steps = &'static [(u64, u64, bool)];
        let table: &[(u64, u64, Steps)] = &[
            (100, 60, &[(30, 0, false), (29, 1, false), (1, 2, true)]),
            (100, 60, &[(60, 5_999, true)]),
            (100, 60, &[(60, 6_000, false), (59, 6_000, false), (1, 11_999, true)]),
            (100, 60, &[(60, 1_000_000, false), (60, 1_000_000, true)]),
            (100, 60, &[(120, 11_999, true)]),
            (100, 1, &[(4, 0, false), (1, 500, false), (5, 999, true)]),
            (0, 1, &[(1_000_000, 0, false)]),
            (u64::MAX, 1, &[(5, u64::MAX, true)]),
        ];
        for (rate, timeout, steps) in table {
            let least = LeastRate::new(*rate, seconds(*timeout));
            let mut pace = Pace::new(0);
            for (wait, bytes, is_too_slow) in *steps {
                pace.wait(seconds(*wait));
                let case = format!("{rate} a second, {timeout} s, {wait} s later, {bytes} bytes");
                assert_eq!(pace.is_too_slow(*bytes, least), *is_too_slow, "{case}");
            }
        }
    }
}

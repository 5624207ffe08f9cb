//! Deadlines: one queue a kind. Those of one kind have one length, so each queue is in order by construction.
//! Invariant: a token is in at most one queue; arming, disarming and expiry are O(1).

use crate::io::Millis;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The end of a head.
    Head,
    /// The next bytes of a body.
    Body,
    /// The peer to take what is being sent.
    Write,
    /// The next request.
    KeepAlive,
    /// The peer to close, after the last answer.
    Linger,
    /// A request, while the server drains.
    Drain,
}

const KINDS: usize = 6;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    deadline: Millis,
    kind: Option<Timeout>,
}

const UNLINKED: Link = Link { previous: NONE, next: NONE, deadline: 0, kind: None };

#[derive(Clone, Copy)]
struct Queue {
    first: u32,
    last: u32,
}

/// The deadlines of all connections, by their token.
pub struct Timeouts {
    links: Vec<Link>,
    queues: [Queue; KINDS],
    lengths: [Millis; KINDS],
}

impl Timeouts {
    /// `length` says how long each kind is, in milliseconds.
    pub fn new(length: impl Fn(Timeout) -> Millis) -> Timeouts {
        use Timeout::*;
        let lengths = [Head, Body, Write, KeepAlive, Linger, Drain].map(length);
        Timeouts { links: Vec::new(), queues: [Queue { first: NONE, last: NONE }; KINDS], lengths }
    }

    /// The kind `token` is armed with.
    pub fn armed(&self, token: usize) -> Option<Timeout> {
        self.links.get(token).and_then(|link| link.kind)
    }

    /// Gives `token` the deadline of `kind` from `now` on, in place of the one it had.
    pub fn arm(&mut self, token: usize, kind: Timeout, now: Millis) {
        self.disarm(token);
        if token >= self.links.len() {
            self.links.resize(token + 1, UNLINKED);
        }
        let queue = &mut self.queues[kind as usize];
        let previous = queue.last;
        let deadline = now.saturating_add(self.lengths[kind as usize]);
        self.links[token] = Link { previous, next: NONE, deadline, kind: Some(kind) };
        queue.last = token as u32;
        match previous {
            NONE => queue.first = token as u32,
            previous => self.links[previous as usize].next = token as u32,
        }
    }

    /// Takes `token`'s deadline away, if it has one.
    pub fn disarm(&mut self, token: usize) {
        let Some(link) = self.links.get(token).copied() else { return };
        let Some(kind) = link.kind else { return };
        let queue = &mut self.queues[kind as usize];
        match link.previous {
            NONE => queue.first = link.next,
            previous => self.links[previous as usize].next = link.next,
        }
        match link.next {
            NONE => queue.last = link.previous,
            next => self.links[next as usize].previous = link.previous,
        }
        self.links[token] = UNLINKED;
    }

    /// For how long `token` has been armed with what it is.
    pub fn waited(&self, token: usize, now: Millis) -> Millis {
        let link = self.links.get(token);
        let begun = link.and_then(|link| Some(link.deadline.saturating_sub(self.lengths[link.kind? as usize])));
        begun.map_or(0, |begun| now.saturating_sub(begun))
    }

    /// Those that are armed with `kind`, the one that has been for longest first.
    pub fn armed_with(&self, kind: Timeout) -> impl Iterator<Item = usize> {
        let first = self.queues[kind as usize].first;
        std::iter::successors((first != NONE).then_some(first as usize), |token| {
            let next = self.links[*token].next;
            (next != NONE).then_some(next as usize)
        })
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Millis> {
        self.queues.iter().filter_map(|queue| self.links.get(queue.first as usize)).map(|link| link.deadline).min()
    }

    /// Takes out one token whose deadline has come.
    pub fn expired(&mut self, now: Millis) -> Option<(usize, Timeout)> {
        let due = |queue: &Queue| self.links.get(queue.first as usize).filter(|link| link.deadline <= now);
        let token = self.queues.iter().find(|queue| due(queue).is_some())?.first as usize;
        let kind = self.armed(token)?;
        self.disarm(token);
        Some((token, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeouts() -> Timeouts {
        Timeouts::new(|kind| if kind == Timeout::KeepAlive { 100 } else { 10 })
    }

    #[test]
    fn deadlines_come_in_order_whatever_their_kind() {
        let mut timeouts = timeouts();
        timeouts.arm(0, Timeout::KeepAlive, 0);
        timeouts.arm(1, Timeout::Head, 5);
        timeouts.arm(2, Timeout::Head, 7);
        timeouts.arm(7, Timeout::Body, 1);
        assert_eq!(timeouts.next(), Some(11));
        assert_eq!(timeouts.armed_with(Timeout::Head).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(timeouts.armed_with(Timeout::Write).next(), None);
        assert_eq!((timeouts.waited(0, 10), timeouts.waited(7, 10), timeouts.waited(99, 10)), (10, 9, 0));
        assert_eq!(timeouts.expired(10), None);
        assert_eq!(timeouts.expired(11), Some((7, Timeout::Body)));
        assert_eq!(timeouts.expired(16), Some((1, Timeout::Head)));
        assert_eq!(timeouts.expired(16), None);
        assert_eq!(timeouts.next(), Some(17));
        timeouts.arm(2, Timeout::Head, 90);
        assert_eq!(timeouts.expired(100), Some((2, Timeout::Head)));
        assert_eq!(timeouts.expired(100), Some((0, Timeout::KeepAlive)));
        assert_eq!(timeouts.next(), None);
    }

    #[test]
    fn a_token_leaves_the_middle_and_the_ends_of_its_queue() {
        for gone in 0..3 {
            let mut timeouts = timeouts();
            (0..3).for_each(|token| timeouts.arm(token, Timeout::Head, token as Millis));
            timeouts.disarm(gone);
            timeouts.disarm(gone);
            assert_eq!(timeouts.armed(gone), None);
            let left: Vec<usize> = std::iter::from_fn(|| timeouts.expired(1000)).map(|(token, _)| token).collect();
            assert_eq!(left, (0..3).filter(|token| *token != gone).collect::<Vec<_>>());
        }
    }
}

//! The watch's rounds: what it looks at each time, and what it does about it.
//! Knows: all loops.   Must not know: HTTP, connections, the application's language.
//! Invariant: it never waits, neither for a loop nor for the application's runtime.

use std::time::{Duration, Instant};

use crate::app::App;
use crate::counters::Cell;
use crate::io::{Net, Waker, is_asleep_in_lock};
use crate::loops::Loops;
use crate::sync::Ordering;
use crate::watch::{LongCalls, Quiet};

/// Looks at the same calls, past `graceful_timeout`, before the watch ends the server: a thread that comes back by then does
/// it better.
const LOOKS_BEFORE_GIVING_UP: u32 = 50;

/// For threads that wait for their clients, a second at a time.
const TIME_TO_CUT: Duration = Duration::from_secs(2);

/// For so long a stream waits for its turn, and nobody has had one, before the watch asks whether the calls that have the
/// permits wait for a lock. The stream may hold it.
const LOCKED_OUT: Duration = Duration::from_secs(1);

/// For so long the thread that runs the handlers of signals may be in a call before the watch begins the end that a fatal
/// signal asks for; and a forced end comes so much later than the one that was asked for.
const TIME_TO_HEAR: Duration = Duration::from_millis(50);
const TIME_TO_END: Duration = Duration::from_secs(3);
const TIME_TO_TELL: Duration = Duration::from_secs(1);

/// What the watch remembers from one look to the next.
pub(crate) struct Rounds {
    long_calls: LongCalls,
    /// When it gives up threads that do not come back.
    end: Option<Instant>,
    /// Of each loop: its leader was out at the last look, and has been since the one before.
    stuck: Box<[bool]>,
    /// When the end at once began.
    aborts: Option<Instant>,
    /// Looks at the same calls, while the server ends.
    stuck_looks: u32,
    /// A stream waits for its turn: since when, how many turns had been given by then, and what the threads were doing.
    locked_out: Option<LockedOut>,
    /// What the threads were doing when a permit was lent: while that lasts, the next is lent at once.
    lent_beside: Option<Vec<String>>,
    /// A fatal signal came, and the process is still there.
    fatal: Option<Fatal>,
}

struct Fatal {
    signal: u8,
    since: Instant,
    /// When another came.
    again: Option<Instant>,
    /// How often handlers had been looked for by then.
    heard: u32,
    gave_up: Option<Instant>,
}

struct LockedOut {
    since: Instant,
    granted: u32,
    threads: Option<Vec<String>>,
}

impl Rounds {
    pub(crate) fn new<N: Net, A: App<N::Socket>>(loops: &Loops<N, A>) -> Rounds {
        let config = &loops.shared.config;
        Rounds {
            long_calls: LongCalls::new(config.slow_request, config.timeout),
            end: None,
            aborts: None,
            stuck: loops.all.iter().map(|_| false).collect(),
            stuck_looks: 0,
            locked_out: None,
            lent_beside: None,
            fatal: None,
        }
    }

    /// One look; `signal`: one that came.
    pub(crate) fn look<N: Net, A: App<N::Socket>>(
        &mut self,
        loops: &Loops<N, A>,
        signal: Option<u8>,
        now: Instant,
    ) -> Quiet {
        let shared = &loops.shared;
        if let Some(signal) = signal {
            self.hear(loops, signal, now);
        }
        let awaits_end = self.look_at_fatal(loops, now);
        let is_quiet = look(loops, |index, is_stuck| self.stuck[index] = is_stuck);
        let next = self.long_calls.look(&shared.watch, now, |call| {
            if call.is_over_time {
                shared.books.counters.count(Cell::TimedOut);
            }
            shared.app.takes_long(call);
        });
        let waits_for_turn = self.look_at_streams(loops, now);
        if is_stand_in_of_use(loops) {
            let mut stood_in = false;
            for (one, _) in loops.all.iter().zip(&self.stuck).filter(|(_, is_stuck)| **is_stuck) {
                if !loops.is_deserted(one) {
                    continue;
                }
                stood_in = true;
                let Some(waits) = loops.stand_in(one) else { continue };
                one.handle.crew.release_and_promote();
                if waits && loops.all.len() > 1 {
                    one.handle.crew.want();
                    loops
                        .all
                        .iter()
                        .filter(|other| other.handle.crew.is_led())
                        .for_each(|other| other.handle.waker.wake());
                }
                shared.context().write_log_detached(); // nobody else would: all are out
            }
            if stood_in && !shared.control.is_stopping() && !awaits_end {
                return Quiet::No;
            }
        }
        let all_are_out = loops.all_are_out();
        if shared.control.is_stopping() && all_are_out {
            self.look_at_end(loops, now);
            return Quiet::No;
        }
        let is_needed = is_stand_in_of_use(loops) && loops.all.iter().any(|one| loops.is_deserted(one));
        match is_quiet && !is_needed && !waits_for_turn && !awaits_end {
            true if all_are_out => Quiet::Deserted(next),
            true => Quiet::Until(next),
            false => Quiet::No,
        }
    }

    /// The server is to end, and no thread has come back: gives them up when the time is over.
    fn look_at_end<N: Net, A: App<N::Socket>>(&mut self, loops: &Loops<N, A>, now: Instant) {
        let shared = &loops.shared;
        let end = *self.end.get_or_insert_with(|| now + shared.config.graceful_timeout);
        let is_stuck = loops.all.iter().zip(&self.stuck).all(|(one, stuck)| *stuck || one.handle.crew.has_ended());
        self.stuck_looks = if is_stuck { self.stuck_looks + 1 } else { 0 };
        if !shared.control.is_aborting() && now < end {
            return;
        }
        shared.control.abort();
        let since = *self.aborts.get_or_insert_with(|| {
            self.stuck_looks = 0; // a thread that sees the end at once ends its response as it should
            now
        });
        // A thread that waits for its client sees that, and cuts its response; it is not given up at once.
        let waits = shared.waiting.load(Ordering::SeqCst) > 0 && now.saturating_duration_since(since) < TIME_TO_CUT;
        if self.stuck_looks >= LOOKS_BEFORE_GIVING_UP && !waits && loops.claim_all() {
            loops.all.iter().for_each(|one| drop(one.handle.crew.end()));
            shared.watch.cut_unfinished();
            shared.context().write_log_detached();
            shared.app.gives_up(self.fatal.as_ref().map(|fatal| fatal.signal));
            self.fatal.iter_mut().for_each(|fatal| fatal.gave_up = Some(now));
        }
    }

    /// A signal came: every thread that may have to run its handler is told, wherever it waits.
    fn hear<N: Net, A: App<N::Socket>>(&mut self, loops: &Loops<N, A>, signal: u8, now: Instant) {
        let shared = &loops.shared;
        let heard = shared.app.signals_heard();
        shared.app.signalled();
        shared.permits.nudge();
        loops.all.iter().for_each(|one| one.handle.crew.nudge_first());
        loops.wake();
        match &mut self.fatal {
            _ if !shared.app.is_fatal(signal) => {}
            Some(fatal) => fatal.again = fatal.again.or(Some(now)),
            None => self.fatal = Some(Fatal { signal, since: now, again: None, heard, gave_up: None }),
        }
    }

    /// Whether a fatal signal came and the process has not ended. Where no handler can run (its thread is in a call of the
    /// application that does not come back), the watch begins the end in its place; and where the interpreter is not to be
    /// had for that, it ends the process.
    fn look_at_fatal<N: Net, A: App<N::Socket>>(&mut self, loops: &Loops<N, A>, now: Instant) -> bool {
        let shared = &loops.shared;
        let Some(fatal) = &self.fatal else { return false };
        let has_been_heard = shared.app.signals_heard() != fatal.heard;
        if has_been_heard && !shared.control.is_stopping() {
            self.fatal = None; // it was not for this process, or its handler thought otherwise
            return false;
        }
        let is_past = |moment: Instant, time: Duration| now.saturating_duration_since(moment) >= time;
        if !has_been_heard && is_past(fatal.since, TIME_TO_HEAR) {
            let aborts = fatal.again.is_some_and(|again| is_past(again, TIME_TO_HEAR));
            if aborts {
                shared.control.abort();
            } else {
                shared.control.drain();
            }
            loops.wake();
        }
        let is_late = is_past(fatal.since, shared.config.graceful_timeout.saturating_add(TIME_TO_END))
            || fatal.again.is_some_and(|again| is_past(again, TIME_TO_END))
            || fatal.gave_up.is_some_and(|gave_up| is_past(gave_up, TIME_TO_TELL));
        if is_late {
            shared.watch.cut_unfinished();
            shared.app.force_end(fatal.signal);
        }
        true
    }

    /// Whether a stream waits for its turn. Where the calls that have all permits wait for locks, a permit is lent to it:
    /// it may hold one of them.
    fn look_at_streams<N: Net, A: App<N::Socket>>(&mut self, loops: &Loops<N, A>, now: Instant) -> bool {
        let Some(granted) = loops.shared.permits.waiting_stream() else {
            self.locked_out = None;
            return false;
        };
        let doing = || -> Option<Vec<String>> {
            loops.shared.watch.in_calls().iter().map(|thread| is_asleep_in_lock(*thread)).collect()
        };
        if self.lent_beside.is_some() {
            if self.lent_beside == doing() {
                loops.shared.permits.lend();
                return true;
            }
            self.lent_beside = None;
        }
        match &mut self.locked_out {
            Some(locked_out) if locked_out.granted == granted => {
                if now.saturating_duration_since(locked_out.since) < LOCKED_OUT {
                    return true;
                }
                let doing = doing();
                // Twice in the same sleep, a while apart: none of them waits for the interpreter, which is for moments.
                if doing.is_some() && doing == locked_out.threads {
                    loops.shared.permits.lend();
                    self.lent_beside = doing;
                    return true;
                }
                *locked_out = LockedOut { since: now - LOCKED_OUT / 2, granted, threads: doing };
            }
            _ => self.locked_out = Some(LockedOut { since: now, granted, threads: None }),
        }
        true
    }
}

/// Whether the watch stands in for a leader where all permits are out: to refuse what is too much, or to see that another
/// loop's leader is wanted.
pub(crate) fn stands_in<N: Net, A: App<N::Socket>>(loops: &Loops<N, A>) -> bool {
    loops.shared.config.max_queue > 0 || loops.all.len() > 1
}

/// Whether it can do more than wait for a thread that comes back.
fn is_stand_in_of_use<N: Net, A: App<N::Socket>>(loops: &Loops<N, A>) -> bool {
    let leads = |crew: &crate::crew::Crew<_>| crew.is_led() && !crew.has_ended();
    loops.shared.config.max_queue > 0 || loops.all.iter().any(|one| leads(&one.handle.crew))
}

/// One look at what is held and who leads. Whether nothing is held, and a follower would not be missed. `note` is told of
/// each loop whether its leader has been out since the last look.
pub(crate) fn look<N: Net, A: App<N::Socket>>(loops: &Loops<N, A>, mut note: impl FnMut(usize, bool)) -> bool {
    let mut is_quiet = true;
    for (index, one) in loops.all.iter().enumerate() {
        let has_not_moved = one.look();
        let crew = &one.handle.crew;
        let is_led = crew.is_led();
        let can_be_led = crew.has_followers() && loops.shared.permits.is_free();
        if has_not_moved && !is_led && can_be_led {
            crew.promote();
        }
        is_quiet &= !one.handle.holds() && (is_led || !can_be_led);
        note(index, has_not_moved && !is_led);
    }
    loops.shared.watch.tick() && is_quiet
}

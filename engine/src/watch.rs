//! What may wait a moment, and who sees to it that it is no more than a moment.
//!
//! Answers and blocks that follow each other quickly leave together: each `send` to a sleeping peer costs its waking,
//! which is more than most requests cost. So they are *held* while the application makes the next one. Where it takes its
//! time over that, another thread sends them: the *watch*, which looks every [`TICK`]. It is what PEP 3333 asks of a
//! server that goes on to the next block before it has sent the last ("Buffering and Streaming").
//!
//! Must not know: sockets, the loop. Invariant: nothing is held unless somebody ticks; what is held leaves by the second
//! tick; the watch sleeps where nothing is held.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::io::{Bell, thread_number};
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicBool, AtomicU32, Mutex, MutexGuard, Ordering, PoisonError};

/// Time between two looks.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Looks at nothing in a row, after which the watch sleeps until it is called.
const QUIET_TICKS: u32 = 16;

/// Something whose held bytes can be sent while its owner is away.
pub(crate) trait Held: Send + Sync {
    /// Sends what can be sent now. Whether nothing is left.
    fn send_held(&self) -> bool;

    /// Resets the connection where its orderly end would pass for the end of a response that is not over. `false` where its
    /// thread is at it right now.
    fn cut(&self) -> bool;
}

/// The meeting place of those who hold and of the one who looks.
pub(crate) struct Watch {
    /// Somebody ticks.
    kept: AtomicBool,
    awake: AtomicBool,
    ended: AtomicBool,
    keeper: OnceLock<Thread>,
    /// What the keeper waits at, if it does not park: signals ring it, too.
    bell: OnceLock<Arc<Bell>>,
    ticks: AtomicU32,
    /// One for each thread that runs the application, by its number; a thread that has left leaves it to the next that comes.
    slots: Mutex<Vec<Arc<ThreadSlot>>>,
    /// Calls are counted, and the watch called for each.
    counts_calls: bool,
}

/// Where a thread says what it is about before it goes to the application.
#[derive(Default)]
pub(crate) struct ThreadSlot {
    held: Mutex<Latest>,
    /// Calls begun and ended: odd while one is under way.
    calls: AtomicU32,
    is_taken: AtomicBool,
    /// What the kernel calls the thread.
    number: AtomicU32,
    /// The thread has a permit, and is not between two blocks.
    is_in_call: AtomicBool,
    /// The latest response that must not end in order before it is over.
    unfinished: Mutex<Option<Arc<dyn Held>>>,
}

impl ThreadSlot {
    fn held(&self) -> MutexGuard<'_, Latest> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what has been held here for a whole tick. Whether there was nothing new.
    fn tick(&self) -> bool {
        let mut latest = self.held();
        if latest.seen != latest.count {
            latest.seen = latest.count;
            return false;
        }
        let Some(holder) = latest.holder.take() else { return true };
        drop(latest);
        if holder.send_held() {
            return true;
        }
        // The peer does not take all of it now: the next look tries again, unless there is a later holder.
        self.held().holder.get_or_insert(holder);
        false
    }
}

/// A call of the application that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongCall {
    /// The number of its thread.
    pub thread: usize,
    /// Its number there: see [`Reply::call_number`](crate::Reply::call_number).
    pub number: u32,
    /// For how long it has been running.
    pub so_far: Duration,
    /// Past `timeout`; else past `slow_request`.
    pub is_over_time: bool,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// Something is held, or goes on: look again.
    No,
    /// Nothing; so far ahead there will be something by itself.
    Until(Option<Duration>),
    /// Nothing, and nobody to be called if there were.
    Deserted(Option<Duration>),
}

/// How long the calls under way have been running, by the watch's own book.
pub(crate) struct LongCalls {
    limits: [(bool, Duration); 2],
    seen: Vec<Seen>,
}

/// A call as it was seen first.
#[derive(Clone, Copy)]
struct Seen {
    number: u32,
    since: Instant,
    /// Which of the limits have been told.
    told: [bool; 2],
}

impl LongCalls {
    /// `slow` and `over_time`: what is told of a call that takes longer; zero: nothing is.
    pub(crate) fn new(slow: Duration, over_time: Duration) -> LongCalls {
        LongCalls { limits: [(false, slow), (true, over_time)], seen: Vec::new() }
    }

    /// One look: tells `found` of calls that have come to take long. How far ahead the next may.
    pub(crate) fn look(&mut self, watch: &Watch, now: Instant, mut found: impl FnMut(&LongCall)) -> Option<Duration> {
        if self.limits.iter().all(|(_, limit)| limit.is_zero()) {
            return None;
        }
        let mut next: Option<Duration> = None;
        for (thread, slot) in watch.slots().iter().enumerate() {
            let number = slot.calls.load(Ordering::SeqCst);
            if thread == self.seen.len() {
                self.seen.push(Seen { number: 0, since: now, told: [false; 2] });
            }
            let seen = &mut self.seen[thread];
            if number.is_multiple_of(2) {
                continue;
            }
            if seen.number != number {
                *seen = Seen { number, since: now, told: [false; 2] };
            }
            let so_far = now.saturating_duration_since(seen.since);
            for ((is_over_time, limit), told) in self.limits.iter().zip(&mut seen.told) {
                if *told || limit.is_zero() {
                    continue;
                }
                if so_far >= *limit {
                    *told = true;
                    found(&LongCall { thread, number, so_far, is_over_time: *is_over_time });
                } else {
                    next = Some(next.map_or(*limit - so_far, |next| next.min(*limit - so_far)));
                }
            }
        }
        next
    }
}

#[derive(Default)]
struct Latest {
    holder: Option<Arc<dyn Held>>,
    /// How many there have been, now and at the last tick.
    count: u32,
    seen: u32,
}

impl Watch {
    /// Over no thread yet. `counts_calls`: it looks at how long calls take, too.
    pub(crate) fn new(counts_calls: bool) -> Watch {
        Watch {
            kept: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            keeper: OnceLock::new(),
            bell: OnceLock::new(),
            ticks: AtomicU32::new(0),
            slots: Mutex::default(),
            counts_calls,
        }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<ThreadSlot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread comes: its number, the smallest that no other has, and its slot.
    pub(crate) fn join(&self) -> (usize, Arc<ThreadSlot>) {
        let mut slots = self.slots();
        let free = slots.iter().position(|slot| !slot.is_taken.load(Ordering::Relaxed));
        let number = free.unwrap_or_else(|| {
            slots.push(Arc::default());
            slots.len() - 1
        });
        slots[number].is_taken.store(true, Ordering::Relaxed);
        slots[number].number.store(thread_number(), Ordering::Relaxed);
        (number, slots[number].clone())
    }

    /// A thread leaves.
    pub(crate) fn leave(&self, slot: &ThreadSlot) {
        slot.held().holder = None;
        slot.is_taken.store(false, Ordering::Relaxed);
    }

    /// Where the keeper is to wait, so that it hears signals; to be said before [`Watch::begin`].
    pub(crate) fn wait_at(&self, bell: Arc<Bell>) {
        let _ = self.bell.set(bell);
    }

    /// From now on a thread ticks: `keeper`, or one that wakes by itself.
    pub(crate) fn begin(&self, keeper: Option<Thread>) {
        if let Some(keeper) = keeper {
            let _ = self.keeper.set(keeper);
        }
        self.kept.store(true, Ordering::Release);
    }

    /// Whether somebody ticks, so that something may be held.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// Ticks so far: a coarse clock for how long the application takes, which stands still while nothing is held.
    pub(crate) fn ticks(&self) -> u32 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Wakes the watch if it sleeps.
    pub(crate) fn wake(&self) {
        if !self.awake.load(Ordering::SeqCst) && !self.awake.swap(true, Ordering::SeqCst) {
            self.rouse();
        }
    }

    fn rouse(&self) {
        match (self.bell.get(), self.keeper.get()) {
            (Some(bell), _) => bell.ring(),
            (None, Some(keeper)) => keeper.unpark(),
            (None, None) => {}
        }
    }

    /// The keeper's: waits until it is roused, or so long. The signal that roused it.
    fn sleep(&self, time: Option<Duration>) -> Option<u8> {
        match (self.bell.get(), time) {
            // It can fail for want of memory: then it is tried again after a while.
            (Some(bell), _) => bell.wait(time).unwrap_or_else(|_| {
                thread::park_timeout(TICK);
                None
            }),
            (None, Some(time)) => {
                thread::park_timeout(time);
                None
            }
            (None, None) => {
                thread::park();
                None
            }
        }
    }

    /// The thread that has `slot` goes to the application: the number of the call.
    #[inline]
    pub(crate) fn begin_call(&self, slot: &ThreadSlot) -> u32 {
        slot.is_in_call.store(true, Ordering::Relaxed);
        if !self.counts_calls {
            return 0;
        }
        let calls = &slot.calls;
        let number = calls.load(Ordering::Relaxed).wrapping_add(1); // nobody else writes
        // No lost wake-up: the watch sees this store before it parks, or the wake below finds it parked.
        calls.store(number, Ordering::SeqCst);
        self.wake();
        number
    }

    /// The thread that has `slot` is back.
    #[inline]
    pub(crate) fn end_call(&self, slot: &ThreadSlot) {
        slot.is_in_call.store(false, Ordering::Relaxed);
        if self.counts_calls {
            slot.calls.store(slot.calls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
    }

    /// Notes that `holder` holds bytes while the thread that has `slot` is away. The latest in a slot counts; the one
    /// before has come back.
    pub(crate) fn hold(&self, slot: &ThreadSlot, holder: Arc<dyn Held>) {
        let mut latest = slot.held();
        let before = latest.holder.replace(holder);
        latest.count = latest.count.wrapping_add(1);
        self.wake();
        drop(latest);
        drop(before);
    }

    /// Notes a response whose connection must not end in order while the thread that has `slot` is away.
    pub(crate) fn note_unfinished(&self, slot: &ThreadSlot, holder: Arc<dyn Held>) {
        let before = slot.unfinished.lock().unwrap_or_else(PoisonError::into_inner).replace(holder);
        drop(before);
    }

    /// The server ends: what threads that have not come back have not finished is cut, where its client could not tell.
    /// Whether all of it has been.
    pub(crate) fn cut_unfinished(&self) -> bool {
        self.slots().iter().fold(true, |all, slot| {
            let mut unfinished = slot.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
            if unfinished.as_ref().is_some_and(|unfinished| !unfinished.cut()) {
                return false;
            }
            *unfinished = None;
            all
        })
    }

    /// The thread that has `slot` has finished the response that it noted, if it did.
    pub(crate) fn note_finished(&self, slot: &ThreadSlot) {
        *slot.unfinished.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What the kernel calls the threads that are in a call of the application.
    pub(crate) fn in_calls(&self) -> Vec<u32> {
        let slots = self.slots();
        let in_call = slots.iter().filter(|slot| slot.is_in_call.load(Ordering::Relaxed));
        in_call.map(|slot| slot.number.load(Ordering::Relaxed)).collect()
    }

    /// One look: sends what has been held for a whole tick. Whether there was nothing new.
    pub(crate) fn tick(&self) -> bool {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        self.slots().iter().fold(true, |is_quiet, slot| slot.tick() & is_quiet)
    }

    /// Ticks by `tick` until the end; it is told of signals.
    pub(crate) fn keep(&self, mut tick: impl FnMut(Option<u8>) -> Quiet) {
        let mut quiet = 0;
        while !self.ended.load(Ordering::Acquire) {
            if quiet < QUIET_TICKS {
                let signal = self.sleep(Some(TICK));
                quiet = match tick(signal) {
                    Quiet::No => 0,
                    Quiet::Until(_) => quiet + 1,
                    Quiet::Deserted(_) => QUIET_TICKS,
                };
                continue;
            }
            // Whoever holds something from here on calls; whoever held something before is seen by this last look.
            self.awake.store(false, Ordering::SeqCst);
            let signal = match tick(None) {
                Quiet::No => None,
                Quiet::Until(time) | Quiet::Deserted(time) => self.sleep(time),
            };
            self.awake.store(true, Ordering::SeqCst);
            quiet = match signal {
                Some(_) if tick(signal) != Quiet::No => QUIET_TICKS,
                _ => 0,
            };
        }
    }

    /// Ends the watch: nothing is held any more.
    pub(crate) fn end(&self) {
        self.kept.store(false, Ordering::Release);
        self.ended.store(true, Ordering::Release);
        self.rouse();
    }
}

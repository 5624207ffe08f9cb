//! What may wait a moment, and who sees to it that it is no more than a moment.
//!
//! Answers and blocks that follow each other quickly leave together: each `send` to a sleeping peer costs its waking,
//! which is more than most requests cost. So they are *held* while the application makes the next one. Where it takes its
//! time over that, another thread sends them: the *watch*, which looks every [`TICK`]. It is what PEP 3333 asks of a
//! server that goes on to the next block before it has sent the last ("Buffering and Streaming").
//!
//! Must not know: sockets, the loop. Invariant: nothing is held unless somebody ticks; what is held leaves by the second
//! tick; the watch sleeps where nothing is held.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Time between two looks.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Looks at nothing in a row, after which the watch sleeps until it is called.
const QUIET_TICKS: u32 = 16;

/// Something whose held bytes can be sent while its owner is away.
pub(crate) trait Held: Send + Sync {
    /// Sends what can be sent now. Whether nothing is left.
    fn send_held(&self) -> bool;
}

/// The meeting place of those who hold and of the one who looks.
#[derive(Default)]
pub(crate) struct Watch {
    /// Somebody ticks.
    kept: AtomicBool,
    awake: AtomicBool,
    ended: AtomicBool,
    keeper: OnceLock<Thread>,
    ticks: AtomicU32,
    /// The loop holds answers.
    loop_holds: AtomicBool,
    held: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    holder: Option<Arc<dyn Held>>,
    /// How many there have been, now and at the last tick.
    count: u32,
    seen: u32,
}

impl Watch {
    /// From now on somebody ticks: `keeper`, or whoever wakes by itself.
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

    /// Notes that the loop holds answers now.
    pub(crate) fn loop_holds(&self) {
        // Either this is seen by the watch before it sleeps, or the call behind it finds it asleep.
        if !self.loop_holds.load(Ordering::Relaxed) {
            self.loop_holds.store(true, Ordering::SeqCst);
            self.call();
        }
    }

    /// Notes that the loop holds nothing any more.
    pub(crate) fn loop_released(&self) {
        self.loop_holds.store(false, Ordering::Relaxed);
    }

    /// Whether the loop holds nothing.
    pub(crate) fn is_loop_quiet(&self) -> bool {
        !self.loop_holds.load(Ordering::SeqCst)
    }

    /// Calls the watch if it sleeps.
    fn call(&self) {
        if !self.awake.load(Ordering::SeqCst)
            && !self.awake.swap(true, Ordering::SeqCst)
            && let Some(keeper) = self.keeper.get()
        {
            keeper.unpark();
        }
    }

    /// Leaves word of what is held by `holder`, who is about to be away. The latest counts; the one before has come back.
    pub(crate) fn hold(&self, holder: Arc<dyn Held>) {
        let mut latest = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = latest.holder.replace(holder);
        latest.count = latest.count.wrapping_add(1);
        self.call();
        drop(latest);
        drop(before);
    }

    /// One look: sends what has been held for a whole tick. Whether there was nothing new.
    pub(crate) fn tick(&self) -> bool {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        let mut latest = self.held.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut latest = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        latest.holder.get_or_insert(holder);
        false
    }

    /// Ticks by `tick`, which says whether all is quiet, until the end.
    pub(crate) fn keep(&self, tick: impl Fn() -> bool) {
        let mut quiet = 0;
        while !self.ended.load(Ordering::Acquire) {
            if quiet < QUIET_TICKS {
                thread::park_timeout(TICK);
                quiet = if tick() { quiet + 1 } else { 0 };
                continue;
            }
            // Whoever holds something from here on calls; whoever held something before is seen by this last look.
            self.awake.store(false, Ordering::SeqCst);
            if tick() {
                thread::park();
            }
            self.awake.store(true, Ordering::SeqCst);
            quiet = 0;
        }
    }

    /// Ends the watch: nothing is held any more.
    pub(crate) fn end(&self) {
        self.kept.store(false, Ordering::Release);
        self.ended.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }
}

//! A loop, as threads know it that do not hold it: who leads it, how it is woken, what it holds.
//! Must not know: the loop's inside, connections.

use crate::crew::Crew;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::watch::Watch;

/// What threads know of a loop that they do not hold. `R` is what they hand in to it, `W` wakes its leader.
pub(crate) struct LoopHandle<R, W> {
    pub crew: Crew<R>,
    pub waker: W,
    /// Calls to go for which a follower is promoted ahead.
    pub eager: AtomicUsize,
    /// It holds answers.
    holds: AtomicBool,
}

impl<R, W> LoopHandle<R, W> {
    pub(crate) fn new(crew: Crew<R>, waker: W) -> LoopHandle<R, W> {
        LoopHandle { crew, waker, eager: AtomicUsize::new(0), holds: AtomicBool::new(false) }
    }

    /// Whether it holds answers.
    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }

    /// Notes that the loop holds answers now.
    pub(crate) fn note_held(&self, watch: &Watch) {
        // No lost wake-up: the watch sees this store before it parks, or the wake below finds it parked.
        if !self.holds.load(Ordering::Relaxed) {
            self.holds.store(true, Ordering::SeqCst);
            watch.wake();
        }
    }

    /// Notes that it holds nothing any more.
    pub(crate) fn note_released(&self) {
        self.holds.store(false, Ordering::Relaxed);
    }
}

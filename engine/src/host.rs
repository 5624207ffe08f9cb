//! What a response asks of the server's other threads while its own waits: to lead, and to take its permit.
//! Must not know: sockets, what a response is. The server is the one that answers.

use std::sync::Arc;

use crate::permits::Place;
use crate::sync::{AtomicBool, AtomicU32, Mutex, MutexGuard, Ordering, PoisonError};

/// The other threads, as a thread sees them that is in the middle of a response.
pub(crate) trait Host: Send + Sync {
    /// The calling thread waits for its client from now on: its permit is free, and another thread leads. `None` where no
    /// other thread can be had, so that it keeps its permit.
    fn park(&self, loop_index: usize) -> Option<Arc<Parked>>;

    /// That wait is over: the permit is back, or the place in the queue for it.
    fn unpark(&self, parked: &Arc<Parked>) -> Option<Place>;

    /// The calling thread's turn is over: it has kept its permit, or has a place in the queue for it.
    fn give_way(&self, loop_index: usize) -> Option<Place>;

    /// The calling thread begins to wait for its client; `keeps_permit`: it is not parked, but does not hang.
    fn begin_wait(&self, keeps_permit: bool);

    /// That wait is over.
    fn end_wait(&self, kept_permit: bool);
}

/// A thread that waits for its client.
pub(crate) struct Parked {
    /// When its client last took something: a number that grows with each such moment of any of them.
    progress: AtomicU32,
    clock: Arc<AtomicU32>,
    is_cut: AtomicBool,
}

impl Parked {
    /// Its client has taken something.
    pub(crate) fn note_progress(&self) {
        self.progress.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether it must make room for another.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }
}

/// All threads that wait for their clients.
#[derive(Default)]
pub(crate) struct ParkedThreads {
    parked: Mutex<Vec<Arc<Parked>>>,
    clock: Arc<AtomicU32>,
}

impl ParkedThreads {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Parked>>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// One more. Where there are more than `most` now, the one whose client has taken nothing for longest is cut; whether
    /// that was so.
    pub(crate) fn add(&self, most: usize) -> (Arc<Parked>, bool) {
        let (progress, is_cut) = (AtomicU32::new(self.clock.fetch_add(1, Ordering::Relaxed)), AtomicBool::new(false));
        let parked = Arc::new(Parked { progress, clock: self.clock.clone(), is_cut });
        let mut all = self.lock();
        let staying = || all.iter().filter(|parked| !parked.is_cut());
        let now = self.clock.load(Ordering::Relaxed);
        let idle = |parked: &&Arc<Parked>| now.wrapping_sub(parked.progress.load(Ordering::Relaxed));
        let victim = if staying().count() >= most { staying().max_by_key(idle) } else { None };
        victim.inspect(|victim| victim.is_cut.store(true, Ordering::Relaxed));
        let has_cut = victim.is_some();
        all.push(parked.clone());
        (parked, has_cut)
    }

    /// One fewer.
    pub(crate) fn remove(&self, parked: &Arc<Parked>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, parked));
    }
}

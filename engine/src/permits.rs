//! How many threads may run application code at the same time: a fair semaphore of `threads` permits.
//!
//! A thread takes a permit before it calls the application, and gives it back when the response is over. A stream gives it
//! back, too, while it waits for its client, and passes it on where its turn is over and another thread waits. Permits go
//! to those who wait in the order in which they came. While nobody waits, each step is one exchange of one word.
//!
//! Must not know: the event loop, requests. Invariant: as many permits are out as there are, and those that the watch has
//! lent; what is lent goes to no other thread when it comes back.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{AtomicU32, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

/// Set where threads wait or a permit is lent: the quick way is closed.
const CLOSED: u32 = 1 << 31;

/// Permits to run application code.
pub(crate) struct Permits {
    /// Free permits, and [`CLOSED`].
    free: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Arc<Waiter>>,
    /// Permits out beyond their number.
    lent: u32,
    /// Permits given to threads that waited: what the watch compares from look to look.
    granted: u32,
}

struct Waiter {
    state: Mutex<Waiting>,
    changed: Condvar,
    /// Its thread is in the middle of a response.
    is_stream: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Waits,
    /// The thread should look for signals.
    Nudged,
    Granted,
}

/// A place in the queue.
pub(crate) struct Place(Arc<Waiter>);

impl Place {
    /// Waits for the permit. `false` where the thread should look for signals, and wait again.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        while *state == Waiting::Waits {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if *state == Waiting::Nudged {
            *state = Waiting::Waits;
            return false;
        }
        true
    }
}

impl Waiter {
    fn set(&self, to: Waiting) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != Waiting::Granted {
            *state = to;
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl Permits {
    /// So many, all free.
    pub(crate) fn new(permits: usize) -> Permits {
        let free = u32::try_from(permits).unwrap_or(u32::MAX).min(CLOSED - 1);
        Permits { free: AtomicU32::new(free), queue: Mutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a permit is free.
    pub(crate) fn is_free(&self) -> bool {
        self.free.load(Ordering::SeqCst) & !CLOSED > 0
    }

    /// Whether a thread may be waiting for one: a hint.
    #[inline]
    pub(crate) fn is_wanted(&self) -> bool {
        self.free.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Takes a permit if one is free and nobody waits. Whether it has.
    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        let take = |free: u32| if free & CLOSED == 0 { free.checked_sub(1) } else { None };
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    /// Takes a permit; where none is to be had, a place in the queue.
    pub(crate) fn take_or_queue(&self, is_stream: bool) -> Option<Place> {
        let mut queue = self.queue();
        self.free.fetch_or(CLOSED, Ordering::SeqCst);
        if queue.waiters.is_empty() && self.is_free() {
            self.free.fetch_sub(1, Ordering::SeqCst);
            self.open(&queue);
            return None;
        }
        Some(queue.join(is_stream))
    }

    /// Gives a permit back, to the first thread that waits, where one does.
    #[inline]
    pub(crate) fn give_back(&self) {
        let add = |free: u32| (free & CLOSED == 0).then_some(free + 1);
        if self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).is_err() {
            self.give_back_to(&mut self.queue());
        }
    }

    #[cold]
    fn give_back_to(&self, queue: &mut Queue) {
        if queue.lent > 0 {
            queue.lent -= 1;
        } else if !queue.grant() {
            self.free.fetch_add(1, Ordering::SeqCst);
        }
        self.open(queue);
    }

    /// Opens the quick way where nothing stands against it.
    fn open(&self, queue: &Queue) {
        if queue.waiters.is_empty() && queue.lent == 0 {
            self.free.fetch_and(!CLOSED, Ordering::SeqCst);
        }
    }

    /// Passes the permit of a stream whose turn is over on to the first thread that waits: the place behind the others;
    /// `None` where nobody waits, and the stream keeps it.
    pub(crate) fn pass_on(&self) -> Option<Place> {
        let mut queue = self.queue();
        if queue.waiters.is_empty() {
            return None;
        }
        self.give_back_to(&mut queue);
        self.free.fetch_or(CLOSED, Ordering::SeqCst);
        if queue.waiters.is_empty() && self.is_free() {
            self.free.fetch_sub(1, Ordering::SeqCst);
            self.open(&queue);
            return None;
        }
        Some(queue.join(true))
    }

    /// Whether a call of the application waits for one, which no response has come of yet.
    pub(crate) fn has_waiting_call(&self) -> bool {
        self.is_wanted() && self.queue().waiters.iter().any(|waiter| !waiter.is_stream)
    }

    /// Has those who wait look for signals.
    pub(crate) fn nudge(&self) {
        self.queue().waiters.iter().for_each(|waiter| waiter.set(Waiting::Nudged));
    }

    // --- the watch's ---

    /// Whether a stream waits, and how many permits have been given to threads that waited.
    pub(crate) fn waiting_stream(&self) -> Option<u32> {
        if !self.is_wanted() {
            return None;
        }
        let queue = self.queue();
        queue.waiters.iter().any(|waiter| waiter.is_stream).then_some(queue.granted)
    }

    /// Lends a permit to the first stream that waits: the threads that have the others wait for a lock, which that stream
    /// may hold.
    pub(crate) fn lend(&self) {
        let mut queue = self.queue();
        if let Some(at) = queue.waiters.iter().position(|waiter| waiter.is_stream)
            && let Some(waiter) = queue.waiters.remove(at)
        {
            queue.lent += 1;
            queue.granted = queue.granted.wrapping_add(1);
            waiter.set(Waiting::Granted);
        }
    }
}

impl Queue {
    fn join(&mut self, is_stream: bool) -> Place {
        let waiter = Waiter { state: Mutex::new(Waiting::Waits), changed: Condvar::new(), is_stream };
        let waiter = Arc::new(waiter);
        self.waiters.push_back(waiter.clone());
        Place(waiter)
    }

    /// Gives a permit to the first that waits. Whether one did.
    fn grant(&mut self) -> bool {
        let Some(waiter) = self.waiters.pop_front() else { return false };
        self.granted = self.granted.wrapping_add(1);
        waiter.set(Waiting::Granted);
        true
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn permits_go_to_those_who_wait_in_the_order_in_which_they_came() {
        let permits = Permits::new(1);
        assert!(permits.try_take() && !permits.try_take());
        let [first, second] = [false, true].map(|is_stream| permits.take_or_queue(is_stream).unwrap());
        assert!(!permits.try_take(), "who comes later waits, too");
        permits.give_back();
        assert!(first.wait());
        assert!(!permits.is_free() && permits.is_wanted());
        let third = permits.pass_on().unwrap();
        assert!(second.wait());
        permits.give_back();
        assert!(third.wait());
        assert!(permits.pass_on().is_none(), "nobody waits: it keeps its permit");
        permits.give_back();
        assert!(permits.try_take() && !permits.is_wanted());
    }

    #[test]
    fn what_is_lent_goes_to_no_other_thread() {
        let permits = Permits::new(1);
        assert!(permits.try_take());
        let [call, stream] = [false, true].map(|is_stream| permits.take_or_queue(is_stream).unwrap());
        assert_eq!(permits.waiting_stream(), Some(0));
        permits.lend();
        assert!(stream.wait());
        assert_eq!(permits.waiting_stream(), None);
        permits.give_back(); // the stream's
        assert!(!permits.is_free());
        permits.give_back(); // the first one's
        assert!(call.wait());
        permits.give_back();
        assert!(permits.is_free() && !permits.is_wanted());
    }

    #[test]
    fn a_nudge_wakes_without_a_permit() {
        let permits = Permits::new(1);
        assert!(permits.try_take());
        let place = permits.take_or_queue(true).unwrap();
        permits.nudge();
        assert!(!place.wait());
        permits.nudge();
        permits.give_back();
        assert!(place.wait(), "a permit counts for more than a nudge");
    }
}

//! Leader/Followers (Schmidt et al., POSA2): which of a server's threads has the loop, and how it changes hands.
//!
//! The *leader* waits for news, serves connections, and calls the application itself: no queue, no second thread. It goes
//! *out* for that, and nobody leads meanwhile. If it stays out, a *follower* is called and leads in its place; who comes
//! back and finds the loop led by another *hands in* the connection that it has served, and follows.
//!
//! Must not know: the loop, connections, what a call is. Invariant: one leader at a time; what is handed in is taken by a
//! leader, or given back once the crew has ended; nobody waits for the loop but those who rest.

use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

/// The threads of one loop. `R` is what is handed in, by the name of the place it came from.
pub(crate) struct Crew<R> {
    led: AtomicBool,
    exchange: Mutex<Exchange<R>>,
    /// How much there is in the exchange.
    handed_in: AtomicUsize,
    rest: Mutex<Rest>,
    called: Condvar,
    /// How many rest, as a hint that needs no lock.
    resting: AtomicUsize,
    ended: AtomicBool,
}

struct Exchange<R> {
    handed_in: Vec<(usize, R)>,
    /// Places that had news while who serves them was out.
    missed: Vec<usize>,
    ended: bool,
}

#[derive(Default)]
struct Rest {
    /// Calls that nobody has heard yet.
    calls: usize,
    resting: usize,
    ended: bool,
}

/// What became of something that was handed in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandedIn<R> {
    /// The leader finds it when it looks next.
    Lying,
    /// It had news meanwhile: the leader must be woken.
    Awaited,
    /// The crew has ended; nobody takes it.
    Back(R),
}

impl<R> Default for Crew<R> {
    fn default() -> Self {
        let exchange = Exchange { handed_in: Vec::new(), missed: Vec::new(), ended: false };
        Crew {
            led: AtomicBool::new(false),
            exchange: Mutex::new(exchange),
            handed_in: AtomicUsize::new(0),
            rest: Mutex::default(),
            called: Condvar::new(),
            resting: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        }
    }
}

impl<R> Crew<R> {
    fn exchange(&self) -> MutexGuard<'_, Exchange<R>> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest_place(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lead, if nobody has it.
    pub(crate) fn claim(&self) -> bool {
        self.led.compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether somebody leads.
    pub(crate) fn is_led(&self) -> bool {
        self.led.load(Ordering::SeqCst)
    }

    /// The leader goes out, and leads no more.
    pub(crate) fn go_out(&self) {
        self.led.store(false, Ordering::SeqCst);
        // Who handed something in and could not claim the lead saw it taken: either by this thread, which sees what is
        // handed in, or by one that leads now.
        if self.has_returns() {
            self.call();
        }
    }

    /// Who led though it is none of the crew leads no more. One who came back meanwhile found the loop led and is about to
    /// rest, and what it had handed in may have been taken: it is called before it is there.
    pub(crate) fn step_back(&self) {
        self.led.store(false, Ordering::SeqCst);
        self.rest_place().calls = 1;
        self.called.notify_one();
    }

    /// Leaves `returned` for the leader. To be followed by another [`Crew::claim`]: the leader may be out by now.
    pub(crate) fn hand_in(&self, place: usize, returned: R) -> HandedIn<R> {
        let mut exchange = self.exchange();
        if exchange.ended {
            return HandedIn::Back(returned);
        }
        exchange.handed_in.push((place, returned));
        self.handed_in.store(exchange.handed_in.len(), Ordering::SeqCst);
        let before = exchange.missed.len();
        exchange.missed.retain(|missed| *missed != place);
        if exchange.missed.len() < before { HandedIn::Awaited } else { HandedIn::Lying }
    }

    /// Whether something has been handed in.
    pub(crate) fn has_returns(&self) -> bool {
        self.handed_in.load(Ordering::SeqCst) > 0
    }

    /// The leader's: what has been handed in.
    pub(crate) fn take(&self) -> Vec<(usize, R)> {
        let mut exchange = self.exchange();
        self.handed_in.store(0, Ordering::SeqCst);
        std::mem::take(&mut exchange.handed_in)
    }

    /// The leader's: `place` has news, and who serves it is out. Whether it has been handed in meanwhile, so that it can
    /// be taken.
    pub(crate) fn miss(&self, place: usize) -> bool {
        let mut exchange = self.exchange();
        let is_back = exchange.handed_in.iter().any(|(back, _)| *back == place);
        if !is_back && !exchange.missed.contains(&place) {
            exchange.missed.push(place);
        }
        is_back
    }

    /// The leader's: `place`, which had news, has come back by another way.
    pub(crate) fn meet(&self, place: usize) {
        self.exchange().missed.retain(|missed| *missed != place);
    }

    /// Whether somebody could be called.
    pub(crate) fn has_rest(&self) -> bool {
        self.resting.load(Ordering::SeqCst) > 0
    }

    /// Calls one of those who rest, to take the lead.
    pub(crate) fn call(&self) {
        if !self.has_rest() {
            return; // who is out looks by itself when it comes back
        }
        let mut rest = self.rest_place();
        // One on its way is enough: it calls the next if it goes out, too.
        if rest.calls == 0 && rest.resting > 0 {
            rest.calls = 1;
            drop(rest);
            self.called.notify_one();
        }
    }

    /// Waits to be called; `false` when the crew has ended. `nobody_leads` is called where the leader is out by now: it has
    /// seen nobody whom it could leave the loop to.
    pub(crate) fn rest(&self, nobody_leads: impl FnOnce()) -> bool {
        let mut rest = self.rest_place();
        rest.resting += 1;
        self.resting.store(rest.resting, Ordering::SeqCst);
        // Between the last claim and now the leader may have gone out, and found nobody to call.
        if !self.is_led() {
            if self.has_returns() {
                rest.calls = 1;
            } else {
                nobody_leads();
            }
        }
        while rest.calls == 0 && !rest.ended {
            rest = self.called.wait(rest).unwrap_or_else(PoisonError::into_inner);
        }
        rest.resting -= 1;
        self.resting.store(rest.resting, Ordering::SeqCst);
        rest.calls = rest.calls.saturating_sub(1);
        !rest.ended
    }

    /// The leader's: nobody leads any more, and those who rest may go. What has been handed in is given back.
    pub(crate) fn end(&self) -> Vec<(usize, R)> {
        let mut exchange = self.exchange();
        exchange.ended = true;
        let left = std::mem::take(&mut exchange.handed_in);
        drop(exchange);
        self.rest_place().ended = true;
        self.ended.store(true, Ordering::SeqCst);
        self.called.notify_all();
        left
    }
}

#[cfg(all(test, feature = "shuttle"))]
#[allow(clippy::unwrap_used)]
mod model;

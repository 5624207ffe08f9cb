//! Leader/Followers (Schmidt et al., POSA2): which of a server's threads has the loop, and how it changes hands.
//!
//! The *leader* waits for news, serves connections, and calls the application itself: no queue, no second thread. It goes
//! *out* for that, and nobody leads meanwhile. If it stays out, a *follower* is called and leads in its place; who comes
//! back and finds the loop led by another *hands in* the connection that it has served, and follows.
//!
//! Where there are several loops, each has its crew, and the followers are of all: who rests leads whichever calls. Where
//! nobody rests, a leader who would wait for news can be *wanted* at a loop that nobody leads.
//!
//! Must not know: the loop, connections, what a call is. Invariant: one leader at a time; what is handed in is taken by a
//! leader, or given back once the crew has ended; nobody waits for the loop but those who rest.

use std::sync::Arc;

use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

/// Who leads one loop, and what those hand in who do not. `R` is what is handed in, by the name of the place it came from.
pub(crate) struct Crew<R> {
    /// Which of the crews that have the same followers.
    index: usize,
    led: AtomicBool,
    exchange: Mutex<Exchange<R>>,
    /// How much there is in the exchange.
    handed_in: AtomicUsize,
    ended: AtomicBool,
    followers: Arc<Followers>,
}

/// The threads that rest, be it that one loop has them or several.
pub(crate) struct Followers {
    rest: Mutex<Rest>,
    called: Condvar,
    /// How many rest, as a hint that needs no lock.
    resting: AtomicUsize,
    /// Crews that have not ended.
    open: AtomicUsize,
    /// Which crew wants the leader of another, above 0.
    wanted: AtomicUsize,
}

struct Exchange<R> {
    handed_in: Vec<(usize, R)>,
    /// Places that had news while who serves them was out.
    missed: Vec<usize>,
    ended: bool,
}

#[derive(Default)]
struct Rest {
    /// Crews that have called, and whom nobody has heard yet; none twice.
    calls: Vec<usize>,
    resting: usize,
    /// All crews have.
    ended: bool,
}

impl Rest {
    /// Notes that a crew calls.
    fn add(&mut self, crew: usize) {
        if !self.calls.contains(&crew) {
            self.calls.push(crew);
        }
    }
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

impl Followers {
    /// Those of so many crews.
    fn of(crews: usize) -> Arc<Followers> {
        Arc::new(Followers {
            rest: Mutex::default(),
            called: Condvar::new(),
            resting: AtomicUsize::new(0),
            open: AtomicUsize::new(crews),
            wanted: AtomicUsize::new(0),
        })
    }

    fn rest_place(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> Crew<R> {
    /// So many crews, which have the same followers.
    pub(crate) fn several(crews: usize) -> impl Iterator<Item = Crew<R>> {
        let followers = Followers::of(crews);
        (0..crews).map(move |index| Crew {
            index,
            led: AtomicBool::new(false),
            exchange: Mutex::new(Exchange { handed_in: Vec::new(), missed: Vec::new(), ended: false }),
            handed_in: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            followers: followers.clone(),
        })
    }

    fn exchange(&self) -> MutexGuard<'_, Exchange<R>> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.call_in(self.followers.rest_place());
    }

    /// Leaves a call, and wakes one of those who rest.
    fn call_in(&self, mut rest: MutexGuard<'_, Rest>) {
        rest.add(self.index);
        drop(rest);
        self.followers.called.notify_one();
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
        self.followers.resting.load(Ordering::SeqCst) > 0
    }

    /// Calls one of those who rest, to take the lead.
    pub(crate) fn call(&self) {
        if !self.has_rest() {
            return; // who is out looks by itself when it comes back
        }
        let rest = self.followers.rest_place();
        // One on its way is enough: it calls the next if it goes out, too.
        if rest.calls.len() < rest.resting && !rest.calls.contains(&self.index) {
            self.call_in(rest);
        }
    }

    /// Waits to be called: by which crew; nothing when all have ended. `nobody_leads` is called where the leader is out by
    /// now: it has seen nobody whom it could leave the loop to.
    pub(crate) fn rest(&self, nobody_leads: impl FnOnce()) -> Option<usize> {
        let followers = &self.followers;
        let mut rest = followers.rest_place();
        rest.resting += 1;
        followers.resting.store(rest.resting, Ordering::SeqCst);
        // Between the last claim and now the leader may have gone out, and found nobody to call.
        if !self.is_led() {
            if self.has_returns() {
                rest.add(self.index);
            } else {
                nobody_leads();
            }
        }
        while rest.calls.is_empty() && !rest.ended {
            rest = followers.called.wait(rest).unwrap_or_else(PoisonError::into_inner);
        }
        rest.resting -= 1;
        followers.resting.store(rest.resting, Ordering::SeqCst);
        if rest.ended { None } else { Some(rest.calls.remove(0)) }
    }

    /// Says that a leader of another crew, who would wait otherwise, is wanted here. To be followed by a use of the wakers.
    pub(crate) fn want(&self) {
        self.followers.wanted.store(self.index + 1, Ordering::SeqCst);
    }

    /// The leader's, who has nothing to do: where another crew wants it. That is told to one.
    #[inline]
    pub(crate) fn wanted_at(&self) -> Option<usize> {
        if self.followers.wanted.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.followers.wanted.swap(0, Ordering::SeqCst).checked_sub(1).filter(|crew| *crew != self.index)
    }

    /// The leader's: nobody leads this loop any more. What has been handed in is given back, and once all crews have ended,
    /// those who rest may go.
    pub(crate) fn end(&self) -> Vec<(usize, R)> {
        let mut exchange = self.exchange();
        exchange.ended = true;
        let left = std::mem::take(&mut exchange.handed_in);
        drop(exchange);
        if !self.ended.swap(true, Ordering::SeqCst) && self.followers.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.followers.rest_place().ended = true;
        }
        self.followers.called.notify_all();
        left
    }
}

#[cfg(all(test, feature = "shuttle"))]
#[allow(clippy::unwrap_used)]
mod model;

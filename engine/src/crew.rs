//! Leader/Followers (Schmidt et al., POSA2): which of a server's threads has the loop, and how it changes hands.
//!
//! The *leader* waits for news, serves connections, and calls the application itself: no queue, no second thread. It goes
//! *out* for that, and nobody leads meanwhile. If it stays out, a *follower* is promoted and leads in its place; a thread
//! that comes back and finds the loop led by another *hands in* the connection that it has served, and follows.
//!
//! Where there are several loops, each has its crew, and the followers belong to all: each leads whichever loop needs it.
//! Where nobody rests, a leader that would wait for news can be *wanted* at a loop that nobody leads. Where one thread is
//! all that the configuration asks for, the others are there only while it waits for a client: it is the *first*, and takes
//! the lead back when it comes to rest.
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

/// The threads that rest, of one loop or of several.
pub(crate) struct Followers {
    resting: Mutex<Resting>,
    promoted: Condvar,
    /// How many rest, as a hint that needs no lock.
    count: AtomicUsize,
    /// Crews that have not ended.
    open: AtomicUsize,
    /// Which crew wants the leader of another, above 0.
    wanted: AtomicUsize,
    /// The first thread rests and leads in place of any other.
    first_waits: AtomicBool,
}

struct Exchange<R> {
    handed_in: Vec<(usize, R)>,
    /// Places that had news while who serves them was out.
    missed: Vec<usize>,
    ended: bool,
}

#[derive(Default)]
struct Resting {
    /// Crews that need a leader, and that no follower has heard yet; none twice.
    promotions: Vec<usize>,
    count: usize,
    /// The first thread is among them.
    has_first: bool,
    /// It should look for signals.
    is_nudged: bool,
    /// All crews have ended.
    ended: bool,
}

impl Resting {
    /// Notes that a crew needs a leader.
    fn add(&mut self, crew: usize) {
        if !self.promotions.contains(&crew) {
            self.promotions.push(crew);
        }
    }
}

/// Which of a server's threads rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The only thread that the configuration asks for: it leads wherever it can, so that requests run in it.
    First,
    /// One of several.
    Any,
    /// One that has come because another waits for its client; `leaves` where there are enough of them.
    Spare { leaves: bool },
}

/// How a rest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rested {
    /// This crew needs a leader.
    Promoted(usize),
    /// All crews have ended.
    Ended,
    /// Enough others rest.
    Spared,
    /// The first thread should look for signals, and rest again.
    Nudged,
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
            resting: Mutex::default(),
            promoted: Condvar::new(),
            count: AtomicUsize::new(0),
            open: AtomicUsize::new(crews),
            wanted: AtomicUsize::new(0),
            first_waits: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Resting> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The leader goes out to serve a connection, and nobody leads.
    pub(crate) fn release_lead(&self) {
        self.led.store(false, Ordering::SeqCst);
        // A thread that handed something in and could not claim the lead saw it taken: by this thread, which sees what is
        // handed in, or by one that leads now.
        if self.has_returns() {
            self.promote();
        }
    }

    /// Gives back a lead of a thread that will not take it again. A thread that came back meanwhile found the loop led and
    /// is about to rest: a promotion is left for it, even before it rests.
    pub(crate) fn release_and_promote(&self) {
        self.led.store(false, Ordering::SeqCst);
        self.leave_promotion(self.followers.lock());
    }

    /// Leaves a promotion, and wakes one of those who rest.
    fn leave_promotion(&self, mut resting: MutexGuard<'_, Resting>) {
        resting.add(self.index);
        let (has_first, count) = (resting.has_first, resting.count);
        drop(resting);
        if has_first && count > 1 {
            self.followers.promoted.notify_all(); // it is for the first
        } else {
            self.followers.promoted.notify_one();
        }
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

    /// Whether somebody could be promoted.
    pub(crate) fn has_followers(&self) -> bool {
        self.followers.count.load(Ordering::SeqCst) > 0
    }

    /// Promotes one of those who rest: it takes the lead.
    pub(crate) fn promote(&self) {
        if !self.has_followers() {
            return; // a thread that is out looks by itself when it comes back
        }
        let resting = self.followers.lock();
        // One on its way is enough: it promotes the next if it goes out, too.
        if resting.promotions.len() < resting.count && !resting.promotions.contains(&self.index) {
            self.leave_promotion(resting);
        }
    }

    /// Rests until this thread is promoted. `nobody_leads` is called where the leader is out by now: it has seen nobody
    /// whom it could leave the loop to; `is_led` where the first thread finds another leading.
    pub(crate) fn follow(&self, role: Role, nobody_leads: impl FnOnce(), is_led: impl FnOnce()) -> Rested {
        let followers = &*self.followers;
        let mut resting = followers.lock();
        let count = |resting: &mut Resting, change: isize| {
            resting.count = resting.count.wrapping_add_signed(change);
            followers.count.store(resting.count, Ordering::SeqCst);
        };
        // Before the look at the leader: one that goes out behind it finds this thread to be promoted.
        count(&mut resting, 1);
        resting.has_first |= role == Role::First;
        // Between the last claim and now the leader may have gone out, and found nobody to promote.
        if !self.is_led() {
            if self.has_returns() {
                resting.add(self.index);
            } else {
                nobody_leads();
            }
        } else if role == Role::First {
            followers.first_waits.store(true, Ordering::SeqCst);
            is_led();
        }
        if role == (Role::Spare { leaves: true }) && resting.promotions.is_empty() && !resting.ended {
            count(&mut resting, -1);
            return Rested::Spared;
        }
        let is_for_me = |resting: &Resting| {
            let is_promoted = !resting.promotions.is_empty() && (role == Role::First || !resting.has_first);
            is_promoted || resting.ended || (role == Role::First && resting.is_nudged)
        };
        while !is_for_me(&resting) {
            resting = followers.promoted.wait(resting).unwrap_or_else(PoisonError::into_inner);
        }
        count(&mut resting, -1);
        if role == Role::First {
            let is_nudged = std::mem::take(&mut resting.is_nudged);
            resting.has_first = false;
            if is_nudged && resting.promotions.is_empty() && !resting.ended {
                return Rested::Nudged;
            }
            followers.first_waits.store(false, Ordering::SeqCst);
            if resting.promotions.len() > 1 {
                followers.promoted.notify_all();
            }
        }
        if resting.ended { Rested::Ended } else { Rested::Promoted(resting.promotions.remove(0)) }
    }

    /// Has the first thread look for signals, if it rests.
    pub(crate) fn nudge_first(&self) {
        let mut resting = self.followers.lock();
        if resting.has_first {
            resting.is_nudged = true;
            drop(resting);
            self.followers.promoted.notify_all();
        }
    }

    /// The leader's, which has nothing to do: whether the first thread waits to lead.
    #[inline]
    pub(crate) fn first_waits(&self) -> bool {
        self.followers.first_waits.load(Ordering::SeqCst)
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
            self.followers.lock().ended = true;
        }
        self.followers.promoted.notify_all();
        left
    }
}

#[cfg(all(test, feature = "shuttle"))]
#[allow(clippy::unwrap_used)]
mod model;

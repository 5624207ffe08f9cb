//! All event loops of a server, and the threads' ways among them: to lead, to wait for a client, to stand in for a leader.
//! Knows: loops and crews as wholes, permits.   Must not know: HTTP, the application's language.
//! Invariant: of the threads that do not wait for a client there are at least as many as permits, so that a free permit
//! finds a thread; nothing of a loop is held while application code runs.

use std::sync::Arc;

use crate::app::App;
use crate::config::Config;
use crate::counters::Cell;
use crate::crew::Crew;
use crate::event_loop::{Handle, Loop};
use crate::host::{Host, Parked};
use crate::io::{Clock, Net, Waker};
use crate::loop_handle::LoopHandle;
use crate::permits::Place;
use crate::shared::{Books, Shared};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, TryLockError};
use crate::turn::ThreadState;

/// Threads beside those that the configuration asks for that stay when they have nothing to do.
const SPARES_KEPT: usize = 4;

pub(crate) type State<'a, N, A> = MutexGuard<'a, Loop<N, A>>;

/// A loop, and what is known of it without holding it.
pub(crate) struct EventLoop<N: Net, A: App<N::Socket>> {
    pub(crate) handle: Handle<N, A>,
    state: Mutex<Loop<N, A>>,
}

impl<N: Net, A: App<N::Socket>> EventLoop<N, A> {
    /// The leader's.
    pub(crate) fn lock(&self) -> State<'_, N, A> {
        // A panic leaves the loop between two steps, each of which keeps its invariants.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watch's: a look at it, where the leader does not have it.
    pub(crate) fn look(&self) -> bool {
        match self.state.try_lock() {
            Ok(mut state) => state.look(&self.handle),
            Err(TryLockError::Poisoned(state)) => state.into_inner().look(&self.handle),
            // The thread that has it sends what is held before it waits.
            Err(TryLockError::WouldBlock) => false,
        }
    }
}

/// All loops of a server, one at the least.
pub(crate) struct Loops<N: Net, A: App<N::Socket>> {
    pub(crate) shared: Shared<A>,
    pub(crate) all: Box<[EventLoop<N, A>]>,
    clock: Clock,
    /// What a thread needs that stands in for a leader; made when that is needed first.
    stand_in: Mutex<Option<ThreadState<A::PerThread>>>,
    /// Threads that have come because others wait for their clients, and have not left.
    spares: AtomicUsize,
    /// The last request has come, and that was told.
    drains: AtomicBool,
}

impl<N: Net, A: App<N::Socket>> Loops<N, A> {
    pub(crate) fn new(nets: Vec<N>, app: A, config: Config, books: Books) -> Loops<N, A> {
        let count = nets.len();
        let shared = Shared::new(app, config, books, nets.first().and_then(Net::open_files));
        let clock = nets.first().map_or_else(|| Arc::new(|| 0u64) as Clock, Net::clock);
        let all = Crew::several(count).zip(nets).enumerate().map(|(index, (crew, net))| EventLoop {
            handle: LoopHandle::new(crew, net.waker()),
            state: Mutex::new(Loop::new(net, &shared.config, index, count)),
        });
        Loops {
            all: all.collect(),
            shared,
            clock,
            stand_in: Mutex::default(),
            spares: AtomicUsize::new(0),
            drains: AtomicBool::new(false),
        }
    }

    /// Whether all have ended; threads may still be in the application, and find out when they come back.
    pub(crate) fn has_ended(&self) -> bool {
        self.all.iter().all(|one| one.handle.crew.has_ended())
    }

    pub(crate) fn wake(&self) {
        self.all.iter().for_each(|one| one.handle.waker.wake());
    }

    /// Whether a spare thread that has nothing to do may leave; it is not counted any more then.
    pub(crate) fn lets_spare_go(&self) -> bool {
        // First one fewer, then the look: a thread that parks meanwhile sees it, or is seen here.
        let left = self.spares.fetch_sub(1, Ordering::SeqCst) - 1;
        let may_go = left >= self.shared.parked.len() + SPARES_KEPT;
        if !may_go {
            self.spare_stays();
        }
        may_go
    }

    /// A spare thread that might have gone stays.
    pub(crate) fn spare_stays(&self) {
        self.spares.fetch_add(1, Ordering::SeqCst);
    }

    /// A spare thread leaves.
    pub(crate) fn spare_left(&self) {
        self.spares.fetch_sub(1, Ordering::SeqCst);
    }

    /// One more thread is to come. Whether one will.
    fn add_thread(&self) -> bool {
        self.spares.fetch_add(1, Ordering::SeqCst);
        let comes = !self.has_ended() && self.shared.app.add_thread();
        if !comes {
            self.spares.fetch_sub(1, Ordering::SeqCst);
        }
        comes
    }

    /// Has a thread lead a loop where a request waits: one that rests, or one more, unless one is on its way.
    fn find_leader(&self, one: &EventLoop<N, A>) {
        let expected = self.shared.config.threads + self.spares.load(Ordering::SeqCst);
        if one.handle.crew.has_followers() {
            one.handle.crew.promote();
        } else if self.shared.at_work() >= expected {
            self.add_thread();
        }
    }

    /// Whether the last request has come; begins the drain once: the thread that counted it could not wake the loop.
    pub(crate) fn heeds_last_request(&self) -> bool {
        self.shared.books.counters.get(Cell::Requests) >= self.shared.last_request
            && !self.drains.swap(true, Ordering::AcqRel)
    }

    // --- the lead ---

    /// Whether nobody leads this loop, and no thread can be promoted to: none rests, or all permits are out.
    pub(crate) fn is_deserted(&self, one: &EventLoop<N, A>) -> bool {
        let crew = &one.handle.crew;
        let can_be_led = crew.has_followers() && self.shared.permits.is_free();
        !crew.is_led() && !can_be_led && self.shared.at_work() >= self.shared.config.threads
    }

    /// Whether nobody leads any loop that has not ended, and no thread can be promoted to.
    pub(crate) fn all_are_out(&self) -> bool {
        !self.has_ended() && self.all.iter().all(|one| one.handle.crew.has_ended() || self.is_deserted(one))
    }

    /// Takes the lead of all loops that have not ended, or of none.
    pub(crate) fn claim_all(&self) -> bool {
        let open = |one: &&EventLoop<N, A>| !one.handle.crew.has_ended();
        for (count, one) in self.all.iter().enumerate().filter(|(_, one)| open(one)) {
            if !one.handle.crew.claim() {
                self.all[..count].iter().filter(open).for_each(|one| one.handle.crew.release_and_promote());
                return false;
            }
        }
        true
    }

    /// Stands in for the leader of a loop that nobody leads, if no other thread does: takes what needs no application.
    /// Whether a request waits for a thread.
    pub(crate) fn stand_in(&self, one: &EventLoop<N, A>) -> Option<bool> {
        let mut thread = match self.stand_in.try_lock() {
            Ok(thread) => thread,
            Err(TryLockError::Poisoned(thread)) => thread.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if !one.handle.crew.claim() {
            return None;
        }
        let thread = thread.get_or_insert_with(|| {
            ThreadState::new(self.shared.app.per_thread(None), self.shared.outgoing(Arc::default(), None))
        });
        // A poller that fails is reported by the next leader.
        Some(one.lock().stand_in(thread, &self.shared, &one.handle).unwrap_or(true))
    }
}

impl<N: Net, A: App<N::Socket>> Host for Loops<N, A> {
    fn park(&self, loop_index: usize) -> Option<Arc<Parked>> {
        let Shared { parked, permits, books, config, .. } = &self.shared;
        let (own, has_cut) = parked.add(config.max_parked);
        if self.spares.load(Ordering::SeqCst) < parked.len() && !self.add_thread() {
            parked.remove(&own);
            return None;
        }
        if has_cut {
            books.counters.count(Cell::ParkedCut);
        }
        if books.counters.is_shared() {
            books.counters.end_call();
            books.counters.park(true);
        }
        permits.give_back();
        let crew = &self.all[loop_index].handle.crew;
        if !crew.is_led() {
            crew.promote();
            self.shared.watch.wake(); // which promotes one that is just about to rest
        }
        Some(own)
    }

    fn unpark(&self, own: &Arc<Parked>) -> Option<Place> {
        let Shared { parked, permits, books, watch, .. } = &self.shared;
        parked.remove(own);
        if books.counters.is_shared() {
            books.counters.begin_call();
            books.counters.park(false);
        }
        if permits.try_take() {
            return None;
        }
        let place = permits.take_or_queue(true);
        watch.wake();
        place
    }

    fn give_way(&self, loop_index: usize) -> Option<Place> {
        let Shared { permits, books, watch, .. } = &self.shared;
        if books.counters.is_shared() {
            books.counters.progress((self.clock)());
        }
        let one = &self.all[loop_index];
        // Where a permit is free, the watch promotes a follower; where a call waits for one, its thread led.
        if !permits.is_free()
            && !permits.has_waiting_call()
            && !one.handle.crew.is_led()
            && let Some(waits) = self.stand_in(one)
        {
            one.handle.crew.release_lead();
            if waits {
                self.find_leader(one);
            }
        }
        if !permits.is_wanted() {
            return None;
        }
        let place = permits.pass_on();
        watch.wake();
        place
    }

    fn begin_wait(&self, keeps_permit: bool) {
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        if keeps_permit && self.shared.books.counters.is_shared() {
            self.shared.books.counters.lead(true, 0);
        }
    }

    fn end_wait(&self, kept_permit: bool) {
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        if kept_permit && self.shared.books.counters.is_shared() {
            self.shared.books.counters.lead(false, (self.clock)());
        }
    }
}

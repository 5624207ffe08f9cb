//! The crew's hand-over under every interleaving that shuttle can think of: `make model`.
//!
//! Here is how it works: 1. threads do what `server.rs` does, around a loop that is no more than a list of connections with
//! requests to come; 2. a request's news is reported at any time, while its connection is out or not; 3. in the end every
//! request has been served once, every thread has left, and nothing lies anywhere. Whoever waits for ever is found by shuttle.

use std::collections::VecDeque;

use shuttle::sync::Arc;
use shuttle::sync::atomic::AtomicUsize;
use shuttle::thread;

use super::{Crew, HandedIn};
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering};

/// Requests still to be served on a connection.
type Connection = u32;

/// How the last one who knows of a connection should see it end.
#[derive(Default)]
struct Book {
    served: AtomicUsize,
    ended: AtomicUsize,
    leaders: AtomicUsize,
}

struct Slot {
    connection: Option<Connection>,
    news: bool,
}

#[derive(Default)]
struct Loop {
    slots: Vec<Option<Slot>>,
    ready: VecDeque<usize>,
    /// What the poller has not reported yet.
    unreported: Vec<usize>,
}

#[derive(Default)]
struct Waker {
    woken: Mutex<bool>,
    news: Condvar,
}

impl Waker {
    fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.news.notify_one();
    }

    fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !std::mem::take(&mut *woken) {
            woken = self.news.wait(woken).unwrap();
        }
    }
}

/// One run: so many threads and connections, each with so many requests.
#[derive(Clone, Copy)]
struct Plan {
    threads: usize,
    connections: usize,
    requests: u32,
    /// A follower is called ahead of each errand, as where calls block; else somebody else calls, now and then.
    eager: bool,
    /// An errand lasts until what has been handed in has been taken: so somebody must lead meanwhile.
    blocks: bool,
    /// Somebody ends the server at once, whatever is out.
    aborts: bool,
}

struct Model {
    plan: Plan,
    crew: Crew<Option<Connection>>,
    state: Mutex<Loop>,
    waker: Waker,
    aborted: AtomicBool,
    book: Book,
}

impl Model {
    fn work(&self) {
        loop {
            if self.crew.claim() && self.lead() {
                return;
            }
            if !self.crew.rest(|| {}) {
                return;
            }
        }
    }

    /// Whether the server has ended.
    fn lead(&self) -> bool {
        assert_eq!(self.book.leaders.fetch_add(1, Ordering::SeqCst), 0, "one leader at a time");
        loop {
            let mut state = self.state.lock().unwrap();
            let Some((place, connection)) = self.next(&mut state) else {
                let left = state.slots.drain(..).flatten().filter(|slot| slot.connection.is_some()).count();
                drop(state);
                let returned = self.crew.end().into_iter().filter(|(_, returned)| returned.is_some()).count();
                self.book.ended.fetch_add(left + returned, Ordering::SeqCst);
                return true;
            };
            drop(state);
            self.book.leaders.fetch_sub(1, Ordering::SeqCst);
            self.crew.go_out();
            if self.plan.eager {
                self.crew.call();
            }
            while self.plan.blocks && self.crew.handed_in.load(Ordering::SeqCst) > 0 && !self.crew.has_ended() {
                thread::yield_now();
            }
            self.book.served.fetch_add(1, Ordering::SeqCst);
            let connection = connection - 1;
            if !self.crew.claim() {
                self.hand_in(place, connection);
                return false;
            }
            assert_eq!(self.book.leaders.fetch_add(1, Ordering::SeqCst), 0, "one leader at a time");
            let mut state = self.state.lock().unwrap();
            self.settle(&mut state, place, (connection > 0).then_some(connection));
        }
    }

    fn hand_in(&self, place: usize, connection: Connection) {
        let is_over = connection == 0;
        if is_over {
            self.book.ended.fetch_add(1, Ordering::SeqCst);
        }
        match self.crew.hand_in(place, (!is_over).then_some(connection)) {
            HandedIn::Back(None) => {}
            HandedIn::Back(Some(_)) => drop(self.book.ended.fetch_add(1, Ordering::SeqCst)),
            HandedIn::Awaited => self.waker.wake(),
            HandedIn::Lying if is_over => self.waker.wake(),
            HandedIn::Lying => {}
        }
    }

    fn next(&self, state: &mut Loop) -> Option<(usize, Connection)> {
        loop {
            self.take_returned(state);
            if self.aborted.load(Ordering::SeqCst) {
                return None;
            }
            while let Some(place) = state.ready.pop_front() {
                if let Some(connection) = state.slots[place].as_mut().and_then(|slot| slot.connection.take()) {
                    if connection > 1 {
                        state.unreported.push(place); // the next request comes while this one is served
                    }
                    return Some((place, connection));
                }
            }
            if state.slots.iter().all(Option::is_none) {
                return None;
            }
            match state.unreported.pop() {
                Some(place) => self.note(state, place),
                None => self.waker.wait(),
            }
        }
    }

    fn note(&self, state: &mut Loop, place: usize) {
        let Some(slot) = &mut state.slots[place] else { return };
        if slot.connection.is_some() {
            return state.ready.push_back(place);
        }
        slot.news = true;
        if self.crew.miss(place) {
            self.take_returned(state);
        }
    }

    fn take_returned(&self, state: &mut Loop) {
        for (place, returned) in self.crew.take() {
            self.settle(state, place, returned);
        }
    }

    fn settle(&self, state: &mut Loop, place: usize, returned: Option<Connection>) {
        let Some(slot) = &mut state.slots[place] else { panic!("a connection comes back once") };
        let had_news = std::mem::take(&mut slot.news);
        slot.connection = returned;
        if had_news {
            self.crew.meet(place);
        }
        match returned {
            None => state.slots[place] = None,
            Some(_) if had_news => self.note(state, place),
            Some(_) => {}
        }
    }
}

fn play(plan: Plan) {
    let slots = (0..plan.connections).map(|_| Some(Slot { connection: Some(plan.requests), news: false })).collect();
    let state = Loop { slots, ready: (0..plan.connections).collect(), unreported: Vec::new() };
    let model = Arc::new(Model {
        plan,
        crew: Crew::default(),
        state: Mutex::new(state),
        waker: Waker::default(),
        aborted: AtomicBool::new(false),
        book: Book::default(),
    });
    let mut threads: Vec<_> = (0..plan.threads)
        .map(|_| {
            let model = model.clone();
            thread::spawn(move || model.work())
        })
        .collect();
    let other = model.clone();
    threads.push(thread::spawn(move || {
        if !plan.eager && !other.crew.is_led() {
            other.crew.call(); // the watch's look
        }
        if plan.aborts {
            other.aborted.store(true, Ordering::SeqCst);
            other.waker.wake();
        }
    }));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let book = &model.book;
    if !plan.aborts {
        // An errand that was the last of its connection is noted as ended by the leader, too: nowhere.
        assert_eq!(book.served.load(Ordering::SeqCst), plan.connections * plan.requests as usize);
    }
    assert!(matches!(model.crew.hand_in(0, Some(1)), HandedIn::Back(Some(1))), "the crew has ended");
    assert!(!model.crew.has_rest());
}

const PLANS: [Plan; 8] = [
    Plan { threads: 2, connections: 1, requests: 2, eager: true, blocks: false, aborts: false },
    Plan { threads: 2, connections: 2, requests: 1, eager: true, blocks: false, aborts: false },
    Plan { threads: 2, connections: 1, requests: 2, eager: false, blocks: false, aborts: false },
    Plan { threads: 2, connections: 1, requests: 2, eager: true, blocks: false, aborts: true },
    Plan { threads: 3, connections: 3, requests: 2, eager: true, blocks: false, aborts: false },
    Plan { threads: 3, connections: 2, requests: 3, eager: false, blocks: false, aborts: true },
    Plan { threads: 2, connections: 3, requests: 2, eager: false, blocks: true, aborts: false },
    Plan { threads: 3, connections: 4, requests: 2, eager: false, blocks: true, aborts: false },
];

/// Interleavings of a plan that are tried one after the other; the two smallest have fewer than these.
const IN_ORDER: usize = 100_000;
const AT_RANDOM: usize = 10_000;

#[test]
fn every_request_is_served_once_whatever_comes_when() {
    for plan in PLANS {
        if !plan.blocks {
            shuttle::check_dfs(move || play(plan), Some(IN_ORDER)); // which would have the one who waits try for ever
        }
        shuttle::check_random(move || play(plan), AT_RANDOM);
        shuttle::check_pct(move || play(plan), AT_RANDOM, 3);
    }
}

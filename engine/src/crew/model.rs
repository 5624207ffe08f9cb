//! The crew's hand-over under every interleaving that shuttle can think of: `make model`.
//!
//! Here is how it works: 1. threads do what `server.rs` does, around loops that are no more than a list of connections with
//! requests to come; 2. a request's news is reported at any time, while its connection is out or not; 3. in the end every
//! request has been served once, every thread has left, and nothing lies anywhere. Whoever waits for ever is found by shuttle.

use std::collections::VecDeque;

use shuttle::sync::Arc;
use shuttle::sync::atomic::AtomicUsize;
use shuttle::thread;

use super::{Crew, HandedIn, Rested, Role};
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering};

/// Requests still to be served on a connection.
type Connection = u32;

/// How the last one who knows of a connection should see it end.
#[derive(Default)]
struct Book {
    served: AtomicUsize,
    ended: AtomicUsize,
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
#[derive(Clone, Copy, Debug)]
struct Plan {
    loops: usize,
    threads: usize,
    /// Of each loop.
    connections: usize,
    requests: u32,
    /// A follower is promoted ahead of each task, as where calls block; else the watch promotes one, now and then.
    eager: bool,
    /// A task lasts until what has been handed in has been taken: so somebody must lead meanwhile.
    blocks: bool,
    /// To the first loop nothing comes until all that came to the others has been served: its leader is wanted there.
    idles: bool,
    /// Somebody ends the server at once, whatever is out.
    aborts: bool,
    /// One thread is all that was asked for, and the others are there because it waited for a client.
    has_spare: bool,
}

struct Lane {
    index: usize,
    crew: Crew<Option<Connection>>,
    state: Mutex<Loop>,
    waker: Waker,
    leaders: AtomicUsize,
}

struct Model {
    plan: Plan,
    lanes: Vec<Lane>,
    aborted: AtomicBool,
    book: Book,
}

/// What a leader finds.
enum Next {
    Serve(usize, Connection),
    Leave(usize),
    End,
}

/// How a lead ended.
enum Led {
    Lost,
    Left(usize),
    Ended,
}

impl Model {
    fn work(&self, thread: usize) {
        let mut lane = &self.lanes[thread % self.lanes.len()];
        loop {
            if lane.crew.claim() {
                match self.lead(lane, thread == 0) {
                    Led::Left(wanted) if wanted != lane.index => {
                        lane = &self.lanes[wanted];
                        continue;
                    }
                    Led::Left(_) => {} // to the first thread
                    Led::Ended if self.has_ended() => return,
                    Led::Lost | Led::Ended => {}
                }
            }
            let role = match thread {
                0 if self.plan.has_spare => Role::First,
                _ if self.plan.has_spare => Role::Spare { leaves: false },
                _ => Role::Any,
            };
            match lane.crew.follow(role, || {}, || lane.waker.wake()) {
                Rested::Promoted(promoted) => lane = &self.lanes[promoted],
                Rested::Nudged => {}
                Rested::Ended | Rested::Spared => return,
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.lanes.iter().all(|lane| lane.crew.has_ended())
    }

    fn lead(&self, lane: &Lane, is_first: bool) -> Led {
        assert_eq!(lane.leaders.fetch_add(1, Ordering::SeqCst), 0, "one leader at a time");
        loop {
            let mut state = lane.state.lock().unwrap();
            let (place, connection) = match self.next(lane, &mut state, is_first) {
                Next::Serve(place, connection) => (place, connection),
                Next::Leave(wanted) => {
                    drop(state);
                    lane.leaders.fetch_sub(1, Ordering::SeqCst);
                    lane.crew.release_and_promote();
                    return Led::Left(wanted);
                }
                Next::End => {
                    let left = state.slots.drain(..).flatten().filter(|slot| slot.connection.is_some()).count();
                    drop(state);
                    let returned = lane.crew.end().into_iter().filter(|(_, returned)| returned.is_some()).count();
                    self.book.ended.fetch_add(left + returned, Ordering::SeqCst);
                    return Led::Ended;
                }
            };
            drop(state);
            lane.leaders.fetch_sub(1, Ordering::SeqCst);
            lane.crew.release_lead();
            if self.plan.eager {
                lane.crew.promote();
            }
            while self.plan.blocks && lane.crew.handed_in.load(Ordering::SeqCst) > 0 && !lane.crew.has_ended() {
                thread::yield_now();
            }
            self.book.served.fetch_add(1, Ordering::SeqCst);
            if self.plan.idles {
                self.wake(); // there may be news
            }
            let connection = connection - 1;
            if !lane.crew.claim() {
                self.hand_in(lane, place, connection);
                return Led::Lost;
            }
            assert_eq!(lane.leaders.fetch_add(1, Ordering::SeqCst), 0, "one leader at a time");
            let mut state = lane.state.lock().unwrap();
            self.settle(lane, &mut state, place, (connection > 0).then_some(connection));
        }
    }

    fn hand_in(&self, lane: &Lane, place: usize, connection: Connection) {
        let is_over = connection == 0;
        if is_over {
            self.book.ended.fetch_add(1, Ordering::SeqCst);
        }
        match lane.crew.hand_in(place, (!is_over).then_some(connection)) {
            HandedIn::Back(None) => {}
            HandedIn::Back(Some(_)) => drop(self.book.ended.fetch_add(1, Ordering::SeqCst)),
            HandedIn::Awaited => lane.waker.wake(),
            HandedIn::Lying if is_over => lane.waker.wake(),
            HandedIn::Lying => {}
        }
    }

    /// A look of the watch: calls a follower to a loop that nobody leads, or has the leader of another come where somebody
    /// waits.
    fn look(&self) {
        for lane in &self.lanes {
            if lane.crew.has_ended() || lane.crew.is_led() {
                continue;
            }
            lane.crew.promote();
            if lane.crew.has_followers() || !lane.crew.claim() {
                continue;
            }
            let mut state = lane.state.lock().unwrap();
            self.take_returned(lane, &mut state);
            while let Some(place) = self.report(lane, &mut state) {
                self.note(lane, &mut state, place);
            }
            // The last to go leaves nothing but the end.
            let wants = !state.ready.is_empty() || state.slots.iter().all(Option::is_none);
            drop(state);
            lane.crew.release_and_promote();
            if wants {
                lane.crew.want();
                self.wake();
            }
        }
    }

    fn wake(&self) {
        self.lanes.iter().for_each(|lane| lane.waker.wake());
    }

    fn next(&self, lane: &Lane, state: &mut Loop, is_first: bool) -> Next {
        loop {
            self.take_returned(lane, state);
            if self.aborted.load(Ordering::SeqCst) {
                return Next::End;
            }
            while let Some(place) = state.ready.pop_front() {
                if let Some(connection) = state.slots[place].as_mut().and_then(|slot| slot.connection.take()) {
                    if connection > 1 {
                        state.unreported.push(place); // the next request comes while this one is served
                    }
                    return Next::Serve(place, connection);
                }
            }
            if state.slots.iter().all(Option::is_none) {
                return Next::End;
            }
            if let Some(wanted) = lane.crew.wanted_at() {
                return Next::Leave(wanted);
            }
            if !is_first && lane.crew.first_waits() {
                return Next::Leave(lane.index);
            }
            match self.report(lane, state) {
                Some(place) => self.note(lane, state, place),
                None => lane.waker.wait(),
            }
        }
    }

    /// What the poller reports next.
    fn report(&self, lane: &Lane, state: &mut Loop) -> Option<usize> {
        let others = (self.plan.loops - 1) * self.plan.connections * self.plan.requests as usize;
        let comes = !self.plan.idles || lane.index > 0 || self.book.served.load(Ordering::SeqCst) >= others;
        if comes { state.unreported.pop() } else { None }
    }

    fn note(&self, lane: &Lane, state: &mut Loop, place: usize) {
        let Some(slot) = &mut state.slots[place] else { return };
        if slot.connection.is_some() {
            return state.ready.push_back(place);
        }
        slot.news = true;
        if lane.crew.miss(place) {
            self.take_returned(lane, state);
        }
    }

    fn take_returned(&self, lane: &Lane, state: &mut Loop) {
        for (place, returned) in lane.crew.take() {
            self.settle(lane, state, place, returned);
        }
    }

    fn settle(&self, lane: &Lane, state: &mut Loop, place: usize, returned: Option<Connection>) {
        let Some(slot) = &mut state.slots[place] else { panic!("a connection comes back once") };
        let had_news = std::mem::take(&mut slot.news);
        slot.connection = returned;
        if had_news {
            lane.crew.meet(place);
        }
        match returned {
            None => state.slots[place] = None,
            Some(_) if had_news => self.note(lane, state, place),
            Some(_) => {}
        }
    }
}

fn play(plan: Plan) {
    let new_loop = |index| {
        let slots =
            (0..plan.connections).map(|_| Some(Slot { connection: Some(plan.requests), news: false })).collect();
        let (unreported, ready): (Vec<_>, Vec<_>) = (0..plan.connections).partition(|_| plan.idles && index == 0);
        Loop { slots, ready: ready.into(), unreported }
    };
    let lanes = Crew::several(plan.loops).enumerate().map(|(index, crew)| Lane {
        index,
        crew,
        state: Mutex::new(new_loop(index)),
        waker: Waker::default(),
        leaders: AtomicUsize::new(0),
    });
    let model =
        Arc::new(Model { plan, lanes: lanes.collect(), aborted: AtomicBool::new(false), book: Book::default() });
    let mut threads: Vec<_> = (0..plan.threads)
        .map(|number| {
            let model = model.clone();
            thread::spawn(move || model.work(number))
        })
        .collect();
    let other = model.clone();
    threads.push(thread::spawn(move || {
        if !plan.eager && !other.lanes[0].crew.is_led() {
            other.lanes[0].crew.promote(); // the watch's look
        }
        if plan.aborts {
            other.aborted.store(true, Ordering::SeqCst);
            other.wake();
        }
        while plan.loops > 1 && !other.has_ended() {
            other.look();
            thread::yield_now();
        }
    }));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let book = &model.book;
    if !plan.aborts {
        // A task that was the last of its connection is noted as ended by the leader, too: nowhere.
        let asked = plan.loops * plan.connections * plan.requests as usize;
        assert_eq!(book.served.load(Ordering::SeqCst), asked);
    }
    for lane in &model.lanes {
        assert!(matches!(lane.crew.hand_in(0, Some(1)), HandedIn::Back(Some(1))), "the crew has ended");
        assert!(!lane.crew.has_followers());
    }
}

const ONE: Plan = Plan {
    loops: 1,
    threads: 2,
    connections: 1,
    requests: 2,
    eager: true,
    blocks: false,
    idles: false,
    aborts: false,
    has_spare: false,
};

const PLANS: [Plan; 18] = [
    ONE,
    Plan { connections: 2, requests: 1, ..ONE },
    Plan { eager: false, ..ONE },
    Plan { aborts: true, ..ONE },
    Plan { threads: 3, connections: 3, ..ONE },
    Plan { threads: 3, connections: 2, requests: 3, eager: false, aborts: true, ..ONE },
    Plan { connections: 3, eager: false, blocks: true, ..ONE },
    Plan { threads: 3, connections: 4, eager: false, blocks: true, ..ONE },
    Plan { loops: 2, ..ONE },
    Plan { loops: 2, threads: 1, ..ONE },
    Plan { loops: 2, threads: 3, connections: 2, eager: false, ..ONE },
    Plan { loops: 2, threads: 3, connections: 2, aborts: true, ..ONE },
    Plan { loops: 3, threads: 2, connections: 2, eager: false, ..ONE },
    Plan { loops: 2, threads: 1, idles: true, ..ONE },
    Plan { loops: 3, threads: 2, idles: true, ..ONE },
    Plan { has_spare: true, ..ONE },
    Plan { has_spare: true, threads: 3, connections: 2, eager: false, ..ONE },
    Plan { has_spare: true, threads: 3, connections: 3, aborts: true, ..ONE },
];

/// Interleavings of a plan that are tried one after the other; the two smallest have fewer than these.
const IN_ORDER: usize = 100_000;
const AT_RANDOM: usize = 10_000;

#[test]
fn every_request_is_served_once_whatever_comes_when() {
    for plan in PLANS {
        if !plan.blocks && plan.loops == 1 {
            shuttle::check_dfs(move || play(plan), Some(IN_ORDER)); // which would have the one who waits try for ever
        }
        shuttle::check_random(move || play(plan), AT_RANDOM);
        shuttle::check_pct(move || play(plan), AT_RANDOM, 3);
    }
}

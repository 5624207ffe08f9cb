//! A world without a kernel: listeners, sockets, peers and a clock that all obey a script, behind the engine's `Net`.
//! Same seed, same script: same run. Must not know: HTTP.
//!
//! With several threads (under shuttle, see `threads.rs`) the clock stands still while anybody has something to do. It is
//! moved on by the leader who waits, or, where nobody leads, by those who sleep in the application.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

pub mod anything;
pub mod mirror;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

// A lock of shuttle's is a place where threads change.
#[cfg(feature = "shuttle")]
use shuttle::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(feature = "shuttle"))]
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bjoern_engine::io::{Clock, Event, Millis, Net, Peer, Readiness, Socket, Wait, Waker};
use bjoern_engine::{Counters, Stopper};

/// Lets the other threads go on.
pub fn yield_now() {
    #[cfg(feature = "shuttle")]
    shuttle::thread::yield_now();
}

/// What a simulated peer does, one thing after the other.
#[derive(Clone, Debug)]
pub enum Act {
    /// Opens its connection; the first of all acts.
    Connect,
    /// Sends bytes, all of which arrive at once.
    Send(Vec<u8>),
    /// Ends its sending direction.
    Finish,
    /// Resets the connection: what is under way is lost.
    Reset,
    /// Takes up to so many bytes of what the server sent.
    Take(usize),
    /// Takes everything the server sends from now on.
    TakeAll,
    /// Lets so many milliseconds pass.
    Sleep(Millis),
}

/// One end-to-end connection as both sides and the script see it.
#[derive(Debug, Default)]
pub struct Wire {
    acts: VecDeque<Act>,
    /// When the next act is due.
    due: Millis,
    connected: bool,
    pub accepted: bool,
    pub accepted_at: Millis,
    /// By which net, and under which name.
    registered: Option<(usize, usize)>,
    /// Sent by the peer and not received by the server.
    inbound: VecDeque<u8>,
    /// When the last of them came: a read finds only a part of what is just arriving, and all of what came before.
    arrived: Millis,
    peer_finished: bool,
    peer_reset: bool,
    /// Sent by the server and not taken by the peer; at most `window` bytes.
    outbound: VecDeque<u8>,
    window: usize,
    /// The server has met a full window: the next room is news.
    pub blocked: bool,
    takes_all: bool,
    pub server_finished: bool,
    pub server_closed: bool,
    /// When the server ended its sending direction, or all of it.
    pub closed_at: Millis,
    /// All that the peer has taken.
    pub taken: Vec<u8>,
    /// Bytes handed over by the server so far.
    pub sent: usize,
    /// Bytes that the application has given at the least.
    pub given: usize,

    /// What the poller has not reported yet.
    news: Readiness,
}

impl Wire {
    /// The peer takes so many bytes.
    pub fn take(&mut self, bytes: usize) {
        let bytes = bytes.min(self.outbound.len());
        self.taken.extend(self.outbound.drain(..bytes));
        if self.blocked && self.outbound.len() < self.window {
            self.blocked = false;
            self.news.writable = true;
        }
    }
}

/// Everything there is.
pub struct World {
    pub wires: Vec<Wire>,
    pub now: Millis,
    random: u64,
    /// Receives and sends move fewer bytes than they could, at random.
    pub torn: bool,
    /// The nets that have been told of those who wait to be accepted, and have not seen their queue empty since.
    queue_reported: Vec<usize>,
    /// Waits with a zero timeout that found nothing, in a row: a loop that spins.
    idle_polls: u32,
    /// Accepts that fail before the next succeeds.
    pub accept_failures: Vec<io::ErrorKind>,
    /// Nothing is left to happen: no script, no deadline.
    pub ended: bool,
    listening: bool,
    /// The limit of open files.
    pub open_files: Option<u64>,
    pub threads: Threads,
    /// The server's, and how many connections it may have open; to look at it while it rests.
    pub books: Option<(Arc<Counters>, usize)>,
    /// Looks of the watch so far, the one that has begun included.
    pub looks: u32,
}

/// What the threads of a server do.
#[derive(Default)]
pub struct Threads {
    /// Those that are in `Server::work`.
    pub at_work: usize,
    /// Those that rest, or wait for news, or have been told to go on and have not begun to.
    pub idle: usize,
    /// Leaders that wait for news: by which net, and until when.
    leaders: Vec<(usize, Option<Millis>)>,
    /// The wakers of all nets.
    wakers: Vec<SimWaker>,
    /// Those that sleep, in the application or until their client takes something: until when, and on which wire.
    naps: Vec<(Millis, usize)>,
    /// Those that run application code, and how many may.
    pub inside: usize,
    pub permits: usize,
}

impl Threads {
    /// How many have something to do.
    fn busy(&self, now: Millis) -> usize {
        let asleep = self.naps.iter().filter(|(until, _)| *until > now).count();
        self.at_work.saturating_sub(self.idle + asleep)
    }

    /// Whether all rest, and nobody leads.
    pub fn all_rest(&self) -> bool {
        self.at_work > 0 && self.idle == self.at_work && self.leaders.is_empty()
    }
}

/// The world, shared by the net, its sockets and the test.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// A world of peers, each with a window of so many bytes and a script.
    pub fn new(seed: u64, peers: Vec<(usize, Vec<Act>)>) -> Shared {
        let world = Shared(Arc::new(Mutex::new(World {
            wires: Vec::new(),
            now: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            torn: false,
            queue_reported: Vec::new(),
            idle_polls: 0,
            accept_failures: Vec::new(),
            ended: false,
            listening: true,
            open_files: None,
            threads: Threads::default(),
            books: None,
            looks: 0,
        })));
        peers.into_iter().for_each(|(window, acts)| world.lock().add(window, acts));
        world
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calling thread sleeps in the application, which has to do with `wire`, until a moment or until `is_over`.
    /// Whether it was that.
    pub fn sleep(&self, wire: usize, until: Millis, is_over: impl Fn(&World) -> bool) -> bool {
        let nap = (until, wire);
        self.lock().threads.naps.push(nap);
        let mut yields = 0;
        loop {
            let mut world = self.lock();
            world.act();
            let over = is_over(&world);
            if over || world.now >= until {
                let at = world.threads.naps.iter().position(|other| *other == nap).unwrap();
                world.threads.naps.swap_remove(at);
                return over;
            }
            let asleep = world.threads.naps.iter().filter(|(until, _)| *until > world.now).count();
            let nobody_leads = world.threads.leaders.is_empty();
            // Only they can move the clock, but the watch has its looks meanwhile, and others do what they have to do.
            let patience = if asleep >= world.threads.at_work { 4 } else { 100 };
            if nobody_leads && world.random(patience) == 0 {
                world.now = world.next().unwrap_or(world.now);
                world.act();
            }
            let may_lead = world.threads.inside < world.threads.permits;
            if asleep < world.threads.at_work && world.threads.busy(world.now) == 0 && nobody_leads && may_lead {
                yields += 1;
                assert!(yields < MAX_YIELDS, "threads rest while others sleep, and nobody leads");
            } else {
                yields = 0;
            }
            drop(world);
            yield_now();
        }
    }
}

impl World {
    /// One more peer.
    pub fn add(&mut self, window: usize, acts: Vec<Act>) {
        self.wires.push(Wire { window, acts: acts.into(), ..Wire::default() });
    }

    /// A number below `bound`.
    pub fn random(&mut self, bound: usize) -> usize {
        // xorshift64*: small, and the same everywhere.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn torn(&mut self, len: usize) -> usize {
        if self.torn && len > 1 && self.random(3) > 0 { 1 + self.random(len) } else { len }
    }

    /// Does every act that is due.
    fn act(&mut self) {
        let now = self.now;
        for wire in &mut self.wires {
            while wire.due <= now {
                let Some(act) = wire.acts.pop_front() else { break };
                match act {
                    Act::Connect => wire.connected = true,
                    Act::Send(bytes) => {
                        wire.inbound.extend(bytes);
                        wire.arrived = now;
                        wire.news.readable = true;
                    }
                    Act::Finish => {
                        wire.peer_finished = true;
                        wire.news.readable = true;
                        wire.news.read_closed = true;
                    }
                    Act::Reset => {
                        wire.peer_reset = true;
                        wire.inbound.clear();
                        wire.news = Readiness { readable: true, writable: true, read_closed: true, hung_up: true };
                    }
                    Act::Take(bytes) => wire.take(bytes),
                    Act::TakeAll => wire.takes_all = true,
                    Act::Sleep(millis) => wire.due = now + millis,
                }
            }
            if wire.takes_all {
                wire.take(usize::MAX);
            }
        }
    }

    fn report(&mut self, net: usize, events: &mut Vec<Event>) {
        let waiting = self.wires.iter().any(|wire| wire.connected && !wire.accepted);
        if waiting && !self.queue_reported.contains(&net) {
            self.queue_reported.push(net);
            events.push(Event::Listener(0));
        }
        for wire in &mut self.wires {
            if let Some((by, token)) = wire.registered
                && by == net
                && !wire.server_closed
                && wire.news != Readiness::default()
            {
                events.push(Event::Socket(token, std::mem::take(&mut wire.news)));
            }
        }
    }

    /// Whether another net than this has news that nobody has heard, be it that nobody waits for them.
    fn is_busy_beside(&self, net: usize) -> bool {
        let waits = |wire: &Wire| wire.connected && !wire.accepted;
        let queue = self.listening && self.wires.iter().any(waits);
        (0..self.threads.wakers.len()).filter(|other| *other != net).any(|other| {
            let has_news = |wire: &Wire| {
                let by = wire.registered.map(|(by, _)| by);
                by == Some(other) && !wire.server_closed && wire.news != Readiness::default()
            };
            let Some((_, until)) = self.threads.leaders.iter().find(|(by, _)| *by == other) else { return true };
            until.is_some_and(|until| until <= self.now)
                || self.threads.wakers[other].0.load(Ordering::SeqCst)
                || (queue && !self.queue_reported.contains(&other))
                || self.wires.iter().any(has_news)
        })
    }

    /// Nobody has anything to do, and the leader begins to wait: nothing may lie anywhere that somebody has missed.
    fn assert_rest(&self) {
        let mut open = 0;
        for (index, wire) in self.wires.iter().enumerate() {
            open += usize::from(wire.accepted && !wire.server_closed);
            let is_away = self.threads.naps.iter().any(|(_, wire)| *wire == index);
            if !wire.accepted || wire.server_closed || is_away {
                continue;
            }
            assert!(wire.registered.is_some(), "wire {index} is back, and the poller does not know it");
            assert!(!wire.peer_reset, "wire {index} is gone, and nobody has noticed");
            assert!(wire.blocked || wire.inbound.is_empty(), "wire {index} has been sent bytes, and nobody reads them");
            assert!(wire.blocked || wire.sent >= wire.given, "wire {index} has an answer coming, and nobody sends it");
            assert!(wire.blocked || !wire.peer_finished, "wire {index} has ended, and nobody has noticed");
        }
        let Some((counters, limit)) = &self.books else { return };
        let count = counters.all().find(|(name, _)| *name == "open").unwrap().1;
        assert_eq!(count as usize, open, "the leader knows which connections are open");
        let waits = self.wires.iter().position(|wire| wire.connected && !wire.accepted);
        let may_accept = self.listening && open < *limit;
        assert!(!may_accept || waits.is_none(), "wire {waits:?} waits to be accepted");
    }

    /// When something will happen that the server does not know of.
    fn next(&self) -> Option<Millis> {
        // Who is to wake up at this moment is busy with it.
        let next_to_wake = self.threads.naps.iter().map(|(until, _)| *until).filter(|until| *until > self.now).min();
        [self.next_due(), next_to_wake].into_iter().flatten().min()
    }

    /// When something will happen by itself.
    fn next_due(&self) -> Option<Millis> {
        self.wires.iter().filter(|wire| !wire.acts.is_empty()).map(|wire| wire.due).min()
    }
}

/// The engine's door to the world.
pub struct SimNet {
    number: usize,
    world: Shared,
    woken: SimWaker,
    stopper: EndOfTheWorld,
    ended: bool,
}

/// Where to put the server's stopper: it is used once every script has been played and nothing is waited for.
pub type EndOfTheWorld = Arc<OnceLock<Stopper<SimWaker>>>;

impl SimNet {
    pub fn new(world: Shared) -> (SimNet, EndOfTheWorld) {
        let stopper = EndOfTheWorld::default();
        (SimNet::of(world, stopper.clone()), stopper)
    }

    /// Another loop's, to the same peers.
    pub fn another(&self) -> SimNet {
        SimNet::of(self.world.clone(), self.stopper.clone())
    }

    fn of(world: Shared, stopper: EndOfTheWorld) -> SimNet {
        let woken = SimWaker::default();
        let mut made = world.lock();
        let number = made.threads.wakers.len();
        made.threads.wakers.push(woken.clone());
        drop(made);
        SimNet { number, world, woken, stopper, ended: false }
    }
}

#[derive(Clone, Default)]
pub struct SimWaker(Arc<AtomicBool>);

impl Waker for SimWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// So often the others can go on while somebody should call a thread, before that one is said to have been forgotten.
pub const MAX_YIELDS: u32 = 2000;

/// Waits that find nothing, one after the other, before a loop is said to spin.
const MAX_IDLE_POLLS: u32 = 1000;

impl Net for SimNet {
    type Socket = SimSocket;
    type Waker = SimWaker;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut world = self.world.lock();
        let began = world.now;
        let deadline = timeout.map(|timeout| began + timeout.as_millis() as Millis);
        if timeout != Some(Duration::ZERO) {
            world.threads.leaders.push((self.number, deadline));
        }
        loop {
            world.act();
            world.report(self.number, events);
            if self.woken.0.swap(false, Ordering::SeqCst) {
                events.push(Event::Woken);
            }
            if !events.is_empty() {
                world.idle_polls = 0;
                break;
            }
            if timeout == Some(Duration::ZERO) {
                // An usher asks as often as it likes.
                world.idle_polls += u32::from(world.threads.at_work == world.threads.idle);
                assert!(
                    world.idle_polls < MAX_IDLE_POLLS,
                    "the loop spins: it asks again and again, and nothing happens"
                );
                break;
            }
            if world.now > began && deadline.is_some_and(|deadline| deadline <= world.now) {
                break; // the leader of another loop has moved the clock
            }
            let is_busy = world.threads.busy(world.now) > 0 || world.is_busy_beside(self.number);
            let next = world.next();
            let next = [next, deadline].into_iter().flatten().min();
            // Who has something to do has it done before the clock goes on, or takes its time.
            if is_busy && (next.is_none() || world.random(100) > 0) {
                drop(world);
                yield_now();
                world = self.world.lock();
                continue;
            }
            if !is_busy {
                world.assert_rest();
            }
            let Some(next) = next else {
                // Nothing will ever happen again: only the end is left.
                assert!(!self.ended, "the server waits for ever after it was asked to stop");
                self.ended = true;
                world.ended = true;
                drop(world);
                self.stopper.get().unwrap().stop(true);
                world = self.world.lock();
                continue;
            };
            assert!(next > world.now || world.next_due() == Some(next), "a wait must not end before it began");
            world.idle_polls = if next > world.now { 0 } else { world.idle_polls + 1 };
            assert!(world.idle_polls < MAX_IDLE_POLLS, "the loop spins");
            world.now = next;
            world.act();
            world.report(self.number, events);
            break;
        }
        world.threads.leaders.retain(|(net, _)| *net != self.number);
        Ok(())
    }

    fn accept(&mut self, _listener: usize) -> io::Result<(SimSocket, Peer)> {
        let mut world = self.world.lock();
        if let Some(kind) = world.accept_failures.pop() {
            return Err(kind.into());
        }
        match world.wires.iter().position(|wire| wire.connected && !wire.accepted) {
            Some(wire) => {
                world.wires[wire].accepted = true;
                world.wires[wire].accepted_at = world.now;
                Ok((SimSocket { world: self.world.clone(), wire }, Peer::default()))
            }
            None => {
                world.queue_reported.retain(|net| *net != self.number);
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn listeners(&self) -> usize {
        1
    }

    fn stop_listening(&mut self) {
        self.world.lock().listening = false;
    }

    fn add(&mut self, token: usize, socket: &SimSocket) -> io::Result<()> {
        let mut world = self.world.lock();
        let wire = &mut world.wires[socket.wire];
        wire.registered = Some((self.number, token));
        // As epoll does: what is there already is reported.
        wire.news.readable |= !wire.inbound.is_empty() || wire.peer_finished;
        wire.news.writable = true;
        Ok(())
    }

    fn waker(&self) -> SimWaker {
        self.woken.clone()
    }

    fn elapsed(&self) -> Millis {
        self.world.lock().now
    }

    fn clock(&self) -> Clock {
        let world = self.world.clone();
        Arc::new(move || world.lock().now)
    }

    fn calendar(&self) -> u64 {
        self.world.lock().now / 1000
    }

    fn open_files(&self) -> Option<u64> {
        self.world.lock().open_files
    }
}

/// The server's end of a wire.
pub struct SimSocket {
    world: Shared,
    wire: usize,
}

impl Socket for SimSocket {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world.lock();
        let wire = &world.wires[self.wire];
        if wire.peer_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let available = wire.inbound.len().min(buffer.len());
        if available == 0 {
            return if wire.peer_finished { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        // A short read means drained, here as in the kernel; so a torn read leaves news behind.
        let arriving = wire.arrived == world.now;
        let len = if arriving { world.torn(available) } else { available };
        let wire = &mut world.wires[self.wire];
        for (place, byte) in buffer.iter_mut().zip(wire.inbound.drain(..len)) {
            *place = byte;
        }
        wire.news.readable |= !wire.inbound.is_empty();
        Ok(len)
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut world = self.world.lock();
        let wire = &world.wires[self.wire];
        assert!(!wire.server_finished, "nothing is sent after the end");
        if wire.peer_reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
        let room = wire.window - wire.outbound.len().min(wire.window);
        if room == 0 {
            world.wires[self.wire].blocked = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = world.torn(wanted.min(room));
        let wire = &mut world.wires[self.wire];
        wire.sent += len;
        wire.outbound.extend(pieces.iter().flat_map(|piece| piece.iter()).take(len));
        if wire.takes_all {
            wire.take(usize::MAX);
        }
        Ok(len)
    }

    fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        let mut bytes = vec![0; len];
        let read = file.read_at(&mut bytes, offset)?;
        if read == 0 { Ok(0) } else { self.send(&[IoSlice::new(&bytes[..read])]) }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let mut world = self.world.lock();
        let now = world.now;
        let wire = &mut world.wires[self.wire];
        wire.server_finished = true;
        wire.closed_at = now;
        // The end arrives behind what was sent.
        wire.take(usize::MAX);
        Ok(())
    }

    fn reset_on_close(&mut self) {}

    fn wait_writable(&mut self, timeout: Duration) -> io::Result<(Wait, Duration)> {
        let began = self.world.lock().now;
        let is_writable = self.world.sleep(self.wire, began + timeout.as_millis() as Millis, |world| {
            let wire = &world.wires[self.wire];
            wire.peer_reset || wire.outbound.len() < wire.window
        });
        let waited = Duration::from_millis(self.world.lock().now - began);
        Ok((if is_writable { Wait::Writable } else { Wait::TimedOut }, waited))
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        let now = world.now;
        let wire = &mut world.wires[self.wire];
        wire.server_closed = true;
        if !wire.server_finished {
            wire.closed_at = now;
        }
        // What was sent arrives, unless the peer was still sending: then the close resets the connection (RFC 9112, 9.6).
        if wire.inbound.is_empty() || wire.server_finished {
            wire.take(usize::MAX);
        }
    }
}

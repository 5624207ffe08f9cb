//! The loop: wait, accept, hand out connections to be served, deadlines, drain.
//! Knows: `io`, connections as wholes.   Must not know: HTTP, the application's language.
//! Invariant: nothing of the loop is held while a connection is served, so the loop's state can change hands meanwhile.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use slab::Slab;

use crate::app::{App, Wake};
use crate::config::Config;
use crate::connection::{Connection, Desk, Turn, Verdict};
use crate::control::{Control, Stopper};
use crate::counters::Counters;
use crate::io::{Event, Millis, Net, Readiness, block_signals};
use crate::timeouts::{Timeout, Timeouts};
use crate::watch::Watch;

/// Connections taken from one listener's queue in a turn, before those that are open have theirs.
const ACCEPTS_PER_TURN: usize = 64;

/// How long accepting rests after the process or the system ran out of something.
const ACCEPT_PAUSE: Millis = 100;

/// For the peer to close after the last answer.
const LINGER: Millis = 5_000;

/// For a connection that has not asked for anything yet, while the server drains: its request may be on its way.
const DRAIN_FIRST_REQUEST: Millis = 1_000;

/// For the watch, which calls nothing deep.
const WATCH_STACK_BYTES: usize = 64 * 1024;

/// Descriptors kept for everything but connections, where `max_connections` is left to the server.
const RESERVED_FILES: u64 = 64;

/// An HTTP server on listening sockets, for one application.
pub struct Server<N: Net, A: App<N::Socket>> {
    app: A,
    config: Config,
    counters: Counters,
    control: Arc<Control>,
    waker: N::Waker,
    watch: Arc<Watch>,
    state: Mutex<Loop<N, A>>,
}

impl<N: Net, A: App<N::Socket>> Server<N, A> {
    /// A server that has not begun.
    pub fn new(net: N, app: A, config: Config) -> Server<N, A> {
        let waker = net.waker();
        let state = Mutex::new(Loop::new(net, &config));
        let (control, watch) = (Arc::default(), Arc::default());
        Server { app, config, counters: Counters::default(), control, waker, watch, state }
    }

    /// What ends this server.
    pub fn stopper(&self) -> Stopper<N::Waker> {
        Stopper::new(self.control.clone(), self.waker.clone())
    }

    /// The waker of its net.
    pub fn waker(&self) -> &N::Waker {
        &self.waker
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The application.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// Serves until stopped and drained. A second thread keeps watch from when it is first of use: see [`Server::tick`].
    ///
    /// # Errors
    /// What the kernel says of the poller; faults of a peer or of a connection are none.
    pub fn run(&self) -> io::Result<()> {
        thread::scope(|scope| {
            let _end = OnDrop(|| self.watch.end());
            self.run_with(|| {
                let keep = || {
                    block_signals(); // they are for those who run the application
                    self.watch.keep(|| self.tick());
                };
                let thread = thread::Builder::new().name("bjoern-watch".to_owned()).stack_size(WATCH_STACK_BYTES);
                // Without a watch everything is sent at once.
                if let Ok(handle) = thread.spawn_scoped(scope, keep) {
                    self.watch.begin(Some(handle.thread().clone()));
                }
            })
        })
    }

    /// As [`Server::run`], without a thread of its own: `keep_watch` is called once, when something could be held if
    /// somebody ticked.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_with(&self, keep_watch: impl FnOnce()) -> io::Result<()> {
        let mut keep_watch = Some(keep_watch);
        let mut desk = Desk::new(&self.config, self.control.clone(), self.watch.clone());
        let mut state = self.lock();
        let result = loop {
            let Task { token, connection, expired } = match state.next(self) {
                Ok(Some(task)) => task,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            desk.stamp(state.second, &self.config);
            let (draining, crowded) = (state.phase != Phase::Serving, !state.ready.is_empty());
            drop(state);
            let turn = Turn { app: &self.app, config: &self.config, counters: &self.counters, draining, crowded };
            let (connection, verdict) = match expired {
                None => connection.serve(&mut desk, &turn),
                Some(timeout) => connection.expire(timeout, &mut desk, &turn),
            };
            if desk.takes_wish_for_watch()
                && let Some(keep_watch) = keep_watch.take()
            {
                keep_watch();
            }
            state = self.lock();
            if let Some(mut lost) = state.settle(token, connection, verdict, self) {
                drop(state);
                lost.abandon(&self.app);
                state = self.lock();
            }
        };
        let left = state.close_all(self);
        drop(state);
        for mut connection in left {
            connection.abandon(&self.app);
        }
        result
    }

    /// Says that [`Server::tick`] is called every millisecond from now on.
    pub fn begin_ticks(&self) {
        self.watch.begin(None);
    }

    /// One look of the watch: what has been held since the last one is sent. Whether all is quiet.
    ///
    /// Answers and blocks that come quickly are held for those that follow at once, so that they leave together. The watch
    /// sends them where the application takes longer than that, at the second tick at the latest.
    pub fn tick(&self) -> bool {
        match self.state.try_lock() {
            Ok(mut state) => state.send_overdue(&self.watch),
            Err(TryLockError::Poisoned(state)) => state.into_inner().send_overdue(&self.watch),
            // Whoever has it sends what is held before it waits.
            Err(TryLockError::WouldBlock) => {}
        }
        self.watch.tick() && self.watch.is_loop_quiet()
    }

    fn lock(&self) -> MutexGuard<'_, Loop<N, A>> {
        // A panic leaves the loop between two steps, each of which keeps its invariants.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs its function when it goes out of scope, be it by a panic.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// No new connections; until when.
    Draining(Millis),
    /// Everything is closed.
    Aborted,
}

/// A connection and what is known of it while it is away being served.
struct Slot<N: Net, A: App<N::Socket>> {
    connection: Option<Box<Connection<N::Socket, A>>>,
    /// News that came while it was away.
    news: Readiness,
    /// It waits in a queue for its turn.
    queued: bool,
    /// The poller knows it. One that ends with its first answer is never registered.
    registered: bool,
    /// A deadline of this kind has passed.
    expired: Option<Timeout>,
    /// What the poller calls it; never the same twice for one token.
    name: usize,
}

/// A connection to be served, by whoever took it from the loop.
struct Task<N: Net, A: App<N::Socket>> {
    token: usize,
    connection: Box<Connection<N::Socket, A>>,
    expired: Option<Timeout>,
}

/// What only one thread at a time can hold.
struct Loop<N: Net, A: App<N::Socket>> {
    net: N,
    events: Vec<Event>,
    slots: Slab<Slot<N, A>>,
    timeouts: Timeouts,
    /// Connections with something to do, in the order in which it became known.
    ready: VecDeque<usize>,
    /// Those that have used up their budget: their next turn comes after the others' and a look at the poller.
    later: Vec<usize>,
    /// Connections whose answers are held until the end of the turn.
    holding: Vec<usize>,
    /// How often such answers have been sent, now and at the watch's last look.
    releases: u32,
    releases_seen: u32,
    /// Listeners whose queue has not been seen empty since it was last reported.
    accepting: Vec<bool>,
    accept_resumes: Option<Millis>,
    max_connections: usize,
    phase: Phase,
    /// The calendar's second, since 1970, as of the last wait.
    second: u64,
    /// Connections so far, for their names.
    admitted: usize,
}

/// Half of a poller's name is the token. The rest tells a connection from one that had the token before: a forked
/// child keeps such a socket open, and the kernel goes on reporting it.
const TOKEN_BITS: u32 = usize::BITS / 2;
const TOKEN_MASK: usize = (1 << TOKEN_BITS) - 1;

impl<N: Net, A: App<N::Socket>> Loop<N, A> {
    fn new(net: N, config: &Config) -> Self {
        let millis = |duration: Duration| duration.as_millis().try_into().unwrap_or(Millis::MAX);
        let timeouts = Timeouts::new(|kind| match kind {
            Timeout::Head => millis(config.header_timeout),
            Timeout::Body => millis(config.body_timeout),
            Timeout::Write => millis(config.write_timeout),
            Timeout::KeepAlive => millis(config.keep_alive),
            Timeout::Linger => LINGER,
            Timeout::Drain => DRAIN_FIRST_REQUEST,
        });
        let max_connections = match config.max_connections {
            0 => net.open_files().map_or(usize::MAX, |files| {
                usize::try_from(files - RESERVED_FILES.min(files / 2)).unwrap_or(usize::MAX)
            }),
            limit => limit,
        };
        Loop {
            accepting: vec![false; net.listeners()],
            net,
            events: Vec::new(),
            slots: Slab::new(),
            timeouts,
            ready: VecDeque::new(),
            later: Vec::new(),
            holding: Vec::new(),
            releases: 0,
            releases_seen: 0,
            accept_resumes: None,
            max_connections,
            phase: Phase::Serving,
            second: 0,
            admitted: 0,
        }
    }

    /// The next connection to serve; `None` when the server has ended.
    fn next(&mut self, server: &Server<N, A>) -> io::Result<Option<Task<N, A>>> {
        loop {
            if self.phase == Phase::Aborted {
                return Ok(None);
            }
            while let Some(token) = self.ready.pop_front() {
                let Some(slot) = self.slots.get_mut(token) else { continue };
                slot.queued = false;
                if let Some(connection) = slot.connection.take() {
                    return Ok(Some(Task { token, connection, expired: slot.expired.take() }));
                }
            }
            self.release(&server.watch);
            if !self.ready.is_empty() {
                continue; // who could not send all of it
            }
            match self.phase {
                Phase::Draining(_) if self.slots.is_empty() => return Ok(None),
                Phase::Draining(until) if self.net.elapsed() >= until => return Ok(None),
                _ => self.wait(server)?,
            }
        }
    }

    /// Sends the answers that were held.
    fn release(&mut self, watch: &Watch) {
        self.releases = self.releases.wrapping_add(1);
        if self.holding.is_empty() {
            return;
        }
        watch.loop_released();
        let mut holding = std::mem::take(&mut self.holding);
        for token in holding.drain(..) {
            if let Some(slot) = self.slots.get_mut(token)
                && let Some(connection) = &mut slot.connection
                && std::mem::take(&mut connection.holds)
                && !connection.release()
            {
                self.enqueue(token);
            }
        }
        self.holding = holding;
    }

    /// Sends the answers that were held at the last look and still are.
    fn send_overdue(&mut self, watch: &Watch) {
        if self.releases == self.releases_seen {
            self.release(watch);
        }
        self.releases_seen = self.releases;
    }

    /// Waits for news and queues the connections they concern.
    fn wait(&mut self, server: &Server<N, A>) -> io::Result<()> {
        let timeout = self.time_to_wait();
        let (net, events) = (&mut self.net, &mut self.events);
        server.app.blocking(|| net.wait(timeout, events))?;
        let now = self.net.elapsed();
        self.second = self.net.calendar();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Woken => self.woken(server, now),
                Event::Listener(index) => {
                    if let Some(accepting) = self.accepting.get_mut(index) {
                        *accepting = true;
                    }
                }
                Event::Socket(name, news) => {
                    let token = name & TOKEN_MASK;
                    if self.slots.get(token).is_some_and(|slot| slot.name == name) {
                        self.note(token, news);
                    }
                }
            }
        }
        self.events = events;
        self.accept(server, now);
        while let Some((token, timeout)) = self.timeouts.expired(now) {
            if let Some(slot) = self.slots.get_mut(token) {
                slot.expired = Some(timeout);
                self.enqueue(token);
            }
        }
        self.ready.extend(self.later.drain(..));
        Ok(())
    }

    fn time_to_wait(&self) -> Option<Duration> {
        let can_accept = self.accepting.contains(&true) && self.slots.len() < self.max_connections;
        if !self.later.is_empty() || (can_accept && self.accept_resumes.is_none()) {
            return Some(Duration::ZERO);
        }
        let drained = match self.phase {
            Phase::Draining(until) => Some(until),
            _ => None,
        };
        let next =
            [self.timeouts.next(), self.accept_resumes.filter(|_| can_accept), drained].into_iter().flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(self.net.elapsed())))
    }

    /// News of a connection.
    fn note(&mut self, token: usize, news: Readiness) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let Some(connection) = &mut slot.connection else { return slot.news.merge(news) };
        if connection.cares_for(news) {
            self.enqueue(token);
        }
    }

    fn enqueue(&mut self, token: usize) {
        if let Some(slot) = self.slots.get_mut(token)
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push_back(token);
        }
    }

    /// Takes back a connection that has been served, or gives back one that cannot be kept.
    fn settle(
        &mut self,
        token: usize,
        connection: Box<Connection<N::Socket, A>>,
        verdict: Verdict,
        server: &Server<N, A>,
    ) -> Option<Box<Connection<N::Socket, A>>> {
        let slot = &mut self.slots[token];
        // What is ready already is reported anew by the registration, so nothing that came meanwhile is missed.
        let kept =
            verdict != Verdict::Close && (slot.registered || self.net.add(slot.name, &connection.socket).is_ok());
        if !kept {
            self.timeouts.disarm(token);
            self.slots.remove(token);
            server.counters.open.store(self.slots.len() as u64, Ordering::Relaxed);
            return Some(connection);
        }
        slot.registered = true;
        if connection.holds {
            self.holding.push(token);
            server.watch.loop_holds();
        }
        slot.connection = Some(connection);
        let news = std::mem::take(&mut slot.news);
        match verdict {
            Verdict::Wait { timeout, renewed } => {
                if renewed || self.timeouts.armed(token) != Some(timeout) {
                    self.timeouts.arm(token, timeout, self.net.elapsed());
                }
            }
            Verdict::Again | Verdict::Close => {
                self.timeouts.disarm(token);
                slot.queued = true;
                self.later.push(token);
            }
        }
        if news != Readiness::default() {
            self.note(token, news);
        }
        None
    }

    // --- accepting ---

    fn accept(&mut self, server: &Server<N, A>, now: Millis) {
        if self.accept_resumes.is_some_and(|resumes| resumes > now) {
            return;
        }
        self.accept_resumes = None;
        for index in 0..self.accepting.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.accepting[index] || self.slots.len() >= self.max_connections || self.accept_resumes.is_some() {
                    break;
                }
                match self.net.accept(index) {
                    Ok((socket, peer)) => self.admit(Connection::new(socket, peer, index), server),
                    Err(error) => self.accept_failed(index, &error, server, now),
                }
            }
        }
    }

    fn admit(&mut self, connection: Box<Connection<N::Socket, A>>, server: &Server<N, A>) {
        let news = Readiness::default();
        let connection = Some(connection);
        self.admitted = self.admitted.wrapping_add(1) & (TOKEN_MASK >> 1); // below the names of listeners
        let name = self.admitted << TOKEN_BITS | self.slots.vacant_key();
        let token = self.slots.insert(Slot { connection, news, queued: false, registered: false, expired: None, name });
        Counters::count(&server.counters.connections);
        server.counters.open.store(self.slots.len() as u64, Ordering::Relaxed);
        self.enqueue(token);
    }

    fn accept_failed(&mut self, index: usize, error: &io::Error, server: &Server<N, A>, now: Millis) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.accepting[index] = false,
            // The peer was gone before its turn: the next in the queue.
            io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
            // Out of descriptors or memory: the queue stays, and is looked at again when some may be free.
            _ => {
                Counters::count(&server.counters.accept_errors);
                self.accept_resumes = Some(now + ACCEPT_PAUSE);
                self.accepting[index] = true;
            }
        }
    }

    // --- the end ---

    fn woken(&mut self, server: &Server<N, A>, now: Millis) {
        let runtime = server.app.woken();
        if server.control.is_aborting() {
            self.phase = Phase::Aborted;
        } else if server.control.is_stopping() || runtime == Wake::Drain {
            self.drain(server, now);
        }
    }

    /// Accepts what waits, stops listening, and gives every connection a last look.
    fn drain(&mut self, server: &Server<N, A>, now: Millis) {
        if self.phase != Phase::Serving {
            return;
        }
        let graceful = server.config.graceful_timeout.as_millis().try_into().unwrap_or(Millis::MAX);
        self.phase = Phase::Draining(now.saturating_add(graceful));
        self.accepting.fill(true);
        while self.accepting.contains(&true) && self.slots.len() < self.max_connections && self.accept_resumes.is_none()
        {
            self.accept(server, now);
        }
        self.net.stop_listening();
        self.accepting.clear();
        self.accept_resumes = None;
        let tokens: Vec<usize> = self.slots.iter().map(|(token, _)| token).collect();
        for token in tokens {
            // A request may have come that the poller has not told yet.
            self.note(token, Readiness { readable: true, ..Readiness::default() });
        }
    }

    fn close_all(&mut self, server: &Server<N, A>) -> Vec<Box<Connection<N::Socket, A>>> {
        self.net.stop_listening();
        self.ready.clear();
        self.later.clear();
        let left = self.slots.drain().filter_map(|slot| slot.connection).collect();
        server.counters.open.store(0, Ordering::Relaxed);
        left
    }
}

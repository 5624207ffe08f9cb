//! What the leader holds: connections, what they wait for, the poller; accept, deadlines, drain.
//! Knows: `io`, connections as wholes.   Must not know: HTTP, the application's language, which thread leads.
//! Invariant: a connection that is out has an empty slot, in which its news are kept.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use slab::Slab;

use crate::app::{App, Wake};
use crate::config::Config;
use crate::connection::{Connection, Verdict};
use crate::counters::Cell;
use crate::io::{Event, Millis, Net, Readiness};
use crate::loop_handle::LoopHandle;
use crate::shared::Shared;
use crate::storage::less_reserve;
use crate::sync::Ordering;
use crate::timeouts::{Timeout, Timeouts};
use crate::turn::{ServeContext, ThreadState};

/// Connections taken from one listener's queue in a turn, before those that are open have theirs.
const ACCEPTS_PER_TURN: usize = 64;

/// How long accepting rests after the process or the system ran out of something.
const ACCEPT_PAUSE: Millis = 100;

/// How long accepting is left to other processes that have fewer connections, once; then some are taken in any case.
const YIELD: Millis = 4;
const ACCEPTS_AFTER_YIELD: usize = 2;

/// Connections that are looked at for an idle one, where one is to give way. Most that seem to be are.
const LOOKS_FOR_IDLE: usize = 16;

/// Without a byte from a peer that has not closed after the last answer.
const LINGER: Millis = 5_000;

/// For a connection that asks for nothing, while the server drains: a request may be on its way, and be lost with it. One
/// that has been idle for longer is closed at once.
const DRAIN_REQUEST: Millis = 1_000;

/// Between two waits for news: more of that time is not counted as time that peers had.
const MOST_AWAY: Millis = 100;

/// The longest wait while connections are out: their deadlines begin when the leader sees that they are back.
const WAIT_FOR_RETURNS: Duration = Duration::from_secs(1);

/// A connection, as the loop of a net and an application has it.
pub(crate) type Conn<N, A> = Box<Connection<<N as Net>::Socket, <A as App<<N as Net>::Socket>>::Block>>;

/// How a connection comes back; nothing where it is over.
pub(crate) type Returned<N, A> = Option<(Conn<N, A>, Verdict)>;

/// The loop, as others know it.
pub(crate) type Handle<N, A> = LoopHandle<Returned<N, A>, <N as Net>::Waker>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// No new connections; until when.
    Draining(Millis),
    /// Everything is closed.
    Aborted,
}

/// A connection and what is known of it while it is out, being served.
struct Slot<N: Net, A: App<N::Socket>> {
    connection: Option<Conn<N, A>>,
    /// News that came while it was out.
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
pub(crate) struct Task<N: Net, A: App<N::Socket>> {
    pub(crate) token: usize,
    pub(crate) connection: Conn<N, A>,
    pub(crate) expired: Option<Timeout>,
    /// The poller knows it.
    pub(crate) registered: bool,
}

/// What the leader does next.
pub(crate) enum Next<N: Net, A: App<N::Socket>> {
    /// Goes out to serve a connection.
    Serve(Task<N, A>),
    /// Waits for news: see [`Loop::wait`].
    Wait,
    /// Nothing more: the server has ended.
    End,
}

/// What only one thread at a time can hold.
pub(crate) struct Loop<N: Net, A: App<N::Socket>> {
    net: N,
    events: Vec<Event>,
    slots: Slab<Slot<N, A>>,
    timeouts: Timeouts,
    /// Connections with something to do, in the order in which it became known.
    ready: VecDeque<usize>,
    /// Those whose request is whole and waits for a thread, or are left over from a stand-in: see [`Loop::stand_in`].
    waiting: VecDeque<usize>,
    /// Connections that are out.
    out: usize,
    /// Tasks handed out, now and at the watch's last look.
    departures: u32,
    departures_seen: u32,
    /// The waker was used, and the application's runtime has not been told.
    unheard: bool,
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
    /// It rests so that others may accept.
    yields: bool,
    /// The others have been told that this one accepts.
    is_announced: bool,
    max_connections: usize,
    /// Loops among which the process's descriptors are divided, where `max_connections` is what they allow.
    shares_files: Option<usize>,
    pub(crate) phase: Phase,
    /// For how long it has looked for news, as of the last wait; and when that was.
    pub(crate) attended: Millis,
    seen: Millis,
    /// The calendar's second, since 1970, as of the last wait.
    pub(crate) second: u64,
    /// Connections so far, for their names.
    admitted: usize,
}

/// Half of a poller's name is the token. The rest tells a connection from one that had the token before: a forked
/// child keeps such a socket open, and the kernel goes on reporting it.
const TOKEN_BITS: u32 = usize::BITS / 2;
const TOKEN_MASK: usize = (1 << TOKEN_BITS) - 1;

impl<N: Net, A: App<N::Socket>> Loop<N, A> {
    /// The loop `index` of so many, which share the process's open files and `max_connections`.
    pub(crate) fn new(net: N, config: &Config, index: usize, loops: usize) -> Self {
        let millis = |duration: Duration| duration.as_millis().try_into().unwrap_or(Millis::MAX);
        let timeouts = Timeouts::new(|kind| match kind {
            Timeout::Head => millis(config.header_timeout),
            Timeout::Body => millis(config.body_timeout),
            Timeout::Write => millis(config.write_timeout),
            Timeout::KeepAlive => millis(config.keep_alive),
            Timeout::Linger => LINGER,
            Timeout::Drain => DRAIN_REQUEST,
        });
        let max_connections = match config.max_connections {
            0 => net.open_files().map_or(usize::MAX, |files| (less_reserve(files) / loops).max(1)),
            limit => (limit / loops + usize::from(index < limit % loops)).max(1),
        };
        Loop {
            accepting: vec![false; net.listeners()],
            attended: 0,
            seen: net.elapsed(),
            net,
            events: Vec::new(),
            slots: Slab::new(),
            timeouts,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            out: 0,
            departures: 0,
            departures_seen: 0,
            unheard: false,
            later: Vec::new(),
            holding: Vec::new(),
            releases: 0,
            releases_seen: 0,
            accept_resumes: None,
            yields: false,
            is_announced: false,
            max_connections,
            shares_files: (config.max_connections == 0).then_some(loops),
            phase: Phase::Serving,
            second: 0,
            admitted: 0,
        }
    }

    /// What is to be done next.
    pub(crate) fn next(&mut self, shared: &Shared<A>, handle: &Handle<N, A>) -> Next<N, A> {
        loop {
            self.take_returned(shared, handle);
            if self.phase == Phase::Aborted {
                return Next::End;
            }
            while let Some(token) = self.waiting.pop_front().or_else(|| self.ready.pop_front()) {
                if let Some(task) = self.hand_out(token, shared) {
                    return Next::Serve(task);
                }
            }
            self.release(handle);
            if !self.ready.is_empty() {
                continue; // connections that could not send all of it
            }
            match self.phase {
                Phase::Draining(_) if self.slots.is_empty() => return Next::End,
                Phase::Draining(until) if self.net.elapsed() >= until => {
                    shared.control.abort(); // for those that wait for their clients
                    return Next::End;
                }
                _ => return Next::Wait,
            }
        }
    }

    /// Takes the connection out of its slot, to be served.
    fn hand_out(&mut self, token: usize, shared: &Shared<A>) -> Option<Task<N, A>> {
        let slot = self.slots.get_mut(token)?;
        slot.queued = false;
        let connection = slot.connection.take()?;
        if connection.queued {
            shared.queued_requests.fetch_sub(1, Ordering::Relaxed);
            shared.books.counters.queue(false);
        }
        self.out += 1;
        self.departures = self.departures.wrapping_add(1);
        Some(Task { token, connection, expired: slot.expired.take(), registered: slot.registered })
    }

    /// Whether others wait for their turn.
    pub(crate) fn is_crowded(&self) -> bool {
        !self.ready.is_empty() || !self.waiting.is_empty()
    }

    /// Takes what other threads have served and handed in.
    #[inline]
    fn take_returned(&mut self, shared: &Shared<A>, handle: &Handle<N, A>) {
        if handle.crew.has_returns() {
            self.settle_returned(shared, handle);
        }
    }

    #[cold]
    fn settle_returned(&mut self, shared: &Shared<A>, handle: &Handle<N, A>) {
        for (token, returned) in handle.crew.take() {
            match returned {
                Some((connection, verdict)) => self.settle(token, connection, verdict, shared, handle),
                None => self.forget(token, shared, handle),
            }
        }
    }

    /// Sends the answers that were held.
    fn release(&mut self, handle: &Handle<N, A>) {
        self.releases = self.releases.wrapping_add(1);
        if self.holding.is_empty() {
            return;
        }
        handle.note_released();
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

    /// A look of the watch: sends the answers that were held at the last one and still are. Whether a leader would have
    /// been out since then, for the same task, or gone.
    pub(crate) fn look(&mut self, handle: &Handle<N, A>) -> bool {
        if self.releases == self.releases_seen {
            self.release(handle);
        }
        self.releases_seen = self.releases;
        let is_stuck = self.departures == self.departures_seen;
        self.departures_seen = self.departures;
        is_stuck
    }

    /// Waits for news and queues the connections they concern.
    ///
    /// # Errors
    /// What the kernel says of the poller.
    pub(crate) fn wait(&mut self, shared: &Shared<A>, handle: &Handle<N, A>) -> io::Result<()> {
        let began = self.net.elapsed();
        let timeout = self.time_to_wait(began, shared);
        let (net, events) = (&mut self.net, &mut self.events);
        let counters = &shared.books.counters;
        let has_lines = shared.books.log.as_ref().is_some_and(|log| log.has_lines());
        if counters.is_shared() && !self.is_announced && self.phase == Phase::Serving {
            self.is_announced = true;
            counters.is_alive(true);
        }
        shared.app.blocking(|| {
            if has_lines {
                if counters.is_shared() {
                    counters.lead(false, net.elapsed()); // a disk may be slow, a pipe full
                }
                shared.context().write_log_detached();
                if counters.is_shared() {
                    counters.lead(true, 0);
                }
            }
            net.wait(timeout, events)?;
            if counters.is_shared() {
                counters.lead(false, net.elapsed()); // the application's runtime may keep this thread from going on
            }
            Ok::<_, io::Error>(())
        })?;
        if counters.is_shared() {
            counters.lead(true, 0);
        }
        self.take_returned(shared, handle); // before its news
        self.sort(began, shared, handle);
        if std::mem::take(&mut self.unheard) {
            self.woken(shared, handle);
        }
        Ok(())
    }

    /// Stands in for the leader while all permits are out: takes what has come, as far as that needs no application. A
    /// request that is whole waits for a thread, and is refused where `max_queue` of them do already. Whether a request
    /// waits.
    ///
    /// # Errors
    /// What the kernel says of the poller.
    pub(crate) fn stand_in(
        &mut self,
        thread: &mut ThreadState<A::PerThread>,
        shared: &Shared<A>,
        handle: &Handle<N, A>,
    ) -> io::Result<bool> {
        self.take_returned(shared, handle);
        let began = self.net.elapsed();
        self.net.wait(Some(Duration::ZERO), &mut self.events)?;
        self.sort(began, shared, handle);
        if shared.control.is_stopping() {
            self.drain(shared, handle, self.net.elapsed());
        }
        thread.begin_turn(self.second, 0, true, &shared.config);
        let draining = self.phase != Phase::Serving;
        let cx = ServeContext { draining, may_call: false, attended: self.attended, ..shared.context() };
        while let Some(token) = self.ready.pop_front() {
            let Some(Task { mut connection, expired, .. }) = self.hand_out(token, shared) else { continue };
            let mut verdict = match expired {
                _ if connection.needs_app() => Verdict::Queued,
                Some(timeout) => connection.expire(timeout, thread, &cx),
                None => connection.serve(thread, &cx),
            };
            let most = if shared.config.max_queue == 0 { usize::MAX } else { shared.config.max_queue };
            if connection.queued && shared.queued_requests.load(Ordering::Relaxed) >= most {
                verdict = connection.shed(thread, &cx);
            }
            self.settle(token, connection, verdict, shared, handle);
        }
        self.departures_seen = self.departures;
        Ok(!self.waiting.is_empty())
    }

    /// The time, as deadlines are counted.
    pub(crate) fn now(&self) -> Millis {
        self.net.elapsed()
    }

    /// Queues the connections that the last wait's news concern, and those whose deadline has come. That wait began at `began`.
    fn sort(&mut self, began: Millis, shared: &Shared<A>, handle: &Handle<N, A>) {
        let now = self.net.elapsed();
        // What peers did while nobody looked is not known: that time is not theirs, but for a little.
        self.attended += began.saturating_sub(self.seen).min(MOST_AWAY) + now.saturating_sub(began);
        self.seen = now;
        self.second = self.net.calendar();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Woken => self.unheard = true,
                Event::Listener(index) => {
                    if let Some(accepting) = self.accepting.get_mut(index) {
                        *accepting = true;
                    }
                }
                Event::Socket(name, news) => {
                    let token = name & TOKEN_MASK;
                    if self.slots.get(token).is_some_and(|slot| slot.name == name) {
                        self.note(token, news, shared, handle);
                    }
                }
            }
        }
        self.events = events;
        self.accept(shared, now);
        while let Some((token, timeout)) = self.timeouts.expired(now) {
            // One that is out moves on by itself.
            if let Some(slot) = self.slots.get_mut(token)
                && slot.connection.is_some()
            {
                slot.expired = Some(timeout);
                self.enqueue(token);
            }
        }
        self.ready.extend(self.later.drain(..));
    }

    fn time_to_wait(&self, now: Millis, shared: &Shared<A>) -> Option<Duration> {
        let can_accept = self.accepting.contains(&true) && (!self.is_full(shared) || self.seem_idle().next().is_some());
        if self.unheard || !self.later.is_empty() || (can_accept && self.accept_resumes.is_none()) {
            return Some(Duration::ZERO);
        }
        let drained = match self.phase {
            Phase::Draining(until) => Some(until),
            _ => None,
        };
        let next =
            [self.timeouts.next(), self.accept_resumes.filter(|_| can_accept), drained].into_iter().flatten().min();
        let until = next.map(|next| Duration::from_millis(next.saturating_sub(now)));
        if self.out == 0 { until } else { Some(until.unwrap_or(WAIT_FOR_RETURNS).min(WAIT_FOR_RETURNS)) }
    }

    /// News of a connection.
    fn note(&mut self, token: usize, news: Readiness, shared: &Shared<A>, handle: &Handle<N, A>) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let Some(connection) = &mut slot.connection else {
            slot.news.merge(news);
            if handle.crew.miss(token) {
                self.take_returned(shared, handle);
            }
            return;
        };
        if connection.cares_for(news, shared.config.max_queue > 0) {
            if connection.is_gone() {
                // It leaves its place to others.
                self.waiting.retain(|waiting| *waiting != token);
                slot.queued = false;
            }
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

    /// Takes back a connection that has been served; one that cannot be kept is closed.
    pub(crate) fn settle(
        &mut self,
        token: usize,
        mut connection: Conn<N, A>,
        verdict: Verdict,
        shared: &Shared<A>,
        handle: &Handle<N, A>,
    ) {
        let slot = &mut self.slots[token];
        // What is ready already is reported anew by the registration, so nothing that came meanwhile is missed.
        let kept =
            verdict != Verdict::Close && (slot.registered || self.net.add(slot.name, connection.socket()).is_ok());
        if !kept {
            self.forget(token, shared, handle);
            return;
        }
        self.out -= 1;
        slot.registered = true;
        if connection.queued {
            shared.queued_requests.fetch_add(1, Ordering::Relaxed);
            shared.books.counters.queue(true);
        }
        if connection.holds {
            self.holding.push(token);
            handle.note_held(&shared.watch);
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
            Verdict::Queued => {
                self.timeouts.disarm(token);
                slot.queued = true;
                self.waiting.push_back(token);
            }
        }
        if news != Readiness::default() {
            handle.crew.meet(token);
            self.note(token, news, shared, handle);
        }
    }

    /// Takes away the slot of a connection that was out, and is over.
    fn forget(&mut self, token: usize, shared: &Shared<A>, handle: &Handle<N, A>) {
        let slot = self.slots.remove(token);
        if slot.news != Readiness::default() {
            handle.crew.meet(token);
        }
        self.out -= 1;
        self.timeouts.disarm(token);
        shared.books.counters.closed(1);
    }

    // --- accepting ---

    /// Whether there is no room for another connection. Where that is a matter of descriptors, those of bodies and files
    /// count, too.
    fn is_full(&self, shared: &Shared<A>) -> bool {
        let files = self.shares_files.map_or(0, |loops| shared.storage.files().div_ceil(loops));
        self.slots.len() + files >= self.max_connections && !self.slots.is_empty()
    }

    /// Connections that wait for their next request, as far as is known, the one that has for longest first.
    fn seem_idle(&self) -> impl Iterator<Item = usize> {
        let is_here =
            |token: &usize| self.slots.get(*token).is_some_and(|slot| slot.connection.is_some() && !slot.queued);
        self.timeouts.armed_with(Timeout::KeepAlive).filter(is_here)
    }

    /// The connection that has been idle for longest. Those that turn out not to be are queued.
    fn longest_idle(&mut self) -> Option<usize> {
        for _ in 0..LOOKS_FOR_IDLE {
            let token = self.seem_idle().next()?;
            let connection = self.slots[token].connection.as_mut()?;
            if connection.is_idle() {
                return Some(token);
            }
            self.enqueue(token);
        }
        None
    }

    /// Closes an idle connection, since another has come.
    fn give_way(&mut self, token: usize, shared: &Shared<A>) {
        let slot = self.slots.remove(token);
        slot.connection.into_iter().for_each(|mut connection| connection.count_traffic(&shared.books.counters));
        self.timeouts.disarm(token);
        shared.books.counters.closed(1);
        shared.books.counters.count(Cell::GaveWay);
    }

    fn accept(&mut self, shared: &Shared<A>, now: Millis) {
        if !self.accepting.contains(&true) || self.accept_resumes.is_some_and(|resumes| resumes > now) {
            return;
        }
        self.accept_resumes = None;
        let mut free = if std::mem::take(&mut self.yields) { ACCEPTS_AFTER_YIELD } else { 0 };
        for index in 0..self.accepting.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.accepting[index] || self.accept_resumes.is_some() {
                    break;
                }
                if free == 0 && self.phase == Phase::Serving && shared.books.counters.has_more_than_its_share(now) {
                    self.accept_resumes = Some(now + YIELD);
                    self.yields = true;
                    break;
                }
                // Whether another waits is known when it has been accepted.
                let victim = if self.is_full(shared) { self.longest_idle() } else { None };
                if victim.is_none() && self.is_full(shared) {
                    break;
                }
                free = free.saturating_sub(1);
                match self.net.accept(index) {
                    Ok((socket, peer)) => {
                        if let Some(victim) = victim {
                            self.give_way(victim, shared);
                        }
                        self.admit(Connection::new(socket, peer, index, &shared.config), shared);
                    }
                    Err(error) => self.accept_failed(index, &error, shared, now),
                }
            }
        }
    }

    fn admit(&mut self, connection: Conn<N, A>, shared: &Shared<A>) {
        let news = Readiness::default();
        let connection = Some(connection);
        self.admitted = self.admitted.wrapping_add(1) & (TOKEN_MASK >> 1); // below the names of listeners
        let name = self.admitted << TOKEN_BITS | self.slots.vacant_key();
        let token = self.slots.insert(Slot { connection, news, queued: false, registered: false, expired: None, name });
        shared.books.counters.count(Cell::Connections);
        shared.books.counters.count(Cell::Open);
        self.enqueue(token);
    }

    fn accept_failed(&mut self, index: usize, error: &io::Error, shared: &Shared<A>, now: Millis) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.accepting[index] = false,
            // The peer was gone before its turn: the next in the queue.
            io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
            // Out of descriptors or memory: the queue stays, and is looked at again when some may be free.
            _ => {
                shared.books.counters.count(Cell::AcceptErrors);
                self.accept_resumes = Some(now + ACCEPT_PAUSE);
                self.accepting[index] = true;
            }
        }
    }

    // --- the end ---

    fn woken(&mut self, shared: &Shared<A>, handle: &Handle<N, A>) {
        let runtime = shared.app.woken();
        let now = self.net.elapsed();
        if shared.control.is_aborting() {
            self.phase = Phase::Aborted;
        } else if shared.control.is_stopping() || runtime == Wake::Drain {
            self.drain(shared, handle, now);
        }
    }

    /// Accepts what waits, stops listening, and gives every connection a last look.
    fn drain(&mut self, shared: &Shared<A>, handle: &Handle<N, A>, now: Millis) {
        if self.phase != Phase::Serving {
            return;
        }
        let graceful = shared.config.graceful_timeout.as_millis().try_into().unwrap_or(Millis::MAX);
        self.phase = Phase::Draining(now.saturating_add(graceful));
        let counters = &shared.books.counters;
        counters.is_alive(false);
        // What waits is left to the others, where there are any.
        self.accepting.fill(!counters.has_company());
        self.accept_resumes = self.accept_resumes.filter(|_| !std::mem::take(&mut self.yields));
        while self.accepting.contains(&true) && !self.is_full(shared) && self.accept_resumes.is_none() {
            self.accept(shared, now);
        }
        self.net.stop_listening();
        self.accepting.clear();
        self.accept_resumes = None;
        let tokens: Vec<usize> = self.slots.iter().map(|(token, _)| token).collect();
        for token in tokens {
            if self.timeouts.armed(token) == Some(Timeout::KeepAlive)
                && self.timeouts.waited(token, now) >= DRAIN_REQUEST
                && let Some(slot) = self.slots.get_mut(token)
            {
                slot.expired = Some(Timeout::Drain);
                self.enqueue(token);
                continue;
            }
            // A request may have come that the poller has not told yet.
            self.note(token, Readiness { readable: true, ..Readiness::default() }, shared, handle);
        }
    }

    /// Stops listening, and closes what is here.
    pub(crate) fn close_all(&mut self, shared: &Shared<A>) {
        self.net.stop_listening();
        self.ready.clear();
        self.waiting.clear();
        self.later.clear();
        shared.books.counters.is_alive(false);
        shared.books.counters.closed(self.slots.len());
        self.slots.clear();
    }
}

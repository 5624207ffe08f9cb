//! The server as a whole: its threads, each of which leads a loop, goes out to the application, or follows; and its watch.
//! Knows: crews, loops, connections as wholes.   Must not know: HTTP, the application's language.
//! Invariant: nothing of a loop is held while a connection is served, so the loop can change hands meanwhile.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access_log::AccessLog;
use crate::app::App;
use crate::config::Config;
use crate::connection::{Connection, Desk, Turn, Verdict};
use crate::control::{Control, Stopper};
use crate::counters::{Cell, Counters};
use crate::crew::{Crew, HandedIn};
use crate::event_loop::{Loop, Next, Phase, Returned, Task};
use crate::io::{Net, Waker, block_signals};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{AtomicBool, AtomicUsize, Guess, Mutex, MutexGuard, Ordering, PoisonError, TryLockError};
use crate::watch::{LongCalls, Quiet, Watch};

/// For the watch, which calls nothing deep.
const WATCH_STACK_BYTES: usize = 64 * 1024;

/// A call that takes longer blocks: it costs more to have the others wait for it than to call a follower.
const BLOCKING_CALL: Duration = Duration::from_micros(500);

/// Looks at the same errand, past `graceful_timeout`, before the watch ends the server: who comes back by then does it better.
const LOOKS_BEFORE_GIVING_UP: u32 = 50;

/// Errands that must be quick before followers are no longer called ahead of each.
const EAGER_ERRANDS: usize = 64;

type Conn<N, A> = Box<Connection<<N as Net>::Socket, A>>;
type State<'a, N, A> = MutexGuard<'a, Loop<N, A>>;

/// What a server notes of what happens, where others can read it.
#[derive(Clone, Default)]
pub struct Books {
    /// What happened.
    pub counters: Arc<Counters>,
    /// A line for each request.
    pub log: Option<Arc<AccessLog>>,
}

/// One loop, and what those know of it who do not hold it.
pub(crate) struct Lane<N: Net, A: App<N::Socket>> {
    pub(crate) crew: Crew<Returned<N::Socket, A>>,
    waker: N::Waker,
    /// Errands to go for which a follower is called ahead.
    eager: AtomicUsize,
    /// It holds answers.
    holds: AtomicBool,
    state: Mutex<Loop<N, A>>,
}

impl<N: Net, A: App<N::Socket>> Lane<N, A> {
    fn lock(&self) -> State<'_, N, A> {
        // A panic leaves the loop between two steps, each of which keeps its invariants.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the loop holds answers now.
    pub(crate) fn note_held(&self, watch: &Watch) {
        // Either this is seen by the watch before it sleeps, or the call behind it finds it asleep.
        if !self.holds.load(Ordering::Relaxed) {
            self.holds.store(true, Ordering::SeqCst);
            watch.call();
        }
    }

    /// Notes that it holds nothing any more.
    pub(crate) fn note_released(&self) {
        self.holds.store(false, Ordering::Relaxed);
    }
}

/// An HTTP server on listening sockets, for one application.
pub struct Server<N: Net, A: App<N::Socket>> {
    pub(crate) app: A,
    pub(crate) config: Config,
    pub(crate) books: Books,
    /// Requests after which it drains by itself, as they are counted.
    last_request: u64,
    pub(crate) control: Arc<Control>,
    pub(crate) watch: Arc<Watch>,
    /// One at the least.
    pub(crate) lanes: Box<[Lane<N, A>]>,
    /// Threads that have come to work, and those that have left.
    came: AtomicUsize,
    left: AtomicUsize,
    /// Requests that are whole and wait for a thread.
    pub(crate) queued_requests: AtomicUsize,
    /// The last request has come, and that was told.
    drains: AtomicBool,
    /// The watch's thread.
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl<N: Net, A: App<N::Socket>> Server<N, A> {
    /// A server that has not begun.
    pub fn new(net: N, app: A, config: Config) -> Server<N, A> {
        Server::with_books(vec![net], app, config, Books::default())
    }

    /// A server that has a loop for each of `nets`, one at the least, and keeps `books`.
    pub fn with_books(nets: Vec<N>, app: A, config: Config, books: Books) -> Server<N, A> {
        let last_request = match config.max_requests {
            0 => u64::MAX,
            most => books.counters.get(Cell::Requests).saturating_add(most),
        };
        let loops = nets.len();
        let lanes = Crew::several(loops).zip(nets).enumerate().map(|(index, (crew, net))| Lane {
            crew,
            waker: net.waker(),
            eager: AtomicUsize::new(0),
            holds: AtomicBool::new(false),
            state: Mutex::new(Loop::new(net, &config, index, loops)),
        });
        let lanes = lanes.collect();
        let watch = Arc::new(Watch::new(config.threads, config.times_calls()));
        Server {
            app,
            config,
            books,
            last_request,
            control: Arc::default(),
            watch,
            lanes,
            came: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            queued_requests: AtomicUsize::new(0),
            drains: AtomicBool::new(false),
            keeper: Mutex::default(),
        }
    }

    /// What ends this server.
    pub fn stopper(&self) -> Stopper<N::Waker> {
        let wakers = self.lanes.iter().map(|lane| lane.waker.clone()).collect();
        Stopper::new(self.control.clone(), wakers, self.watch.clone())
    }

    /// The waker of its first net.
    pub fn waker(&self) -> &N::Waker {
        &self.lanes[0].waker
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.books.counters
    }

    /// The application.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// Whether it has ended; threads may still be in the application, and find out when they come back.
    pub fn has_ended(&self) -> bool {
        self.lanes.iter().all(|lane| lane.crew.has_ended())
    }

    /// Threads that are in [`Server::work`].
    pub fn at_work(&self) -> usize {
        self.came.load(Ordering::Acquire) - self.left.load(Ordering::Acquire)
    }

    pub(crate) fn turn(&self) -> Turn<'_, A> {
        let Server { app, config, books, last_request, .. } = self;
        Turn {
            app,
            config,
            counters: &books.counters,
            log: books.log.as_deref(),
            last_request: *last_request,
            draining: self.control.is_stopping(),
            crowded: false,
            may_call: true,
        }
    }

    /// Serves by the calling thread alone until stopped and drained. A second thread keeps watch from when it is first of
    /// use: see [`Server::tick`].
    ///
    /// # Errors
    /// What the kernel says of the poller, or of that second thread where the configuration needs it; faults of a peer or of
    /// a connection are none.
    pub fn run(self: &Arc<Self>) -> io::Result<()> {
        let _end = OnDrop(|| self.end_watch());
        if self.config.needs_watch() {
            self.begin_watch()?;
        }
        // Without a watch everything is sent at once.
        self.run_with(|| drop(self.begin_watch()))
    }

    /// As [`Server::run`], without a thread of its own: `begin_watch` is called once, when something could be held if
    /// somebody ticked.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_with(&self, begin_watch: impl FnOnce()) -> io::Result<()> {
        let mut begin_watch = Some(begin_watch);
        self.work_with(&mut |desk| {
            if desk.takes_wish_for_watch()
                && let Some(begin_watch) = begin_watch.take()
            {
                begin_watch();
            }
        })
    }

    /// One thread's share of the work, until the server has ended: as many threads as the configuration has come here, and
    /// the watch beside them: [`Server::begin_watch`].
    ///
    /// # Errors
    /// What the kernel says of the poller, to the one who leads.
    pub fn work(&self) -> io::Result<()> {
        self.work_with(&mut |_| {})
    }

    fn work_with(&self, after: &mut dyn FnMut(&mut Desk<A::Desk>)) -> io::Result<()> {
        let post = self.came.fetch_add(1, Ordering::AcqRel);
        let _leave = OnDrop(|| {
            if thread::panicking() {
                // Or the others would wait for what this one has taken along.
                self.lanes.iter().for_each(|lane| drop(lane.crew.end()));
                self.wake();
            }
            self.left.fetch_add(1, Ordering::AcqRel);
            self.app.left();
        });
        let app = self.app.desk(post);
        let mut desk = Desk::new(app, post, &self.config, self.control.clone(), self.watch.clone());
        let mut lane = &self.lanes[post % self.lanes.len()];
        loop {
            if self.claim(lane) {
                match self.lead(lane, &mut desk, after) {
                    Led::Lost => {}
                    Led::Left(wanted) => {
                        lane = &self.lanes[wanted];
                        continue;
                    }
                    Led::Ended(result) if result.is_err() || self.has_ended() => return result,
                    Led::Ended(_) => {}
                }
            }
            let called = self.app.blocking(|| {
                self.turn().write_log_detached(); // the leader may have no cause to for long
                lane.crew.rest(|| self.watch.call())
            });
            let Some(called) = called else {
                self.abandon_all();
                return Ok(());
            };
            lane = &self.lanes[called];
        }
    }

    /// Leads until the loop ends, until this thread is wanted elsewhere, or until the lead has been lost.
    fn lead(&self, lane: &Lane<N, A>, desk: &mut Desk<A::Desk>, after: &mut dyn FnMut(&mut Desk<A::Desk>)) -> Led {
        let mut state = lane.lock();
        loop {
            let task = match state.next(self) {
                Ok(Next::Serve(task)) => task,
                Ok(Next::Abandon(lost)) => {
                    drop(state);
                    self.abandon(lost);
                    state = lane.lock();
                    continue;
                }
                Ok(Next::Leave(wanted)) => {
                    if self.books.counters.is_shared() {
                        self.books.counters.lead(false, state.now());
                    }
                    drop(state);
                    lane.crew.step_back();
                    return Led::Left(wanted);
                }
                end => {
                    self.finish(lane, state);
                    return Led::Ended(end.map(drop));
                }
            };
            desk.stamp(state.second, &self.config);
            let turn = Turn { draining: state.phase != Phase::Serving, crowded: state.is_crowded(), ..self.turn() };
            if turn.counters.is_shared() {
                turn.counters.lead(false, state.now());
            }
            drop(state);
            let Some(again) = self.serve(lane, task, desk, &turn) else { return Led::Lost };
            state = again;
            after(desk);
        }
    }

    /// The errand: serves one connection while nobody, or another thread, leads. The loop, where it is still to be had.
    fn serve<'a>(
        &self,
        lane: &'a Lane<N, A>,
        task: Task<N, A>,
        desk: &mut Desk<A::Desk>,
        turn: &Turn<'_, A>,
    ) -> Option<State<'a, N, A>> {
        let Task { token, connection, expired, registered } = task;
        let began = self.go_out(lane, connection.blocks);
        let (mut connection, mut verdict) = match expired {
            None => connection.serve(desk, turn),
            Some(timeout) => connection.expire(timeout, desk, turn),
        };
        if self.control.is_stopping() {
            self.heed_last_request();
        }
        if self.config.threads > 1 {
            self.note_errand(lane, &began, &mut connection);
        }
        loop {
            if self.claim(lane) {
                let mut state = lane.lock();
                state.settle(token, connection, verdict, self);
                return Some(state);
            }
            // The loop is another's, so this connection can be served on: it delays nobody.
            if (verdict != Verdict::Again && !connection.holds) || lane.crew.has_ended() {
                break;
            }
            (connection, verdict) = connection.serve(desk, &self.turn());
        }
        let is_over = verdict == Verdict::Close;
        let must_wake = is_over || !registered || self.control.is_stopping();
        match lane.crew.hand_in(token, (!is_over).then_some((connection, verdict))) {
            HandedIn::Back(returned) => returned.into_iter().for_each(|(mut left, _)| left.abandon(&self.turn())),
            HandedIn::Awaited => lane.waker.wake(),
            HandedIn::Lying if must_wake => lane.waker.wake(),
            HandedIn::Lying => {}
        }
        None
    }

    /// The leader goes out. Where its errand may block (calls block again and again, or the last on the same connection
    /// did), another is called ahead.
    fn go_out(&self, lane: &Lane<N, A>, blocks: bool) -> Began {
        lane.crew.go_out();
        // Where all are out already, there is nobody whom the watch could call.
        if lane.crew.has_rest() || self.ushers() || self.control.is_stopping() {
            self.watch.call();
        }
        if self.config.threads == 1 || !(blocks || lane.eager.load(Ordering::Relaxed) > 0) {
            return Began::AtTick(self.watch.ticks());
        }
        lane.crew.call();
        Began::At(Guess::now())
    }

    /// Learns from an errand whether the next should be expected to block.
    fn note_errand(&self, lane: &Lane<N, A>, began: &Began, connection: &mut Connection<N::Socket, A>) {
        let blocked = match began {
            Began::At(began) => began.elapsed() >= BLOCKING_CALL,
            // The watch has called another, who leads now; one may lead who came back from an errand, too.
            Began::AtTick(tick) => lane.crew.is_led() && self.watch.ticks() != *tick,
        };
        let was_expected = std::mem::replace(&mut connection.blocks, blocked);
        if blocked && !was_expected {
            lane.eager.store(EAGER_ERRANDS, Ordering::Relaxed);
        } else if matches!(began, Began::At(_)) && !blocked {
            let _ = lane.eager.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
    }

    /// Takes the lead, if nobody has it.
    fn claim(&self, lane: &Lane<N, A>) -> bool {
        let claimed = lane.crew.claim();
        if claimed && self.books.counters.is_shared() {
            self.books.counters.lead(true, 0);
        }
        claimed
    }

    /// Begins the drain where the last request has come: whoever counted it could not wake the loop.
    #[cold]
    fn heed_last_request(&self) {
        if self.books.counters.get(Cell::Requests) >= self.last_request && !self.drains.swap(true, Ordering::AcqRel) {
            self.app.drains();
            self.stopper().stop(true);
        }
    }

    /// A loop's end.
    fn finish(&self, lane: &Lane<N, A>, mut state: State<'_, N, A>) {
        let mut left = state.close_all(self);
        drop(state);
        left.extend(lane.crew.end().into_iter().filter_map(|(_, returned)| Some(returned?.0)));
        self.abandon(left);
    }

    /// Once all crews have ended: abandons what nobody has.
    fn abandon_all(&self) {
        for lane in &self.lanes {
            let left = lane.lock().close_all(self);
            self.abandon(left);
        }
    }

    fn wake(&self) {
        self.lanes.iter().for_each(|lane| lane.waker.wake());
    }

    fn abandon(&self, connections: Vec<Conn<N, A>>) {
        for mut connection in connections {
            connection.abandon(&self.turn());
        }
        self.turn().write_log();
    }

    // --- the watch ---

    /// Says that [`Server::tick`] is called every millisecond from now on.
    pub fn begin_ticks(&self) {
        self.watch.begin(None);
    }

    /// Has a thread keep watch, until [`Server::end_watch`]. One is enough: nothing happens where there is one.
    ///
    /// # Errors
    /// What the kernel says of the thread.
    pub fn begin_watch(self: &Arc<Self>) -> io::Result<()> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() && !self.has_ended() {
            let server = self.clone();
            let thread = thread::Builder::new().name("bjoern-watch".to_owned()).stack_size(WATCH_STACK_BYTES);
            let handle = thread.spawn(move || {
                block_signals(); // they are for those who run the application
                server.look_again_and_again(Instant::now);
            })?;
            self.watch.begin(Some(handle.thread().clone()));
            *keeper = Some(handle);
        }
        Ok(())
    }

    /// Ends the watch, and waits for its thread.
    pub fn end_watch(&self) {
        self.watch.end();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // It has panicked, if that: said already, and nothing more is to be done.
            let _ = self.app.blocking(|| keeper.join());
        }
    }

    /// Keeps watch on the calling thread in place of [`Server::begin_watch`]'s, until [`Server::end_watch`].
    /// `clock` is read before each look.
    pub fn keep_watch(&self, clock: impl FnMut() -> Instant) {
        self.watch.begin(Some(thread::current()));
        self.look_again_and_again(clock);
    }

    fn look_again_and_again(&self, mut clock: impl FnMut() -> Instant) {
        let long_calls = LongCalls::new(self.config.slow_request, self.config.timeout);
        let stuck = self.lanes.iter().map(|_| false).collect();
        let mut rounds = Rounds { long_calls, usher: None, end: None, stuck, stuck_looks: 0 };
        self.watch.keep(|| self.look_around(&mut rounds, clock()));
    }

    fn look_around(&self, rounds: &mut Rounds<A::Desk>, now: Instant) -> Quiet {
        let is_quiet = self.look(|lane, is_stuck| rounds.stuck[lane] = is_stuck);
        let next = rounds.long_calls.look(&self.watch, now, |call| {
            if call.is_over_time {
                self.books.counters.count(Cell::TimedOut);
            }
            self.app.takes_long(call);
        });
        if self.is_usher_of_use() {
            let mut ushered = false;
            for (lane, _) in self.lanes.iter().zip(&rounds.stuck).filter(|(_, is_stuck)| **is_stuck) {
                if self.is_deserted(lane) {
                    ushered = true;
                    self.usher(lane, &mut rounds.usher);
                }
            }
            if ushered && !self.control.is_stopping() {
                return Quiet::No;
            }
        }
        let all_are_out = self.all_are_out();
        if self.control.is_stopping() && all_are_out {
            let end = *rounds.end.get_or_insert(now + self.config.graceful_timeout);
            let is_stuck = self.lanes.iter().zip(&rounds.stuck).all(|(lane, stuck)| *stuck || lane.crew.has_ended());
            rounds.stuck_looks = if is_stuck { rounds.stuck_looks + 1 } else { 0 };
            if (self.control.is_aborting() || now >= end)
                && rounds.stuck_looks >= LOOKS_BEFORE_GIVING_UP
                && self.claim_all()
            {
                self.lanes.iter().for_each(|lane| drop(lane.crew.end()));
                self.turn().write_log_detached();
                self.app.gives_up();
            }
            return Quiet::No;
        }
        let is_needed = self.is_usher_of_use() && self.lanes.iter().any(|lane| self.is_deserted(lane));
        match is_quiet && !is_needed {
            true if all_are_out => Quiet::Deserted(next),
            true => Quiet::Until(next),
            false => Quiet::No,
        }
    }

    /// One look of the watch. Whether all is quiet.
    ///
    /// Answers and blocks that come quickly are held for those that follow at once, so that they leave together. The watch
    /// sends them where the application takes longer than that, at the second tick at the latest. And where the leader has
    /// been out since the last look, it calls a follower to lead.
    pub fn tick(&self) -> bool {
        self.look(|_, _| {})
    }

    /// One look. Whether nothing is held, and a follower would not be missed. `note` is told of each loop whether its leader
    /// has been out since the last look.
    fn look(&self, mut note: impl FnMut(usize, bool)) -> bool {
        let mut is_quiet = true;
        for (index, lane) in self.lanes.iter().enumerate() {
            let has_not_moved = match lane.state.try_lock() {
                Ok(mut state) => state.look(lane),
                Err(TryLockError::Poisoned(state)) => state.into_inner().look(lane),
                // Whoever has it sends what is held before it waits.
                Err(TryLockError::WouldBlock) => false,
            };
            let is_led = lane.crew.is_led();
            if has_not_moved && !is_led {
                lane.crew.call();
            }
            is_quiet &= !lane.holds.load(Ordering::SeqCst) && (is_led || !lane.crew.has_rest());
            note(index, has_not_moved && !is_led);
        }
        self.watch.tick() && is_quiet
    }

    /// Whether the watch stands in for a leader where all threads are out: to refuse what is too much, or to see that
    /// another loop's leader is wanted.
    fn ushers(&self) -> bool {
        self.config.max_queue > 0 || self.lanes.len() > 1
    }

    /// Whether it can do more than wait for one who comes back.
    fn is_usher_of_use(&self) -> bool {
        self.config.max_queue > 0 || self.lanes.iter().any(|lane| lane.crew.is_led() && !lane.crew.has_ended())
    }

    /// A leader is about to wait: the watch sees to it that it does not do so in the wrong place.
    pub(crate) fn leader_waits(&self) {
        if self.lanes.len() > 1 && self.lanes.iter().any(|lane| !lane.crew.is_led()) {
            self.watch.call();
        }
    }

    /// Whether nobody leads this loop, and nobody is there to.
    fn is_deserted(&self, lane: &Lane<N, A>) -> bool {
        !lane.crew.is_led() && !lane.crew.has_rest() && self.at_work() >= self.config.threads
    }

    /// Whether nobody leads any loop that has not ended, and nobody is there to.
    fn all_are_out(&self) -> bool {
        let is_out = |lane| self.is_deserted(lane);
        !self.has_ended() && self.lanes.iter().all(|lane| lane.crew.has_ended() || is_out(lane))
    }

    /// Takes the lead of all loops that have not ended, or of none.
    fn claim_all(&self) -> bool {
        for (count, lane) in self.lanes.iter().enumerate() {
            if !lane.crew.has_ended() && !lane.crew.claim() {
                let claimed = self.lanes[..count].iter().filter(|lane| !lane.crew.has_ended());
                claimed.for_each(|lane| lane.crew.step_back());
                return false;
            }
        }
        true
    }

    fn usher(&self, lane: &Lane<N, A>, desk: &mut Option<Desk<A::Desk>>) {
        if !lane.crew.claim() {
            return;
        }
        let desk = desk.get_or_insert_with(|| {
            Desk::new(self.app.desk(usize::MAX), 0, &self.config, self.control.clone(), self.watch.clone())
        });
        // A poller that fails is reported by the next leader.
        let wants = lane.lock().usher(desk, self).unwrap_or(true);
        lane.crew.step_back();
        if wants && self.lanes.len() > 1 {
            lane.crew.want();
            self.lanes.iter().filter(|other| other.crew.is_led()).for_each(|other| other.waker.wake());
        }
        self.turn().write_log_detached(); // nobody else would: all are out
    }
}

/// How a lead ended.
enum Led {
    /// Another leads now.
    Lost,
    /// Nobody leads: this thread is wanted by the crew of that index.
    Left(usize),
    /// The loop has ended.
    Ended(io::Result<()>),
}

/// What the watch remembers from one look to the next.
struct Rounds<D> {
    long_calls: LongCalls,
    /// Where it stands in for a leader; made when that is needed first.
    usher: Option<Desk<D>>,
    /// When it gives up threads that do not come back.
    end: Option<Instant>,
    /// Of each loop: its leader was out at the last look, and has been since the one before.
    stuck: Box<[bool]>,
    /// Looks at the same errands, while the server ends.
    stuck_looks: u32,
}

/// When an errand began: the clock is read only where a follower has been called ahead.
enum Began {
    AtTick(u32),
    At(Guess),
}

/// Runs its function when it goes out of scope, be it by a panic.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

//! The server as a whole: its threads, each of which leads a loop, goes out to the application, or follows; and its watch.
//! Knows: crews, loops, connections as wholes.   Must not know: HTTP, the application's language.
//! Invariant: nothing of a loop is held while a connection is served, so the loop can change hands meanwhile.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::app::App;
use crate::config::Config;
use crate::connection::Verdict;
use crate::control::Stopper;
use crate::counters::Counters;
use crate::crew::{HandedIn, Rested, Role};
use crate::event_loop::{Conn, Next, Phase, Task};
use crate::host::Host;
use crate::io::{Bell, Net, Waker, block_signals};
use crate::loops::{EventLoop, Loops, State};
use crate::rounds::{self, Rounds};
use crate::shared::Books;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Guess, Mutex, Ordering, PoisonError};
use crate::turn::{ServeContext, ThreadState};

/// For the watch, which calls nothing deep.
const WATCH_STACK_BYTES: usize = 64 * 1024;

/// A call that takes longer blocks: it costs more to have the others wait for it than to promote a follower.
const BLOCKING_CALL: Duration = Duration::from_micros(500);

/// Tasks that must be quick before followers are no longer promoted ahead of each.
const EAGER_TASKS: usize = 64;

/// An HTTP server on listening sockets, for one application.
pub struct Server<N: Net, A: App<N::Socket>> {
    loops: Arc<Loops<N, A>>,
    /// The watch's thread.
    keeper: Mutex<Option<JoinHandle<()>>>,
    /// What signals ring.
    bell: OnceLock<Arc<Bell>>,
}

impl<N: Net, A: App<N::Socket>> Server<N, A> {
    /// A server that has not begun.
    pub fn new(net: N, app: A, config: Config) -> Server<N, A> {
        Server::with_books(vec![net], app, config, Books::default())
    }

    /// A server that has a loop for each of `nets`, one at the least, and keeps `books`.
    pub fn with_books(nets: Vec<N>, app: A, config: Config, books: Books) -> Server<N, A> {
        Server {
            loops: Arc::new(Loops::new(nets, app, config, books)),
            keeper: Mutex::default(),
            bell: OnceLock::new(),
        }
    }

    /// What ends this server.
    pub fn stopper(&self) -> Stopper<N::Waker> {
        let wakers = self.loops.all.iter().map(|one| one.handle.waker.clone()).collect();
        Stopper::new(self.loops.shared.control.clone(), wakers, self.loops.shared.watch.clone())
    }

    /// What signals should ring: the watch hears them, and tells the threads. To be asked for before the watch begins.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn bell(&self) -> io::Result<&Arc<Bell>> {
        if self.bell.get().is_none() {
            let _ = self.bell.set(Arc::new(Bell::new()?));
        }
        Ok(self.bell.get_or_init(|| unreachable!("it has just been set")))
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.loops.shared.books.counters
    }

    /// The application.
    pub fn app(&self) -> &A {
        &self.loops.shared.app
    }

    /// Whether it has ended; threads may still be in the application, and find out when they come back.
    pub fn has_ended(&self) -> bool {
        self.loops.has_ended()
    }

    /// Threads that are in [`Server::work`].
    pub fn at_work(&self) -> usize {
        self.loops.shared.at_work()
    }

    /// Serves by the calling thread until stopped and drained; other threads come to [`Server::work`] only while it waits for
    /// a client: see [`App::add_thread`].
    ///
    /// # Errors
    /// What the kernel says of the poller, or of the watch's thread where the configuration needs it; faults of a peer or
    /// of a connection are none.
    pub fn run(&self) -> io::Result<()> {
        let _end = OnDrop(|| self.end_watch());
        let begun = self.begin_watch();
        if self.loops.shared.config.needs_watch() {
            begun?; // else everything is sent at once, and signals are heard where they interrupt a wait
        }
        self.work()
    }

    /// One thread's share of the work, until the server has ended or has threads enough: as many threads as the
    /// configuration has come here, those that [`App::add_thread`] promises, and the watch beside them:
    /// [`Server::begin_watch`].
    ///
    /// # Errors
    /// What the kernel says of the poller, to the leader.
    pub fn work(&self) -> io::Result<()> {
        let shared = &self.loops.shared;
        let number = shared.come();
        let is_spare = number >= shared.config.threads.max(1);
        let (thread, slot) = shared.watch.join();
        let _leave = OnDrop(|| {
            if thread::panicking() {
                // Or the others would wait for what this one has taken along.
                self.loops.all.iter().for_each(|one| drop(one.handle.crew.end()));
                self.loops.wake();
            }
            if is_spare {
                self.loops.spare_left();
            }
            shared.watch.leave(&slot);
            shared.leave();
            shared.app.left();
        });
        let host: Arc<dyn Host> = self.loops.clone();
        let app = shared.app.per_thread(Some(thread));
        let mut state = ThreadState::new(app, shared.outgoing(slot.clone(), Some(host)));
        let mut index = thread % self.loops.all.len();
        loop {
            let one = &self.loops.all[index];
            let is_first = number == 0 && shared.config.threads <= 1;
            if self.claim(one) {
                match self.lead(index, is_first, &mut state) {
                    Led::Lost => {}
                    Led::Left(wanted) if wanted != index => {
                        index = wanted;
                        continue;
                    }
                    Led::Left(_) => {} // to the first thread, which has been promoted
                    Led::Ended(result) if result.is_err() || self.has_ended() => return result,
                    Led::Ended(_) => {}
                }
            }
            let role = match is_first {
                true => Role::First,
                false if is_spare => Role::Spare { leaves: self.loops.lets_spare_go() },
                false => Role::Any,
            };
            let rested = shared.app.blocking(|| {
                shared.context().write_log_detached(); // the leader may have no cause to for long
                one.handle.crew.follow(role, || shared.watch.wake(), || one.handle.waker.wake())
            });
            if role == (Role::Spare { leaves: true }) {
                self.loops.spare_stays(); // for now, or until it has left
            }
            match rested {
                Rested::Promoted(promoted) => index = promoted,
                Rested::Nudged => drop(shared.app.woken()),
                Rested::Spared => return Ok(()),
                Rested::Ended => {
                    self.close_all();
                    return Ok(());
                }
            }
        }
    }

    /// Leads until the loop ends, until this thread is wanted elsewhere, or until the lead has been lost.
    fn lead(&self, index: usize, is_first: bool, thread: &mut ThreadState<A::PerThread>) -> Led {
        let (shared, one) = (&self.loops.shared, &self.loops.all[index]);
        let crew = &one.handle.crew;
        let mut state = one.lock();
        loop {
            let task = match state.next(shared, &one.handle) {
                Next::Serve(task) => task,
                Next::Wait => {
                    let is_wanted_back = !is_first && crew.first_waits();
                    let wanted = crew.wanted_at();
                    if is_wanted_back || wanted.is_some() {
                        if shared.books.counters.is_shared() {
                            shared.books.counters.lead(false, state.now());
                        }
                        drop(state);
                        crew.release_and_promote();
                        return Led::Left(wanted.unwrap_or(index));
                    }
                    // The watch sees to it that no leader waits in the wrong place.
                    if self.loops.all.len() > 1 && self.loops.all.iter().any(|one| !one.handle.crew.is_led()) {
                        shared.watch.wake();
                    }
                    if let Err(error) = state.wait(shared, &one.handle) {
                        self.finish(one, state);
                        return Led::Ended(Err(error));
                    }
                    continue;
                }
                Next::End => {
                    self.finish(one, state);
                    return Led::Ended(Ok(()));
                }
            };
            let crowded = state.is_crowded();
            thread.begin_turn(state.second, index, crowded, &shared.config);
            let draining = state.phase != Phase::Serving;
            let cx = ServeContext { draining, crowded, attended: state.attended, ..shared.context() };
            if cx.counters.is_shared() {
                cx.counters.lead(false, state.now());
            }
            drop(state);
            let Some(again) = self.serve(one, task, thread, &cx) else { return Led::Lost };
            state = again;
        }
    }

    /// Serves one connection while nobody, or another thread, leads. The loop, where it is still to be had.
    fn serve<'a>(
        &'a self,
        one: &'a EventLoop<N, A>,
        task: Task<N, A>,
        thread: &mut ThreadState<A::PerThread>,
        cx: &ServeContext<'_, A>,
    ) -> Option<State<'a, N, A>> {
        let Task { token, mut connection, expired, registered } = task;
        let shared = &self.loops.shared;
        let began = self.release_lead(one, connection.blocks);
        let mut verdict = match expired {
            None => connection.serve(thread, cx),
            Some(timeout) => connection.expire(timeout, thread, cx),
        };
        if shared.control.is_stopping() && self.loops.heeds_last_request() {
            shared.app.drains();
            self.stopper().stop(true);
        }
        if shared.config.threads > 1 {
            self.note_task(one, &began, &mut connection);
        }
        loop {
            if self.claim(one) {
                let mut state = one.lock();
                state.settle(token, connection, verdict, shared, &one.handle);
                return Some(state);
            }
            // The loop is another's, so this connection can be served on: it delays nobody.
            if (verdict != Verdict::Again && !connection.holds) || one.handle.crew.has_ended() {
                break;
            }
            verdict = connection.serve(thread, &ServeContext { attended: cx.attended, ..shared.context() });
        }
        let is_over = verdict == Verdict::Close;
        let must_wake = is_over || !registered || shared.control.is_stopping();
        match one.handle.crew.hand_in(token, (!is_over).then_some((connection, verdict))) {
            HandedIn::Back(_) => {} // the loop has ended, and with it the connection
            HandedIn::Awaited => one.handle.waker.wake(),
            HandedIn::Lying if must_wake => one.handle.waker.wake(),
            HandedIn::Lying => {}
        }
        None
    }

    /// The leader goes out. Where its task may block (calls block again and again, or the last on the same connection did),
    /// another is promoted ahead.
    fn release_lead(&self, one: &EventLoop<N, A>, blocks: bool) -> Began {
        let shared = &self.loops.shared;
        let crew = &one.handle.crew;
        crew.release_lead();
        // Where all permits will be out, there is nobody whom the watch could promote.
        let is_alone = shared.config.threads == 1;
        if (crew.has_followers() && !is_alone) || rounds::stands_in(&self.loops) || shared.control.is_stopping() {
            shared.watch.wake();
        }
        if is_alone || !(blocks || one.handle.eager.load(Ordering::Relaxed) > 0) {
            return Began::AtTick(shared.watch.ticks());
        }
        crew.promote();
        Began::At(Guess::now())
    }

    /// Learns from a task whether the next should be expected to block.
    fn note_task(&self, one: &EventLoop<N, A>, began: &Began, connection: &mut Conn<N, A>) {
        let blocked = match began {
            Began::At(began) => began.elapsed() >= BLOCKING_CALL,
            // The watch has promoted another, which leads now; one may lead that came back from a task, too.
            Began::AtTick(tick) => one.handle.crew.is_led() && self.loops.shared.watch.ticks() != *tick,
        };
        let was_expected = std::mem::replace(&mut connection.blocks, blocked);
        let eager = &one.handle.eager;
        if blocked && !was_expected {
            eager.store(EAGER_TASKS, Ordering::Relaxed);
        } else if matches!(began, Began::At(_)) && !blocked {
            let _ = eager.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
    }

    /// Takes the lead, if nobody has it.
    fn claim(&self, one: &EventLoop<N, A>) -> bool {
        let claimed = one.handle.crew.claim();
        if claimed && self.counters().is_shared() {
            self.counters().lead(true, 0);
        }
        claimed
    }

    /// A loop's end.
    fn finish(&self, one: &EventLoop<N, A>, mut state: State<'_, N, A>) {
        state.close_all(&self.loops.shared);
        drop(state);
        drop(one.handle.crew.end());
        self.loops.shared.context().write_log();
    }

    /// Once all crews have ended: closes what no thread has.
    fn close_all(&self) {
        self.loops.all.iter().for_each(|one| one.lock().close_all(&self.loops.shared));
        self.loops.shared.context().write_log();
    }

    /// Threads that wait for their clients; once the server has ended they do not for long.
    pub fn waiting(&self) -> usize {
        self.loops.shared.waiting.load(Ordering::SeqCst)
    }

    /// The server has ended, and the threads that have not come back are left behind: their responses are cut where the
    /// end of the connection would pass for the end of the body. Whether all have been: a thread may be at it right now.
    pub fn cut_unfinished(&self) -> bool {
        self.loops.shared.watch.cut_unfinished()
    }

    // --- the watch ---

    /// Says that [`Server::tick`] is called every millisecond from now on.
    pub fn begin_ticks(&self) {
        self.loops.shared.watch.begin(None);
    }

    /// Has a thread keep watch, until [`Server::end_watch`]. One is enough: nothing happens where there is one.
    ///
    /// # Errors
    /// What the kernel says of the thread.
    pub fn begin_watch(&self) -> io::Result<()> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() && !self.has_ended() {
            let loops = self.loops.clone();
            if let Ok(bell) = self.bell() {
                loops.shared.watch.wait_at(bell.clone());
            }
            let thread = thread::Builder::new().name("bjoern-watch".to_owned()).stack_size(WATCH_STACK_BYTES);
            let handle = thread.spawn(move || {
                block_signals(); // they are for the threads that run the application
                keep_watch(&loops, Instant::now);
            })?;
            self.loops.shared.watch.begin(Some(handle.thread().clone()));
            *keeper = Some(handle);
        }
        Ok(())
    }

    /// Ends the watch, and waits for its thread.
    pub fn end_watch(&self) {
        self.loops.shared.watch.end();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // It has panicked, if that: said already, and nothing more is to be done.
            let _ = self.app().blocking(|| keeper.join());
        }
    }

    /// Keeps watch on the calling thread in place of [`Server::begin_watch`]'s, until [`Server::end_watch`].
    /// `clock` is read before each look.
    pub fn keep_watch(&self, clock: impl FnMut() -> Instant) {
        self.loops.shared.watch.begin(Some(thread::current()));
        keep_watch(&self.loops, clock);
    }

    /// One look of the watch. Whether all is quiet.
    ///
    /// Answers and blocks that come quickly are held for those that follow at once, so that they leave together. The watch
    /// sends them where the application takes longer than that, at the second tick at the latest. And where the leader has
    /// been out since the last look, it promotes a follower to lead.
    pub fn tick(&self) -> bool {
        rounds::look(&self.loops, |_, _| {})
    }
}

fn keep_watch<N: Net, A: App<N::Socket>>(loops: &Loops<N, A>, mut clock: impl FnMut() -> Instant) {
    let mut rounds = Rounds::new(loops);
    loops.shared.watch.keep(|signal| rounds.look(loops, signal, clock()));
}

/// How a lead ended.
enum Led {
    /// Another leads now.
    Lost,
    /// Nobody leads: this thread is wanted by the crew of that index, or, where it is the same, leaves it to the first.
    Left(usize),
    /// The loop has ended.
    Ended(io::Result<()>),
}

/// When a task began: the clock is read only where a follower has been promoted ahead.
enum Began {
    AtTick(u32),
    At(Guess),
}

/// Runs its function when it goes out of scope, in a panic, too.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

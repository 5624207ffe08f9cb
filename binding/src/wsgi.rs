//! One call of the application: environ in, the returned iterable out, by way of the engine's reply.
//! Knows: PEP 3333.   Must not know: sockets, HTTP grammar.
//! Invariant: the reply comes back to the engine on every path.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bjoern_engine::io::{Bell, Process, SystemSocket, SystemWaker};
use bjoern_engine::{App, Errand, LongCall, Progress, Request, Stopper, Wake};
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::child::end_if_forked;
use crate::engine_object::reason;
use crate::environ::{Environs, Ports};
use crate::errors::print_exception;
use crate::ffi::{Block, Context, calls};
use crate::file_wrapper::FileWrapper;
use crate::start_response::{StartResponse, start};
use crate::stream::{Outcome, Rest, Stream, block_of, close, send};
use crate::ticket::{RequestTimeout, Ticket, say};

/// The engine's reply, as the binding uses it.
pub type Reply = bjoern_engine::Reply<SystemSocket, Wsgi>;

/// The place where it lies while the application's code runs.
pub type Lent = bjoern_engine::Lent<SystemSocket, Wsgi>;

/// For what is still to be told when the server ends.
const TIME_TO_REPORT: Duration = Duration::from_secs(1);

/// Spare `start_response` objects that are kept.
const SPARES: usize = 16;

/// What a thread keeps from one call to the next.
pub struct Desk {
    /// Nothing for one that calls nothing.
    ticket: Option<Arc<Ticket>>,
    spares: Vec<StartResponse>,
    /// Where the application is called (PEP 567), until an unfinished response keeps it.
    context: Option<Context>,
    ports: Ports,
}

impl Desk {
    fn start_response(&mut self, py: Python<'_>) -> PyResult<StartResponse> {
        self.spares.pop().map_or_else(|| StartResponse::new(py), Ok)
    }

    fn context(&mut self, py: Python<'_>) -> PyResult<Context> {
        self.context.take().map_or_else(|| Context::new(py), Ok)
    }

    /// Keeps `start_response` for another request, if the application does not hold on to it.
    fn recycle(&mut self, py: Python<'_>, start_response: StartResponse) {
        // Without the GIL another thread may be about to let go of it, or to take it: its count tells nothing.
        if !cfg!(Py_GIL_DISABLED) && self.spares.len() < SPARES && start_response.is_unshared(py) {
            self.spares.push(start_response);
        }
    }
}

/// A WSGI application, as the engine has it.
pub struct Wsgi {
    pub site: Arc<Site>,
}

/// A WSGI application and what serving it takes.
pub struct Site {
    /// The process that serves. In any other, the application's code must not come back to the server.
    pub home: Process,
    application: Py<PyAny>,
    environs: Environs,
    /// End the server when the application asks for it by SystemExit.
    pub stopper: OnceLock<Stopper<SystemWaker>>,
    hooks: Hooks,
    pub limits: Limits,
    /// Somebody looks at what threads do.
    is_watched: bool,
    /// One for each thread, once it has come.
    tickets: Vec<OnceLock<Arc<Ticket>>>,
    /// Rung when a thread leaves, or the server ends without it. Nothing where the only thread is the one that would hear.
    bell: Option<Bell>,
    /// The first exception that is to leave `run()`.
    raised: Mutex<Option<PyErr>>,
    /// Threads that tell of a call that takes long.
    reports: Mutex<Vec<JoinHandle<()>>>,
}

/// Python functions that are told of things, or None.
pub struct Hooks {
    /// Called once when an exception ends the server, before the drain.
    pub draining: Py<PyAny>,
    /// Called when the server ends though a call of the application has not: with its requests.
    pub unfinished: Py<PyAny>,
}

/// Past which a call is told of; zero: none is.
pub struct Limits {
    pub timeout: Duration,
    pub slow_request: Duration,
}

impl Site {
    /// For so many threads.
    pub fn new(
        application: Py<PyAny>,
        environs: Environs,
        hooks: Hooks,
        limits: Limits,
        threads: usize,
        bell: Option<Bell>,
    ) -> Arc<Site> {
        let is_watched = threads > 1 || !limits.timeout.is_zero() || !limits.slow_request.is_zero();
        Arc::new(Site {
            home: Process::this(),
            application,
            environs,
            stopper: OnceLock::new(),
            hooks,
            limits,
            is_watched,
            tickets: (0..threads).map(|_| OnceLock::new()).collect(),
            bell,
            raised: Mutex::default(),
            reports: Mutex::default(),
        })
    }

    /// What the collector must see.
    pub fn references(&self) -> [&Py<PyAny>; 3] {
        [&self.application, &self.hooks.draining, &self.hooks.unfinished]
    }

    /// Takes out the exception that is to leave `run()`.
    pub fn take_raised(&self) -> Option<PyErr> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the server.
    pub fn stop(&self, graceful: bool) {
        self.stopper.get().into_iter().for_each(|stopper| stopper.stop(graceful));
    }

    /// An exception that ends the server after a drain; the first one counts.
    pub fn end_with(&self, py: Python<'_>, error: PyErr) {
        let mut raised = self.raised.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        let later = if raised.is_none() { raised.replace(error) } else { Some(error) };
        drop(raised);
        drop(later); // without the lock: it may be the last reference to objects of the application
        self.drain(py);
    }

    /// Ends the server by itself, which is told first.
    fn drain(&self, py: Python<'_>) {
        self.stop(true);
        let draining = self.hooks.draining.bind(py);
        if !draining.is_none()
            && let Err(error) = draining.call0()
        {
            print_exception(py, &error);
        }
    }

    /// What is rung when a thread leaves.
    pub fn bell(&self) -> Option<&Bell> {
        self.bell.as_ref()
    }

    /// How many threads are in the application.
    pub fn in_calls(&self, py: Python<'_>) -> usize {
        self.tickets.iter().filter_map(OnceLock::get).filter(|ticket| ticket.is_in_call(py)).count()
    }

    /// Tells which requests are left without an answer by the end.
    pub fn tell_unfinished(&self, py: Python<'_>) {
        let requests: Vec<String> = self.tickets.iter().filter_map(|ticket| ticket.get()?.request(py, None)).collect();
        let unfinished = self.hooks.unfinished.bind(py);
        if !unfinished.is_none()
            && let Err(error) = PyList::new(py, requests).and_then(|list| calls::call(unfinished, [list.as_any()]))
        {
            self.end_with(py, error);
        }
    }

    /// Runs `tell` in a thread of its own, which waits for the interpreter: the watch must not. Without the thread it is
    /// left out.
    fn report_by(&self, tell: impl FnOnce() + Send + 'static) {
        if let Ok(thread) = thread::Builder::new().name("bjoern-report".to_owned()).spawn(tell) {
            let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
            reports.retain(|report| !report.is_finished());
            reports.push(thread);
        }
    }

    /// Waits a moment for those threads, once there will be no more: one that ran Python code while the interpreter ends
    /// would be torn out of ours.
    pub fn await_reports(&self, py: Python<'_>) {
        let reports = std::mem::take(&mut *self.reports.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner));
        let end = Instant::now() + TIME_TO_REPORT;
        while reports.iter().any(|report| !report.is_finished()) && Instant::now() < end {
            py.detach(|| thread::sleep(Duration::from_millis(1)));
        }
    }

    /// SystemExit and KeyboardInterrupt end the server; RequestTimeout has been told; anything else is printed.
    fn report(&self, py: Python<'_>, error: PyErr) {
        if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
            self.end_with(py, error);
        } else if !error.is_instance_of::<RequestTimeout>(py) {
            print_exception(py, &error);
        }
    }
}

impl Wsgi {
    /// Runs the handlers of signals that have come, in the main thread.
    fn heed_signals(&self, py: Python<'_>) -> Wake {
        let handled = py.check_signals();
        end_if_forked(py, self.site.home, handled.as_ref().err(), None); // by such a handler
        match handled {
            Ok(()) => Wake::GoOn,
            Err(error) => {
                self.site.end_with(py, error);
                Wake::Drain
            }
        }
    }

    /// The ticket of the thread at `post`.
    fn ticket(&self, post: usize) -> Option<&OnceLock<Arc<Ticket>>> {
        self.site.tickets.get(post)
    }

    /// Calls the application and sends what can be sent of its answer.
    fn answer(&self, py: Python<'_>, desk: &mut Desk, request: &Request<'_>, reply: Reply) -> (Reply, Outcome) {
        let prepared = self
            .site
            .environs
            .environ(py, request, &mut desk.ports)
            .and_then(|environ| Ok((environ, desk.start_response(py)?, desk.context(py)?)));
        let ((environ, input), start_response, context) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let outcome = self.failed(py, error, &reply);
                return (reply, outcome);
            }
        };
        let environ = environ.unbind();
        if let Some(ticket) = &desk.ticket {
            ticket.enter(py, reply.call_number(), &environ, start_response.lent());
        }
        let call = || {
            let arguments = [environ.bind(py).as_any(), start_response.callable().bind(py)];
            let returned = calls::call(self.site.application.bind(py), arguments);
            end_if_forked(py, self.site.home, returned.as_ref().err(), Some(&environ));
            returned
        };
        let (mut reply, returned) = start_response.lend(py, reply, Errand::Call, || context.run(py, call));
        if let Some(ticket) = &desk.ticket {
            ticket.leave(py);
        }
        let responded = returned.and_then(|iterable| {
            let responded = respond(&mut reply, &iterable);
            end_if_forked(py, self.site.home, responded.as_ref().err(), Some(&environ));
            responded.inspect_err(|_| {
                // What cannot be sent is closed all the same; a stream that has begun closes its iterable itself.
                let closed = context.run(py, || close(&iterable));
                end_if_forked(py, self.site.home, closed.as_ref().err(), Some(&environ));
                if let Err(error) = closed {
                    self.site.report(py, error);
                }
            })
        });
        let outcome = match responded {
            Ok(Progress::More(rest)) => {
                let stream = Stream { rest, start_response, environ, input: input.map(Bound::unbind), context };
                return (reply, Progress::More(Box::new(stream)));
            }
            Ok(_) => self.done(py, &reply),
            Err(error) => self.failed(py, error, &reply),
        };
        desk.context = Some(context);
        if let Some(Err(error)) = input.map(|input| close(&input)) {
            self.site.report(py, error);
        }
        desk.recycle(py, start_response);
        (reply, outcome)
    }

    /// One more block of a response.
    fn go_on(&self, py: Python<'_>, desk: &mut Desk, stream: Box<Stream>, reply: Reply) -> (Reply, Outcome) {
        if let Some(ticket) = &desk.ticket {
            ticket.enter(py, reply.call_number(), &stream.environ, stream.start_response.lent());
        }
        let next = || {
            let advanced = stream.advance(py);
            end_if_forked(py, self.site.home, advanced.as_ref().err(), Some(&stream.environ));
            advanced
        };
        let (mut reply, advanced) = stream.start_response.lend(py, reply, Errand::Next, next);
        let sent = advanced.and_then(|block| match block {
            None => {
                start(&mut reply, Some(0))?;
                Ok(false)
            }
            Some(block) if block.as_bytes().is_empty() => Ok(true),
            Some(block) => {
                start(&mut reply, None)?;
                send(&mut reply, &block);
                Ok(true)
            }
        });
        let outcome = match sent {
            Ok(true) => None,
            Ok(false) => Some(self.done(py, &reply)),
            Err(error) => Some(self.failed(py, error, &reply)),
        };
        let Some(outcome) = outcome else {
            if let Some(ticket) = &desk.ticket {
                ticket.leave(py);
            }
            return (reply, Progress::More(stream));
        };
        if matches!(outcome, Progress::Done) {
            reply.end();
        }
        let (reply, ()) = stream.start_response.lend(py, reply, Errand::Close, || self.end(py, &stream));
        if let Some(ticket) = &desk.ticket {
            ticket.leave(py);
        }
        desk.context = Some(stream.context);
        desk.recycle(py, stream.start_response);
        (reply, outcome)
    }

    /// Ends a response's iterable. What its `close()` raises does not change the response any more.
    fn end(&self, py: Python<'_>, stream: &Stream) {
        let closed = stream.close(py);
        end_if_forked(py, self.site.home, closed.as_ref().err(), Some(&stream.environ));
        if let Err(error) = closed {
            self.site.report(py, error);
        }
    }

    /// The response is given; where less came than was announced, its author is told (PEP 3333, "Handling the
    /// Content-Length Header").
    fn done(&self, py: Python<'_>, reply: &Reply) -> Outcome {
        let missing = reply.missing();
        if missing > 0 && !reply.is_broken() {
            let message =
                format!("the application gave {missing} bytes less than its Content-Length; the response is cut");
            print_exception(py, &PyRuntimeError::new_err(message));
        }
        Progress::Done
    }

    /// The application raised in place of a response.
    fn failed(&self, py: Python<'_>, error: PyErr, reply: &Reply) -> Outcome {
        // A client that went away while write() was sending is no fault of the application.
        if !(reply.is_broken() && error.is_instance_of::<PyOSError>(py)) {
            self.site.report(py, error);
        }
        Progress::Failed
    }
}

/// Sends what `returned` holds, or says what is still to be asked of it.
fn respond(reply: &mut Reply, returned: &Bound<'_, PyAny>) -> PyResult<Progress<Rest>> {
    // bytes are sent whole, as bjoern 3 does, not byte for byte.
    if let Ok(block) = returned.cast::<PyBytes>() {
        whole(reply, block)?;
        return Ok(Progress::Done);
    }
    // Not after write(): the framing may be chunked by then, which the kernel cannot do.
    if let Ok(wrapper) = returned.cast_exact::<FileWrapper>()
        && !reply.is_started()
        && let Some(part) = wrapper.get().file_part(returned.py())?
    {
        start(reply, Some(part.len))?;
        reply.file(part.file, part.offset, part.len);
        return Ok(Progress::More(Rest::sent(returned)));
    }
    // Lists and tuples have all their blocks at hand: none waits for the application, so they may leave together.
    let blocks = if let Ok(list) = returned.cast_exact::<PyList>() {
        if list.len() == 1 {
            whole(reply, &block_of(&list.get_item(0)?)?)?;
            return Ok(Progress::Done);
        }
        list.iter().map(|block| block_of(&block)).collect::<PyResult<Vec<_>>>()?
    } else if let Ok(tuple) = returned.cast_exact::<PyTuple>() {
        tuple.iter().map(|block| block_of(&block)).collect::<PyResult<Vec<_>>>()?
    } else {
        return Ok(Progress::More(Rest::of(returned)?));
    };
    let whole = blocks.iter().all(|block| block.as_bytes().is_empty()).then_some(0);
    start(reply, whole)?;
    blocks.iter().for_each(|block| send(reply, block));
    Ok(Progress::Done)
}

/// The whole body is one block, so its length is known.
fn whole(reply: &mut Reply, block: &Bound<'_, PyBytes>) -> PyResult<()> {
    start(reply, Some(block.as_bytes().len() as u64))?;
    send(reply, block);
    Ok(())
}

impl App<SystemSocket> for Wsgi {
    type Block = Block;
    type Stream = Box<Stream>;
    type Desk = Desk;

    fn desk(&self, post: usize) -> Desk {
        // A thread that calls nothing has no post, and need not be attached; a ticket that nobody looks at is not written.
        let place = self.ticket(post).filter(|_| self.site.is_watched);
        let ticket = place.and_then(|place| match Python::attach(Ticket::new) {
            Ok(ticket) => Some(place.get_or_init(|| Arc::new(ticket)).clone()),
            Err(_) => None, // it cannot be told of, or interrupted
        });
        Desk { ticket, spares: Vec::new(), context: None, ports: Ports::default() }
    }

    fn call(&self, desk: &mut Desk, request: &Request<'_>, reply: Reply) -> (Reply, Outcome) {
        Python::attach(|py| self.answer(py, desk, request, reply))
    }

    fn next(&self, desk: &mut Desk, stream: Box<Stream>, reply: Reply) -> (Reply, Outcome) {
        Python::attach(|py| self.go_on(py, desk, stream, reply))
    }

    fn close(&self, stream: Box<Stream>) {
        Python::attach(|py| self.end(py, &stream));
    }

    fn blocking<T: Send>(&self, wait: impl FnOnce() -> T + Send) -> T {
        Python::attach(|py| {
            // The application may have taken the descriptor that a signal's byte is written to: one that came before the
            // wait would not end it. The end that a handler asks for does.
            self.heed_signals(py);
            py.detach(wait)
        })
    }

    fn woken(&self) -> Wake {
        Python::attach(|py| self.heed_signals(py))
    }

    fn takes_long(&self, call: &LongCall) {
        let Some(ticket) = self.ticket(call.post).and_then(OnceLock::get).cloned() else { return };
        if call.is_over_time {
            ticket.time_out(call.number);
        }
        let (call, site) = (*call, self.site.clone());
        self.site.report_by(move || {
            Python::attach(|py| {
                let limit = if call.is_over_time { site.limits.timeout } else { site.limits.slow_request };
                if let Err(error) = ticket.report(py, &call, limit) {
                    print_exception(py, &error);
                }
                if call.is_over_time {
                    ticket.interrupt(py, call.number);
                }
            });
        });
    }

    fn gives_up(&self) {
        self.left();
        if self.site.bell.is_none() {
            // The thread that would tell is the one that does not come back.
            let site = self.site.clone();
            self.site.report_by(move || Python::attach(|py| site.tell_unfinished(py)));
        }
    }

    fn drains(&self) {
        Python::attach(|py| self.site.drain(py));
    }

    fn log_fails(&self, error: &io::Error) {
        let text = format!("the access log cannot be written, and lines are lost: {}", reason(error));
        Python::attach(|py| {
            if let Err(error) = say(py, "error", &text, "") {
                print_exception(py, &error);
            }
        });
    }

    fn left(&self) {
        self.site.bell.iter().for_each(Bell::ring);
    }
}

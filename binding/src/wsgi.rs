//! One call of the application, from the environ to the `close()` of what it returned: one bracket around all of it.
//! Knows: PEP 3333.   Must not know: sockets, HTTP grammar, how threads wait.
//! Invariant: what a request enters (its context, its place among the calls) it leaves in the same function; the reply comes
//! back to the engine on every path; `close()` is called once.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bjoern_engine::io::SystemSocket;
use bjoern_engine::{App, AppCall, LongCall, Outcome, Request, Wake};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::child::end_if_forked;
use crate::current_call::{CurrentCall, say};
use crate::environ::Ports;
use crate::errors::{print_exception, reason};
use crate::ffi::{Block, Context, calls, exit_now};
use crate::response::Reply;
use crate::site::Site;
use crate::start_response::StartResponse;
use crate::stream::{Given, Response, close, whole};

/// Spare `start_response` objects that are kept.
const SPARES: usize = 16;

/// What a thread keeps from one call to the next.
pub struct PerThread {
    /// Where it says what it is doing, if somebody looks.
    call: Option<Arc<CurrentCall>>,
    spares: Vec<StartResponse>,
    /// Where the application is called (PEP 567).
    context: Option<Context>,
    ports: Ports,
}

impl PerThread {
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

impl Wsgi {
    /// Answers a request: the bracket. All of the application's code that belongs to it runs in here, in one context.
    fn answer(&self, py: Python<'_>, thread: &mut PerThread, request: &Request<'_>, reply: Reply) -> (Reply, Outcome) {
        let prepared = self
            .site
            .environs
            .environ(py, request, &mut thread.ports)
            .and_then(|(environ, input)| Ok((environ, input, thread.start_response(py)?, thread.context(py)?)));
        let (environ, input, start_response, context) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let outcome = self.failed(py, error, &reply);
                return (reply, outcome);
            }
        };
        let entered = match context.enter(py) {
            Ok(entered) => entered,
            Err(error) => {
                let outcome = self.failed(py, error, &reply);
                return (reply, outcome);
            }
        };
        let environ = environ.unbind();
        if let Some(call) = &thread.call {
            call.enter(py, reply.call_number(), &environ, start_response.slot());
        }
        let answered = self.call_application(py, thread.call.as_deref(), environ.bind(py), &start_response, reply);
        if let Some(Err(error)) = input.map(|input| close(&input)) {
            self.site.report(py, error);
        }
        if let Some(call) = &thread.call {
            call.leave(py);
        }
        drop(entered);
        thread.context = Some(context);
        thread.recycle(py, start_response);
        answered
    }

    /// Calls the application, gives what it returned, and ends that.
    fn call_application(
        &self,
        py: Python<'_>,
        current: Option<&CurrentCall>,
        environ: &Bound<'_, PyDict>,
        start_response: &StartResponse,
        reply: Reply,
    ) -> (Reply, Outcome) {
        let home = self.site.home;
        let call = || {
            let returned = calls::call(self.site.application.bind(py), [environ, start_response.callable().bind(py)]);
            end_if_forked(py, home, returned.as_ref().err(), Some(environ));
            returned
        };
        let (mut reply, returned) = start_response.lend(py, reply, AppCall::Call, call);
        let returned = match returned {
            Ok(returned) => returned,
            Err(error) => {
                let outcome = self.failed(py, error, &reply);
                return (reply, outcome);
            }
        };
        let (reply, given) = match whole(&mut reply, &returned) {
            Ok(Given::NeedsNoClose) => {
                self.check_length(py, &reply);
                return (reply, Outcome::Done);
            }
            Ok(Given::Whole) => (reply, Ok(())),
            Ok(Given::Nothing) => {
                let response = Response { site: &self.site, current, environ, start_response };
                response.iterate(py, &returned, reply)
            }
            Err(error) => (reply, Err(error)),
        };
        let mut reply = reply;
        let outcome = match given {
            Ok(()) => {
                self.check_length(py, &reply);
                reply.end();
                Outcome::Done
            }
            Err(error) => self.failed(py, error, &reply),
        };
        let (reply, closed) = start_response.lend(py, reply, AppCall::Close, || {
            let closed = close(&returned);
            end_if_forked(py, home, closed.as_ref().err(), Some(environ));
            closed
        });
        if let Err(error) = closed {
            self.site.report(py, error); // it cannot change the response
        }
        (reply, outcome)
    }

    /// Where less came than was announced, the application's author is told (PEP 3333, "Handling the Content-Length Header").
    fn check_length(&self, py: Python<'_>, reply: &Reply) {
        let missing = reply.missing();
        if missing > 0 && !reply.is_broken() {
            let message =
                format!("the application gave {missing} bytes less than its Content-Length; the response is cut");
            print_exception(py, &PyRuntimeError::new_err(message));
        }
    }

    /// The application raised in place of a response.
    fn failed(&self, py: Python<'_>, error: PyErr, reply: &Reply) -> Outcome {
        // A client that went away while write() was sending is no fault of the application.
        if !(reply.is_broken() && error.is_instance_of::<PyOSError>(py)) {
            self.site.report(py, error);
        }
        Outcome::Failed
    }
}

impl App<SystemSocket> for Wsgi {
    type Block = Block;
    type PerThread = PerThread;

    fn per_thread(&self, thread: Option<usize>) -> PerThread {
        // A thread that calls nothing need not be attached.
        let call = thread.and_then(|thread| Python::attach(|py| self.site.join(py, thread)));
        let serves_many = thread.is_some_and(|thread| thread < self.site.threads());
        PerThread { call, spares: Vec::new(), context: None, ports: Ports::new(serves_many) }
    }

    fn call(&self, thread: &mut PerThread, request: &Request<'_>, reply: Reply) -> (Reply, Outcome) {
        Python::attach(|py| self.answer(py, thread, request, reply))
    }

    fn blocking<T: Send>(&self, wait: impl FnOnce() -> T + Send) -> T {
        Python::attach(|py| {
            // The application may have taken the descriptor that a signal's byte is written to: one that came before the
            // wait would not end it. The end that a handler asks for does.
            self.site.look_for_signals(py);
            py.detach(wait)
        })
    }

    fn woken(&self) -> Wake {
        Python::attach(|py| match self.site.check_signals(py) {
            Ok(()) => Wake::GoOn,
            Err(error) => {
                self.site.end_with(py, error);
                Wake::Drain
            }
        })
    }

    fn add_thread(&self) -> bool {
        Python::attach(|py| self.site.add_thread(py))
    }

    fn takes_long(&self, long: &LongCall) {
        let Some(current) = self.site.call_of(long.thread) else { return };
        if long.is_over_time {
            current.time_out(long.number);
        }
        let (long, site) = (*long, self.site.clone());
        self.site.report_by(move || {
            Python::attach(|py| {
                let limit = if long.is_over_time { site.limits.timeout } else { site.limits.slow_request };
                if let Err(error) = current.report(py, &long, limit) {
                    print_exception(py, &error);
                }
                if long.is_over_time {
                    current.interrupt(py, long.number);
                }
            });
        });
    }

    fn gives_up(&self, signal: Option<u8>) {
        self.left();
        if !self.site.is_overseen() {
            // The thread that would tell is the one that does not come back.
            let site = self.site.clone();
            self.site.report_by(move || Python::attach(|py| site.tell_unfinished(py, signal)));
        }
    }

    fn signalled(&self) {
        self.site.bell().ring();
    }

    fn is_fatal(&self, signal: u8) -> bool {
        self.site.is_fatal(signal)
    }

    fn signals_heard(&self) -> u32 {
        self.site.signals_heard()
    }

    fn force_end(&self, signal: u8) {
        let _ = writeln!(
            io::stderr(),
            "bjoern: error: ended by signal {signal} without its handlers: a call of the application is in C code and \
             has not come back within graceful_timeout"
        );
        exit_now(128 + i32::from(signal));
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

    fn storage_fails(&self, folder: &Path, error: &io::Error) {
        let setting = if std::env::var_os("TMPDIR").is_some() { "TMPDIR names it" } else { "TMPDIR is not set" };
        let text = format!(
            "request bodies cannot be kept in temporary files in {}: {}; until they can, requests with bodies longer than \
             body_buffer get 503 ({setting}: set it to a folder that can be written to and has room)",
            folder.display(),
            reason(error)
        );
        self.site.report_by(move || {
            Python::attach(|py| {
                if let Err(error) = say(py, "error", &text, "") {
                    print_exception(py, &error);
                }
            });
        });
    }

    fn left(&self) {
        self.site.bell().ring();
    }
}

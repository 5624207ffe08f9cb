//! One call of the application: environ in, the returned iterable out, by way of the engine's reply.
//! Knows: PEP 3333.   Must not know: sockets, HTTP grammar.
//! Invariant: the reply comes back to the engine on every path.

use std::sync::{Mutex, OnceLock, PoisonError};

use bjoern_engine::io::{SystemSocket, SystemWaker};
use bjoern_engine::{App, Errand, Progress, Request, Stopper, Wake};
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::environ::{Environs, Ports};
use crate::errors::print_exception;
use crate::ffi::{Block, Context};
use crate::file_wrapper::FileWrapper;
use crate::start_response::{StartResponse, start};
use crate::stream::{Outcome, Rest, Stream, block_of, close, send};

/// The engine's reply, as the binding uses it.
pub type Reply = bjoern_engine::Reply<SystemSocket, Wsgi>;

/// The place where it lies while the application's code runs.
pub type Lent = bjoern_engine::Lent<SystemSocket, Wsgi>;

/// Spare `start_response` objects that are kept.
const SPARES: usize = 16;

/// What a thread keeps from one call to the next.
#[derive(Default)]
pub struct Desk {
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
        if self.spares.len() < SPARES && start_response.is_unshared(py) {
            self.spares.push(start_response);
        }
    }
}

/// A WSGI application and what serving it takes.
pub struct Wsgi {
    application: Py<PyAny>,
    environs: Environs,
    /// Ends the server when the application asks for it by SystemExit.
    pub stopper: OnceLock<Stopper<SystemWaker>>,
    /// Called once when an exception ends the server, before the drain.
    draining: Py<PyAny>,
    /// The first exception that is to leave `run()`.
    raised: Mutex<Option<PyErr>>,
}

impl Wsgi {
    /// `draining` is called where the server ends by itself, so that nobody queues for it any more.
    pub fn new(application: Py<PyAny>, environs: Environs, draining: Py<PyAny>) -> Wsgi {
        Wsgi { application, environs, draining, stopper: OnceLock::new(), raised: Mutex::default() }
    }

    /// The application.
    pub fn application(&self) -> &Py<PyAny> {
        &self.application
    }

    /// What is called before a drain that the server begins by itself.
    pub fn draining(&self) -> &Py<PyAny> {
        &self.draining
    }

    /// Takes out the exception that is to leave `run()`.
    pub fn take_raised(&self) -> Option<PyErr> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// An exception that ends the server after a drain; the first one counts.
    fn end_with(&self, py: Python<'_>, error: PyErr) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let later = if raised.is_none() { raised.replace(error) } else { Some(error) };
        drop(raised);
        drop(later); // without the lock: it may be the last reference to objects of the application
        if let Some(stopper) = self.stopper.get() {
            stopper.stop(true);
        }
        let draining = self.draining.bind(py);
        if !draining.is_none()
            && let Err(error) = draining.call0()
        {
            print_exception(py, &error);
        }
    }

    /// Calls the application and sends what can be sent of its answer.
    fn answer(&self, py: Python<'_>, desk: &mut Desk, request: &Request<'_>, reply: Reply) -> (Reply, Outcome) {
        let prepared = self
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
        let call = || self.application.bind(py).call1((environ, start_response.callable()));
        let (mut reply, returned) = start_response.lend(py, reply, Errand::Call, || context.run(py, call));
        let responded = returned.and_then(|iterable| {
            respond(&mut reply, &iterable).inspect_err(|_| {
                // What cannot be sent is closed all the same; a stream that has begun closes its iterable itself.
                if let Err(error) = context.run(py, || close(&iterable)) {
                    self.report(py, error);
                }
            })
        });
        let outcome = match responded {
            Ok(Progress::More(rest)) => {
                let stream = Stream { rest, start_response, input: input.map(Bound::unbind), context };
                return (reply, Progress::More(Box::new(stream)));
            }
            Ok(_) => self.done(py, &reply),
            Err(error) => self.failed(py, error, &reply),
        };
        desk.context = Some(context);
        if let Some(Err(error)) = input.map(|input| close(&input)) {
            self.report(py, error);
        }
        desk.recycle(py, start_response);
        (reply, outcome)
    }

    /// One more block of a response.
    fn go_on(&self, py: Python<'_>, desk: &mut Desk, stream: Box<Stream>, reply: Reply) -> (Reply, Outcome) {
        let (mut reply, advanced) = stream.start_response.lend(py, reply, Errand::Next, || stream.advance(py));
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
            Ok(true) => return (reply, Progress::More(stream)),
            Ok(false) => self.done(py, &reply),
            Err(error) => self.failed(py, error, &reply),
        };
        let (reply, ()) = stream.start_response.lend(py, reply, Errand::Close, || self.end(py, &stream));
        desk.context = Some(stream.context);
        desk.recycle(py, stream.start_response);
        (reply, outcome)
    }

    /// Ends a response's iterable. What its `close()` raises does not change the response any more.
    fn end(&self, py: Python<'_>, stream: &Stream) {
        if let Err(error) = stream.close(py) {
            self.report(py, error);
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
            self.report(py, error);
        }
        Progress::Failed
    }

    /// SystemExit and KeyboardInterrupt end the server; anything else is printed.
    fn report(&self, py: Python<'_>, error: PyErr) {
        if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
            self.end_with(py, error);
        } else {
            print_exception(py, &error);
        }
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
        Python::attach(|py| py.detach(wait))
    }

    fn woken(&self) -> Wake {
        Python::attach(|py| match py.check_signals() {
            Ok(()) => Wake::GoOn,
            Err(error) => {
                self.end_with(py, error);
                Wake::Drain
            }
        })
    }
}

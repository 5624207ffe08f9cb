//! `start_response` and the `write` it returns (PEP 3333, "The start_response() Callable").
//! Knows: the head in the making, the reply it will go to.   Must not know: the loop, the body's iterable.
//! Invariant: the lock is never held while Python code runs or the thread waits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bjoern_engine::Broken;
use bjoern_engine::http1::ResponseHead;
use pyo3::exceptions::{PyBrokenPipeError, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::errors::{print_exception, type_name};
use crate::ffi::{Block, native_bytes};
use crate::wsgi::Reply;

/// What the application calls with its status and headers; one for each request, used again when nobody holds it.
#[pyclass(name = "start_response", module = "bjoern", frozen)]
pub struct StartResponse {
    inner: Mutex<Inner>,
    /// Signalled when a `write()` gives the reply back.
    returned: Condvar,
}

#[derive(Default)]
struct Inner {
    head: ResponseHead,
    /// Where the next head is checked before it takes the place of the last.
    draft: ResponseHead,
    /// Whether it has been called, be it in vain.
    called: bool,
    /// The response, while the application works on it.
    reply: Option<Reply>,
    /// Whether a thread waits for it.
    awaited: bool,
}

impl StartResponse {
    pub fn new() -> StartResponse {
        StartResponse { inner: Mutex::default(), returned: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends the reply to the application.
    pub fn lend(&self, reply: Reply) {
        let mut inner = self.lock();
        inner.reply = Some(reply);
        // A Condvar's notify is a system call even where nobody waits.
        if inner.awaited {
            self.returned.notify_one();
        }
    }

    /// Takes the reply, if nobody else has it.
    fn take(&self) -> Option<Reply> {
        self.lock().reply.take()
    }

    /// Takes the reply back; from now on the application can only ask in vain.
    pub fn take_back(&self, py: Python<'_>) -> Reply {
        match self.take() {
            Some(reply) => reply,
            // Another thread of the application is in the middle of a write(), which ends by itself.
            None => py.detach(|| self.wait_for_reply()),
        }
    }

    fn wait_for_reply(&self) -> Reply {
        let mut inner = self.lock();
        loop {
            if let Some(reply) = inner.reply.take() {
                inner.awaited = false;
                return reply;
            }
            inner.awaited = true;
            inner = self.returned.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends the head by `reply`, unless `write()` has done so; `whole` is the body's length where all of it is known.
    pub fn start(&self, reply: &mut Reply, whole: Option<u64>) -> PyResult<()> {
        if reply.is_started() {
            return Ok(());
        }
        let inner = self.lock();
        if !inner.head.is_begun() {
            return Err(PyRuntimeError::new_err("wsgi application returned before start_response was called"));
        }
        reply.start(&inner.head, whole);
        Ok(())
    }

    /// Ready for the next request.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.head.clear();
        inner.called = false;
    }
}

#[pymethods]
impl StartResponse {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Write>> {
        let py = slf.py();
        let [status, headers, exc_info] = arguments(args, kwargs)?;
        let (Some(status), Some(headers)) = (status, headers) else {
            let message = format!("start_response expected at least 2 arguments, got {}", args.len());
            return Err(PyTypeError::new_err(message));
        };
        let this = slf.get();
        match exc_info.filter(|exc_info| !exc_info.is_none()) {
            Some(exc_info) => {
                let error = exception(&exc_info)?;
                if this.lock().reply.as_ref().is_none_or(|reply| reply.is_started()) {
                    // Too late for another head: the exception goes on (PEP 3333).
                    return Err(error);
                }
                print_exception(py, &error);
            }
            None if this.lock().called => {
                return Err(PyTypeError::new_err(
                    "'start_response' called twice without passing 'exc_info' the second time",
                ));
            }
            None => {}
        }
        let mut inner = this.lock();
        inner.called = true;
        let mut draft = std::mem::take(&mut inner.draft);
        drop(inner);
        let filled = fill(&mut draft, &status, &headers);
        let mut inner = this.lock();
        if filled.is_ok() {
            std::mem::swap(&mut inner.head, &mut draft);
        }
        inner.draft = draft;
        drop(inner);
        filled?;
        Bound::new(py, Write { start_response: slf.clone().unbind() })
    }
}

/// `status, headers, exc_info` by position or name.
fn arguments<'py>(
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<[Option<Bound<'py, PyAny>>; 3]> {
    if args.len() > 3 {
        let message = format!("start_response expected at most 3 arguments, got {}", args.len());
        return Err(PyTypeError::new_err(message));
    }
    let mut found = [const { None }; 3];
    for (place, argument) in found.iter_mut().zip(args) {
        *place = Some(argument);
    }
    for (name, value) in kwargs.into_iter().flatten() {
        let name: String = name.extract()?;
        let place = match name.as_str() {
            "status" => &mut found[0],
            "headers" | "response_headers" => &mut found[1],
            "exc_info" => &mut found[2],
            _ => {
                let message = format!("start_response got an unexpected keyword argument '{name}'");
                return Err(PyTypeError::new_err(message));
            }
        };
        if place.replace(value).is_some() {
            let message = format!("start_response got multiple values for argument '{name}'");
            return Err(PyTypeError::new_err(message));
        }
    }
    Ok(found)
}

/// The exception of `exc_info`, with its traceback.
fn exception(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let wrong = || {
        let got = type_name(exc_info);
        PyTypeError::new_err(format!("start_response argument 3 must be a 3-tuple (got '{got}' object instead)"))
    };
    let tuple = exc_info.cast::<PyTuple>().map_err(|_| wrong())?;
    if tuple.len() != 3 {
        return Err(wrong());
    }
    let (kind, value, traceback) = (tuple.get_item(0)?, tuple.get_item(1)?, tuple.get_item(2)?);
    // A value that is not an exception yet is the argument of one.
    let error = if value.is_none() { PyErr::from_value(kind) } else { PyErr::from_value(value) };
    if let Ok(traceback) = traceback.cast_into() {
        error.set_traceback(exc_info.py(), Some(traceback));
    }
    Ok(error)
}

/// Checks status and headers and serializes them into `head`.
fn fill(head: &mut ResponseHead, status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<()> {
    head.clear();
    let bad = |bad: bjoern_engine::http1::BadHead| PyValueError::new_err(bad.to_string());
    let Ok(text) = status.cast::<PyString>() else {
        let got = type_name(status);
        return Err(PyTypeError::new_err(format!("'status' must be a str (got '{got}' object instead)")));
    };
    let Some(bytes) = native_bytes(text) else {
        return Err(PyValueError::new_err(format!("'status' must be latin-1 (got {})", text.repr()?)));
    };
    let Ok(headers) = headers.cast::<PyList>() else {
        let got = type_name(headers);
        return Err(PyTypeError::new_err(format!(
            "start response argument 2 must be a list of 2-tuples (got '{got}' object instead)"
        )));
    };
    head.begin(bytes).map_err(bad)?;
    for (position, header) in headers.iter().enumerate() {
        let pair = match header.cast::<PyTuple>() {
            Ok(tuple) if tuple.len() == 2 => (tuple.get_item(0)?, tuple.get_item(1)?),
            _ => return Err(bad_header(&format!("'{}' object", type_name(&header)), position)),
        };
        let strings = (pair.0.cast::<PyString>(), pair.1.cast::<PyString>());
        let natives = match &strings {
            (Ok(name), Ok(value)) => native_bytes(name).zip(native_bytes(value)),
            _ => None,
        };
        let Some((name, value)) = natives else {
            let found = format!("('{}', '{}') tuple", type_name(&pair.0), type_name(&pair.1));
            return Err(bad_header(&found, position));
        };
        head.field(name, value).map_err(bad)?;
    }
    Ok(())
}

fn bad_header(found: &str, position: usize) -> PyErr {
    PyTypeError::new_err(format!(
        "start_response argument 2 must be a list of 2-tuples (field: str, value: str) \
         (found invalid {found} at position {position})"
    ))
}

/// The imperative way to give a body (PEP 3333, "The write() Callable").
#[pyclass(name = "write", module = "bjoern", frozen)]
pub struct Write {
    start_response: Py<StartResponse>,
}

#[pymethods]
impl Write {
    /// Sends `data`, blocking until the system has all of it.
    ///
    /// # Errors
    /// TypeError for what is not bytes; BrokenPipeError or TimeoutError where the client is gone or takes nothing;
    /// RuntimeError after the request; ValueError for more than `Content-Length` announced.
    #[pyo3(signature = (data, /))]
    fn __call__(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let Ok(data) = data.cast::<PyBytes>() else {
            let got = type_name(data);
            return Err(PyTypeError::new_err(format!("write() argument must be bytes (got '{got}' object instead)")));
        };
        let this = self.start_response.get();
        let Some(mut reply) = this.take() else {
            return Err(PyRuntimeError::new_err("write() called outside of its request, or by two threads at once"));
        };
        let result = this.start(&mut reply, None).and_then(|()| {
            reply.block(data.as_bytes(), || Block::new(data));
            hand_over(py, &mut reply)
        });
        let excess = reply.has_excess();
        this.lend(reply);
        if excess && result.is_ok() {
            return Err(PyValueError::new_err(
                "write() gave more than the response's Content-Length; the rest was not sent",
            ));
        }
        result
    }
}

/// Sends everything, with the interpreter free for other threads and its signal handlers heard.
fn hand_over(py: Python<'_>, reply: &mut Reply) -> PyResult<()> {
    let mut waited = Duration::ZERO;
    loop {
        match py.detach(|| reply.hand_over(&mut waited)) {
            Ok(true) => return Ok(()),
            Ok(false) => py.check_signals()?,
            Err(broken @ Broken::TimedOut) => return Err(PyTimeoutError::new_err(broken.to_string())),
            Err(broken @ Broken::Io(_)) => return Err(PyBrokenPipeError::new_err(broken.to_string())),
        }
    }
}

//! `start_response` and the `write` it returns (PEP 3333, "The start_response() Callable").
//! Knows: the head in the making, the place where the reply lies meanwhile.   Must not know: the loop, the body's iterable.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::Process;
use bjoern_engine::{AppCall, Broken, NotTaken};
use pyo3::Borrowed;
use pyo3::exceptions::{PyBrokenPipeError, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::current_call::renew;
use crate::errors::{print_exception, type_name};
use crate::ffi::{Block, native_bytes, pair, references};
use crate::response::{Reply, ReplySlot};

thread_local! {
    /// Where a head is checked before it takes the place of the last.
    static DRAFT: Cell<ResponseHead> = Cell::default();
}

/// A request's `start_response`; used again for another when nobody holds it any more.
pub struct StartResponse {
    own: Py<Own>,
    /// What the application gets: the bound method, which is called without a tuple of arguments being made.
    callable: Py<PyAny>,
    slot: Arc<ReplySlot>,
}

impl StartResponse {
    /// Makes one.
    ///
    /// # Errors
    /// MemoryError.
    pub fn new(py: Python<'_>) -> PyResult<StartResponse> {
        let slot = Arc::<ReplySlot>::default();
        let own = Bound::new(py, Own { slot: slot.clone(), home: Process::this(), write: OnceLock::new() })?;
        let callable = own.getattr(intern!(py, "start_response"))?.unbind();
        Ok(StartResponse { own: own.unbind(), callable, slot })
    }

    /// Where the reply lies while the application's code runs.
    pub fn slot(&self) -> &Arc<ReplySlot> {
        &self.slot
    }

    /// What the application calls.
    pub fn callable(&self) -> &Py<PyAny> {
        &self.callable
    }

    /// Runs `work` of the application while the reply can be reached by this object, its `write`, and the watch.
    pub fn lend<T>(&self, py: Python<'_>, reply: Reply, call: AppCall, work: impl FnOnce() -> T) -> (Reply, T) {
        self.slot.lend(reply, call);
        let result = work();
        let reply = match self.slot.take_back() {
            Some(reply) => reply,
            // Another thread of the application is in the middle of a write(), which ends by itself.
            None => py.detach(|| self.slot.wait()),
        };
        (reply, result)
    }

    /// Whether nobody else holds any of it, so that it can serve another request.
    pub fn is_unshared(&self, py: Python<'_>) -> bool {
        let write = self.own.get().write.get();
        // `own` is held here and by the bound method.
        references(self.callable.bind(py)) == 1
            && references(self.own.bind(py)) == 2
            && write.is_none_or(|write| references(write.bind(py)) == 1)
    }
}

/// Sends the head by `reply`, unless `write()` has done so; `whole` is the body's length where all of it is known.
pub fn start(reply: &mut Reply, whole: Option<u64>) -> PyResult<()> {
    if reply.is_started() || reply.start_with_given(whole) {
        return Ok(());
    }
    Err(PyRuntimeError::new_err("wsgi application returned before start_response was called"))
}

/// What `start_response` is bound to.
#[pyclass(name = "Response", module = "bjoern", frozen)]
struct Own {
    slot: Arc<ReplySlot>,
    /// The process that serves. In a child nothing of `slot` is touched: its lock may be held for ever.
    home: Process,
    /// Made once, and given to each caller.
    write: OnceLock<Py<Write>>,
}

/// An argument, where it was given: None is one, too.
struct Given<'a, 'py>(Option<Borrowed<'a, 'py, PyAny>>);

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'a, 'py> {
    type Error = std::convert::Infallible;

    fn extract(argument: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Given(Some(argument)))
    }
}

#[pymethods]
impl Own {
    /// Sets status and header fields of the response.
    ///
    /// # Errors
    /// TypeError and ValueError where they cannot be sent, the exception of `exc_info` where the head has been sent.
    #[pyo3(signature = (status=Given(None), headers=Given(None), exc_info=None, *rest, response_headers=Given(None)))]
    fn start_response<'py>(
        slf: &Bound<'py, Self>,
        status: Given<'_, 'py>,
        headers: Given<'_, 'py>,
        exc_info: Option<&Bound<'py, PyAny>>,
        rest: &Bound<'py, PyTuple>,
        response_headers: Given<'_, 'py>,
    ) -> PyResult<Bound<'py, Write>> {
        let py = slf.py();
        let this = slf.get();
        if !rest.is_empty() {
            let message = format!("start_response expected at most 3 arguments, got {}", 3 + rest.len());
            return Err(PyTypeError::new_err(message));
        }
        if headers.0.is_some() && response_headers.0.is_some() {
            return Err(PyTypeError::new_err("start_response got multiple values for argument 'headers'"));
        }
        let (status, headers) = (status.0, headers.0.or(response_headers.0));
        let (Some(status), Some(headers)) = (status, headers) else {
            let given = usize::from(status.is_some()) + usize::from(headers.is_some());
            let message = format!("start_response expected at least 2 arguments, got {given}");
            return Err(PyTypeError::new_err(message));
        };
        let error = exc_info.filter(|exc_info| !exc_info.is_none()).map(exception).transpose()?;
        if !this.home.is_this() {
            return write_of(py, this); // there is no response to begin
        }
        if let Some(error) = &error
            && this.slot.is_open()
        {
            print_exception(py, error);
        }
        let mut draft = DRAFT.take(); // not borrowed: what a str's own repr() does may call us again
        let taken = fill(&mut draft, &status, &headers).map(|()| this.slot.set_head(&mut draft, error.is_some()));
        DRAFT.set(draft);
        let twice = || PyTypeError::new_err("'start_response' called twice without passing 'exc_info' the second time");
        match (taken, error) {
            (Ok(Ok(())), _) => {}
            // Too late for another head: the exception goes on (PEP 3333).
            (Ok(Err(NotTaken::TooLate)), Some(error)) => return Err(error),
            (Ok(Err(_)), _) => return Err(twice()),
            (Err(bad), error) => {
                let too_late = error.filter(|_| !this.slot.is_open());
                let again = this.slot.note_bad_head() && too_late.is_none();
                return Err(too_late.unwrap_or(if again { twice() } else { bad }));
            }
        }
        write_of(py, this)
    }
}

/// What `start_response` returns.
fn write_of<'py>(py: Python<'py>, own: &Own) -> PyResult<Bound<'py, Write>> {
    let write = match own.write.get() {
        Some(write) => write,
        None => {
            let write = Py::new(py, Write { slot: own.slot.clone(), home: own.home })?;
            own.write.get_or_init(|| write)
        }
    };
    Ok(write.bind(py).clone())
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
        let Some([name, value]) = header.cast::<PyTuple>().ok().and_then(pair) else {
            return Err(bad_header(&format!("'{}' object", type_name(&header)), position));
        };
        let strings = (name.cast::<PyString>(), value.cast::<PyString>());
        let natives = match &strings {
            (Ok(name), Ok(value)) => native_bytes(name).zip(native_bytes(value)),
            _ => None,
        };
        let Some((name, value)) = natives else {
            let found = format!("('{}', '{}') tuple", type_name(&name), type_name(&value));
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
struct Write {
    slot: Arc<ReplySlot>,
    home: Process,
}

#[pymethods]
impl Write {
    /// Sends `data`, blocking until the system has all of it.
    ///
    /// # Errors
    /// TypeError for what is not bytes; BrokenPipeError or TimeoutError where the client is gone or takes nothing;
    /// RuntimeError after the request, and in a process forked meanwhile; ValueError for more than `Content-Length` announced.
    #[pyo3(signature = (data, /))]
    fn __call__(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let Ok(data) = data.cast::<PyBytes>() else {
            let got = type_name(data);
            return Err(PyTypeError::new_err(format!("write() argument must be bytes (got '{got}' object instead)")));
        };
        if !self.home.is_this() {
            return Err(forked());
        }
        let Some(mut reply) = self.slot.borrow() else {
            return Err(PyRuntimeError::new_err("write() called outside of its request, or by two threads at once"));
        };
        let result = start(&mut reply, None).and_then(|()| {
            reply.block(data.as_bytes(), || Block::new(data));
            hand_over(py, &mut reply, &self.slot, self.home)
        });
        if !self.home.is_this() {
            std::mem::forget(reply); // its connection is the parent's
            return result;
        }
        let excess = reply.has_excess();
        self.slot.give_back(reply);
        if excess && result.is_ok() {
            return Err(PyValueError::new_err(
                "write() gave more than the response's Content-Length; the rest was not sent",
            ));
        }
        result
    }
}

/// Sends everything, with the interpreter free for other threads and its signal handlers heard.
fn hand_over(py: Python<'_>, reply: &mut Reply, slot: &ReplySlot, home: Process) -> PyResult<()> {
    let result = wait_for_client(py, reply, slot, home);
    if home.is_this() {
        reply.end_wait();
        renew(py, reply.call_number());
    }
    result
}

fn wait_for_client(py: Python<'_>, reply: &mut Reply, slot: &ReplySlot, home: Process) -> PyResult<()> {
    loop {
        match py.detach(|| reply.hand_over()) {
            Ok(true) => return Ok(()),
            Ok(false) if slot.is_cut() => return Err(PyBrokenPipeError::new_err("the call took longer than timeout")),
            Ok(false) => {
                py.check_signals()?;
                if !home.is_this() {
                    return Err(forked()); // by a signal handler
                }
            }
            Err(broken @ (Broken::TimedOut | Broken::TooSlow)) => {
                return Err(PyTimeoutError::new_err(broken.to_string()));
            }
            Err(broken @ (Broken::Io(_) | Broken::GaveWay)) => {
                return Err(PyBrokenPipeError::new_err(broken.to_string()));
            }
        }
    }
}

fn forked() -> PyErr {
    PyRuntimeError::new_err("write() called in a process forked during the request; only its parent can answer")
}

//! What a thread is doing right now, for others to see: which request, since which call; and to interrupt it.
//! Knows: Python's threads.   Must not know: why somebody asks.
//! Invariant: an exception raised here meets the call that it was meant for, or none.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bjoern_engine::LongCall;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyDict, PyList};

use crate::ffi::raise_in_thread;
use crate::response::ReplySlot;

pyo3::create_exception!(
    bjoern,
    RequestTimeout,
    pyo3::exceptions::PyBaseException,
    "A call of the application took longer than the option `timeout`.\n\nRaised in the thread of that call, wherever it is in \
     Python code. Like asyncio.CancelledError it is no Exception, so that `except Exception` does not swallow it."
);

/// A signal handler that RequestTimeout does not take the signal from.
///
/// Where the exception waits for its thread to run Python code again, as behind `time.sleep()`, the first such code may be
/// a signal handler, which would be left before it has done anything.
#[pyclass(module = "bjoern", frozen)]
pub struct SignalHandler(Py<PyAny>);

#[pymethods]
impl SignalHandler {
    #[new]
    fn new(handler: Py<PyAny>) -> SignalHandler {
        SignalHandler(handler)
    }

    fn __call__(&self, number: &Bound<'_, PyAny>, frame: &Bound<'_, PyAny>) -> PyResult<()> {
        let handler = self.0.bind(number.py());
        let handled = handler.call1((number, frame)).map(drop);
        if let Err(error) = &handled
            && error.is_instance_of::<RequestTimeout>(number.py())
        {
            handler.call1((number, frame))?;
        }
        handled // the exception goes on: it is the call's
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        visit.call(&self.0)
    }
}

/// One thread that runs the application.
pub struct CurrentCall {
    /// As `threading.get_ident()` has it.
    thread: u64,
    call: Mutex<Option<Call>>,
}

struct Call {
    number: u32,
    environ: Py<PyDict>,
    slot: Arc<ReplySlot>,
    /// RequestTimeout has been raised in it, and may not have come to pass yet.
    raised: bool,
}

impl CurrentCall {
    /// For the calling thread.
    ///
    /// # Errors
    /// What importing `_thread` raises.
    pub fn new(py: Python<'_>) -> PyResult<CurrentCall> {
        let thread = py.import(intern!(py, "_thread"))?.call_method0(intern!(py, "get_ident"))?.extract()?;
        Ok(CurrentCall { thread, call: Mutex::default() })
    }

    /// A call begins.
    pub fn enter(&self, py: Python<'_>, number: u32, environ: &Py<PyDict>, slot: &Arc<ReplySlot>) {
        let call = Call { number, environ: environ.clone_ref(py), slot: slot.clone(), raised: false };
        *self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner) = Some(call);
    }

    /// The application goes on, and its time begins anew: what was meant for the time before meets nothing any more.
    pub fn renew(&self, py: Python<'_>, number: u32) {
        let mut call = self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = call.as_mut().filter(|call| call.number != number) {
            call.number = number;
            if std::mem::take(&mut call.raised) {
                raise_in_thread(py, self.thread, None);
            }
        }
    }

    /// The call has ended.
    pub fn leave(&self, py: Python<'_>) {
        let call = self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner).take();
        if call.is_some_and(|call| call.raised) {
            raise_in_thread(py, self.thread, None); // what has not come to pass must not meet the next call
        }
    }

    /// Whether a call is under way.
    pub fn is_in_call(&self, py: Python<'_>) -> bool {
        self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Refuses or cuts the response, if its call is still under way. Needs no interpreter.
    pub fn time_out(&self, number: u32) {
        let call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = call.as_ref().filter(|call| call.number == number) {
            call.slot.time_out();
        }
    }

    /// Raises RequestTimeout in the call, if it is still under way.
    pub fn interrupt(&self, py: Python<'_>, number: u32) {
        let mut call = self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = call.as_mut().filter(|call| call.number == number) {
            call.raised = true;
            raise_in_thread(py, self.thread, Some(&py.get_type::<RequestTimeout>()));
        }
    }

    /// The request under way, as `GET /path`; of `number` only, where one is given.
    pub fn request(&self, py: Python<'_>, number: Option<u32>) -> Option<String> {
        let call = self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        let named = call.as_ref().filter(|call| number.is_none_or(|number| call.number == number));
        let environ = named.map(|call| call.environ.bind(py).clone());
        drop(call);
        let environ = environ?;
        let text = |key: &str| {
            let value = environ.get_item(key).ok().flatten();
            value.map_or_else(|| "?".to_owned(), |value| escaped(&value.to_string()))
        };
        Some(format!("{} {}", text("REQUEST_METHOD"), text("RAW_URI")))
    }

    /// The thread's Python stack, as a traceback shows it.
    ///
    /// # Errors
    /// What `traceback` raises.
    pub fn stack(&self, py: Python<'_>) -> PyResult<String> {
        let frames = py.import(intern!(py, "sys"))?.call_method0(intern!(py, "_current_frames"))?;
        let Some(frame) = frames.cast::<PyDict>()?.get_item(self.thread)? else { return Ok(String::new()) };
        let lines = py.import(intern!(py, "traceback"))?.call_method1(intern!(py, "format_stack"), (frame,))?;
        lines.cast::<PyList>()?.iter().map(|line| line.extract::<String>()).collect()
    }

    /// Tells of a call that takes long, and interrupts it where its time is over.
    ///
    /// # Errors
    /// What `traceback` raises.
    pub fn report(&self, py: Python<'_>, call: &LongCall, limit: Duration) -> PyResult<()> {
        let Some(request) = self.request(py, Some(call.number)) else { return Ok(()) };
        let (tenths, limit) = ((call.so_far.as_millis() + 50) / 100, seconds(limit));
        let mut text = format!("{request} has been running for {}.{} s, longer than ", tenths / 10, tenths % 10);
        // Infallible: it is a String.
        let _ = match call.is_over_time {
            true => write!(text, "timeout={limit}: its client is answered, and RequestTimeout raised in it"),
            false => write!(text, "slow_request={limit}"),
        };
        say(py, "warning", &format!("{text}; the stack above says where it is"), &self.stack(py)?)
    }
}

/// A number of seconds with no more places than it needs. Not by way of a float: what formats those is 20 KB of code.
fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Says it as one of the server's messages, of a level, and a stack with it.
///
/// # Errors
/// What it raises.
pub fn say(py: Python<'_>, level: &str, text: &str, stack: &str) -> PyResult<()> {
    py.import(intern!(py, "bjoern.messages"))?.call_method1(level, (text, stack)).map(drop)
}

/// A target as a log can show it: control characters and what is not ASCII are escaped, and it ends somewhere.
fn escaped(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_default).collect()
}

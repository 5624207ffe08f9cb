//! What a thread is doing right now, for others to see: which request, since which call; and to interrupt it.
//! Knows: Python's threads.   Must not know: why somebody asks.
//! Invariant: an exception raised here meets the call that it was meant for, or none.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bjoern_engine::LongCall;
use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::ffi::raise_in_thread;
use crate::response::ReplySlot;

/// A call of the application took longer than the option `timeout`.
///
/// Raised in the thread of that call, wherever it is in Python code. Like asyncio.CancelledError it is no Exception, so that
/// `except Exception` does not swallow it.
#[pyclass(extends = PyBaseException, subclass, frozen, module = "bjoern")]
pub struct RequestTimeout;

#[pymethods]
impl RequestTimeout {
    /// CPython makes the exception in the thread that it was raised in, as it comes to pass.
    #[new]
    #[pyo3(signature = (*_arguments))]
    fn new(_arguments: &Bound<'_, PyTuple>) -> RequestTimeout {
        let own = OWN.with(|own| own.borrow().clone());
        own.inspect(|own| own.note_interruption(_arguments.py()));
        RequestTimeout
    }
}

thread_local! {
    /// What the calling thread is doing, where it runs the application and somebody looks.
    static OWN: RefCell<Option<Arc<CurrentCall>>> = const { RefCell::new(None) };
}

/// Runs Python code of the server's own in the middle of a call of the application: RequestTimeout, which is for the
/// application's code, waits until it is over.
pub fn undisturbed<T>(py: Python<'_>, work: impl FnOnce() -> T) -> T {
    let own = OWN.with(|own| own.borrow().clone());
    if let Some(own) = &own {
        own.hold_back(py);
    }
    let result = work();
    if let Some(own) = &own {
        own.let_go(py);
    }
    result
}

/// The calling thread goes on with its call after a wait for its client: see [`CurrentCall::renew`].
pub fn renew(py: Python<'_>, number: u32) {
    if let Some(own) = OWN.with(|own| own.borrow().clone()) {
        own.renew(py, number);
    }
}

/// A signal handler of the server's, which RequestTimeout does not interrupt.
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
        let py = number.py();
        undisturbed(py, || self.0.bind(py).call1((number, frame)).map(drop))?;
        // What waited for it comes now: a call that sleeps in C would sleep on.
        let own = OWN.with(|own| own.borrow().clone());
        match own.is_some_and(|own| own.takes_interruption(py)) {
            true => Err(PyErr::new::<RequestTimeout, _>(())),
            false => Ok(()),
        }
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
    /// RequestTimeout has been raised in it.
    raised: bool,
    /// It has not come to pass yet.
    is_due: bool,
    /// How much code of the server's own runs in it, for which RequestTimeout waits.
    held_back: u32,
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

    /// The calling thread is the one.
    pub fn adopt(self: &Arc<Self>) {
        OWN.with(|own| *own.borrow_mut() = Some(self.clone()));
    }

    fn lock<'a>(&'a self, py: Python<'_>) -> MutexGuard<'a, Option<Call>> {
        self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    /// RequestTimeout waits from now on.
    fn hold_back(&self, py: Python<'_>) {
        if let Some(call) = self.lock(py).as_mut() {
            call.held_back += 1;
            if call.is_due {
                raise_in_thread(py, self.thread, None);
            }
        }
    }

    /// RequestTimeout comes to pass.
    fn note_interruption(&self, py: Python<'_>) {
        if let Some(call) = self.lock(py).as_mut() {
            call.is_due = false;
        }
    }

    /// Whether RequestTimeout has been raised and has not come to pass, where it may: the caller raises it.
    fn takes_interruption(&self, py: Python<'_>) -> bool {
        let mut call = self.lock(py);
        let Some(call) = call.as_mut().filter(|call| call.is_due && call.held_back == 0) else { return false };
        call.is_due = false;
        raise_in_thread(py, self.thread, None);
        true
    }

    /// It waits no longer.
    fn let_go(&self, py: Python<'_>) {
        if let Some(call) = self.lock(py).as_mut() {
            call.held_back = call.held_back.saturating_sub(1);
            if call.is_due && call.held_back == 0 {
                raise_in_thread(py, self.thread, Some(&py.get_type::<RequestTimeout>()));
            }
        }
    }

    /// A call begins.
    pub fn enter(&self, py: Python<'_>, number: u32, environ: &Py<PyDict>, slot: &Arc<ReplySlot>) {
        let call = Call {
            number,
            environ: environ.clone_ref(py),
            slot: slot.clone(),
            raised: false,
            is_due: false,
            held_back: 0,
        };
        *self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner) = Some(call);
    }

    /// The application goes on, and its time begins anew: what was meant for the time before meets nothing any more.
    pub fn renew(&self, py: Python<'_>, number: u32) {
        let mut call = self.call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = call.as_mut().filter(|call| call.number != number) {
            call.number = number;
            call.is_due = false;
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
        loop {
            let mut place = self.lock(py);
            let Some(call) = place.as_mut().filter(|call| call.number == number) else { return };
            // Nothing from here to the exception lets another thread run Python code.
            if !self.is_starting_thread(py).unwrap_or(false) {
                (call.raised, call.is_due) = (true, true);
                if call.held_back == 0 {
                    raise_in_thread(py, self.thread, Some(&py.get_type::<RequestTimeout>()));
                }
                return;
            }
            drop(place);
            py.detach(|| thread::sleep(Duration::from_millis(1)));
        }
    }

    /// Whether the thread is just starting another. Before CPython 3.12 that has its creator's number until it runs, and
    /// would get what is raised.
    fn is_starting_thread(&self, py: Python<'_>) -> PyResult<bool> {
        if py.version_info() >= (3, 12) {
            return Ok(false);
        }
        let Some(threading) =
            py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?.get_item("threading").ok()
        else {
            return Ok(false);
        };
        let start = threading.getattr(intern!(py, "Thread"))?.getattr(intern!(py, "start"))?;
        let start = start.getattr(intern!(py, "__code__"))?;
        let frames = py.import(intern!(py, "sys"))?.call_method0(intern!(py, "_current_frames"))?;
        let mut frame = frames.cast::<PyDict>()?.get_item(self.thread)?;
        while let Some(this) = frame.filter(|frame| !frame.is_none()) {
            if this.getattr(intern!(py, "f_code"))?.is(&start) {
                return Ok(true);
            }
            frame = Some(this.getattr(intern!(py, "f_back"))?);
        }
        Ok(false)
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

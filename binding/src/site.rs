//! One WSGI application and what serving it takes: what ends the server, what its threads are doing, what is told of them.
//! Must not know: how a request is answered.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use bjoern_engine::Stopper;
use bjoern_engine::io::{Bell, Process, SystemWaker};
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyInt, PyList};

use crate::child::end_if_forked;
use crate::current_call::{CurrentCall, RequestTimeout, undisturbed};
use crate::environ::Environs;
use crate::errors::print_exception;
use crate::ffi::calls;

/// For what is still to be told when the server ends.
const TIME_TO_REPORT: Duration = Duration::from_secs(1);

/// A WSGI application and what serving it takes.
pub struct Site {
    /// The process that serves. In any other, the application's code must not come back to the server.
    pub home: Process,
    pub application: Py<PyAny>,
    pub environs: Environs,
    /// End the server when the application asks for it by SystemExit.
    pub stopper: OnceLock<Stopper<SystemWaker>>,
    hooks: Hooks,
    pub limits: Limits,
    threads: usize,
    /// Somebody looks at what threads do.
    is_watched: bool,
    /// Of each thread that somebody looks at, by its number: what it is doing.
    calls: Mutex<Vec<Option<Arc<CurrentCall>>>>,
    /// Rung when a thread leaves, a signal comes, or the server ends without a thread.
    bell: Bell,
    /// Signals that end the process where no handler can run, a bit for each.
    fatal: AtomicU64,
    /// The thread that `run()` was called in, and how often it has looked for signals.
    runner: OnceLock<ThreadId>,
    heard: AtomicU32,
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
    /// Called to have one more thread come to `work()`: whether one will.
    pub add_thread: Py<PyAny>,
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
        bell: Bell,
    ) -> Arc<Site> {
        let is_watched = threads > 1 || !limits.timeout.is_zero() || !limits.slow_request.is_zero();
        Arc::new(Site {
            home: Process::this(),
            application,
            environs,
            stopper: OnceLock::new(),
            hooks,
            limits,
            threads,
            is_watched,
            calls: Mutex::default(),
            bell,
            fatal: AtomicU64::new(0),
            runner: OnceLock::new(),
            heard: AtomicU32::new(0),
            raised: Mutex::default(),
            reports: Mutex::default(),
        })
    }

    /// What the collector must see.
    pub fn references(&self) -> [&Py<PyAny>; 4] {
        [&self.application, &self.hooks.draining, &self.hooks.unfinished, &self.hooks.add_thread]
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
    pub fn drain(&self, py: Python<'_>) {
        self.stop(true);
        let draining = self.hooks.draining.bind(py);
        if !draining.is_none()
            && let Err(error) = draining.call0()
        {
            print_exception(py, &error);
        }
    }

    /// How many threads may run the application at the same time.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether another thread than those that run the application waits for the end: several were asked for.
    pub fn is_overseen(&self) -> bool {
        self.threads > 1
    }

    /// The calling thread is in `run()`: it runs the handlers of signals, of which `fatal` end the process in any case.
    pub fn begin(&self, fatal: &[u8]) {
        if self.runner.set(thread::current().id()).is_err() {
            return;
        }
        let bits = fatal.iter().filter(|signal| **signal < 64).fold(0, |bits, signal| bits | 1 << signal);
        self.fatal.store(bits, Ordering::Release);
    }

    /// Whether a signal ends the process where no handler can run.
    pub fn is_fatal(&self, signal: u8) -> bool {
        signal < 64 && self.fatal.load(Ordering::Acquire) >> signal & 1 == 1
    }

    /// Runs the handlers of signals that have come, where this is the thread that does.
    ///
    /// # Errors
    /// What a handler raises.
    pub fn check_signals(&self, py: Python<'_>) -> PyResult<()> {
        let checked = py.check_signals();
        end_if_forked(py, self.home, checked.as_ref().err(), None); // by a handler
        if self.runner.get() == Some(&thread::current().id()) {
            self.heard.fetch_add(1, Ordering::Release);
        }
        checked
    }

    /// As [`Site::hear_signals`], before a wait: whether that is how the thread hears of signals does not matter then.
    pub fn look_for_signals(&self, py: Python<'_>) {
        let checked = py.check_signals();
        end_if_forked(py, self.home, checked.as_ref().err(), None); // by a handler
        if let Err(error) = checked {
            self.end_with(py, error);
        }
    }

    /// As [`Site::check_signals`], where what a handler raises is no request's: it ends the server.
    pub fn hear_signals(&self, py: Python<'_>) {
        if let Err(error) = self.check_signals(py) {
            self.end_with(py, error);
        }
    }

    /// How often that thread has looked for signals.
    pub fn signals_heard(&self) -> u32 {
        self.heard.load(Ordering::Acquire)
    }

    /// What is rung when a thread leaves.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// A thread of that number comes: where it says what it is doing, if somebody looks.
    pub fn join(&self, py: Python<'_>, thread: usize) -> Option<Arc<CurrentCall>> {
        if !self.is_watched && thread == 0 {
            return None;
        }
        let call = Arc::new(CurrentCall::new(py).ok()?); // else it cannot be told of, or interrupted
        let mut calls = self.calls.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        let count = calls.len().max(thread + 1);
        calls.resize(count, None);
        call.adopt();
        let before = calls[thread].replace(call.clone());
        drop(calls);
        drop(before);
        Some(call)
    }

    /// What the thread of that number is doing. Needs no interpreter.
    pub fn call_of(&self, thread: usize) -> Option<Arc<CurrentCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(thread).cloned().flatten()
    }

    fn calls(&self, py: Python<'_>) -> Vec<Arc<CurrentCall>> {
        let calls = self.calls.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        calls.iter().flatten().cloned().collect()
    }

    /// How many threads are in the application.
    pub fn in_calls(&self, py: Python<'_>) -> usize {
        self.calls(py).iter().filter(|call| call.is_in_call(py)).count()
    }

    /// Has one more thread come. Whether one will.
    pub fn add_thread(&self, py: Python<'_>) -> bool {
        let added = calls::call(self.hooks.add_thread.bind(py), []).and_then(|added| added.is_truthy());
        added.unwrap_or_else(|error| {
            print_exception(py, &error);
            false
        })
    }

    /// Tells which requests are left without an answer by the end.
    pub fn tell_unfinished(&self, py: Python<'_>, signal: Option<u8>) {
        let requests: Vec<String> = self.calls(py).iter().filter_map(|call| call.request(py, None)).collect();
        let unfinished = self.hooks.unfinished.bind(py);
        if !unfinished.is_none()
            && let Err(error) = PyList::new(py, requests)
                .and_then(|list| calls::call(unfinished, [list.as_any(), PyInt::new(py, signal.unwrap_or(0)).as_any()]))
        {
            self.end_with(py, error);
        }
    }

    /// Runs `tell` in a thread of its own, which waits for the interpreter: the watch must not. Without the thread it is
    /// left out.
    pub fn report_by(&self, tell: impl FnOnce() + Send + 'static) {
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
    pub fn report(&self, py: Python<'_>, error: PyErr) {
        if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
            self.end_with(py, error);
        } else if !error.is_instance_of::<RequestTimeout>(py) {
            undisturbed(py, || print_exception(py, &error));
        }
    }
}

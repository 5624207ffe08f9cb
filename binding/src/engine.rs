//! `Engine`: the engine as a Python object, with as many loops and threads as the options and the interpreter ask for.
//! Options come in by their names, exceptions go out.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bjoern_engine::http1::{self, MAX_HEAD_BYTES};
use bjoern_engine::io::{Bell, Process, System};
use bjoern_engine::proxies::Trusted;
use bjoern_engine::{AccessLog, Books, Config, Counters, LogFormat, Server};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::environ::Environs;
use crate::errors::reason;
use crate::ffi::{duplicate, shared_rows};
use crate::site::{Hooks, Limits, Site};
use crate::wsgi::Wsgi;

/// After the end, for a thread that waits for its client, which it does for a second at a time, or for one in no call.
const TIME_TO_LEAVE: Duration = Duration::from_secs(2);

/// For a thread that is between two blocks of a response when the server ends.
const TIME_TO_CUT: Duration = Duration::from_millis(200);

/// A server on sockets that already listen, with one event loop or, without the GIL and with several threads, one a core.
///
/// `listeners` are descriptors; they are duplicated, the caller keeps its own. `options` has the fields of
/// `bjoern.Options` as attributes.
///
/// `draining` is called when the engine ends by itself (the application or a handler raised, or `max_requests` have come),
/// before the drain;
/// `unfinished` when it ends though calls of the application have not, with a list of their requests ("GET /path") and the
/// number of a signal that came while no handler could run, or 0; `add_thread` has one more thread come to `work()`, since
/// one that is there waits for its client, and says whether one will.
///
/// `board` is memory that processes share, such as an anonymous mmap: `BOARD_BYTES` for each of them, whose meaning
/// `board_names()` tells. This one has the row `worker`, and looks at the others' to accept no more than its share. The
/// engine keeps the memory for as long as the process lives.
///
/// Raises OSError for a descriptor that is not an open socket, or an access log that cannot be opened; ValueError for a
/// socket that does not listen, or a board that is none; TypeError for an application that cannot be called.
#[pyclass(module = "bjoern", frozen)]
pub struct Engine {
    server: Arc<Server<System, Wsgi>>,
    site: Arc<Site>,
    log: Option<Arc<AccessLog>>,
    started: AtomicBool,
    /// The process that serves: what the application forks is not the server.
    home: Process,
    /// The descriptors of its listeners.
    listening: Vec<RawFd>,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (app, listeners, options, draining=None, unfinished=None, board=None, worker=0, add_thread=None))]
    #[allow(clippy::too_many_arguments)] // they are Python's, by name
    fn new(
        app: &Bound<'_, PyAny>,
        listeners: Vec<RawFd>,
        options: &Bound<'_, PyAny>,
        draining: Option<Py<PyAny>>,
        unfinished: Option<Py<PyAny>>,
        board: Option<&Bound<'_, PyAny>>,
        worker: usize,
        add_thread: Option<Py<PyAny>>,
    ) -> PyResult<Engine> {
        let py = app.py();
        if !app.is_callable() {
            let got = app.get_type().name()?;
            return Err(PyTypeError::new_err(format!("the WSGI application must be callable (got '{got}' object)")));
        }
        let config = config(options)?;
        let threads = config.threads;
        let nets = (0..loops(py, threads)?).map(|_| {
            let descriptors = listeners.iter().map(|fd| duplicate(*fd)).collect::<Result<Vec<_>, _>>()?;
            System::new(descriptors).map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
                _ => error.into(),
            })
        });
        let nets = nets.collect::<PyResult<Vec<_>>>()?;
        let listening = nets.iter().flat_map(System::listening).collect();
        let addresses = nets.first().map(System::addresses).unwrap_or_default();
        let errors = py.import("sys")?.getattr("stderr")?;
        let root_path: String = options.getattr("root_path")?.extract()?;
        let environs = Environs::new(py, &addresses, &errors, threads > 1, &root_path)?;
        let or_none = |hook: Option<Py<PyAny>>| hook.unwrap_or_else(|| py.None());
        let hooks =
            Hooks { draining: or_none(draining), unfinished: or_none(unfinished), add_thread: or_none(add_thread) };
        let limits = Limits { timeout: config.timeout, slow_request: config.slow_request };
        let site = Site::new(app.clone().unbind(), environs, hooks, limits, threads, Bell::new()?);
        let counters = match board {
            None => Counters::default(),
            Some(board) => counters(board, worker)?,
        };
        let log = access_log(options)?.map(Arc::new);
        let books = Books { counters: Arc::new(counters), log: log.clone() };
        let server = Arc::new(Server::with_books(nets, Wsgi { site: site.clone() }, config, books));
        let _ = site.stopper.set(server.stopper());
        Ok(Engine { server, site, log, started: AtomicBool::new(false), home: Process::this(), listening })
    }

    /// The descriptor for `signal.set_wakeup_fd`: a byte written to it has `run()` run signal handlers.
    ///
    /// Raises OSError where there is no descriptor left.
    #[getter]
    fn wakeup_fd(&self) -> PyResult<RawFd> {
        Ok(self.server.bell()?.as_fd().as_raw_fd())
    }

    /// The descriptors of its own that listen, while it accepts.
    #[getter]
    fn listening(&self) -> Vec<RawFd> {
        self.listening.clone()
    }

    /// How many of several threads are in `work()`; after `run()`, those whose call of the application has not come back.
    #[getter]
    fn at_work(&self) -> usize {
        self.server.at_work()
    }

    /// The calling thread will be in `run()`; from now on signals are heard, and looked after where no handler can run.
    ///
    /// `fatal_signals` are those that end the process even then: its thread is in a call of the application, in C code, or
    /// such a call holds the interpreter. They begin the drain; after `graceful_timeout`, or three seconds after the second
    /// of them, the process exits with 128 and the signal's number.
    ///
    /// Raises OSError where a thread for that cannot be started, and the options need one.
    fn begin(&self, fatal_signals: Vec<u8>) -> PyResult<()> {
        self.site.begin(&fatal_signals);
        match self.server.begin_watch() {
            Err(error) if self.site.is_overseen() => Err(error.into()),
            _ => Ok(()), // else signals are heard where they interrupt a wait
        }
    }

    /// Serves until stopped and drained, once. With several threads, each of them must be in `work()`, and the calling
    /// thread only waits for them.
    ///
    ///
    /// Raises what a signal handler raised, or the SystemExit or KeyboardInterrupt of the application, after the
    /// drain; OSError where the system's poller fails, or a thread cannot be started.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        if self.started.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err("an Engine runs only once"));
        }
        self.site.begin(&[]);
        let result = match self.site.is_overseen() {
            true => self.oversee(py),
            false => self.serve_alone(py),
        };
        self.site.await_reports(py);
        match self.site.take_raised() {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// One of several threads' share of the work, until the engine ends; `run()` raises what fails here.
    fn work(&self, py: Python<'_>) {
        if let Err(error) = self.server.work() {
            self.site.end_with(py, error.into());
        }
    }

    /// Ends `run()`: graceful, after the requests in flight and no later than `graceful_timeout`; else at once.
    /// May be called from any thread or signal handler, and before `run()`. In a forked child it does nothing.
    #[pyo3(signature = (graceful=true))]
    fn stop(&self, graceful: bool) {
        if !self.home.is_this() {
            return;
        }
        // Where no thread comes back from the application, it is the watch that ends the server; without one it would wait.
        let _ = self.server.begin_watch();
        self.site.stop(graceful);
    }

    /// Ends what `stop()` has begun, where `run()` never will: once all threads have left `work()`.
    fn close(&self) {
        self.server.end_watch();
    }

    /// Opens the access log anew by its path, which may have been renamed meanwhile.
    ///
    /// Raises OSError where that cannot be done; the old one is written to then.
    fn reopen_logs(&self, py: Python<'_>) -> PyResult<()> {
        let Some(log) = &self.log else { return Ok(()) };
        py.detach(|| log.reopen()).map_err(|error| named(&error, log.path().map(|path| path.display().to_string())))
    }

    /// An application may refer to its own server: the collector must be able to see it.
    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        self.site.references().into_iter().try_for_each(|object| visit.call(object))
    }

    /// Counts since the start, by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for (name, count) in self.server.counters().all() {
            stats.set_item(name, count)?;
        }
        Ok(stats)
    }
}

impl Engine {
    /// Serves by the calling thread, and by others only while it waits for a client.
    fn serve_alone(&self, py: Python<'_>) -> PyResult<()> {
        let served = self.server.run();
        let end = Instant::now() + TIME_TO_LEAVE;
        while self.at_work() > self.site.in_calls(py) || self.server.waiting() > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            py.detach(|| self.site.bell().wait(Some(left)))?;
        }
        self.cut_unfinished(py);
        Ok(served?)
    }

    /// Cuts what threads that are left behind have not finished; one that is about to go on is waited for, for a moment.
    fn cut_unfinished(&self, py: Python<'_>) {
        let end = Instant::now() + TIME_TO_CUT;
        while !self.server.cut_unfinished() && Instant::now() < end {
            let _ = py.detach(|| self.site.bell().wait(Some(Duration::from_millis(1))));
        }
    }

    /// Waits for the threads that work, and hears signals meanwhile.
    fn oversee(&self, py: Python<'_>) -> PyResult<()> {
        let begun = self.server.begin_watch();
        let mut end = None;
        let result = begun.map_err(PyErr::from).and_then(|_| {
            loop {
                let has_ended = self.server.has_ended();
                if has_ended && self.at_work() <= self.site.in_calls(py) && self.server.waiting() == 0 {
                    return Ok(());
                }
                let left = has_ended.then(|| {
                    let end = *end.get_or_insert_with(|| Instant::now() + TIME_TO_LEAVE);
                    end.saturating_duration_since(Instant::now())
                });
                if left.is_some_and(|left| left.is_zero()) {
                    return Ok(());
                }
                py.detach(|| self.site.bell().wait(left))?;
                self.site.hear_signals(py);
            }
        });
        if result.is_err() {
            self.site.stop(false);
        }
        self.cut_unfinished(py);
        if result.is_ok() && self.at_work() > 0 {
            self.site.tell_unfinished(py, None);
        }
        self.server.end_watch();
        result
    }
}

/// An OSError that names the access log.
fn named(error: &std::io::Error, path: Option<String>) -> PyErr {
    let reason = reason(error);
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, format!("the access log cannot be opened ({reason})"), path)),
        None => PyOSError::new_err(reason),
    }
}

/// The access log that the options ask for.
fn access_log(options: &Bound<'_, PyAny>) -> PyResult<Option<AccessLog>> {
    let Some(path) = options.getattr("access_log")?.extract::<Option<PathBuf>>()? else { return Ok(None) };
    let format = log_format(&options.getattr("access_log_format")?.extract::<String>()?)?;
    if path.as_os_str() == "-" {
        return AccessLog::on_stdout(format).map(Some).map_err(|error| named(&error, Some("-".to_owned())));
    }
    let shown = path.display().to_string();
    AccessLog::open(path, format).map(Some).map_err(|error| named(&error, Some(shown)))
}

/// A format of the access log.
///
/// # Errors
/// ValueError with what is wrong with it.
pub fn log_format(text: &str) -> PyResult<LogFormat> {
    LogFormat::parse(text).map_err(|bad| PyValueError::new_err(bad.to_string()))
}

fn counters(board: &Bound<'_, PyAny>, worker: usize) -> PyResult<Counters> {
    let rows = shared_rows(board)?;
    Counters::on_board(rows, worker).ok_or_else(|| {
        PyValueError::new_err(format!("the board has {} rows, and none for worker {worker}", rows.len()))
    })
}

/// How many loops so many threads have. Only one thread at a time runs Python where there is a GIL, so one is right there;
/// else one a core.
fn loops(py: Python<'_>, threads: usize) -> PyResult<usize> {
    if !cfg!(Py_GIL_DISABLED) || threads == 1 {
        return Ok(1);
    }
    let sys = py.import("sys")?;
    // A module may have switched it on.
    let is_locked = sys.call_method0("_is_gil_enabled")?.is_truthy()?;
    if is_locked {
        return Ok(1);
    }
    Ok(std::thread::available_parallelism().map_or(1, usize::from).min(threads))
}

/// Reads the engine's options from an object by their names.
fn config(options: &Bound<'_, PyAny>) -> PyResult<Config> {
    let seconds = |name: &str| -> PyResult<Duration> {
        let value = options.getattr(name)?;
        Duration::try_from_secs_f64(value.extract()?)
            .map_err(|_| PyValueError::new_err(format!("{name} must be seconds, not {value}")))
    };
    let server_header: Option<String> = options.getattr("server_header")?.extract()?;
    let forwarded_allow_ips: String = options.getattr("forwarded_allow_ips")?.extract()?;
    let trusted = Trusted::parse(&forwarded_allow_ips)
        .map_err(|part| PyValueError::new_err(format!("forwarded_allow_ips must not have {part:?} in it")))?;
    Ok(Config {
        limits: http1::Limits {
            max_head: options.getattr("max_head")?.extract::<usize>()?.min(MAX_HEAD_BYTES),
            max_fields: options.getattr("max_fields")?.extract()?,
            require_host: options.getattr("require_host")?.extract()?,
        },
        max_body: options.getattr("max_body")?.extract()?,
        body_buffer: options.getattr("body_buffer")?.extract()?,
        max_body_memory: options.getattr("max_body_memory")?.extract()?,
        max_body_disk: options.getattr("max_body_disk")?.extract()?,
        header_timeout: seconds("header_timeout")?,
        body_timeout: seconds("body_timeout")?,
        write_timeout: seconds("write_timeout")?,
        min_body_rate: options.getattr("min_body_rate")?.extract()?,
        min_send_rate: options.getattr("min_send_rate")?.extract()?,
        keep_alive: seconds("keep_alive")?,
        graceful_timeout: seconds("graceful_timeout")?,
        max_connections: options.getattr("max_connections")?.extract()?,
        threads: options.getattr("threads")?.extract()?,
        max_parked: options.getattr("max_parked")?.extract()?,
        timeout: seconds("timeout")?,
        slow_request: seconds("slow_request")?,
        max_queue: options.getattr("max_queue")?.extract()?,
        max_requests: options.getattr("max_requests")?.extract()?,
        date_header: options.getattr("date_header")?.extract()?,
        trusted,
        proxy_protocol: options.getattr("proxy_protocol")?.extract()?,
        server_header: server_header.map(String::into_bytes),
    })
}

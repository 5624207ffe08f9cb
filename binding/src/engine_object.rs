//! `Engine`: the engine as a Python object. Options come in by their names, exceptions go out.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bjoern_engine::http1::head::MAX_HEAD_BYTES;
use bjoern_engine::io::System;
use bjoern_engine::{Config, Server};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::environ::Environs;
use crate::ffi::duplicate;
use crate::wsgi::Wsgi;

/// One event loop on sockets that already listen.
///
/// `listeners` are descriptors; they are duplicated, the caller keeps its own. `options` has the fields of
/// `bjoern.Options` as attributes.
///
/// `draining` is called when the engine ends by itself (the application or a handler raised), before the drain.
///
/// Raises OSError for a descriptor that is not an open socket, ValueError for a socket that does not listen,
/// TypeError for an application that cannot be called.
#[pyclass(module = "bjoern", frozen)]
pub struct Engine {
    server: Server<System, Wsgi>,
    started: AtomicBool,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (app, listeners, options, draining=None))]
    fn new(
        app: &Bound<'_, PyAny>,
        listeners: Vec<RawFd>,
        options: &Bound<'_, PyAny>,
        draining: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Engine> {
        let py = app.py();
        if !app.is_callable() {
            let got = app.get_type().name()?;
            return Err(PyTypeError::new_err(format!("the WSGI application must be callable (got '{got}' object)")));
        }
        let config = config(options)?;
        let descriptors = listeners.into_iter().map(duplicate).collect::<Result<Vec<_>, _>>()?;
        let net = System::new(descriptors).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
            _ => error.into(),
        })?;
        let draining = draining.map_or_else(|| py.None(), Bound::unbind);
        let errors = py.import("sys")?.getattr("stderr")?;
        let environs = Environs::new(py, &net.addresses(), &errors)?;
        let server = Server::new(net, Wsgi::new(app.clone().unbind(), environs, draining), config);
        let _ = server.app().stopper.set(server.stopper());
        Ok(Engine { server, started: AtomicBool::new(false) })
    }

    /// The descriptor for `signal.set_wakeup_fd`: a byte written to it wakes the loop, which runs signal handlers.
    #[getter]
    fn wakeup_fd(&self) -> RawFd {
        self.server.waker().as_fd().as_raw_fd()
    }

    /// Serves until stopped and drained, once.
    ///
    /// Raises what a signal handler raised, or the SystemExit or KeyboardInterrupt of the application, after the
    /// drain; OSError where the system's poller fails.
    fn run(&self) -> PyResult<()> {
        if self.started.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err("an Engine runs only once"));
        }
        let result = self.server.run();
        if let Some(error) = self.server.app().take_raised() {
            return Err(error);
        }
        Ok(result?)
    }

    /// Ends `run()`: graceful, after the requests in flight and no later than `graceful_timeout`; else at once.
    /// May be called from any thread or signal handler, and before `run()`.
    #[pyo3(signature = (graceful=true))]
    fn stop(&self, graceful: bool) {
        self.server.stopper().stop(graceful);
    }

    /// An application may refer to its own server: the collector must be able to see it.
    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        visit.call(self.server.app().application())?;
        visit.call(self.server.app().draining())
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

/// Reads the engine's options from an object by their names.
fn config(options: &Bound<'_, PyAny>) -> PyResult<Config> {
    let seconds = |name: &str| -> PyResult<Duration> {
        let value: f64 = options.getattr(name)?.extract()?;
        Duration::try_from_secs_f64(value)
            .map_err(|_| PyValueError::new_err(format!("{name} must be seconds, not {value}")))
    };
    let server_header: Option<String> = options.getattr("server_header")?.extract()?;
    Ok(Config {
        max_head: options.getattr("max_head")?.extract::<usize>()?.min(MAX_HEAD_BYTES),
        max_fields: options.getattr("max_fields")?.extract()?,
        max_body: options.getattr("max_body")?.extract()?,
        body_buffer: options.getattr("body_buffer")?.extract()?,
        header_timeout: seconds("header_timeout")?,
        body_timeout: seconds("body_timeout")?,
        write_timeout: seconds("write_timeout")?,
        keep_alive: seconds("keep_alive")?,
        graceful_timeout: seconds("graceful_timeout")?,
        max_connections: options.getattr("max_connections")?.extract()?,
        require_host: options.getattr("require_host")?.extract()?,
        date_header: options.getattr("date_header")?.extract()?,
        server_header: server_header.map(String::into_bytes),
    })
}

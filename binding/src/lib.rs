//! `bjoern._bjoern`: WSGI (PEP 3333) for the engine.
//!
//! ```text
//!   engine ──► wsgi ──► stream ──► start_response, site ──► child, current_call, environ, file_wrapper ──► response ──► errors, ffi
//! ```
//!
//! Must not know: sockets' traffic, HTTP grammar.
//! Invariant: unsafe code is in `ffi` alone; no lock is held while Python code may run.
#![deny(unsafe_code)]

mod child;
mod current_call;
mod engine;
mod environ;
mod errors;
mod ffi;
mod file_wrapper;
mod response;
mod site;
mod start_response;
mod stream;
mod wsgi;

/// The extension module.
#[pyo3::pymodule]
mod _bjoern {
    use pyo3::prelude::*;
    use pyo3::types::{PyDict, PyTuple};

    #[pymodule_export]
    use crate::current_call::SignalHandler;
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::file_wrapper::FileWrapper;

    /// bjoern 3's positional entry: `server_run(sock, wsgi_app[, statsd…])`. What follows the application is ignored.
    #[pyfunction]
    #[pyo3(signature = (sock, wsgi_app, *_statsd))]
    fn server_run(sock: &Bound<'_, PyAny>, wsgi_app: &Bound<'_, PyAny>, _statsd: &Bound<'_, PyTuple>) -> PyResult<()> {
        sock.py().import("bjoern")?.call_method1("server_run", (sock, wsgi_app)).map(drop)
    }

    /// To be called after `os.fork()`: a child holds the connections, too, so its parent shuts them down from now on, and
    /// does not just close them; the child must not. And it knows that it is not the server.
    #[pyfunction]
    fn note_fork(in_parent: bool) {
        bjoern_engine::io::note_fork(in_parent);
    }

    /// The address of the function that the system runs for a signal; 0: its default, 1: it is ignored. Python's own is
    /// the same for all that have a handler in Python; another is a library's, of which `signal` does not know.
    #[pyfunction]
    fn signal_handler(py: Python<'_>, number: i32) -> usize {
        crate::ffi::signal_handler(py, number)
    }

    /// What each 64-bit word of a worker's row on the board is.
    #[pyfunction]
    fn board_names() -> Vec<String> {
        bjoern_engine::Counters::names()
    }

    /// Raises ValueError where `format` is none of the access log's.
    #[pyfunction]
    fn check_access_log_format(format: &str) -> PyResult<()> {
        crate::engine::log_format(format).map(drop)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("RequestTimeout", module.py().get_type::<crate::current_call::RequestTimeout>())?;
        module.add("BOARD_BYTES", size_of::<bjoern_engine::Row>())?;
        let part = |text: &str| text.parse::<u32>().unwrap_or_default();
        let version = (
            part(env!("CARGO_PKG_VERSION_MAJOR")),
            part(env!("CARGO_PKG_VERSION_MINOR")),
            part(env!("CARGO_PKG_VERSION_PATCH")),
        );
        module.add("version", version)?;
        let features = PyDict::new(module.py());
        features.set_item("has_signal_handling", true)?;
        features.set_item("has_sigint_handling", true)?;
        features.set_item("has_statsd", false)?;
        features.set_item("has_statsd_tags", false)?;
        module.add("features", features)
    }
}

//! Processes that the application forks: none of them is the server, and none goes on with its work.
//! Knows: which process has called the application.   Must not know: how a child ends; `bjoern.children` does.
//! Invariant: called where the application's code has come back, before anything of the server is touched: a lock may be
//! held for ever by a thread that is not there.

use bjoern_engine::io::Process;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::ffi::exit_now;

/// Returns in `home`, the process that has called the application. A child ends here, as a program would that `raised` or
/// has returned; `environ` is of the request that it was forked in.
pub fn end_if_forked(py: Python<'_>, home: Process, raised: Option<&PyErr>, environ: Option<&Bound<'_, PyDict>>) {
    if !home.is_this() {
        end(py, raised, environ);
    }
}

#[cold]
fn end(py: Python<'_>, raised: Option<&PyErr>, environ: Option<&Bound<'_, PyDict>>) -> ! {
    let leave = py.import(intern!(py, "bjoern.children")).and_then(|module| module.getattr(intern!(py, "leave")));
    let raised = raised.map(|error| error.value(py));
    let _ = leave.and_then(|leave| leave.call1((raised, environ))); // it does not come back
    exit_now(1)
}

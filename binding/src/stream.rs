//! A response that is produced bit by bit: an iterator, asked for one block at a time.
//! Invariant: `close()` of the iterable is called exactly once, by `next` at the end or by `close` before it.

use bjoern_engine::Progress;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator};

use crate::ffi::Block;
use crate::start_response::{StartResponse, type_name};
use crate::wsgi::{Reply, print_exception};

/// The rest of a response.
pub struct Stream {
    iterable: Py<PyAny>,
    iterator: Py<PyIterator>,
    start_response: Py<StartResponse>,
}

impl Stream {
    /// Begins to iterate over what the application returned.
    ///
    /// # Errors
    /// TypeError where it cannot be iterated over.
    pub fn new(iterable: &Bound<'_, PyAny>, start_response: &Bound<'_, StartResponse>) -> PyResult<Stream> {
        Ok(Stream {
            iterable: iterable.clone().unbind(),
            iterator: iterable.try_iter()?.unbind(),
            start_response: start_response.clone().unbind(),
        })
    }

    /// `start_response`, which may be called as late as the first block (PEP 3333).
    pub fn start_response<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, StartResponse> {
        self.start_response.bind(py)
    }

    /// The next block, if there is one; `None` at the end. Nothing of the server is held meanwhile.
    pub fn advance<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(block) = self.iterator.bind(py).clone().next() else { return Ok(None) };
        block_of(&block?).map(Some)
    }

    /// Calls the iterable's `close()`, where it has one. What it raises is printed: the response is not changed by it.
    pub fn close(self, py: Python<'_>) {
        close(self.iterable.bind(py));
    }
}

/// Calls `close()` of an iterable, where it has one.
pub fn close(iterable: &Bound<'_, PyAny>) {
    let py = iterable.py();
    let result = match iterable.getattr_opt(intern!(py, "close")) {
        Ok(Some(close)) => close.call0().map(drop),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        print_exception(py, &error);
    }
}

/// A block must be bytes.
pub fn block_of<'py>(block: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    block.cast::<PyBytes>().cloned().map_err(|_| {
        let got = type_name(block);
        PyTypeError::new_err(format!("wsgi iterable items must be bytes (got '{got}' object instead)"))
    })
}

/// Adds `block` to `reply`.
pub fn send(reply: &mut Reply, block: &Bound<'_, PyBytes>) {
    reply.block(block.as_bytes(), || Block::new(block));
}

/// What has become of a response.
pub type Outcome = Progress<Box<Stream>>;

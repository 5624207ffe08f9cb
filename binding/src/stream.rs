//! A response that is produced bit by bit: an iterator, asked for one block at a time.
//! Invariant: `close()` of the iterable is called exactly once, by `next` at the end or by `close` before it.

use bjoern_engine::Progress;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator};

use crate::errors::type_name;
use crate::ffi::{Block, Context, calls};
use crate::start_response::StartResponse;
use crate::wsgi::Reply;

/// What the application has returned and is still to be asked.
pub struct Rest {
    iterable: Py<PyAny>,
    /// What is left to be asked for; nothing where a file has been handed over whole.
    iterator: Option<Py<PyIterator>>,
}

impl Rest {
    /// Begins to iterate over what the application returned.
    ///
    /// # Errors
    /// TypeError where it cannot be iterated over.
    pub fn of(iterable: &Bound<'_, PyAny>) -> PyResult<Rest> {
        Ok(Rest { iterable: iterable.clone().unbind(), iterator: Some(calls::iter(iterable)?.unbind()) })
    }

    /// Nothing more is needed of the application but its `close()`, when everything has been sent.
    pub fn sent(iterable: &Bound<'_, PyAny>) -> Rest {
        Rest { iterable: iterable.clone().unbind(), iterator: None }
    }
}

/// The rest of a response.
pub struct Stream {
    pub rest: Rest,
    /// It may be called as late as the first block (PEP 3333).
    pub start_response: StartResponse,
    /// The request's, which names it.
    pub environ: Py<PyDict>,
    /// The file behind `wsgi.input`, where the body is in one.
    pub input: Option<Py<PyAny>>,
    /// Where the call was made; what the iterable does belongs to the same request (PEP 567).
    pub context: Context,
}

impl Stream {
    /// The next block, if there is one; `None` at the end. Nothing of the server is held meanwhile.
    pub fn advance<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(iterator) = &self.rest.iterator else { return Ok(None) };
        let next = self.context.run(py, || calls::next(iterator.bind(py)))?;
        next.map(|block| block_of(&block)).transpose()
    }

    /// Calls the iterable's `close()`, where it has one, and closes the input.
    ///
    /// # Errors
    /// What `close()` raises; it cannot change the response.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        let closed = self.context.run(py, || close(self.rest.iterable.bind(py)));
        closed.and(self.input.as_ref().map_or(Ok(()), |input| close(input.bind(py))))
    }
}

/// Calls `close()` of `object`, where it has one.
pub fn close(object: &Bound<'_, PyAny>) -> PyResult<()> {
    match object.getattr_opt(intern!(object.py(), "close"))? {
        Some(close) => calls::call(&close, []).map(drop),
        None => Ok(()),
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

//! A response that is produced bit by bit: an iterator, asked for one block at a time.
//! Invariant: `close()` of the iterable is called exactly once, by `next` at the end or by `close` before it.

use bjoern_engine::Progress;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator};

use crate::errors::type_name;
use crate::ffi::{Block, Context};
use crate::start_response::StartResponse;
use crate::wsgi::Reply;

/// The rest of a response.
pub struct Stream {
    iterable: Py<PyAny>,
    /// What is left to be asked for; nothing where a file has been handed over whole.
    iterator: Option<Py<PyIterator>>,
    start_response: Py<StartResponse>,
    /// The file behind `wsgi.input`, where the body is in one.
    pub input: Option<Py<PyAny>>,
    /// Where the call was made; what the iterable does belongs to the same request (PEP 567).
    pub context: Option<Context>,
}

impl Stream {
    /// Begins to iterate over what the application returned.
    ///
    /// # Errors
    /// TypeError where it cannot be iterated over.
    pub fn new(iterable: &Bound<'_, PyAny>, start_response: &Bound<'_, StartResponse>) -> PyResult<Stream> {
        Ok(Stream {
            iterable: iterable.clone().unbind(),
            iterator: Some(iterable.try_iter()?.unbind()),
            start_response: start_response.clone().unbind(),
            input: None,
            context: None,
        })
    }

    /// A response that needs nothing more of the application but its `close()`, when everything has been sent.
    pub fn sent(iterable: &Bound<'_, PyAny>, start_response: &Bound<'_, StartResponse>) -> Stream {
        let (iterable, start_response) = (iterable.clone().unbind(), start_response.clone().unbind());
        Stream { iterable, iterator: None, start_response, input: None, context: None }
    }

    /// `start_response`, which may be called as late as the first block (PEP 3333).
    pub fn start_response<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, StartResponse> {
        self.start_response.bind(py)
    }

    /// The next block, if there is one; `None` at the end. Nothing of the server is held meanwhile.
    pub fn advance<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(iterator) = &self.iterator else { return Ok(None) };
        let next = self.within(py, || iterator.bind(py).clone().next().transpose())?;
        next.map(|block| block_of(&block)).transpose()
    }

    fn within<T>(&self, py: Python<'_>, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        match &self.context {
            Some(context) => context.run(py, work),
            None => work(),
        }
    }

    /// Calls the iterable's `close()`, where it has one, and closes the input.
    ///
    /// # Errors
    /// What `close()` raises; it cannot change the response.
    pub fn close(self, py: Python<'_>) -> PyResult<()> {
        let closed = self.within(py, || close(self.iterable.bind(py)));
        closed.and(self.input.map_or(Ok(()), |input| close(input.bind(py))))
    }
}

/// Calls `close()` of `object`, where it has one.
pub fn close(object: &Bound<'_, PyAny>) -> PyResult<()> {
    match object.getattr_opt(intern!(object.py(), "close"))? {
        Some(close) => close.call0().map(drop),
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

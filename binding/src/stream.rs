//! What the application returned becomes the response: whole, or one block after the other.
//! Knows: PEP 3333's iterables.   Must not know: sockets, which thread leads.
//! Invariant: the next block is asked for only when the client has taken the last, or it lies where the watch sends it.

use bjoern_engine::{AppCall, Boundary};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PyTuple};

use crate::child::end_if_forked;
use crate::current_call::CurrentCall;
use crate::errors::type_name;
use crate::ffi::{Block, calls};
use crate::file_wrapper::FileWrapper;
use crate::response::Reply;
use crate::site::Site;
use crate::start_response::{StartResponse, start};

/// How much of a response [`whole`] has given.
pub enum Given {
    /// All of it; what was returned has no `close()`.
    NeedsNoClose,
    /// All of it.
    Whole,
    /// Nothing: it has to be iterated over.
    Nothing,
}

/// Gives what is whole: `bytes`, a list or a tuple, a file that the kernel can send.
///
/// # Errors
/// TypeError for a block that is not bytes; RuntimeError before `start_response`; what the file raises.
pub fn whole(reply: &mut Reply, returned: &Bound<'_, PyAny>) -> PyResult<Given> {
    // bytes are sent whole, as bjoern 3 does, not byte for byte.
    if let Ok(block) = returned.cast::<PyBytes>() {
        give_one(reply, block)?;
        let is_plain = returned.is_exact_instance_of::<PyBytes>();
        return Ok(if is_plain { Given::NeedsNoClose } else { Given::Whole });
    }
    // Not after write(): the framing may be chunked by then, which the kernel cannot do.
    if let Ok(wrapper) = returned.cast_exact::<FileWrapper>()
        && !reply.is_started()
        && let Some(part) = wrapper.get().file_part(returned.py())?
    {
        start(reply, Some(part.len))?;
        reply.file(part.file, part.offset, part.len);
        return Ok(Given::Whole);
    }
    // Lists and tuples have all their blocks at hand: none waits for the application, so they may leave together.
    let blocks = if let Ok(list) = returned.cast_exact::<PyList>() {
        if list.len() == 1 {
            give_one(reply, &block_of(&list.get_item(0)?)?)?;
            return Ok(Given::NeedsNoClose);
        }
        list.iter().map(|block| block_of(&block)).collect::<PyResult<Vec<_>>>()?
    } else if let Ok(tuple) = returned.cast_exact::<PyTuple>() {
        tuple.iter().map(|block| block_of(&block)).collect::<PyResult<Vec<_>>>()?
    } else {
        return Ok(Given::Nothing);
    };
    // HTTP/1.0 keeps the connection only where it knows the length. HTTP/1.1 has chunks for several blocks, as in bjoern 3.
    let len: u64 = blocks.iter().map(|block| block.as_bytes().len() as u64).sum();
    let is_told = reply.minor() == 0 || len == 0;
    start(reply, is_told.then_some(len))?;
    blocks.iter().for_each(|block| send(reply, block));
    Ok(Given::NeedsNoClose)
}

/// The whole body is one block, so its length is known.
fn give_one(reply: &mut Reply, block: &Bound<'_, PyBytes>) -> PyResult<()> {
    start(reply, Some(block.as_bytes().len() as u64))?;
    send(reply, block);
    Ok(())
}

/// A response that is made block by block, and what surrounds it.
pub struct Response<'a, 'py> {
    pub site: &'a Site,
    pub current: Option<&'a CurrentCall>,
    pub environ: &'a Bound<'py, PyDict>,
    pub start_response: &'a StartResponse,
}

impl<'py> Response<'_, 'py> {
    /// Asks `iterable` for one block after the other, and gives each, until there is none or nobody wants more.
    pub fn iterate(&self, py: Python<'py>, iterable: &Bound<'py, PyAny>, reply: Reply) -> (Reply, PyResult<()>) {
        // start_response may be called as late as here (PEP 3333).
        let (mut reply, iterator) = self.run(py, reply, || calls::iter(iterable));
        let iterator = match iterator {
            Ok(iterator) => iterator,
            Err(error) => return (reply, Err(error)),
        };
        loop {
            let next;
            (reply, next) = self.run(py, reply, || next_block(&iterator));
            let block = match next {
                Ok(Some(block)) => block,
                Ok(None) => {
                    let started = start(&mut reply, Some(0));
                    return (reply, started);
                }
                Err(error) => return (reply, Err(error)),
            };
            if !block.as_bytes().is_empty() {
                if let Err(error) = start(&mut reply, None) {
                    return (reply, Err(error));
                }
                send(&mut reply, &block);
            }
            drop(block);
            if !pass_boundary(py, self.site, self.current, &mut reply) {
                return (reply, Ok(()));
            }
        }
    }

    /// Runs `work` of the application, which may have forked.
    fn run<T>(&self, py: Python<'py>, reply: Reply, work: impl FnOnce() -> PyResult<T>) -> (Reply, PyResult<T>) {
        self.start_response.lend(py, reply, AppCall::Next, || {
            let done = work();
            end_if_forked(py, self.site.home, done.as_ref().err(), Some(self.environ));
            done
        })
    }
}

fn next_block<'py>(iterator: &Bound<'py, PyIterator>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    calls::next(iterator)?.map(|block| block_of(&block)).transpose()
}

/// What is done between two blocks, without the interpreter where it takes time. Whether the next is to be made.
fn pass_boundary(py: Python<'_>, site: &Site, current: Option<&CurrentCall>, reply: &mut Reply) -> bool {
    match reply.boundary() {
        Boundary::GoOn => {}
        Boundary::Over => return false,
        Boundary::GiveWay => {
            while !py.detach(|| reply.give_way()) {
                site.hear_signals(py);
            }
        }
        Boundary::Wait => loop {
            match py.detach(|| reply.wait_for_client()) {
                Ok(true) => break,
                Ok(false) => site.hear_signals(py),
                Err(_) => return false,
            }
        },
    }
    if let Some(current) = current {
        current.renew(py, reply.call_number());
    }
    true
}

/// Calls `close()` of `object`, where it has one.
///
/// # Errors
/// What it raises.
pub fn close(object: &Bound<'_, PyAny>) -> PyResult<()> {
    match object.getattr_opt(intern!(object.py(), "close"))? {
        Some(close) => calls::call(&close, []).map(drop),
        None => Ok(()),
    }
}

/// A block must be bytes.
fn block_of<'py>(block: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    block.cast::<PyBytes>().cloned().map_err(|_| {
        let got = type_name(block);
        PyTypeError::new_err(format!("wsgi iterable items must be bytes (got '{got}' object instead)"))
    })
}

/// Adds `block` to `reply`.
fn send(reply: &mut Reply, block: &Bound<'_, PyBytes>) {
    reply.block(block.as_bytes(), || Block::new(block));
}

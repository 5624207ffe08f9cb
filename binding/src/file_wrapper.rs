//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling").
//! Must not know: how a file is sent.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use pyo3::exceptions::PyAttributeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::ffi::{calls, duplicate};

/// Iterates over a file in blocks. `FileWrapper(file[, blocksize])`, positional only; `blocksize` in bytes.
#[pyclass(module = "bjoern", frozen)]
pub struct FileWrapper {
    file: Py<PyAny>,
    block_size: Option<Py<PyAny>>,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (file, blocksize=None, /))]
    fn new(file: Py<PyAny>, blocksize: Option<Py<PyAny>>) -> FileWrapper {
        FileWrapper { file, block_size: blocksize }
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let read = self.file.bind(py).getattr(intern!(py, "read"))?;
        let block = match &self.block_size {
            Some(size) => calls::call(&read, [size.bind(py)])?,
            None => calls::call(&read, [DEFAULT_BLOCK_BYTES.into_pyobject(py)?.as_any()])?,
        };
        Ok(block.is_truthy()?.then_some(block))
    }

    /// `seekable`, `seek` and `tell` are the file's own, and missing where it has none: so middleware that sends a part of
    /// a file (werkzeug's `send_file`, for one) need not read what is before it.
    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        match name.to_str()? {
            "seekable" | "seek" | "tell" => self.file.bind(py).getattr(name),
            name => Err(PyAttributeError::new_err(format!("'bjoern.FileWrapper' object has no attribute '{name}'"))),
        }
    }

    /// Closes the file, where it can be closed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.file.bind(py).call_method0(intern!(py, "close")) {
            Err(error) if error.is_instance_of::<PyAttributeError>(py) => Ok(()),
            result => result.map(drop),
        }
    }
}

/// What the kernel can send by itself: a part of a regular file, under a descriptor of our own.
pub struct FilePart {
    pub file: File,
    pub offset: u64,
    pub len: u64,
}

impl FileWrapper {
    /// What is left of the file, from where it has been read to; `None` for what is no plain file.
    ///
    /// Only the types of `io` are asked, and `tempfile`'s wrapper around them: others may have a descriptor and give
    /// something else when read (`gzip`).
    ///
    /// # Errors
    /// What `tell()` raises, and the system of the descriptor.
    pub fn file_part(&self, py: Python<'_>) -> PyResult<Option<FilePart>> {
        let mut file = self.file.bind(py).clone();
        if file.get_type().name()? == "_TemporaryFileWrapper" {
            file = file.getattr(intern!(py, "file"))?;
        }
        let io = py.import(intern!(py, "io"))?;
        let is = |object: &Bound<'_, PyAny>, name: &str| Ok::<_, PyErr>(object.get_type().is(&io.getattr(name)?));
        let buffered = is(&file, "BufferedReader")? || is(&file, "BufferedRandom")?;
        let raw = if buffered { file.getattr(intern!(py, "raw"))? } else { file.clone() };
        if !is(&raw, "FileIO")? {
            return Ok(None);
        }
        let descriptor = duplicate(raw.call_method0(intern!(py, "fileno"))?.extract()?)?;
        let part = File::from(descriptor);
        let status = part.metadata()?;
        // What has no blocks (/proc, /sys) does not know its length, and is read.
        if !status.is_file() || status.blocks() == 0 {
            return Ok(None);
        }
        if buffered && is(&file, "BufferedRandom")? {
            file.call_method0(intern!(py, "flush"))?; // what was written must be in the file
        }
        // Not the descriptor's own offset: a reader with a buffer is ahead of what has been read from it.
        let offset: u64 = file.call_method0(intern!(py, "tell"))?.extract()?;
        let len = part.metadata()?.len().saturating_sub(offset);
        Ok(Some(FilePart { file: part, offset, len }))
    }
}

/// What a block holds where the application does not say.
const DEFAULT_BLOCK_BYTES: usize = 64 * 1024;

//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling").

use pyo3::exceptions::PyAttributeError;
use pyo3::intern;
use pyo3::prelude::*;

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
        let read = intern!(py, "read");
        let block = match &self.block_size {
            Some(size) => self.file.bind(py).call_method1(read, (size,))?,
            None => self.file.bind(py).call_method1(read, (DEFAULT_BLOCK_BYTES,))?,
        };
        Ok(block.is_truthy()?.then_some(block))
    }

    /// Closes the file, where it can be closed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.file.bind(py).call_method0(intern!(py, "close")) {
            Err(error) if error.is_instance_of::<PyAttributeError>(py) => Ok(()),
            result => result.map(drop),
        }
    }
}

/// What a block holds where the application does not say.
const DEFAULT_BLOCK_BYTES: usize = 64 * 1024;

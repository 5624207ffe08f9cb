//! The unsafe room: what PyO3's safe surface does not offer, behind a safe one.
//! Must not know: WSGI. Every block names the fact that makes it sound.
#![allow(unsafe_code)]

use std::io;
use std::mem::{align_of, forget, size_of};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use bjoern_engine::Row;
use pyo3::Borrowed;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple, PyType};

/// A native string (PEP 3333, "Unicode Issues"): each byte is the code point of the same number.
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let len = isize::try_from(bytes.len()).unwrap_or(isize::MAX);
    // Most are ASCII, which a copy makes; CPython has strings of a single character ready.
    if len > 1 && bytes.is_ascii() {
        // SAFETY: a new reference or NULL with an error set comes back. The string has room for `len` bytes, one a
        // character since none is above 127, and nobody else has seen it yet; it is a str.
        return unsafe {
            let string = Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyUnicode_New(len, 127))?;
            let data = pyo3::ffi::PyUnicode_DATA(string.as_ptr()).cast::<u8>();
            data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Ok(string.cast_into_unchecked())
        };
    }
    // SAFETY: the pointer and the length are those of one live slice; a new reference or NULL with an error set comes
    // back, which is just what `from_owned_ptr_or_err` takes; the object is a str.
    unsafe {
        let string = pyo3::ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), len, c"strict".as_ptr());
        Ok(Bound::from_owned_ptr_or_err(py, string)?.cast_into_unchecked())
    }
}

/// The bytes of a native string; `None` where a character is not latin-1.
pub fn native_bytes<'a>(string: &'a Bound<'_, PyString>) -> Option<&'a [u8]> {
    let object = string.as_ptr();
    // SAFETY: it is a str, which is immutable, and in canonical form from CPython 3.12 on, before once it has been made
    // so; the data live as long as the borrow of the object, one byte a character where the kind says so.
    unsafe {
        if pyo3::ffi::PyUnicode_READY(object) != 0 {
            pyo3::ffi::PyErr_Clear(); // out of memory
            return None;
        }
        if pyo3::ffi::PyUnicode_KIND(object) != pyo3::ffi::PyUnicode_1BYTE_KIND {
            return None;
        }
        let len = pyo3::ffi::PyUnicode_GET_LENGTH(object).unsigned_abs();
        Some(std::slice::from_raw_parts(pyo3::ffi::PyUnicode_1BYTE_DATA(object), len))
    }
}

/// The items of a tuple of two.
pub fn pair<'a, 'py>(tuple: &'a Bound<'py, PyTuple>) -> Option<[Borrowed<'a, 'py, PyAny>; 2]> {
    // SAFETY: both indices are within the tuple, whose items never change.
    (tuple.len() == 2).then(|| unsafe { [0, 1].map(|index| tuple.get_borrowed_item_unchecked(index)) })
}

/// A `bytes` object that can be read without being attached to the interpreter.
pub struct Block {
    data: *const [u8],
    _owner: Py<PyBytes>,
}

// SAFETY: the data of a bytes object are immutable and stay where they are while a reference is held; `Py` itself can
// be sent and dropped anywhere.
unsafe impl Send for Block {}
// SAFETY: as above, nothing is ever written.
unsafe impl Sync for Block {}

impl Block {
    /// Holds on to `bytes`.
    pub fn new(bytes: &Bound<'_, PyBytes>) -> Block {
        Block { data: bytes.as_bytes(), _owner: bytes.clone().unbind() }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `_owner` keeps the object alive, and the data of a bytes object neither move nor change.
        unsafe { &*self.data }
    }
}

/// Calls of Python code that may take its time, and with it the thread.
///
/// While the interpreter ends, CPython before 3.14 has a thread that wants to go on end by `pthread_exit`, which unwinds
/// its stack; and Rust aborts the process for what it cannot unwind. So the thread stays where it is, as from 3.14 on.
///
/// Nothing else in this crate may call the three functions below, as PyO3 does for a call with keywords: it declares them
/// as never unwinding, the linker takes the two declarations for one, and `Stay` is optimized away. `test_ends.py` tells.
pub mod calls {
    use pyo3::ffi::PyObject;
    use pyo3::prelude::*;
    use pyo3::types::PyIterator;

    unsafe extern "C-unwind" {
        fn PyObject_VectorcallDict(
            callable: *mut PyObject,
            arguments: *const *mut PyObject,
            count: usize,
            keywords: *mut PyObject,
        ) -> *mut PyObject;
        fn PyObject_GetIter(object: *mut PyObject) -> *mut PyObject;
        fn PyIter_Next(iterator: *mut PyObject) -> *mut PyObject;
    }

    /// Where the thread stays.
    struct Stay;

    impl Drop for Stay {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }

    fn or_stay(call: impl FnOnce() -> *mut PyObject) -> *mut PyObject {
        let stay = Stay;
        let result = call();
        std::mem::forget(stay);
        result
    }

    /// Calls `callable` with up to three `arguments`.
    ///
    /// # Errors
    /// What it raises.
    pub fn call<'py, const N: usize>(
        callable: &Bound<'py, PyAny>,
        arguments: [&Bound<'py, PyAny>; N],
    ) -> PyResult<Bound<'py, PyAny>> {
        const { assert!(N <= 3) };
        // The first place is the callee's, for `self`.
        let mut array = [std::ptr::null_mut(); 4];
        for (place, argument) in array[1..].iter_mut().zip(arguments) {
            *place = argument.as_ptr();
        }
        let count = N | pyo3::ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        // SAFETY: attached; `array` has `N` live objects behind a place that may be overwritten, as `count` says; a new
        // reference or NULL with an error set comes back.
        unsafe {
            let call =
                || PyObject_VectorcallDict(callable.as_ptr(), array.as_ptr().add(1), count, std::ptr::null_mut());
            Bound::from_owned_ptr_or_err(callable.py(), or_stay(call))
        }
    }

    /// An iterator over `object`.
    ///
    /// # Errors
    /// TypeError where it cannot be iterated over, and what its `__iter__` raises.
    pub fn iter<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyIterator>> {
        // SAFETY: attached; a new reference to an iterator or NULL with an error set comes back.
        unsafe {
            let iterator = or_stay(|| PyObject_GetIter(object.as_ptr()));
            Ok(Bound::from_owned_ptr_or_err(object.py(), iterator)?.cast_into_unchecked())
        }
    }

    /// The next item, if there is one.
    ///
    /// # Errors
    /// What producing it raises.
    pub fn next<'py>(iterator: &Bound<'py, PyIterator>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = iterator.py();
        // SAFETY: attached, and it is an iterator; a new reference comes back, or NULL, at the end without an error set.
        let item = unsafe { Bound::from_owned_ptr_or_opt(py, or_stay(|| PyIter_Next(iterator.as_ptr()))) };
        match item {
            Some(item) => Ok(Some(item)),
            None => PyErr::take(py).map_or(Ok(None), Err),
        }
    }
}

/// A context of context variables (PEP 567).
pub struct Context(Py<PyAny>);

impl Context {
    /// A copy of the thread's current context.
    ///
    /// # Errors
    /// MemoryError.
    pub fn new(py: Python<'_>) -> PyResult<Context> {
        // SAFETY: attached; a new reference or NULL with an error set comes back.
        let context = unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyContext_CopyCurrent())? };
        Ok(Context(context.unbind()))
    }

    /// Enters the context, until what comes back is dropped.
    ///
    /// # Errors
    /// RuntimeError where the context is entered already.
    pub fn enter<'a>(&'a self, py: Python<'a>) -> PyResult<Entered<'a>> {
        // SAFETY: attached; the object is a context, as `new` is the only way to make one.
        if unsafe { pyo3::ffi::PyContext_Enter(self.0.as_ptr()) } != 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(Entered { context: self, _py: py })
    }
}

/// A context that this thread is in.
pub struct Entered<'a> {
    context: &'a Context,
    _py: Python<'a>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // SAFETY: attached, as `_py` shows; entered by `enter`, and what was entered above it has been left.
        if unsafe { pyo3::ffi::PyContext_Exit(self.context.0.as_ptr()) } != 0 {
            // SAFETY: attached; there is an error set, which nobody could do anything about.
            unsafe { pyo3::ffi::PyErr_Clear() };
        }
    }
}

/// How many references to `object` there are.
///
/// Where there is no GIL this is exact only in the thread that made the object: its references are counted apart from the
/// other threads', and another could read the two counts at different moments.
pub fn references<T>(object: &Bound<'_, T>) -> isize {
    // SAFETY: the object is alive, and its count is only read.
    unsafe { pyo3::ffi::Py_REFCNT(object.as_ptr()) }
}

/// Raises an exception of `kind` in the thread of that identifier, as soon as it runs Python code; `None`: takes back one
/// that has not come to pass.
pub fn raise_in_thread(_py: Python<'_>, thread: u64, kind: Option<&Bound<'_, PyType>>) {
    let kind = kind.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: attached; the interpreter takes a reference of its own, and looks for the thread before it does anything.
    unsafe { pyo3::ffi::PyThreadState_SetAsyncExc(thread as std::os::raw::c_ulong as _, kind) };
}

/// The address of the function that the system runs for a signal; 0 for its default, 1 where it is ignored.
pub fn signal_handler(_py: Python<'_>, number: i32) -> usize {
    unsafe extern "C" {
        // Not as PyO3 declares it, which has no place for the default: a function is never 0 in Rust.
        fn PyOS_getsig(number: std::os::raw::c_int) -> usize;
    }
    // SAFETY: it asks the system, and takes any number; what comes back is as large as an address, and not called.
    unsafe { PyOS_getsig(number) }
}

/// Ends the process without running anything more: neither destructors nor what is registered for its end.
pub fn exit_now(code: i32) -> ! {
    unsafe extern "C" {
        fn _exit(code: std::os::raw::c_int) -> !;
    }
    // SAFETY: POSIX: it takes any number, from any thread, at any time, and does not return.
    unsafe { _exit(code) }
}

/// A descriptor of our own for what `fd` names, closed on exec.
///
/// # Errors
/// EBADF where `fd` is not open.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(9)); // EBADF, the same number on every Unix
    }
    // SAFETY: not -1; it is borrowed for this call only, and where it is not open the kernel says so.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// The rows of a board, in memory that processes may share. The buffer is kept for as long as the process lives.
///
/// # Errors
/// BufferError or ValueError for what has no writable memory in one piece, or not where whole rows can lie.
pub fn shared_rows(board: &Bound<'_, PyAny>) -> PyResult<&'static [Row]> {
    let buffer: PyBuffer<u8> = PyBuffer::get(board)?;
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("the board must be writable memory in one piece"));
    }
    let (start, len) = (buffer.buf_ptr(), buffer.len_bytes());
    if len == 0 || !len.is_multiple_of(size_of::<Row>()) || !start.addr().is_multiple_of(align_of::<Row>()) {
        let size = size_of::<Row>();
        return Err(PyValueError::new_err(format!(
            "the board must have {size} bytes a worker, aligned to 8, not {len}"
        )));
    }
    forget(buffer);
    // SAFETY: the exporter keeps the memory where it is until the buffer is released, which is never. It is writable and
    // aligned, and any bits are an atomic's; so it is shared with whatever other process maps it. Nobody writes to it but
    // engines, by atomics: that is what makes it a board. Who reads its bytes from Python reads a moment's.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<Row>(), len / size_of::<Row>()) })
}

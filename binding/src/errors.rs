//! What is said to the application's author.

use pyo3::prelude::*;
use pyo3::types::PyType;

/// The name of an object's type, for messages.
pub fn type_name(object: &Bound<'_, PyAny>) -> String {
    let name = |kind: Bound<'_, PyType>| kind.name().map(|name| name.to_string());
    name(object.get_type()).unwrap_or_else(|_| "?".to_owned())
}

/// Prints an exception with its traceback to `sys.stderr`, which is `wsgi.errors`.
pub fn print_exception(py: Python<'_>, error: &PyErr) {
    error.display(py);
}

/// What went wrong, without the number that Rust adds.
pub fn reason(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

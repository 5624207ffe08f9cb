//! What a request head may be: plain numbers.
//! Knows: the defaults.   Must not know: where a value came from.

/// The largest `max_head` there can be: spans are 32 bits wide.
pub const MAX_HEAD_BYTES: usize = 1 << 30;

/// Limits of a request head. Past each of them there is an answer: see [`Reject`](super::Reject).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request line and its fields together, blank line included; past it 431, or 414 where the request line alone is longer.
    pub max_head: usize,
    /// Number of fields in a request; past it 431.
    pub max_fields: usize,
    /// Answer 400 to an HTTP/1.1 request without `Host` (RFC 9112, section 3.2).
    pub require_host: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_head: 64 * 1024, max_fields: 100, require_host: true }
    }
}

//! HTTP/1.1 as pure state machines: bytes and limits in, facts or a [`Reject`] out.
//!
//! ```text
//!   request:   head ── target, framing ──► (none | length | chunked) body ──► whole
//!   response:  ResponseHead ── framing ──► (nothing | length | chunked | until close) ──► finished
//! ```
//!
//! Knows: RFC 9110, RFC 9112.   Must not know: sockets, time, the application.

mod accept;
pub mod bytes;
pub mod chunked;
pub mod framing;
pub mod head;
mod limits;
pub mod names;
mod reject;
pub mod response;
pub mod target;

pub use accept::prefers_html;
pub use framing::Framing;
pub use head::Head;
pub use limits::{Limits, MAX_HEAD_BYTES};
pub use reject::Reject;
pub use response::{BadHead, ResponseHead};

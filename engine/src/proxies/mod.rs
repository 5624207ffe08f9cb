//! What proxies say of the peer behind them: bytes and addresses in, facts or a [`crate::http1::Reject`] out.
//!
//! ```text
//!   connection:  preface (PROXY protocol) ──► the peer
//!   request:     forwarded (fields), trusted ──► the client, scheme, host, port
//! ```
//!
//! Must not know: sockets, time, the application.
//! Invariant: nothing that a hop says counts unless the one who passed it on is trusted.

pub mod forwarded;
pub mod preface;
mod trusted;

pub use forwarded::{Forwarded, Origin, Scheme};
pub use trusted::Trusted;

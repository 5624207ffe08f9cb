//! The server, without Python: sockets in, requests to an [`App`], answers out.
//!
//! ```text
//!   server ── threads: lead, go out, follow      rounds ── the watch's looks
//!        \                                      /
//!         loops ── park, give way, stand in for a leader
//!        /   |   \
//!    crew    |    shared ── what all threads see: App, limits, permits, control, watch, counters
//!            |
//!        event_loop ── wait, accept, hand out connections, timeouts, drain
//!         /      \
//!   timeouts    connection ── one peer's life: read, parse, call, answer, again
//!               /    |     \
//!        upload   reply     http1, proxies ── pure grammar and framing
//!          |         |
//!        spool    transport ── outbox ── io
//! ```
//!
//! [`App`] is the only door to the application. Must not know: Python, WSGI, the GIL.
//! Invariant: no unsafe code; a peer's fault is a value ([`http1::Reject`]), never a panic.
#![forbid(unsafe_code)]

mod access_log;
mod app;
mod config;
mod connection;
mod control;
mod counters;
mod crew;
mod event_loop;
mod host;
pub mod http1;
pub mod io;
mod loop_handle;
mod loops;
mod outbox;
mod permits;
pub mod proxies;
mod rate;
mod reply;
mod reply_slot;
mod request;
mod rounds;
mod server;
mod shared;
mod spool;
mod storage;
mod sync;
mod timeouts;
mod transport;
mod turn;
mod upload;
mod watch;

pub use access_log::{AccessLog, BadFormat, LogFormat};
pub use app::{App, Outcome, Wake};
pub use config::Config;
pub use control::Stopper;
pub use counters::{Cell, Counters, ROW_CELLS, Row};
pub use reply::{Boundary, Broken, Reply};
pub use reply_slot::{AppCall, NotTaken, ReplySlot};
pub use request::{Body, Request};
pub use server::Server;
pub use shared::Books;
pub use watch::LongCall;

//! The server, without Python: sockets in, requests to an [`App`], answers out.
//!
//! ```text
//!            server ── threads: lead, go out, follow; the watch
//!           /      \
//!        crew    event_loop ── wait, accept, hand out connections, timeouts, drain
//!               /   |   \
//!       timeouts    io   connection ── one peer's life: read, parse, call, answer, again
//!                    \   /    |    \
//!                   sockets  http1  spool ── pure grammar and framing / a body in memory, then in a file
//!                              proxies ── what they say of the peer behind them: pure, too
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
pub use app::{App, LongCall, Outcome, Wake};
pub use config::Config;
pub use control::Stopper;
pub use counters::{Cell, Counters, ROW_CELLS, Row};
pub use reply::{Boundary, Broken, Reply};
pub use reply_slot::{AppCall, NotTaken, ReplySlot};
pub use request::{Body, Request};
pub use server::Server;
pub use shared::Books;

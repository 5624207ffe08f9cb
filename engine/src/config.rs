//! Limits and timeouts: plain numbers with their units.
//! Knows: the defaults.   Must not know: where a value came from.

use std::time::Duration;

use crate::http1::Limits;
use crate::proxies::Trusted;

/// What a server allows and how long it waits. Every limit has an answer: see [`crate::http1::Reject`].
#[derive(Clone, Debug)]
pub struct Config {
    /// What a request head may be.
    pub limits: Limits,
    /// Bytes of a request body, decoded; past it 413. 0 is no limit.
    pub max_body: u64,
    /// Bytes of a request body kept in memory; what is longer goes to an unlinked temporary file.
    pub body_buffer: usize,
    /// Bytes of bodies kept in memory by all connections together; past it a body goes to a file, however short it is.
    pub max_body_memory: u64,
    /// Bytes of bodies in files, of all connections together; past it 503. 0: as many as the disk holds.
    pub max_body_disk: u64,
    /// From the first byte of a request (or the accept) to the end of its head; past it 408, or a close where nothing came.
    pub header_timeout: Duration,
    /// Without a byte of the body; past it 408.
    pub body_timeout: Duration,
    /// Without the peer taking a byte of the response; past it the connection is cut.
    pub write_timeout: Duration,
    /// Bytes of a body a second, over windows of `body_timeout`, in which the server looked for them; fewer: 408. 0: any.
    pub min_body_rate: u64,
    /// Bytes of a response that the peer takes a second, over windows of `write_timeout`, while they wait for it; fewer:
    /// the connection is cut. 0: any.
    pub min_send_rate: u64,
    /// Between two requests; past it the connection is closed. Zero: one request per connection.
    pub keep_alive: Duration,
    /// For a drain: what is not answered by then is cut.
    pub graceful_timeout: Duration,
    /// Open connections; past it the server stops accepting until one ends. 0: the soft limit of open files less a reserve.
    pub max_connections: usize,
    /// Threads that may run application code at the same time.
    pub threads: usize,
    /// Streams that wait for their clients, each in a thread of its own; past it the one whose client has taken nothing
    /// for longest is cut.
    pub max_parked: usize,
    /// A call of the application: past it the response is refused (503) or cut, and [`crate::App::takes_long`] told. Zero:
    /// no limit.
    pub timeout: Duration,
    /// A call that takes longer is told once to [`crate::App::takes_long`]. Zero: none is.
    pub slow_request: Duration,
    /// Requests that are whole and wait for a thread while all are in the application; past it 503. 0: no limit, and they
    /// wait where they are: in the kernel or, where there are several loops, in the server.
    pub max_queue: usize,
    /// Requests after which the server drains by itself. 0: it never does.
    pub max_requests: u64,
    /// Send `Date` (RFC 9110, section 6.6.1).
    pub date_header: bool,
    /// Whose word counts on where a request comes from, and who may speak the PROXY protocol. `None`: nobody's, and anybody.
    pub trusted: Option<Trusted>,
    /// Each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Send `Server` with this value.
    pub server_header: Option<Vec<u8>>,
}

impl Config {
    /// Whether somebody must look at calls while they run.
    pub(crate) fn needs_watch(&self) -> bool {
        self.threads > 1 || self.times_calls() || self.max_queue > 0
    }

    /// Whether the length of a call matters by itself.
    pub(crate) fn times_calls(&self) -> bool {
        !self.timeout.is_zero() || !self.slow_request.is_zero()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limits: Limits::default(),
            max_body: 1024 * 1024 * 1024,
            body_buffer: 1024 * 1024,
            max_body_memory: 64 * 1024 * 1024,
            max_body_disk: 16 * 1024 * 1024 * 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            min_body_rate: 240,
            min_send_rate: 240,
            keep_alive: Duration::from_secs(75),
            graceful_timeout: Duration::from_secs(30),
            max_connections: 0,
            threads: 1,
            max_parked: 500,
            timeout: Duration::ZERO,
            slow_request: Duration::ZERO,
            max_queue: 0,
            max_requests: 0,
            date_header: true,
            trusted: None,
            proxy_protocol: false,
            server_header: None,
        }
    }
}

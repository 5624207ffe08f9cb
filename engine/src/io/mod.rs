//! The door to the kernel: readiness, connections, clocks. The simulator has a door of its own behind the same traits.
//! Must not know: HTTP, requests, limits.

mod platform;
mod system;

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use platform::block_signals;
pub(crate) use platform::calendar;
pub(crate) use platform::{is_asleep_in_lock, thread_number};
pub use system::{Bell, Process, System, SystemSocket, SystemWaker, note_fork};

/// Milliseconds on a clock that never goes back.
pub type Millis = u64;

/// Reads such a clock.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// What [`Net::wait`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody used the waker, or a signal came.
    Woken,
    /// A listener, by its index, has connections to accept.
    Listener(usize),
    /// The socket added under this token has something new.
    Socket(usize, Readiness),
}

/// What is new on a socket. Edges, not levels: said once, until the next change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, the end of the stream, or an error can be read.
    pub readable: bool,
    /// More can be sent.
    pub writable: bool,
    /// The peer will send nothing more: read on until the end of the stream is seen.
    pub read_closed: bool,
    /// Nothing can be sent any more, and nothing more will come; what came before can still be read.
    pub hung_up: bool,
}

impl Readiness {
    /// Both together.
    pub fn merge(&mut self, other: Readiness) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.read_closed |= other.read_closed;
        self.hung_up |= other.hung_up;
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` for a Unix socket.
    pub ip: Option<IpAddr>,
    /// Its port; 0 for a Unix socket, and where it is not known.
    pub port: u16,
}

impl Peer {
    /// A peer over IP. An IPv4 address mapped into IPv6 (RFC 4291, section 2.5.5.2) is taken for what it is.
    pub fn new(address: SocketAddr) -> Peer {
        Peer { ip: Some(address.ip().to_canonical()), port: address.port() }
    }
}

/// One connected, non-blocking socket. Closed when dropped.
pub trait Socket: Send + Sync + 'static {
    /// Receives into `buffer`. `Ok(0)` is the end of the stream; [`io::ErrorKind::WouldBlock`]: nothing there yet.
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends the pieces in their order, as much as fits now. Never raises SIGPIPE.
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends up to `len` bytes of `file` from `offset` on; `Ok(0)` where the file ends before.
    fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize>;

    /// Ends the sending direction, so that the peer sees the end while it may still be sending.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Resets the connection, at the latest when it is closed: the peer gets an error in place of the end of the stream.
    fn reset_on_close(&mut self);

    /// Blocks the calling thread until more can be sent, `timeout` has passed, or a signal came: which of them, and how
    /// long it took.
    fn wait_writable(&mut self, timeout: Duration) -> io::Result<(Wait, Duration)>;
}

/// How [`Socket::wait_writable`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// More can be sent, or the connection is broken.
    Writable,
    /// The time is over.
    TimedOut,
    /// A signal came.
    Interrupted,
}

/// Wakes a [`Net::wait`] from any thread or signal handler.
pub trait Waker: Clone + Send + Sync + 'static {
    /// Makes the wait return [`Event::Woken`], now or when it comes to it.
    fn wake(&self);
}

/// Listeners, readiness and clocks.
pub trait Net: Send + 'static {
    /// What an accept gives.
    type Socket: Socket;
    /// What wakes a wait.
    type Waker: Waker;

    /// Waits for events, `timeout` at the most (`None`: for ever), and appends them to `events`.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Takes one connection from the listener's queue.
    fn accept(&mut self, listener: usize) -> io::Result<(Self::Socket, Peer)>;

    /// The number of listeners; they are named by their index.
    fn listeners(&self) -> usize;

    /// Closes this server's own hold on the listeners.
    fn stop_listening(&mut self);

    /// Reports what is new on `socket` under `token`, until it is closed. What is ready already is reported too.
    fn add(&mut self, token: usize, socket: &Self::Socket) -> io::Result<()>;

    /// A waker for this net.
    fn waker(&self) -> Self::Waker;

    /// The monotonic clock, to some milliseconds.
    fn elapsed(&self) -> Millis;

    /// The same clock, for threads that do not hold the net.
    fn clock(&self) -> Clock;

    /// The calendar's second since 1970, for `Date`.
    fn calendar(&self) -> u64;

    /// The soft limit of open files.
    fn open_files(&self) -> Option<u64>;
}

//! The kernel's own door: mio's poller (epoll, kqueue), sockets by rustix.
//! Invariant: a socket is registered once, for both directions, edge-triggered, under a name that no other ever had:
//! where a forked child holds it, too, the kernel goes on reporting it after its close.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, Shutdown, connect_unspec, getsockname, recv, send, sendmsg, shutdown, sockopt,
};

use super::platform;
use super::{Clock, Event, Millis, Net, Peer, Readiness, Socket, Wait, Waker};

/// Events taken from the kernel in one wait; what does not fit comes with the next.
const EVENTS_PER_WAIT: usize = 256;

const WAKER: usize = usize::MAX;
/// Listeners have the tokens below the waker's; the loop's names for sockets stay below them.
const FIRST_LISTENER: usize = usize::MAX - 4096;

/// Real listeners, real sockets, real time.
pub struct System {
    poll: Poll,
    events: Events,
    listeners: Vec<Listener>,
    woken: UnixStream,
    waker: SystemWaker,
}

struct Listener {
    socket: OwnedFd,
    /// Its connections have TCP_NODELAY from their first moment. Those that were in the queue before it was set on
    /// the listener do not, and would wait for acknowledgements between a stream's last blocks.
    inherits: bool,
}

impl System {
    /// Serves `listeners`, which must be listening stream sockets; they are made non-blocking, and so are all who share them.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a socket that does not listen, else what the kernel says.
    pub fn new(listeners: Vec<OwnedFd>) -> io::Result<System> {
        SERVING_AT.store(Process::this().0, Ordering::Relaxed);
        let poll = Poll::new()?;
        for (index, listener) in listeners.iter().enumerate() {
            if !platform::is_listening(listener.as_fd())? {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket is not listening"));
            }
            rustix::io::ioctl_fionbio(listener, true)?;
            let token = Token(FIRST_LISTENER + index);
            poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)?;
        }
        let listeners = listeners.into_iter().map(|socket| {
            // Accepted sockets inherit it: one call less for each. A Unix socket has no such option, and no need.
            let inherits =
                sockopt::tcp_nodelay(&socket).unwrap_or(true) || sockopt::set_tcp_nodelay(&socket, true).is_err();
            Listener { socket, inherits }
        });
        let listeners = listeners.collect();
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        poll.registry().register(&mut SourceFd(&woken.as_raw_fd()), Token(WAKER), Interest::READABLE)?;
        Ok(System {
            poll,
            events: Events::with_capacity(EVENTS_PER_WAIT),
            listeners,
            woken,
            waker: SystemWaker(Arc::new(waker)),
        })
    }

    /// The listeners' own addresses; `None` for a Unix socket.
    pub fn addresses(&self) -> Vec<Option<SocketAddr>> {
        let address = |listener: &Listener| SocketAddr::try_from(getsockname(&listener.socket).ok()?).ok();
        self.listeners.iter().map(address).collect()
    }

    /// The descriptors of its listeners, which a forked child holds, too.
    pub fn listening(&self) -> impl Iterator<Item = RawFd> {
        self.listeners.iter().map(|listener| listener.socket.as_raw_fd())
    }
}

impl Net for System {
    type Socket = SystemSocket;
    type Waker = SystemWaker;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                // By a signal, whose handler may have had nothing to write to.
                events.push(Event::Woken);
                return Ok(());
            }
            result => result?,
        }
        for event in &self.events {
            events.push(match event.token().0 {
                WAKER => {
                    while matches!((&self.woken).read(&mut [0; 64]), Ok(1..)) {}
                    Event::Woken
                }
                token if token >= FIRST_LISTENER => Event::Listener(token - FIRST_LISTENER),
                token => Event::Socket(
                    token,
                    Readiness {
                        readable: event.is_readable(),
                        writable: event.is_writable(),
                        read_closed: event.is_read_closed(),
                        hung_up: event.is_write_closed() || event.is_error(),
                    },
                ),
            });
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<(SystemSocket, Peer)> {
        let Some(listener) = self.listeners.get_mut(listener) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let (socket, address) = platform::accept(listener.socket.as_fd()).inspect_err(|error| {
            // The queue is empty: whoever comes from now on inherits.
            listener.inherits |= error.kind() == io::ErrorKind::WouldBlock;
        })?;
        if !listener.inherits {
            let _ = sockopt::set_tcp_nodelay(&socket, true);
        }
        Ok((SystemSocket(socket), address.map(Peer::new).unwrap_or_default()))
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn stop_listening(&mut self) {
        for listener in self.listeners.drain(..) {
            // The kernel keeps a registration as long as anyone holds the socket, a forked sibling for instance.
            let _ = self.poll.registry().deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
        }
    }

    fn add(&mut self, token: usize, socket: &SystemSocket) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&socket.0.as_raw_fd()), Token(token), interest)
    }

    fn waker(&self) -> SystemWaker {
        self.waker.clone()
    }

    fn elapsed(&self) -> Millis {
        platform::monotonic()
    }

    fn clock(&self) -> Clock {
        Arc::new(platform::monotonic)
    }

    fn calendar(&self) -> u64 {
        platform::calendar()
    }

    fn open_files(&self) -> Option<u64> {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
}

/// Wakes one thread that waits for it, from any thread or signal handler.
pub struct Bell {
    rung: UnixStream,
    clapper: UnixStream,
}

impl Bell {
    /// One that has not been rung.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Bell> {
        let (clapper, rung) = UnixStream::pair()?;
        clapper.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        Ok(Bell { rung, clapper })
    }

    /// Ends a wait, or the next one.
    pub fn ring(&self) {
        let _ = (&self.clapper).write(&[0]); // full: it has been rung often enough
    }

    /// Waits until it is rung, a signal comes, or the time is up. The number of the last signal that rang it: Python's
    /// wakeup descriptor is told that, see [`AsFd`].
    ///
    /// # Errors
    /// What the kernel says of the wait.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<u8>> {
        let timeout = timeout.map(timespec);
        match poll(&mut [PollFd::new(&self.rung, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (mut bytes, mut signal) = ([0; 64], None);
        while let Ok(len @ 1..) = (&self.rung).read(&mut bytes) {
            signal = bytes[..len].iter().rfind(|byte| **byte > 0).copied().or(signal);
        }
        Ok(signal)
    }
}

impl AsFd for Bell {
    /// The descriptor that rings it when it is written to.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.clapper.as_fd()
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

/// A connected socket of the kernel's.
#[derive(Debug)]
pub struct SystemSocket(OwnedFd);

impl Socket for SystemSocket {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, len) = recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(len)
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(match pieces {
            [piece] => send(&self.0, piece, platform::SEND)?,
            _ => sendmsg(&self.0, pieces, &mut SendAncillaryBuffer::default(), platform::SEND)?,
        })
    }

    fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        platform::send_file(self.0.as_fd(), file, offset, len)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(shutdown(&self.0, Shutdown::Write)?)
    }

    fn reset_on_close(&mut self) {
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
        // Linux does it at once: who holds the connection may be in a call that has not come back.
        let _ = connect_unspec(&self.0);
    }

    fn wait_writable(&mut self, timeout: Duration) -> io::Result<(Wait, Duration)> {
        let began = Instant::now();
        let wait = match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&timespec(timeout))) {
            Ok(0) => Wait::TimedOut,
            Ok(_) => Wait::Writable,
            Err(rustix::io::Errno::INTR) => Wait::Interrupted,
            Err(error) => return Err(error.into()),
        };
        Ok((wait, began.elapsed()))
    }
}

impl Drop for SystemSocket {
    fn drop(&mut self) {
        if FORKED.load(Ordering::Relaxed) {
            // A child may hold the socket, too: the close alone would not be the end of the connection.
            let _ = shutdown(&self.0, Shutdown::Both);
        }
    }
}

/// A process, as forks tell it from its parent. To compare two costs no system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// The calling process.
    pub fn this() -> Process {
        Process(FORKS_BEFORE.load(Ordering::Relaxed))
    }

    /// Whether it is the calling process, and not the one that this one was forked from.
    pub fn is_this(self) -> bool {
        self == Process::this()
    }
}

/// Forks that lead to this process, counted in each child.
static FORKS_BEFORE: AtomicU32 = AtomicU32::new(0);

/// The process that has made a [`System`] last.
static SERVING_AT: AtomicU32 = AtomicU32::new(u32::MAX);

/// Whether this process serves, and has children that did not exec since: they share the sockets it accepted.
static FORKED: AtomicBool = AtomicBool::new(false);

/// To be called after a fork. In the parent connections are shut down from now on before they are closed; in the child,
/// and in what it forks itself, they are not: those it holds are the parent's.
pub fn note_fork(in_parent: bool) {
    if !in_parent {
        FORKS_BEFORE.fetch_add(1, Ordering::Relaxed);
    }
    let serves = SERVING_AT.load(Ordering::Relaxed) == Process::this().0;
    FORKED.store(in_parent && serves, Ordering::Relaxed);
}

/// A byte down a socket pair. Its descriptor also serves `signal.set_wakeup_fd`, which writes such a byte.
#[derive(Clone, Debug)]
pub struct SystemWaker(Arc<UnixStream>);

impl Waker for SystemWaker {
    fn wake(&self) {
        // A full pair means a wake-up is under way already.
        let _ = (&*self.0).write(&[0]);
    }
}

impl AsFd for SystemWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

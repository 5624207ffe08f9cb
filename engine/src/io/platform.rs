//! What differs between kernels: accepting, listening, SIGPIPE, clocks, sending a file. Linux first, then the BSDs and macOS.
//! Must not know: the poller, connections.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

#[cfg(not(target_vendor = "apple"))]
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use rustix::net::SendFlags;

use super::Millis;

// Deadlines are of seconds, so a tick of the kernel's is exact enough. Linux keeps its clocks as of the last tick (4 ms in
// its usual setting), to be read without asking the hardware: 6 ns instead of 58 in a virtual machine.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCKS: [ClockId; 2] = [ClockId::CLOCK_MONOTONIC_COARSE, ClockId::CLOCK_REALTIME_COARSE];
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCKS: [ClockId; 2] = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_REALTIME];

// By way of the C library: rustix finds the kernel's own function by itself, and crashes where valgrind has hidden it.
fn read(clock: ClockId) -> TimeSpec {
    clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0)) // fails for clocks that are not there
}

/// Time that never goes back.
pub fn monotonic() -> Millis {
    let time = read(CLOCKS[0]);
    time.tv_sec() as Millis * 1000 + time.tv_nsec() as Millis / 1_000_000
}

/// Seconds since 1970.
pub fn calendar() -> u64 {
    read(CLOCKS[1]).tv_sec() as u64
}

#[cfg(not(target_vendor = "apple"))]
mod only {
    use super::*;
    use rustix::net::{SocketFlags, acceptfrom_with, sockopt};

    /// No SIGPIPE for what the peer does not take.
    pub const SEND: SendFlags = SendFlags::NOSIGNAL;

    /// Sends a file by `send`, which takes no such flag: the signal would end a process that has it at its default. Python
    /// ignores it, until the application has it otherwise.
    pub fn without_sigpipe(send: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        let sigpipe = SigSet::from(Signal::SIGPIPE);
        let Ok(before) = sigpipe.thread_swap_mask(SigmaskHow::SIG_BLOCK) else { return send() };
        let sent = send();
        if before.contains(Signal::SIGPIPE) {
            return sent;
        }
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            // The one that waits is taken. Raised once more, so that there surely is one: equal signals are one.
            let _ = raise(Signal::SIGPIPE);
            let _ = sigpipe.wait();
        }
        let _ = before.thread_set_mask();
        sent
    }

    pub fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(sockopt::socket_acceptconn(socket)?)
    }

    /// Non-blocking and closed on exec, in one call.
    pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        let (socket, address) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        Ok((socket, address.and_then(|address| SocketAddr::try_from(address).ok())))
    }
}

#[cfg(target_vendor = "apple")]
mod only {
    use super::*;
    use rustix::net::sockopt;

    pub const SEND: SendFlags = SendFlags::empty();

    /// The socket itself has the option.
    pub fn without_sigpipe(send: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        send()
    }

    /// The kernel does not tell; what does not listen fails at the first accept.
    pub fn is_listening(_socket: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(true)
    }

    pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        let (socket, address) = rustix::net::acceptfrom(listener)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        sockopt::set_socket_nosigpipe(&socket, true)?;
        Ok((socket, address.and_then(|address| SocketAddr::try_from(address).ok())))
    }
}

/// Leaves the process's signals to its other threads: a handler should interrupt those who can act on it.
pub fn block_signals() {
    let _ = nix::sys::signal::SigSet::all().thread_block(); // not even possible to fail with a set that is one
}

use only::without_sigpipe;
pub use only::{SEND, accept, is_listening};

/// Sends up to `len` bytes of `file` from `offset` on without taking them through memory; 0 at the file's end.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn send_file(socket: BorrowedFd<'_>, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut offset = offset;
    without_sigpipe(|| Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), len)?))
}

/// The BSDs' form: it tells how much was sent even where it stops early.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
pub fn send_file(socket: BorrowedFd<'_>, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    use nix::sys::sendfile::sendfile;
    use std::os::fd::AsFd;

    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    without_sigpipe(|| {
        #[cfg(target_os = "freebsd")]
        let (result, sent) = {
            let flags = nix::sys::sendfile::SfFlags::empty();
            sendfile(file.as_fd(), socket, offset, Some(len), None, None, flags, 0)
        };
        #[cfg(target_os = "dragonfly")]
        let (result, sent) = sendfile(file.as_fd(), socket, offset, Some(len), None, None);
        #[cfg(target_vendor = "apple")]
        let (result, sent) = sendfile(file.as_fd(), socket, offset, i64::try_from(len).ok(), None, None);
        match (result, usize::try_from(sent).unwrap_or(0)) {
            (Err(error), 0) => Err(error.into()),
            (_, sent) => Ok(sent),
        }
    })
}

/// For everybody else: read, and send what was read.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_vendor = "apple"
)))]
pub fn send_file(socket: BorrowedFd<'_>, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;

    let mut buffer = [0; 64 * 1024];
    let len = len.min(buffer.len());
    let read = file.read_at(&mut buffer[..len], offset)?;
    if read == 0 {
        return Ok(0);
    }
    Ok(rustix::net::send(socket, &buffer[..read], SEND)?)
}

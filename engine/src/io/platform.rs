//! What differs between kernels: accepting, listening, SIGPIPE, clocks, sending a file. Linux first, then the BSDs and macOS.
//! Must not know: the poller, connections.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

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

/// What the kernel says of a thread of this process that sleeps in a lock: the same text for as long as it is the same
/// sleep. `None` where it does something else.
#[cfg(target_os = "linux")]
pub fn is_asleep_in_lock(thread: u32) -> Option<String> {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/self/task/{thread}/{what}")).ok();
    // The call's number, its arguments, and where the thread is; or "running".
    let call = read("syscall").filter(|call| call.split(' ').next() == Some(FUTEX))?;
    let status = read("status")?;
    let switches = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
    Some(format!("{call}{switches}"))
}

/// The number of futex(2), by which threads sleep in locks.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const FUTEX: &str = "202";
#[cfg(all(target_os = "linux", any(target_arch = "arm", target_arch = "x86")))]
const FUTEX: &str = "240";
#[cfg(all(target_os = "linux", not(any(target_arch = "x86_64", target_arch = "arm", target_arch = "x86"))))]
const FUTEX: &str = "98"; // of architectures that came later

/// Elsewhere nobody can tell: a thread that has not moved for so long is taken to be in a lock.
#[cfg(not(target_os = "linux"))]
pub fn is_asleep_in_lock(_thread: u32) -> Option<String> {
    Some(String::new())
}

/// The calling thread's number in the kernel.
pub fn thread_number() -> u32 {
    #[cfg(target_os = "linux")]
    return rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    #[cfg(not(target_os = "linux"))]
    return 0;
}

pub use only::{SEND, accept, is_listening};

/// Sends up to `len` bytes of `file` from `offset` on without taking them through memory; 0 at the file's end.
///
/// The call knows no MSG_NOSIGNAL, and an application may have set SIGPIPE to its default, which ends the process: so this
/// thread does not take the signal that a client causes by leaving.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn send_file(socket: BorrowedFd<'_>, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal::SIGPIPE};

    let mut offset = offset;
    let mut pipe = SigSet::empty();
    pipe.add(SIGPIPE);
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let sent = rustix::fs::sendfile(socket, file, Some(&mut offset), len);
    // It comes with EPIPE, or with what was sent before the client left.
    let may_be_pending = matches!(sent, Err(rustix::io::Errno::PIPE)) || matches!(sent, Ok(sent) if sent < len);
    if !before.contains(SIGPIPE) && (!may_be_pending || take_pending(&pipe)) {
        before.thread_set_mask()?; // else it stays blocked in this thread
    }
    Ok(sent?)
}

/// Takes those of `signals` that wait for this thread; whether that could be done.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn take_pending(signals: &nix::sys::signal::SigSet) -> bool {
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    use std::sync::OnceLock;

    static PENDING: OnceLock<SignalFd> = OnceLock::new();
    if let Some(pending) = PENDING.get() {
        return pending.read_signal().is_ok();
    }
    let Ok(made) = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC) else { return false };
    PENDING.get_or_init(|| made).read_signal().is_ok()
}

/// The BSDs' form: it tells how much was sent even where it stops early.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
pub fn send_file(socket: BorrowedFd<'_>, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    use nix::sys::sendfile::sendfile;
    use std::os::fd::AsFd;

    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
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

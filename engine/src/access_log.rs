//! The access log: lines that wait, and the file that takes many of them with one write.
//! Knows: the file, what becomes of lines that it does not take.   Must not know: sockets, the loop, when it is time to write.
//! Invariant: no line is rendered under a lock.

mod format;
mod line;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

pub use self::format::{BadFormat, LogFormat};
use self::line::Renderer;
pub(crate) use self::line::{Answered, Record, Told};
use crate::io::Peer;

/// Bytes that wait for a turn's end; more are written at once.
const FULL: usize = 256 * 1024;

/// Bytes that are kept for a file that takes none now, such as a pipe that nobody reads; what comes then is lost.
const KEPT: usize = 1024 * 1024;

/// What a pipe takes whole or not at all (PIPE_BUF of Linux; elsewhere it is less, and lines of several processes may mix).
const PIPE_BYTES: usize = 4096;

struct Sink {
    file: File,
    is_pipe: bool,
    /// What the file has not taken, from the start of a line on, or from within the first.
    rest: Vec<u8>,
    /// The file failed, and it was told.
    has_failed: bool,
}

impl Sink {
    fn new(file: File) -> io::Result<Sink> {
        let is_pipe = file.metadata()?.file_type().is_fifo();
        Ok(Sink { file, is_pipe, rest: Vec::new(), has_failed: false })
    }
}

/// What is to be done about lines that could not be written.
pub(crate) struct Lost {
    pub(crate) lines: u64,
    /// To be told to somebody; the file's second failure in a row is none.
    pub(crate) error: Option<io::Error>,
}

/// A log that several threads write to.
pub struct AccessLog {
    renderer: Renderer,
    /// To be opened anew by it; nothing where the file was given open.
    path: Option<PathBuf>,
    /// Seconds since 1970.
    clock: fn() -> u64,
    lines: Mutex<Vec<u8>>,
    /// Whether there are any, as a hint that needs no lock.
    has_lines: AtomicBool,
    sink: Mutex<Sink>,
}

/// Lines are added to, wherever `path` leads. It neither waits for a pipe's reader nor becomes a terminal's owner.
fn open(path: &Path) -> io::Result<Sink> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    Sink::new(File::options().append(true).create(true).custom_flags(flags.bits() as i32).open(path)?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessLog {
    /// A log at the end of the file at `path`, which is made where there is none.
    ///
    /// # Errors
    /// What the system says of opening it.
    pub fn open(path: PathBuf, format: LogFormat) -> io::Result<AccessLog> {
        let sink = open(&path)?;
        Ok(AccessLog::with(sink, Some(path), format))
    }

    /// A log on standard output.
    ///
    /// # Errors
    /// It is not open.
    pub fn on_stdout(format: LogFormat) -> io::Result<AccessLog> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(AccessLog::with(Sink::new(stdout.into())?, None, format))
    }

    fn with(sink: Sink, path: Option<PathBuf>, format: LogFormat) -> AccessLog {
        AccessLog {
            renderer: Renderer { format, pid: std::process::id() },
            path,
            clock: crate::io::calendar,
            lines: Mutex::default(),
            has_lines: AtomicBool::new(false),
            sink: Mutex::new(sink),
        }
    }

    /// The file, as a message can name it.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Opens the file at its path anew, which another process may have moved away. Standard output stays.
    ///
    /// # Errors
    /// What the system says; the log goes on in the file it had.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut fresh = open(path)?;
        let mut sink = lock(&self.sink);
        let mut lines = self.take_lines(Vec::new());
        // What was told before goes where it belongs, as far as that can be.
        let _ = write(&mut sink, &mut lines);
        fresh.rest = lines;
        *sink = fresh;
        if !sink.rest.is_empty() {
            self.has_lines.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    // --- lines ---

    /// Notes in `record` what is known of a request that begins.
    pub(crate) fn begin(&self, record: &mut Record, peer: Peer, told: Told<'_>) {
        self.renderer.begin(record, peer, told, (self.clock)());
    }

    /// Adds a request's line to those that wait. Whether there are so many that they should not wait any longer.
    pub(crate) fn end(&self, record: &mut Record, answered: Answered) -> bool {
        let line = self.renderer.line(record, answered);
        let mut lines = lock(&self.lines);
        lines.extend_from_slice(line);
        // Set under the lock: a thread that takes the lines takes all that the hint was about.
        self.has_lines.store(true, Ordering::Relaxed);
        lines.len() >= FULL
    }

    // --- writing ---

    /// Whether lines wait to be written.
    pub(crate) fn has_lines(&self) -> bool {
        self.has_lines.load(Ordering::Relaxed)
    }

    fn take_lines(&self, spare: Vec<u8>) -> Vec<u8> {
        let mut lines = lock(&self.lines);
        self.has_lines.store(false, Ordering::Relaxed);
        std::mem::replace(&mut *lines, spare)
    }

    /// Writes the lines that wait, with one call where the file takes them whole. May block for as long as that takes.
    pub(crate) fn write(&self) -> Lost {
        let mut sink = lock(&self.sink);
        let rest = std::mem::take(&mut sink.rest);
        let mut lines = if rest.is_empty() {
            self.take_lines(rest)
        } else {
            let mut all = rest;
            all.append(&mut self.take_lines(Vec::new()));
            all
        };
        let result = write(&mut sink, &mut lines);
        let mut lost = Lost { lines: 0, error: None };
        match result {
            Ok(()) => sink.has_failed = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The lines that came last, from the first that is whole on.
                if lines.len() > KEPT {
                    let kept = lines[..KEPT].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                    lost.lines = count_lines(&lines[kept..]);
                    lines.truncate(kept);
                }
                // Tried again with the next lines, or at the next turn's end.
                sink.rest = lines;
                self.has_lines.store(true, Ordering::Relaxed);
                return lost;
            }
            Err(error) => {
                lost.lines = count_lines(&lines);
                lost.error = (!std::mem::replace(&mut sink.has_failed, true)).then_some(error);
            }
        }
        // The buffer is used again, unless it was an unusual one.
        lines.clear();
        if lines.capacity() <= 2 * FULL {
            let mut waiting = lock(&self.lines);
            if waiting.capacity() == 0 {
                *waiting = lines;
            }
        }
        lost
    }
}

/// Writes `lines`; what is left of them has not been written.
fn write(sink: &mut Sink, lines: &mut Vec<u8>) -> io::Result<()> {
    let mut gone = 0;
    let result = loop {
        let left = &lines[gone..];
        if left.is_empty() {
            break Ok(());
        }
        // Other processes may write to the same pipe: what is not longer than that is not mixed with theirs.
        let piece = if sink.is_pipe && left.len() > PIPE_BYTES {
            let end = left[..PIPE_BYTES].iter().rposition(|byte| *byte == b'\n');
            &left[..end.map_or(left.len(), |end| end + 1)]
        } else {
            left
        };
        match sink.file.write(piece) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => gone += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    lines.drain(..gone);
    result
}

fn count_lines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

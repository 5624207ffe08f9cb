//! The only door to the application: the question put to it, and its answer.
//! Must not know: which language it is written in, which thread asks.

use std::path::Path;

use crate::io::Socket;
use crate::reply::Reply;
use crate::request::Request;
use crate::watch::LongCall;

/// What answers requests.
///
/// From [`App::call`] to its return a request belongs to one thread: the call, all blocks of the response and its end run
/// in it, and nothing of another request in between. The server holds nothing of the event loop meanwhile, so a call may
/// take as long as it likes.
pub trait App<S: Socket>: Send + Sync + Sized + 'static {
    /// A block of a response's body that the application's runtime owns; sent without a copy where it is large.
    type Block: AsRef<[u8]> + Send + Sync + 'static;

    /// What a thread keeps from one call to the next.
    type PerThread: Send;

    /// What the thread number `thread` keeps; `None` for a thread that never calls the application.
    fn per_thread(&self, thread: Option<usize>) -> Self::PerThread;

    /// Answers `request` through `reply`, and gives it back whatever happens. A response of several blocks calls
    /// [`Reply::boundary`] behind each, and does what it says before it makes the next.
    fn call(
        &self,
        per_thread: &mut Self::PerThread,
        request: &Request<'_>,
        reply: Reply<S, Self::Block>,
    ) -> (Reply<S, Self::Block>, Outcome);

    /// Runs `wait`, which may block the thread; what the application's runtime holds is let go for so long.
    fn blocking<T: Send>(&self, wait: impl FnOnce() -> T + Send) -> T {
        wait()
    }

    /// Somebody used the waker: runs what the application's runtime has queued (signal handlers).
    fn woken(&self) -> Wake {
        Wake::GoOn
    }

    /// One more thread should come to [`Server::work`](crate::Server::work), since one that is there waits for its client.
    /// Whether one will.
    fn add_thread(&self) -> bool {
        false
    }

    /// A call takes long. The watch tells it and must not be delayed: whatever takes time is left to another thread.
    fn takes_long(&self, _call: &LongCall) {}

    /// The server ends though no thread has come back from the application within `graceful_timeout`. The watch tells it, and
    /// which signal asked for the end, where the watch heard one.
    fn gives_up(&self, _signal: Option<u8>) {}

    /// A signal came. The watch tells it: the thread that runs handlers may be waiting.
    fn signalled(&self) {}

    /// Whether a signal ends the process where no handler can run.
    fn is_fatal(&self, _signal: u8) -> bool {
        false
    }

    /// How often the thread that runs the handlers of signals has looked for them.
    fn signals_heard(&self) -> u32 {
        0
    }

    /// The process is to end by a fatal signal, now: the thread that would run its handler has not come back, and what the
    /// application's runtime holds is not to be had.
    fn force_end(&self, _signal: u8) {}

    /// The server ends by itself, since `max_requests` have come. Called once, and followed by a drain.
    fn drains(&self) {}

    /// The access log cannot be written, from now on and until this is called again. The interpreter is not held.
    fn log_fails(&self, _error: &std::io::Error) {}

    /// Bodies cannot be kept in temporary files in `folder`, from now on and until this is called again: their requests are
    /// refused with 503. The watch may tell it, and must not be delayed.
    fn storage_fails(&self, _folder: &Path, _error: &std::io::Error) {}

    /// A thread has left [`Server::work`](crate::Server::work).
    fn left(&self) {}
}

/// How the application's work on a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it has been given.
    Done,
    /// The application failed: the client gets 500 where nothing was sent; else the response is cut.
    Failed,
}

/// What the runtime wants of the server after a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing.
    GoOn,
    /// The end, after the requests in flight.
    Drain,
}

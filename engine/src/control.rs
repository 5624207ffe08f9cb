//! What has been asked of a server from outside: to end, after a drain or at once.
//! Must not know: the loop, connections. Read by whoever serves, written from any thread or signal handler.

use std::sync::Arc;

use crate::io::Waker;
use crate::sync::{AtomicU8, Ordering};
use crate::watch::Watch;

const DRAIN: u8 = 1;
const ABORT: u8 = 2;

/// The wish, which only grows.
#[derive(Debug, Default)]
pub(crate) struct Control {
    wanted: AtomicU8,
}

impl Control {
    /// Whether a stop was requested, even if the loop has not noticed yet.
    pub(crate) fn is_stopping(&self) -> bool {
        self.wanted.load(Ordering::Acquire) >= DRAIN
    }

    /// Asks for a drain; to be followed by a use of the loop's waker.
    pub(crate) fn drain(&self) {
        self.wanted.fetch_max(DRAIN, Ordering::AcqRel);
    }

    /// Asks for the end at once: `graceful_timeout` is over.
    pub(crate) fn abort(&self) {
        self.wanted.fetch_max(ABORT, Ordering::AcqRel);
    }

    /// Whether it has been asked to end at once.
    pub(crate) fn is_aborting(&self) -> bool {
        self.wanted.load(Ordering::Acquire) == ABORT
    }
}

/// Ends a server from any thread or signal handler.
#[derive(Clone)]
pub struct Stopper<W> {
    control: Arc<Control>,
    wakers: Arc<[W]>,
    watch: Arc<Watch>,
}

impl<W: Waker> Stopper<W> {
    pub(crate) fn new(control: Arc<Control>, wakers: Arc<[W]>, watch: Arc<Watch>) -> Stopper<W> {
        Stopper { control, wakers, watch }
    }

    /// Ends the server: `graceful`, after the requests in flight and no later than `graceful_timeout`; else at once.
    pub fn stop(&self, graceful: bool) {
        self.control.wanted.fetch_max(if graceful { DRAIN } else { ABORT }, Ordering::AcqRel);
        self.wakers.iter().for_each(Waker::wake);
        self.watch.wake(); // there may be nobody to hear the waker
    }
}

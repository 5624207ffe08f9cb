//! What all threads of a server see: the application, the configuration, what was asked, what is counted.
//! Must not know: event loops, which thread does what.

use std::sync::Arc;

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::control::Control;
use crate::counters::{Cell, Counters};
use crate::host::ParkedThreads;
use crate::permits::Permits;
use crate::storage::Storage;
use crate::sync::{AtomicUsize, Ordering};
use crate::turn::ServeContext;
use crate::watch::Watch;

/// What a server notes of what happens, where others can read it.
#[derive(Clone, Default)]
pub struct Books {
    /// What happened.
    pub counters: Arc<Counters>,
    /// A line for each request.
    pub log: Option<Arc<AccessLog>>,
}

/// What all threads of a server see.
pub(crate) struct Shared<A> {
    pub app: A,
    pub config: Config,
    pub books: Books,
    pub control: Arc<Control>,
    pub watch: Arc<Watch>,
    pub permits: Permits,
    pub parked: ParkedThreads,
    /// What bodies take, all together.
    pub storage: Arc<Storage>,
    /// Requests that are whole and wait for a thread.
    pub queued_requests: AtomicUsize,
    /// Requests after which the server drains by itself, as they are counted.
    pub last_request: u64,
    /// Threads that have come to work, and those that have left.
    came: AtomicUsize,
    left: AtomicUsize,
}

impl<A> Shared<A> {
    /// For a process that may open so many files.
    pub(crate) fn new(app: A, config: Config, books: Books, open_files: Option<u64>) -> Shared<A> {
        let last_request = match config.max_requests {
            0 => u64::MAX,
            most => books.counters.get(Cell::Requests).saturating_add(most),
        };
        Shared {
            watch: Arc::new(Watch::new(config.times_calls())),
            permits: Permits::new(config.threads.max(1)),
            storage: Storage::new(config.max_body_memory, config.max_body_disk, open_files),
            app,
            config,
            books,
            control: Arc::default(),
            parked: ParkedThreads::default(),
            queued_requests: AtomicUsize::new(0),
            last_request,
            came: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
        }
    }

    /// A thread comes to work; how many had come before.
    pub(crate) fn come(&self) -> usize {
        self.came.fetch_add(1, Ordering::AcqRel)
    }

    /// A thread leaves.
    pub(crate) fn leave(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    /// Threads at work.
    pub(crate) fn at_work(&self) -> usize {
        let left = self.left.load(Ordering::Acquire); // first: it never exceeds the others
        self.came.load(Ordering::Acquire) - left
    }

    /// What a connection needs to know while it is served.
    #[inline]
    pub(crate) fn context(&self) -> ServeContext<'_, A> {
        ServeContext {
            app: &self.app,
            config: &self.config,
            counters: &self.books.counters,
            permits: &self.permits,
            storage: &self.storage,
            log: self.books.log.as_deref(),
            last_request: self.last_request,
            draining: self.control.is_stopping(),
            attended: 0,
            crowded: false,
            may_call: true,
        }
    }
}

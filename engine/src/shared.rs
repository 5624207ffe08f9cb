//! What all threads of a server see: the application, the configuration, what was asked, what is counted.
//! Must not know: event loops, which thread does what.

use std::sync::Arc;

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::control::Control;
use crate::counters::{Cell, Counters};
use crate::host::{Host, ParkedThreads};
use crate::http1::response::Stamp;
use crate::permits::Permits;
use crate::reply::Outgoing;
use crate::storage::Storage;
use crate::sync::{AtomicUsize, Ordering};
use crate::turn::ServeContext;
use crate::watch::{ThreadSlot, Watch};

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
    /// Threads that wait for their clients, parked or in `write()`.
    pub waiting: AtomicUsize,
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
            waiting: AtomicUsize::new(0),
            queued_requests: AtomicUsize::new(0),
            last_request,
            came: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
        }
    }

    /// What the thread that has `slot` needs to write responses; `host` where it calls the application.
    pub(crate) fn outgoing(&self, slot: Arc<ThreadSlot>, host: Option<Arc<dyn Host>>) -> Outgoing {
        let server = self.config.server_header.as_ref();
        let server = server.map_or(Vec::new(), |value| [b"Server: ", &value[..], b"\r\n"].concat());
        let stamp = Stamp { date: Vec::new(), server };
        let (control, storage, watch) = (self.control.clone(), self.storage.clone(), self.watch.clone());
        Outgoing::new(stamp, control, &self.config, storage, watch, slot, host)
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

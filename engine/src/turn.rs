//! What a thread needs to serve a connection: its buffers, and what it must know of the server.
//! Must not know: sockets, the event loop's inside.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::access_log::AccessLog;
use crate::app::App;
use crate::config::Config;
use crate::counters::{Cell, Counters};
use crate::http1::head::Head;
use crate::io::{Millis, Socket};
use crate::permits::Permits;
use crate::reply::Outgoing;
use crate::storage::Storage;
use crate::upload::Refusal;

/// Bytes a thread reads at once. Four times as many as most requests of a turn have together make uploads a quarter cheaper;
/// memory that no read has reached is not used.
const INPUT_BYTES: usize = 256 * 1024;

/// Fairness: what one connection may do in a turn before the others have theirs.
const REQUESTS_PER_TURN: u32 = 64;
const RECEIVES_PER_TURN: u32 = 8;

/// What a connection may still do in this turn.
pub(crate) struct Budget {
    pub requests: u32,
    pub receives: u32,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { requests: REQUESTS_PER_TURN, receives: RECEIVES_PER_TURN }
    }
}

/// What a thread keeps from one connection to the next; the connections themselves own as little as they can.
pub(crate) struct ThreadState<T> {
    pub input: Box<[u8]>,
    pub head: Head,
    /// The application's own.
    pub app: T,
    /// Away while the application answers.
    pub outgoing: Option<Box<Outgoing>>,
    second: Option<u64>,
}

impl<T> ThreadState<T> {
    /// For a thread that writes responses by `outgoing`.
    pub(crate) fn new(app: T, outgoing: Outgoing) -> Self {
        ThreadState {
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            head: Head::default(),
            app,
            outgoing: Some(Box::new(outgoing)),
            second: None,
        }
    }

    /// Sets the `Date` of answers to a calendar's second (RFC 9110, section 6.6.1), and where the thread serves.
    pub(crate) fn begin_turn(&mut self, second: u64, loop_index: usize, is_crowded: bool, config: &Config) {
        let Some(outgoing) = &mut self.outgoing else { return };
        outgoing.loop_index = loop_index;
        outgoing.crowded = is_crowded;
        if config.date_header && self.second != Some(second) {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            outgoing.stamp.date = format!("Date: {date}\r\n").into_bytes();
            self.second = Some(second);
        }
    }
}

/// What a connection needs to know of the server while it is served.
pub(crate) struct ServeContext<'a, A> {
    pub app: &'a A,
    pub config: &'a Config,
    pub counters: &'a Counters,
    pub permits: &'a Permits,
    pub storage: &'a Arc<Storage>,
    pub log: Option<&'a AccessLog>,
    /// Requests after which the server drains.
    pub last_request: u64,
    pub draining: bool,
    /// For how long the connection's loop has looked for news: what its peers had time for.
    pub attended: Millis,
    /// Other connections wait for their turn.
    pub crowded: bool,
    /// The application may be called; else what needs it waits.
    pub may_call: bool,
}

impl<A> ServeContext<'_, A> {
    /// Takes a permit to run application code. What the application's runtime holds is let go where that takes time, and
    /// signals are heard.
    #[inline]
    pub(crate) fn take_permit<S: Socket>(&self)
    where
        A: App<S>,
    {
        if !self.permits.try_take() {
            self.wait_for_permit();
        }
    }

    #[cold]
    fn wait_for_permit<S: Socket>(&self)
    where
        A: App<S>,
    {
        let Some(place) = self.permits.take_or_queue(false) else { return };
        while !self.app.blocking(|| place.wait()) {
            self.app.woken();
        }
    }

    /// Runs `work`, which may wait for a disk. What the application's runtime holds is let go for so long; a thread that may
    /// not call the application, such as the watch, holds nothing of it and must not wait for it.
    pub(crate) fn detached<S: Socket, T: Send>(&self, work: impl FnOnce() -> T + Send) -> T
    where
        A: App<S>,
    {
        if self.may_call { self.app.blocking(work) } else { work() }
    }

    /// Tells of a temporary file that cannot be made or written, once until one can.
    #[cold]
    pub(crate) fn note_refusal<S: Socket>(&self, refusal: &Refusal)
    where
        A: App<S>,
    {
        if let Some(error) = &refusal.error
            && self.storage.note_failure()
        {
            self.app.storage_fails(&std::env::temp_dir(), error);
        }
    }

    /// Writes the lines of the access log that wait. What the application's runtime holds is let go for so long.
    pub(crate) fn write_log<S: Socket>(&self)
    where
        A: App<S>,
    {
        if let Some(log) = self.log
            && log.has_lines()
        {
            self.app.blocking(|| self.write_log_detached());
        }
    }

    /// As [`ServeContext::write_log`], where the application's runtime has been let go.
    pub(crate) fn write_log_detached<S: Socket>(&self)
    where
        A: App<S>,
    {
        if let Some(log) = self.log
            && log.has_lines()
        {
            let lost = log.write();
            if lost.lines > 0 {
                self.counters.add(Cell::LogLost, lost.lines);
            }
            if let Some(error) = lost.error {
                self.app.log_fails(&error);
            }
        }
    }
}

//! What happened so far, in numbers. Added to without locks, read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::http1::Reject;

/// Counts since the server was made.
#[derive(Debug)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Requests given to the application.
    pub requests: AtomicU64,
    /// Answers 500: the application failed before anything was sent.
    pub failed: AtomicU64,
    /// Responses cut short: the application failed, or gave less than it announced, after something was sent.
    pub cut: AtomicU64,
    /// Failures to accept: the process or the system ran out of something.
    pub accept_errors: AtomicU64,
    /// Calls of the application that took longer than `timeout`.
    pub timed_out: AtomicU64,
    /// Requests that were whole and waited for a thread when their client went away.
    pub gone: AtomicU64,
    rejects: [AtomicU64; Reject::ALL.len()],
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reject(&self, reject: Reject) {
        Self::count(&self.rejects[reject as usize]);
    }

    /// Every count by its name; refusals by [`Reject::label`].
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let named = [
            ("connections", &self.connections),
            ("open", &self.open),
            ("requests", &self.requests),
            ("failed", &self.failed),
            ("cut", &self.cut),
            ("accept_errors", &self.accept_errors),
            ("timed_out", &self.timed_out),
            ("gone", &self.gone),
        ];
        let rejects = Reject::ALL.iter().map(|reject| (reject.label(), &self.rejects[*reject as usize]));
        named.into_iter().chain(rejects).map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

impl Default for Counters {
    fn default() -> Counters {
        let zero = || AtomicU64::new(0);
        Counters {
            connections: zero(),
            open: zero(),
            requests: zero(),
            failed: zero(),
            cut: zero(),
            accept_errors: zero(),
            timed_out: zero(),
            gone: zero(),
            rejects: std::array::from_fn(|_| zero()),
        }
    }
}

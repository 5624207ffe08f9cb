//! Locks and atomics of the threads: the standard library's, or those of shuttle, which tries their interleavings.
//! Must not know: what they are used for.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
};

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::thread;

#[cfg(feature = "shuttle")]
pub(crate) mod thread {
    //! Threads of a world without time: any wait for a while may be over at once.

    pub(crate) use shuttle::thread::{Builder, JoinHandle, Thread, ThreadId, current, panicking, park};

    pub(crate) fn park_timeout(_time: std::time::Duration) {
        shuttle::thread::yield_now();
    }
}

/// A time by which nothing but speed is decided.
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::time::Instant as Guess;

/// One that says anything, for where a schedule is to be played again: what is decided by it may be decided either way.
#[cfg(feature = "shuttle")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guess;

#[cfg(feature = "shuttle")]
impl Guess {
    pub(crate) fn now() -> Guess {
        Guess
    }

    pub(crate) fn elapsed(self) -> std::time::Duration {
        use shuttle::rand::Rng;
        std::time::Duration::from_millis(shuttle::rand::thread_rng().gen_range(0..2))
    }
}

//! What request bodies and files on their way out take of the process, all together: memory, disk, descriptors.
//! Must not know: what a body is, whose it is.
//! Invariant: what a share has taken goes back when the share is dropped.

use std::sync::Arc;
// As the counters: no thread waits for what they say.
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What bodies of all connections take, and may take.
#[derive(Debug)]
pub(crate) struct Storage {
    memory: Amount,
    disk: Amount,
    files: AtomicUsize,
    max_files: usize,
    /// Temporary files cannot be made or written, and that was told.
    fails: AtomicBool,
}

/// Descriptors kept for everything but connections and their bodies and files.
const RESERVED_FILES: u64 = 64;

/// What a limit of open files leaves for connections, bodies and files.
pub(crate) fn less_reserve(open_files: u64) -> usize {
    usize::try_from(open_files - RESERVED_FILES.min(open_files / 2)).unwrap_or(usize::MAX)
}

/// Bytes in use, and how many may be.
#[derive(Debug)]
struct Amount {
    used: AtomicU64,
    most: u64,
}

impl Amount {
    fn new(most: u64) -> Amount {
        Amount { used: AtomicU64::new(0), most }
    }

    /// Whether so many more fit; they are in use then.
    fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.most);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Storage {
    /// Of so many bytes in memory, and so many on disk (0: no limit), in a process that may open so many files.
    pub(crate) fn new(max_memory: u64, max_disk: u64, open_files: Option<u64>) -> Arc<Storage> {
        let max_disk = if max_disk == 0 { u64::MAX } else { max_disk };
        Arc::new(Storage {
            memory: Amount::new(max_memory),
            disk: Amount::new(max_disk),
            files: AtomicUsize::new(0),
            max_files: open_files.map_or(usize::MAX, less_reserve),
            fails: AtomicBool::new(false),
        })
    }

    /// A share that has taken nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { storage: self.clone(), memory: 0, disk: 0, files: 0 }
    }

    /// Descriptors in use.
    pub(crate) fn files(&self) -> usize {
        self.files.load(Ordering::Relaxed)
    }

    /// A temporary file could not be made or written. Whether that is new.
    pub(crate) fn note_failure(&self) -> bool {
        !self.fails.swap(true, Ordering::Relaxed)
    }

    /// One has been written.
    pub(crate) fn note_success(&self) {
        self.fails.store(false, Ordering::Relaxed);
    }
}

/// What one body, or one file, has taken.
#[derive(Debug)]
pub(crate) struct Share {
    storage: Arc<Storage>,
    memory: u64,
    disk: u64,
    files: usize,
}

impl Share {
    /// Takes so many bytes of memory, if they are to be had.
    pub(crate) fn take_memory(&mut self, bytes: usize) -> bool {
        let taken = self.storage.memory.take(bytes as u64);
        self.memory += if taken { bytes as u64 } else { 0 };
        taken
    }

    /// Gives all memory back.
    pub(crate) fn give_memory_back(&mut self) {
        self.storage.memory.give_back(std::mem::take(&mut self.memory));
    }

    /// Takes so many bytes of disk, if they are to be had.
    pub(crate) fn take_disk(&mut self, bytes: usize) -> bool {
        let taken = self.storage.disk.take(bytes as u64);
        self.disk += if taken { bytes as u64 } else { 0 };
        taken
    }

    /// Takes so many descriptors, if they are to be had beside those of so many connections.
    pub(crate) fn take_files(&mut self, files: usize, connections: u64) -> bool {
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        let fits = self.storage.files().saturating_add(files).saturating_add(connections) <= self.storage.max_files;
        if fits {
            self.count_files(files);
        }
        fits
    }

    /// Counts so many descriptors that there are already.
    pub(crate) fn count_files(&mut self, files: usize) {
        self.storage.files.fetch_add(files, Ordering::Relaxed);
        self.files += files;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_memory_back();
        self.storage.disk.give_back(self.disk);
        self.storage.files.fetch_sub(self.files, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_until_the_bound_and_give_back_when_they_go() {
        let storage = Storage::new(100, 1000, Some(200));
        let (mut one, mut other) = (storage.share(), storage.share());
        assert!(one.take_memory(60) && !other.take_memory(41) && other.take_memory(40));
        assert!(one.take_disk(1000) && !other.take_disk(1));
        // 136 of 200 descriptors are for connections, bodies and files.
        assert!(!one.take_files(2, 135) && one.take_files(2, 134) && !other.take_files(2, 133));
        assert_eq!(storage.files(), 2);
        one.give_memory_back();
        assert!(other.take_memory(60), "what was given back can be had");
        drop(one);
        assert!(other.take_disk(1000));
        drop(other);
        let used = |amount: &Amount| amount.used.load(Ordering::Relaxed);
        assert_eq!((used(&storage.memory), used(&storage.disk), storage.files()), (0, 0, 0));
    }

    #[test]
    fn without_a_limit_the_disk_is_the_limit() {
        let storage = Storage::new(0, 0, None);
        let mut share = storage.share();
        assert!(!share.take_memory(1) && share.take_disk(usize::MAX));
        assert!(!share.take_disk(1), "a sum that overflows is too much");
    }

    #[test]
    fn a_failure_is_new_once_until_something_has_been_written() {
        let storage = Storage::new(0, 0, None);
        assert!(storage.note_failure() && !storage.note_failure());
        storage.note_success();
        assert!(storage.note_failure());
    }
}

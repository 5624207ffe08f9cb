//! A request body on its way in: in memory up to a limit, then in an unlinked temporary file.
//! Knows: what all bodies together may take.   Must not know: sockets, framing.
//! Invariant: whatever may wait for a disk runs inside [`Means::detached`].

use std::fs::File;
use std::io::{self, Seek, Write};

use crate::request::Body;
use crate::storage::Share;

/// Pieces may be single bytes (chunks of one byte each): this many go to the file with one system call.
const FILE_BUFFER_BYTES: usize = 16 * 1024;

/// The least that memory grows by.
const LEAST_GROWTH: usize = 1024;

/// Descriptors of a spool: its file, and the application's duplicate.
const FILES: usize = 2;

/// What a spool may use.
pub(crate) struct Means<'a> {
    /// Bytes that may lie in memory.
    pub body_buffer: usize,
    /// Connections that are open, and have descriptors, too.
    pub connections: u64,
    /// Runs what may wait for a disk; what the application's runtime holds is let go for so long.
    pub detached: &'a dyn Fn(&mut (dyn FnMut() + Send)),
}

/// Why a body cannot be kept.
#[derive(Debug)]
pub(crate) enum SpoolError {
    /// All bodies together take as much disk, or as many descriptors, as they may.
    Full,
    /// What the system says of the temporary file.
    Io(io::Error),
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> SpoolError {
        SpoolError::Io(error)
    }
}

/// A body that is being collected.
#[derive(Debug)]
pub(crate) struct Spool {
    place: Place,
    share: Share,
}

#[derive(Debug)]
enum Place {
    /// Small enough so far.
    Memory(Vec<u8>),
    /// All of it is in the file, which no name leads to, but for the last bytes.
    File { file: File, pending: Vec<u8> },
}

impl Spool {
    /// An empty one.
    pub(crate) fn new(share: Share) -> Spool {
        Spool { place: Place::Memory(Vec::new()), share }
    }

    /// Appends `data`. What makes the body longer than it may be in memory, or all bodies together, moves it to a file;
    /// so does a system that has no memory for it.
    ///
    /// # Errors
    /// Where it can be kept neither in memory nor in a file.
    pub(crate) fn push(&mut self, data: &[u8], means: &Means<'_>) -> Result<(), SpoolError> {
        if let Place::Memory(memory) = &mut self.place {
            let len = memory.len() + data.len();
            if len <= means.body_buffer && (len <= memory.capacity() || grow(memory, len, &mut self.share, means)) {
                memory.extend_from_slice(data);
                return Ok(());
            }
            self.move_to_file(means)?;
        }
        if !self.share.take_disk(data.len()) {
            return Err(SpoolError::Full);
        }
        let Place::File { file, pending } = &mut self.place else { return Ok(()) };
        if pending.len() + data.len() <= pending.capacity() {
            pending.extend_from_slice(data);
            return Ok(());
        }
        detached(means, || {
            file.write_all(pending)?;
            file.write_all(data)
        })?;
        pending.clear();
        Ok(())
    }

    fn move_to_file(&mut self, means: &Means<'_>) -> Result<(), SpoolError> {
        let Place::Memory(memory) = &mut self.place else { return Ok(()) };
        if !self.share.take_disk(memory.len()) || !self.share.take_files(FILES, means.connections) {
            return Err(SpoolError::Full);
        }
        let file = detached(means, || {
            let mut file = tempfile::tempfile()?;
            file.write_all(memory)?;
            Ok(file)
        })?;
        let mut pending = Vec::new();
        // Without that memory each piece is written by itself.
        let _ = pending.try_reserve_exact(FILE_BUFFER_BYTES);
        self.place = Place::File { file, pending };
        self.share.give_memory_back();
        Ok(())
    }

    /// Ready to be read from the start. Whether it is a file.
    ///
    /// # Errors
    /// What the kernel says of the temporary file.
    pub(crate) fn rewind(&mut self, means: &Means<'_>) -> io::Result<bool> {
        let Place::File { file, pending } = &mut self.place else { return Ok(false) };
        detached(means, || {
            file.write_all(pending)?;
            file.rewind()
        })?;
        *pending = Vec::new();
        Ok(true)
    }

    /// All of it, once it has been rewound.
    pub(crate) fn body(&self) -> Body<'_> {
        match &self.place {
            Place::Memory(memory) => Body::Memory(memory),
            Place::File { file, .. } => Body::File(file),
        }
    }

    /// Lets go of it: a file's blocks are freed, which takes time on some disks.
    pub(crate) fn discard(self, means: &Means<'_>) {
        let Spool { place, share } = self;
        if let Place::File { file, .. } = place {
            let mut file = Some(file);
            (means.detached)(&mut || drop(file.take()));
        }
        drop(share); // behind the file
    }
}

/// Makes room for `len` bytes, if that much memory is to be had.
fn grow(memory: &mut Vec<u8>, len: usize, share: &mut Share, means: &Means<'_>) -> bool {
    let had = memory.capacity();
    let doubled = len.max(2 * had).max(LEAST_GROWTH).min(means.body_buffer.max(len));
    share.take_memory(doubled - had) && memory.try_reserve_exact(doubled - memory.len()).is_ok()
}

fn detached<T: Send>(means: &Means<'_>, mut work: impl FnMut() -> io::Result<T> + Send) -> io::Result<T> {
    let mut result = Err(io::ErrorKind::Other.into());
    (means.detached)(&mut || result = work());
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use std::io::Read;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Pushes `pieces` one after the other, rewinds, and reads: what is there, whether in a file, and how often the spool
    /// let go of the runtime.
    fn spooled(
        pieces: &[&[u8]],
        body_buffer: usize,
        storage: (u64, u64),
    ) -> Result<(Vec<u8>, bool, usize), SpoolError> {
        let waits = AtomicUsize::new(0);
        let detached = |work: &mut (dyn FnMut() + Send)| {
            waits.fetch_add(1, Ordering::Relaxed);
            work();
        };
        let means = Means { body_buffer, connections: 1, detached: &detached };
        let mut spool = Spool::new(Storage::new(storage.0, storage.1, None).share());
        for piece in pieces {
            spool.push(piece, &means)?;
        }
        let is_file = spool.rewind(&means)?;
        let mut bytes = Vec::new();
        match spool.body() {
            Body::Memory(memory) => bytes.extend_from_slice(memory),
            Body::File(mut file) => drop(file.read_to_end(&mut bytes).unwrap()),
        }
        spool.discard(&means);
        Ok((bytes, is_file, waits.into_inner()))
    }

    #[test]
    fn a_body_moves_to_a_file_past_a_limit_and_stays_whole() {
        let pieces: &[&[u8]] = &[b"hello", b" wo", b"rld", b"!"];
        // Of a body, of all in memory, of all on disk: whether it is in a file.
        let table = [
            (100, 4096, 0, Some(false)),
            (12, 4096, 0, Some(false)),
            (11, 4096, 0, Some(true)),
            (0, 4096, 0, Some(true)),
            (100, 0, 0, Some(true)),
            (100, 6, 0, Some(true)),
            (0, 0, 12, Some(true)),
            (0, 0, 11, None),
            (8, 8, 8, None),
        ];
        for (body_buffer, memory, disk, is_file) in table {
            let got = spooled(pieces, body_buffer, (memory, disk));
            let case = format!("{body_buffer} {memory} {disk}");
            match (got, is_file) {
                (Ok((bytes, file, waits)), Some(is_file)) => {
                    assert_eq!((&bytes[..], file), (&b"hello world!"[..], is_file), "{case}");
                    // Made, rewound, closed: what is in memory waits for nothing.
                    assert_eq!(waits, if is_file { 3 } else { 0 }, "{case}");
                }
                (Err(SpoolError::Full), None) => {}
                (got, _) => panic!("{case}: {got:?}"),
            }
        }
    }

    #[test]
    fn single_bytes_are_written_together() {
        let bytes = vec![b"x".as_slice(); 100_000];
        let (read, is_file, waits) = spooled(&bytes, 0, (0, 0)).unwrap();
        assert!(is_file && read.len() == 100_000);
        assert!(waits < 12, "{waits} calls");
    }
}

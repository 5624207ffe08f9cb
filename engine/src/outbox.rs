//! What a peer has not taken yet, in order. Empty except under back-pressure and while a file is sent.
//! Must not know: framing; it holds wire bytes.

use std::collections::{TryReserveError, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice};

use crate::io::Socket;
use crate::storage::Share;

/// Pieces given to one system call.
const PIECES_PER_SEND: usize = 16;

/// Bytes handed over in a turn, before other connections have theirs: a fast reader must not starve them.
const BYTES_PER_FLUSH: usize = 1024 * 1024;

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything has been handed to the system.
    All,
    /// The system takes no more until the peer has taken some: wait for the news.
    Blocked,
    /// The budget of a turn is used up: go on in the next.
    Paused,
}

/// Wire bytes: copied, a part of a block of the application's, or of a file.
#[derive(Debug)]
enum Piece<B> {
    Bytes(Vec<u8>),
    Block { block: B, start: usize, end: usize },
    File { file: File, offset: u64, len: u64, _share: Share },
}

impl<B: AsRef<[u8]>> Piece<B> {
    /// The bytes, where they are in memory.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Piece::Bytes(bytes) => Some(bytes),
            Piece::Block { block, start, end } => Some(&block.as_ref()[*start..*end]),
            Piece::File { .. } => None,
        }
    }
}

/// A queue of wire bytes.
#[derive(Debug)]
pub struct Outbox<B> {
    pieces: VecDeque<Piece<B>>,
    /// How many of them are files.
    files: usize,
    /// Bytes of the first piece that are gone.
    sent: usize,
}

impl<B> Default for Outbox<B> {
    fn default() -> Self {
        Outbox { pieces: VecDeque::new(), files: 0, sent: 0 }
    }
}

impl<B: AsRef<[u8]>> Outbox<B> {
    /// Whether everything has been handed to the system.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether a file is to be sent, which may wait for a disk.
    pub fn has_file(&self) -> bool {
        self.files > 0
    }

    /// Appends a copy of `bytes`.
    ///
    /// # Errors
    /// Where the system has no memory for it.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), TryReserveError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(Piece::Bytes(last)) = self.pieces.back_mut() {
            last.try_reserve(bytes.len())?;
            last.extend_from_slice(bytes);
            return Ok(());
        }
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len())?;
        copy.extend_from_slice(bytes);
        self.pieces.push_back(Piece::Bytes(copy));
        Ok(())
    }

    /// Appends bytes `start..end` of `block`, without a copy.
    pub fn push_block(&mut self, block: B, start: usize, end: usize) {
        if start < end {
            self.pieces.push_back(Piece::Block { block, start, end });
        }
    }

    /// Appends `len` bytes of `file` from `offset` on; its descriptor is counted in `share`.
    pub fn push_file(&mut self, file: File, offset: u64, len: u64, mut share: Share) {
        if len > 0 {
            share.count_files(1);
            self.files += 1;
            self.pieces.push_back(Piece::File { file, offset, len, _share: share });
        }
    }

    /// Hands over as much as the system takes and the budget allows. `total` grows by what went.
    pub fn flush(&mut self, socket: &mut impl Socket, total: &mut u64) -> io::Result<Flushed> {
        let mut budget = BYTES_PER_FLUSH;
        while !self.pieces.is_empty() {
            if budget == 0 {
                return Ok(Flushed::Paused);
            }
            let sent = match self.pieces.front_mut() {
                Some(Piece::File { file, offset, len, .. }) => {
                    let sent = send_file(socket, file, offset, len, budget);
                    if *len == 0 {
                        self.pieces.pop_front();
                        self.files -= 1;
                    }
                    sent
                }
                _ => self.send_memory(socket),
            };
            match sent {
                Ok(sent) => {
                    *total += sent as u64;
                    budget = budget.saturating_sub(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // An idle connection keeps no buffer.
        self.pieces = VecDeque::new();
        Ok(Flushed::All)
    }

    /// Sends the pieces in memory that stand before the first file, with one call.
    fn send_memory(&mut self, socket: &mut impl Socket) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES_PER_SEND];
        let mut skip = self.sent;
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(self.pieces.iter().map_while(Piece::bytes)) {
            *slice = IoSlice::new(&bytes[skip..]);
            skip = 0;
            count += 1;
        }
        let sent = socket.send(&slices[..count])?;
        self.sent += sent;
        while let Some(bytes) = self.pieces.front().and_then(Piece::bytes) {
            if self.sent < bytes.len() {
                break;
            }
            self.sent -= bytes.len();
            self.pieces.pop_front();
        }
        Ok(sent)
    }
}

fn send_file(
    socket: &mut impl Socket,
    file: &File,
    offset: &mut u64,
    len: &mut u64,
    budget: usize,
) -> io::Result<usize> {
    let sent = socket.send_file(file, *offset, usize::try_from(*len).unwrap_or(usize::MAX).min(budget))?;
    if sent == 0 {
        // Somebody has cut the file short since its length was announced.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    *offset += sent as u64;
    *len -= sent as u64;
    Ok(sent)
}

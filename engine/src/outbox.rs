//! What a peer has not taken yet, in order. Empty except under back-pressure.
//! Must not know: framing; it holds wire bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::io::Socket;

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

/// Wire bytes: copied, or a part of a block of the application's.
#[derive(Debug)]
enum Piece<B> {
    Bytes(Vec<u8>),
    Block { block: B, start: usize, end: usize },
}

impl<B: AsRef<[u8]>> Piece<B> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Bytes(bytes) => bytes,
            Piece::Block { block, start, end } => &block.as_ref()[*start..*end],
        }
    }
}

/// A queue of wire bytes.
#[derive(Debug)]
pub struct Outbox<B> {
    pieces: VecDeque<Piece<B>>,
    /// Bytes of the first piece that are gone.
    sent: usize,
}

impl<B> Default for Outbox<B> {
    fn default() -> Self {
        Outbox { pieces: VecDeque::new(), sent: 0 }
    }
}

impl<B: AsRef<[u8]>> Outbox<B> {
    /// Whether everything has been handed to the system.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Appends a copy of `bytes`.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        match self.pieces.back_mut() {
            _ if bytes.is_empty() => {}
            Some(Piece::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.pieces.push_back(Piece::Bytes(bytes.to_vec())),
        }
    }

    /// Appends bytes `start..end` of `block`, without a copy.
    pub fn push_block(&mut self, block: B, start: usize, end: usize) {
        if start < end {
            self.pieces.push_back(Piece::Block { block, start, end });
        }
    }

    /// Hands over as much as the system takes and the budget allows. `progress` is set where anything went.
    pub fn flush(&mut self, socket: &mut impl Socket, progress: &mut bool) -> io::Result<Flushed> {
        let mut budget = BYTES_PER_FLUSH;
        while !self.pieces.is_empty() {
            if budget == 0 {
                return Ok(Flushed::Paused);
            }
            let mut slices = [IoSlice::new(&[]); PIECES_PER_SEND];
            let mut skip = self.sent;
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(&piece.bytes()[skip..]);
                skip = 0;
                count += 1;
            }
            match socket.send(&slices[..count]) {
                Ok(sent) => {
                    *progress |= sent > 0;
                    budget = budget.saturating_sub(sent);
                    self.forget(sent);
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

    fn forget(&mut self, sent: usize) {
        self.sent += sent;
        while let Some(first) = self.pieces.front() {
            let len = first.bytes().len();
            if self.sent < len {
                break;
            }
            self.sent -= len;
            self.pieces.pop_front();
        }
    }
}

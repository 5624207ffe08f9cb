//! The sending side of a connection: the socket, what waits to be sent, and whether anything can be sent at all.
//! Knows: one socket, the outbox.   Must not know: requests, responses, who the application is.
//! Invariant: bytes leave in the order in which they were given; nothing is sent once the transport is broken.

use std::fs::File;
use std::io::{self, IoSlice};
use std::time::Duration;

use crate::io::{Millis, Socket, Wait};
use crate::outbox::{Flushed, Outbox};
use crate::rate::{LeastRate, Pace};
use crate::storage::Share;

/// Blocks up to this size are copied behind what leaves with them: a copy is cheaper than a second piece to send.
pub(crate) const COPIED_BLOCK_BYTES: usize = 8 * 1024;

/// A socket, and what its peer has not taken yet.
pub struct Transport<S: Socket, B> {
    pub(crate) socket: S,
    outbox: Outbox<B>,
    /// Bytes that came and went, and of them those that have been counted.
    received: u64,
    sent: u64,
    counted: (u64, u64),
    /// How the peer takes what waits for it; and when that was looked at last, and what had gone by then. Nothing where
    /// nothing waits.
    pace: Option<Box<(Pace, Millis, u64)>>,
    /// The peer cannot be sent anything any more.
    broken: bool,
    /// Bytes went out since this was last asked.
    progress: bool,
}

impl<S: Socket, B: AsRef<[u8]>> Transport<S, B> {
    /// Over `socket`, with nothing to send.
    pub(crate) fn new(socket: S) -> Transport<S, B> {
        Transport {
            socket,
            outbox: Outbox::default(),
            received: 0,
            sent: 0,
            counted: (0, 0),
            pace: None,
            broken: false,
            progress: false,
        }
    }

    /// Whether everything has been handed to the system.
    pub(crate) fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether the peer is gone: nothing more can be sent.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether bytes went out since the last call of this.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Bytes handed to the system so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that came and went since the last call of this.
    pub(crate) fn take_traffic(&mut self) -> (u64, u64) {
        let before = std::mem::replace(&mut self.counted, (self.received, self.sent));
        (self.received - before.0, self.sent - before.1)
    }

    /// Something waits for the peer, at `now` of a clock that stands still while nobody looks. Whether it has taken something,
    /// and that is less than `least` asks for. Where it has taken nothing, there is the deadline.
    pub(crate) fn is_taken_too_slowly(&mut self, now: Millis, least: LeastRate) -> bool {
        let sent = self.sent;
        let (pace, seen, before) = &mut **self.pace.get_or_insert_with(|| Box::new((Pace::new(sent), now, sent)));
        pace.wait(Duration::from_millis(now.saturating_sub(std::mem::replace(seen, now))));
        std::mem::replace(before, self.sent) != self.sent && pace.is_too_slow(self.sent, least)
    }

    /// Receives into `buffer`: see [`Socket::recv`].
    pub(crate) fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = self.socket.recv(buffer);
        self.received += *received.as_ref().unwrap_or(&0) as u64;
        received
    }

    /// Appends `bytes` to what waits, and empties them.
    pub(crate) fn push(&mut self, bytes: &mut Vec<u8>) {
        self.keep(bytes);
        bytes.clear();
    }

    /// Appends a copy of `bytes` to what waits. Without memory for it the peer cannot have what was promised to it.
    fn keep(&mut self, bytes: &[u8]) {
        if !self.broken && self.outbox.push_bytes(bytes).is_err() {
            self.reset();
        }
    }

    /// Hands over `bytes`, and empties them; what the peer does not take waits.
    pub(crate) fn send(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if !self.outbox.is_empty() {
            self.push(bytes);
            // What stands behind a file leaves with it: see `waits_for_disk`.
            if !self.waits_for_disk() {
                self.flush();
            }
            return;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() && !self.broken {
            match self.socket.send(&[IoSlice::new(rest)]) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    self.sent += sent as u64;
                    self.progress = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.keep(rest);
                    break;
                }
                Err(_) => self.broken = true,
            }
        }
        bytes.clear();
    }

    /// Hands over `before`, `data` and `tail` with one call; of `data` what the peer does not take waits as a part of the
    /// block that `own` gives.
    pub(crate) fn send_block(&mut self, before: &mut Vec<u8>, data: &[u8], tail: &[u8], own: impl FnOnce() -> B) {
        if self.broken {
            before.clear();
            return;
        }
        let mut sent = 0;
        if self.outbox.is_empty() {
            let pieces = [IoSlice::new(before), IoSlice::new(data), IoSlice::new(tail)];
            match self.socket.send(&pieces) {
                Ok(len) => {
                    sent = len;
                    self.sent += len as u64;
                    self.progress = true;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => self.broken = true,
            }
        }
        let gone = sent.min(before.len());
        self.keep(&before[gone..]);
        before.clear();
        sent -= gone;
        if sent < data.len() {
            self.outbox.push_block(own(), sent, data.len());
            sent = 0;
        } else {
            sent -= data.len();
        }
        self.keep(&tail[sent..]);
    }

    /// Appends `len` bytes of `file` from `offset` on.
    pub(crate) fn push_file(&mut self, file: File, offset: u64, len: u64, share: Share) {
        if self.broken {
            return;
        }
        self.outbox.push_file(file, offset, len, share);
    }

    /// Whether [`Transport::flush`] may wait for a disk.
    pub(crate) fn waits_for_disk(&self) -> bool {
        self.outbox.has_file()
    }

    /// Hands over what waits, as much as the peer takes and a turn allows.
    pub(crate) fn flush(&mut self) -> Flushed {
        if self.outbox.is_empty() || self.broken {
            return Flushed::All; // what waits behind a break is lost
        }
        let before = self.sent;
        let flushed = self.outbox.flush(&mut self.socket, &mut self.sent);
        self.progress |= self.sent != before;
        if self.outbox.is_empty() {
            self.pace = None;
        }
        flushed.unwrap_or_else(|_| {
            self.broken = true;
            Flushed::All
        })
    }

    /// Hands over what waits. Whether all of it is gone, with the peer there to have more.
    pub(crate) fn release(&mut self) -> bool {
        self.flush() == Flushed::All && !self.broken
    }

    /// Waits until the peer takes more: see [`Socket::wait_writable`].
    pub(crate) fn wait_writable(&mut self, timeout: Duration) -> io::Result<(Wait, Duration)> {
        self.socket.wait_writable(timeout)
    }

    /// Ends the sending direction in order, behind what the system has.
    pub(crate) fn finish(&mut self) {
        // Where that fails, the peer has gone.
        let _ = self.socket.shutdown_write();
    }

    /// Nothing more is sent: what waits is lost, and the connection ends.
    pub(crate) fn break_off(&mut self) {
        self.broken = true;
    }

    /// Resets the connection: the peer must not take its end for the end of a response.
    pub(crate) fn reset(&mut self) {
        self.socket.reset_on_close();
        self.broken = true;
    }
}

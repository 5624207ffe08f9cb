//! One response on its way out: the application's head and blocks become wire bytes.
//! Knows: response framing, the connection it leaves by.   Must not know: requests, the loop.
//! Invariant: never two framings on the wire, never more or less than the `Content-Length` of a kept connection.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::Record;
use crate::app::App;
use crate::connection::Connection;
use crate::control::Control;
use crate::http1::ResponseHead;
use crate::http1::response::{ResponseFraming, Stamp, finish_error, finish_head};
use crate::io::Socket;
use crate::watch::Watch;

/// Blocks up to this size are copied behind what leaves with them: a copy is cheaper than a second piece to send.
const COPIED_BLOCK_BYTES: usize = 8 * 1024;

/// Bytes that wait to be sent together; more are handed over at once.
const OUTGOING_BYTES: usize = 32 * 1024;

/// How long a `write()` waits before it looks for signals: one that comes just before the wait does not interrupt it.
const WRITE_SLICE: Duration = Duration::from_secs(1);

/// Calls of the application in a row that must be quick before anything is held again.
const PATIENCE: u32 = 64;

/// Ticks in one call that make it a slow one. One can pass in the quickest.
const SLOW_TICKS: u32 = 2;

/// What a thread needs to write answers.
pub struct Outgoing {
    /// Wire bytes that leave with the next send.
    pub(crate) bytes: Vec<u8>,
    /// The head of the response, until it is sent; empty where none has been given.
    pub(crate) head: ResponseHead,
    pub(crate) stamp: Stamp,
    pub(crate) control: Arc<Control>,
    pub(crate) write_timeout: Duration,
    pub(crate) watch: Arc<Watch>,
    /// The thread's place with the watch.
    pub(crate) post: usize,
    /// The number of the call under way.
    call_number: u32,
    /// Something would be held if somebody ticked.
    pub(crate) wants_watch: bool,
    /// Used again for the next request of which something is noted.
    pub(crate) spare_record: Option<Box<Record>>,
    /// Quick calls of the application to go until something may be held.
    patience: u32,
}

impl Outgoing {
    pub(crate) fn new(
        stamp: Stamp,
        control: Arc<Control>,
        write_timeout: Duration,
        watch: Arc<Watch>,
        post: usize,
    ) -> Outgoing {
        Outgoing {
            bytes: Vec::new(),
            head: ResponseHead::default(),
            stamp,
            control,
            write_timeout,
            watch,
            post,
            call_number: 0,
            wants_watch: false,
            spare_record: None,
            patience: 0,
        }
    }

    /// Whether what waits may wait for more to leave with it: the application has been quick, and somebody ticks.
    pub(crate) fn may_hold(&mut self) -> bool {
        if self.patience > 0 || self.bytes.len() >= OUTGOING_BYTES {
            return false;
        }
        let kept = self.watch.is_kept();
        self.wants_watch |= !kept;
        kept
    }

    /// A call of the application begins; the tick at which it does.
    pub(crate) fn begin_call(&mut self) -> u32 {
        self.call_number = self.watch.begin_call(self.post);
        self.watch.ticks()
    }

    /// The application has come back from a call that began at tick `began`.
    pub(crate) fn end_call(&mut self, began: u32) {
        self.watch.end_call(self.post);
        let slow = self.watch.ticks().wrapping_sub(began) >= SLOW_TICKS;
        self.patience = if slow { PATIENCE } else { self.patience.saturating_sub(1) };
    }
}

/// The response cannot go on: the peer is gone, or took nothing for too long.
#[derive(Debug)]
pub enum Broken {
    /// The system's word.
    Io(io::Error),
    /// `write_timeout` passed without the peer taking a byte.
    TimedOut,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Io(error) => write!(f, "the client is gone ({error})"),
            Broken::TimedOut => f.write_str("the client took nothing for the length of write_timeout"),
        }
    }
}

/// The response being given; owns the connection while the application works on it.
pub struct Reply<S: Socket, A: App<S>> {
    pub(crate) connection: Box<Connection<S, A>>,
    pub(crate) outgoing: Box<Outgoing>,
}

impl<S: Socket, A: App<S>> Reply<S, A> {
    /// Whether the head has been given to the connection; from then on it cannot be changed.
    pub fn is_started(&self) -> bool {
        self.connection.answer.started
    }

    /// Bytes that `Content-Length` announced and nobody has given yet.
    pub fn missing(&self) -> u64 {
        match self.connection.answer.framing {
            ResponseFraming::Length(left) if self.is_started() => left,
            _ => 0,
        }
    }

    /// Whether more was given than `Content-Length` announced; what exceeded it was not sent.
    pub fn has_excess(&self) -> bool {
        self.connection.answer.excess
    }

    /// The number of the call under way; no other of the same thread has it.
    pub fn call_number(&self) -> u32 {
        self.outgoing.call_number
    }

    /// Ends the response where it is; the peer sees that it is not whole.
    pub(crate) fn cut(&mut self) {
        let connection = &mut *self.connection;
        if connection.answer.framing == ResponseFraming::UntilClose {
            connection.socket.reset_on_close(); // an orderly end would pass for the end of the body
        } else {
            let _ = connection.socket.shutdown_write();
        }
        connection.answer.broken = true;
    }

    /// Whether the peer is gone: nothing more can be sent.
    pub fn is_broken(&self) -> bool {
        self.connection.answer.broken
    }

    /// Sends `head`. `whole` is the length of the body where all of it is known.
    pub fn start(&mut self, head: &ResponseHead, whole: Option<u64>) {
        self.outgoing.head.clone_from(head);
        self.start_with_given(whole);
    }

    /// As [`Reply::start`], with the head that [`Lent::set_head`](crate::Lent::set_head) has set; `false` where there is none.
    pub fn start_with_given(&mut self, whole: Option<u64>) -> bool {
        debug_assert!(!self.is_started(), "one head a response");
        let Outgoing { head, bytes, stamp, control, .. } = &mut *self.outgoing;
        let before = bytes.len();
        if !head.is_begun() {
            return false;
        }
        let answer = &mut self.connection.answer;
        // The stop may have come while the application was at work.
        answer.asked.persists &= !control.is_stopping();
        (answer.framing, answer.persists) = finish_head(head, answer.asked, whole, stamp, bytes);
        answer.started = true;
        answer.status = head.status();
        if let Some(record) = &mut self.connection.record {
            record.note_head(&bytes[before..]);
        }
        true
    }

    /// Whether bytes wait to be sent with those that follow.
    pub(crate) fn holds(&self) -> bool {
        !self.outgoing.bytes.is_empty() && self.outgoing.watch.is_kept()
    }

    /// Sends what waits, as much as the peer takes now. Whether nothing is left that could be sent.
    pub(crate) fn send_held(&mut self) -> bool {
        self.connection.send_outgoing(&mut self.outgoing);
        self.connection.release() || self.is_broken()
    }

    /// Sends what waits and, where the peer takes all of it, the end of the connection.
    pub(crate) fn send_last(&mut self) {
        if self.send_held() {
            // Where that fails, the peer has gone.
            let _ = self.connection.socket.shutdown_write();
        }
    }

    /// Ends the body before the application's `close()` runs, which may take its time; where less came than was announced,
    /// that is told later.
    pub fn end(&mut self) {
        if self.is_started() && self.connection.answer.framing == ResponseFraming::Chunked {
            self.finish();
            self.connection.answer.framing = ResponseFraming::Nothing;
        }
        if !self.outgoing.may_hold() {
            self.connection.send_outgoing(&mut self.outgoing);
        }
    }

    /// Adds a block of the body, framed; `own` gives the block itself where it is large enough not to be copied.
    pub fn block(&mut self, data: &[u8], own: impl FnOnce() -> A::Block) {
        let answer = &mut self.connection.answer;
        debug_assert!(answer.started, "the head comes first");
        if data.is_empty() {
            return; // an empty chunk would end the body
        }
        let mut len = data.len();
        let mut tail: &[u8] = b"";
        match &mut answer.framing {
            ResponseFraming::Nothing => return,
            ResponseFraming::UntilClose => {}
            ResponseFraming::Chunked => {
                push_hex(&mut self.outgoing.bytes, len);
                tail = b"\r\n";
            }
            ResponseFraming::Length(left) => {
                let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(len);
                answer.excess |= fits < len;
                len = fits;
                *left -= len as u64;
            }
        }
        let data = &data[..len];
        answer.bytes += len as u64;
        if len <= COPIED_BLOCK_BYTES {
            self.outgoing.bytes.extend_from_slice(data);
            self.outgoing.bytes.extend_from_slice(tail);
            if self.outgoing.bytes.len() > OUTGOING_BYTES {
                self.connection.send_outgoing(&mut self.outgoing);
            }
            return;
        }
        self.send_large(data, tail, own);
    }

    /// Sends what waits, `data` and `tail` with one call, and keeps what the peer does not take.
    fn send_large(&mut self, data: &[u8], tail: &[u8], own: impl FnOnce() -> A::Block) {
        let connection = &mut *self.connection;
        let before = &mut self.outgoing.bytes;
        let mut sent = 0;
        if connection.outbox.is_empty() && !connection.answer.broken {
            let pieces = [IoSlice::new(before), IoSlice::new(data), IoSlice::new(tail)];
            match connection.socket.send(&pieces) {
                Ok(len) => {
                    sent = len;
                    connection.sent += len as u64;
                }
                Err(error) if is_try_again(&error) => {}
                Err(_) => connection.answer.broken = true,
            }
        }
        let gone = sent.min(before.len());
        connection.outbox.push_bytes(&before[gone..]);
        before.clear();
        sent -= gone;
        if sent < data.len() {
            connection.outbox.push_block(own(), sent, data.len());
            sent = 0;
        } else {
            sent -= data.len();
        }
        connection.outbox.push_bytes(&tail[sent..]);
    }

    /// Adds `len` bytes of `file` from `offset` on as the rest of the body, whose framing must be by length: see
    /// [`Reply::start`] with `whole`. They are sent without being read into memory.
    pub fn file(&mut self, file: File, offset: u64, len: u64) {
        let answer = &mut self.connection.answer;
        let len = match &mut answer.framing {
            ResponseFraming::Length(left) => {
                let fits = len.min(*left);
                *left -= fits;
                fits
            }
            ResponseFraming::UntilClose => len,
            ResponseFraming::Nothing | ResponseFraming::Chunked => return,
        };
        answer.bytes += len;
        self.connection.outbox.push_bytes(&self.outgoing.bytes);
        self.outgoing.bytes.clear();
        self.connection.outbox.push_file(file, offset, len);
    }

    /// For `write()`, after [`Reply::block`]: hands over everything, blocking the thread for as long as the peer needs.
    /// `Ok(false)` where a signal came, or may have come: see to it, and call again with the same `waited`, which is
    /// the time since the peer last took something.
    ///
    /// # Errors
    /// [`Broken`] where the peer is gone or too slow, or the server is stopped at once; the response is over then.
    pub fn hand_over(&mut self, waited: &mut Duration) -> Result<bool, Broken> {
        self.connection.send_outgoing(&mut self.outgoing);
        let result = self.wait_until_empty(waited);
        self.connection.answer.broken |= result.is_err();
        result
    }

    fn wait_until_empty(&mut self, waited: &mut Duration) -> Result<bool, Broken> {
        let connection = &mut *self.connection;
        while !connection.outbox.is_empty() && !connection.answer.broken {
            if self.outgoing.control.is_aborting() {
                return Err(Broken::Io(io::ErrorKind::ConnectionAborted.into()));
            }
            match connection.socket.wait_writable(WRITE_SLICE.min(self.outgoing.write_timeout)) {
                Ok(true) => {
                    *waited = Duration::ZERO;
                    connection.flush_outbox();
                }
                Ok(false) => {
                    *waited += WRITE_SLICE;
                    return if *waited < self.outgoing.write_timeout { Ok(false) } else { Err(Broken::TimedOut) };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
                Err(error) => return Err(Broken::Io(error)),
            }
        }
        if connection.answer.broken { Err(Broken::Io(io::ErrorKind::BrokenPipe.into())) } else { Ok(true) }
    }

    /// Ends the body: `false` where less came than was announced.
    pub(crate) fn finish(&mut self) -> bool {
        match self.connection.answer.framing {
            ResponseFraming::Chunked => self.outgoing.bytes.extend_from_slice(b"0\r\n\r\n"),
            ResponseFraming::Length(left) => return left == 0,
            ResponseFraming::Nothing | ResponseFraming::UntilClose => {}
        }
        true
    }

    /// Answers with an error in place of a response that never began.
    pub(crate) fn refuse(&mut self, status: &str) {
        debug_assert!(!self.is_started(), "an error takes the place of a response, never follows one");
        let Outgoing { bytes, stamp, .. } = &mut *self.outgoing;
        self.connection.answer.bytes = finish_error(status, self.connection.answer.asked, stamp, bytes);
        self.connection.answer.started = true;
        self.connection.answer.status = code_of(status);
        self.connection.answer.persists = false;
        self.connection.answer.framing = ResponseFraming::Nothing;
    }
}

/// The code of a status such as `503 Service Unavailable`.
pub(crate) fn code_of(status: &str) -> u16 {
    status.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
}

pub(crate) fn is_try_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// `chunk-size CRLF` (RFC 9112, section 7.1).
fn push_hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| b"0123456789ABCDEF"[number >> (digit * 4) & 15]));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for number in [1, 9, 10, 15, 16, 255, 256, 4095, 65536, usize::MAX] {
            let mut out = Vec::new();
            push_hex(&mut out, number);
            assert_eq!(out, format!("{number:X}\r\n").into_bytes());
        }
    }
}

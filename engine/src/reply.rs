//! One response on its way out: the application's head and blocks become wire bytes, and wait for their client.
//! Knows: response framing, the transport it leaves by.   Must not know: connections, requests, the event loop.
//! Invariant: never two framings on the wire, never more or less than the `Content-Length` of a kept connection; a thread
//! that waits for its client has no permit to run application code, and has one again when the wait is over.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::Record;
use crate::config::Config;
use crate::control::Control;
use crate::host::{Host, Parked};
use crate::http1::ResponseHead;
use crate::http1::response::{Asked, ResponseFraming, Stamp, finish_error, finish_head};
use crate::io::{Socket, Wait};
use crate::outbox::Flushed;
use crate::permits::Place;
use crate::rate::{LeastRate, Pace};
use crate::storage::Storage;
use crate::sync::{Guess, thread};
use crate::transport::{COPIED_BLOCK_BYTES, Transport};
use crate::watch::{ThreadSlot, Watch};

/// Bytes that wait to be sent together; more are handed over at once.
const OUTGOING_BYTES: usize = 32 * 1024;

/// How long a thread waits for its client before it looks for signals and for the end of the server: a signal that comes
/// just before the wait does not interrupt it.
const WAIT_SLICE: Duration = Duration::from_millis(500);

/// Calls of the application in a row that must be quick before anything is held again.
const PATIENCE: u32 = 64;

/// Ticks in one call that make it a slow one. One can pass in the quickest.
const SLOW_TICKS: u32 = 2;

/// Fairness: after so many blocks, or so long, a stream lets the other requests have their turn.
const BLOCKS_PER_TURN: u32 = 64;
const TURN: Duration = Duration::from_millis(2);

/// What a thread needs to write responses.
pub struct Outgoing {
    /// Wire bytes that leave with the next send.
    pub(crate) bytes: Vec<u8>,
    /// The head of the response, until it is sent; empty where none has been given.
    pub(crate) head: ResponseHead,
    pub(crate) stamp: Stamp,
    pub(crate) control: Arc<Control>,
    pub(crate) write_timeout: Duration,
    pub(crate) least_rate: LeastRate,
    pub(crate) storage: Arc<Storage>,
    pub(crate) watch: Arc<Watch>,
    /// Where the thread says what it does.
    pub(crate) slot: Arc<ThreadSlot>,
    /// Where the threads hand over the lead and the permits; nothing for a thread that calls no application.
    pub(crate) host: Option<Arc<dyn Host>>,
    /// The event loop that the thread serves.
    pub(crate) loop_index: usize,
    /// Other connections wait for their turn.
    pub(crate) crowded: bool,
    /// The thread that writes them.
    thread: thread::ThreadId,
    /// The number of the call under way, and the tick at which it began.
    call_number: u32,
    began: u32,
    /// What is noted of a request: used again for the next.
    pub(crate) record: Box<Record>,
    /// Something is noted of this one.
    pub(crate) is_recorded: bool,
    /// Quick calls of the application to go until something may be held.
    patience: u32,
    /// The response that is being given. It lies here so that a [`Reply`] is two pointers, since it is handed on often.
    pub(crate) response: ResponseState,
    turn: Turn,
}

impl Outgoing {
    pub(crate) fn new(
        stamp: Stamp,
        control: Arc<Control>,
        config: &Config,
        storage: Arc<Storage>,
        watch: Arc<Watch>,
        slot: Arc<ThreadSlot>,
        host: Option<Arc<dyn Host>>,
    ) -> Outgoing {
        Outgoing {
            bytes: Vec::new(),
            head: ResponseHead::default(),
            stamp,
            control,
            write_timeout: config.write_timeout,
            least_rate: LeastRate::new(config.min_send_rate, config.write_timeout),
            storage,
            watch,
            slot,
            host,
            loop_index: 0,
            crowded: false,
            thread: thread::current().id(),
            call_number: 0,
            began: 0,
            record: Box::default(),
            is_recorded: false,
            patience: 0,
            response: ResponseState::default(),
            turn: Turn::default(),
        }
    }

    /// Whether what waits may wait for more to leave with it: the application has been quick, and somebody ticks.
    pub(crate) fn may_hold(&self) -> bool {
        if self.patience > 0 || self.bytes.len() >= OUTGOING_BYTES {
            return false;
        }
        self.watch.is_kept()
    }

    /// A call of the application begins.
    #[inline]
    pub(crate) fn begin_call(&mut self) {
        self.call_number = self.watch.begin_call(&self.slot);
        self.began = self.watch.ticks();
    }

    /// The application has come back from a call.
    #[inline]
    pub(crate) fn end_call(&mut self) {
        self.watch.end_call(&self.slot);
        let slow = self.watch.ticks().wrapping_sub(self.began) >= SLOW_TICKS;
        self.patience = if slow { PATIENCE } else { self.patience.saturating_sub(1) };
    }
}

/// The response cannot go on: the peer is gone or too slow, or the server ends.
#[derive(Debug)]
pub enum Broken {
    /// The system's word.
    Io(io::Error),
    /// `write_timeout` passed without the peer taking a byte.
    TimedOut,
    /// The peer takes fewer than `min_send_rate` bytes a second.
    TooSlow,
    /// More streams than `max_parked` waited for their clients, and this one had waited longest.
    GaveWay,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Io(error) => write!(f, "the client is gone ({error})"),
            Broken::TimedOut => f.write_str("the client took nothing for the length of write_timeout"),
            Broken::TooSlow => f.write_str("the client took fewer bytes a second than min_send_rate"),
            Broken::GaveWay => {
                f.write_str("more streams than max_parked waited, and this client took nothing for longest")
            }
        }
    }
}

/// What a response does between two blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// It makes the next block.
    GoOn,
    /// Its client has not taken the last one: it calls [`Reply::wait_for_client`].
    Wait,
    /// Its turn is over: it calls [`Reply::give_way`].
    GiveWay,
    /// It ends: nothing more can be sent, or is wanted.
    Over,
}

/// How far a response has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseState {
    pub asked: Asked,
    pub framing: ResponseFraming,
    pub persists: bool,
    pub started: bool,
    /// 0 before it has started.
    pub status: u16,
    /// Bytes of the body that have been given.
    pub bytes: u64,
    /// More came than `Content-Length` announced.
    pub excess: bool,
    /// It was cut because its client takes it too slowly.
    pub too_slow: bool,
}

impl Default for ResponseState {
    fn default() -> ResponseState {
        ResponseState {
            asked: Asked::default(),
            framing: ResponseFraming::Nothing,
            persists: false,
            started: false,
            status: 0,
            bytes: 0,
            excess: false,
            too_slow: false,
        }
    }
}

/// A stream's turn, and its wait for its client or for the next turn.
#[derive(Default)]
struct Turn {
    /// Blocks of the response, and those of this turn.
    blocks: u32,
    blocks_in_turn: u32,
    began: Option<Guess>,
    wait: Option<ClientWait>,
    /// How the client takes the response, in all waits for it.
    pace: Pace,
    /// The permit that it waits for.
    place: Option<Place>,
}

/// A wait for the client.
struct ClientWait {
    /// Another thread has the permit; nothing where none could be had, and this one keeps it.
    parked: Option<Arc<Parked>>,
    /// Since the client last took something.
    waited: Duration,
    /// The deadline of the application's call stands still.
    paused_call: bool,
    broken: Option<Broken>,
}

/// The response being given; owns the sending side of its connection while the application works on it.
pub struct Reply<S: Socket, B> {
    pub(crate) transport: Box<Transport<S, B>>,
    pub(crate) outgoing: Box<Outgoing>,
}

impl<S: Socket, B: AsRef<[u8]>> Reply<S, B> {
    /// To a request that asks for its response in this way.
    pub(crate) fn new(transport: Box<Transport<S, B>>, mut outgoing: Box<Outgoing>, asked: Asked) -> Reply<S, B> {
        outgoing.response = ResponseState { asked, ..ResponseState::default() };
        outgoing.turn.blocks = 0;
        outgoing.turn.blocks_in_turn = 0;
        outgoing.turn.began = None;
        outgoing.turn.pace = Pace::new(transport.sent());
        Reply { transport, outgoing }
    }

    /// Whether the head has been given to the connection; from then on it cannot be changed.
    pub fn is_started(&self) -> bool {
        self.outgoing.response.started
    }

    /// The minor version of HTTP/1 that the client speaks.
    pub fn minor(&self) -> u8 {
        self.outgoing.response.asked.minor
    }

    /// Bytes that `Content-Length` announced and the application has not given yet.
    pub fn missing(&self) -> u64 {
        match self.outgoing.response.framing {
            ResponseFraming::Length(left) if self.is_started() => left,
            _ => 0,
        }
    }

    /// Whether more was given than `Content-Length` announced; what exceeded it was not sent.
    pub fn has_excess(&self) -> bool {
        self.outgoing.response.excess
    }

    /// The number of the call under way; no other call of the same thread has it.
    pub fn call_number(&self) -> u32 {
        self.outgoing.call_number
    }

    /// Ends the response where it is; the peer sees that it is not whole.
    pub fn cut(&mut self) {
        if self.outgoing.response.framing != ResponseFraming::UntilClose {
            self.transport.finish(); // at once: the application may have the reply for long
        }
        self.cut_visibly();
    }

    /// The time of the application is up: the peer gets 503, or its response is cut, while the application goes on for nobody.
    pub(crate) fn time_out(&mut self) {
        if self.is_started() {
            self.cut();
        } else {
            self.refuse("503 Service Unavailable");
            self.send_last();
        }
    }

    /// Whether the peer is gone: nothing more can be sent.
    pub fn is_broken(&self) -> bool {
        self.transport.is_broken()
    }

    /// Sends `head`. `whole` is the length of the body where all of it is known.
    pub fn start(&mut self, head: &ResponseHead, whole: Option<u64>) {
        self.outgoing.head.clone_from(head);
        self.start_with_given(whole);
    }

    /// As [`Reply::start`], with the head that [`ReplySlot::set_head`](crate::ReplySlot::set_head) has set; `false` where
    /// there is none.
    pub fn start_with_given(&mut self, whole: Option<u64>) -> bool {
        debug_assert!(!self.is_started(), "one head a response");
        let Outgoing { head, bytes, stamp, control, record, is_recorded, response, .. } = &mut *self.outgoing;
        let before = bytes.len();
        if !head.is_begun() {
            return false;
        }
        if bytes.try_reserve(head.room(stamp)).is_err() {
            response.started = true;
            self.transport.reset(); // without memory for the head there is no response
            return true;
        }
        // The stop may have come while the application was at work.
        response.asked.persists &= !control.is_stopping();
        (response.framing, response.persists) = finish_head(head, response.asked, whole, stamp, bytes);
        response.started = true;
        response.status = head.status();
        if *is_recorded {
            record.note_head(&bytes[before..]);
        }
        true
    }

    /// Whether the end of the connection is what tells the end of the body.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.outgoing.response.framing == ResponseFraming::UntilClose
    }

    /// Whether bytes wait to be sent with those that follow.
    pub(crate) fn holds(&self) -> bool {
        !self.outgoing.bytes.is_empty() && self.outgoing.watch.is_kept()
    }

    fn send_outgoing(&mut self) {
        self.transport.send(&mut self.outgoing.bytes);
    }

    /// Sends what waits, as much as the peer takes now. Whether nothing is left that could be sent.
    pub(crate) fn send_held(&mut self) -> bool {
        self.send_outgoing();
        self.transport.release() || self.is_broken()
    }

    /// Sends what waits and, where the peer takes all of it, the end of the connection.
    pub(crate) fn send_last(&mut self) {
        if self.send_held() {
            self.transport.finish();
        }
    }

    /// Ends the body before the application's `close()` runs, which may take its time; where less came than was announced,
    /// that is told later.
    pub fn end(&mut self) {
        if self.is_started() && self.outgoing.response.framing == ResponseFraming::Chunked {
            self.finish();
            self.outgoing.response.framing = ResponseFraming::Nothing;
        }
        if !self.outgoing.may_hold() {
            self.send_outgoing();
        }
    }

    /// Adds a block of the body, framed; `own` gives the block itself where it is large enough not to be copied.
    pub fn block(&mut self, data: &[u8], own: impl FnOnce() -> B) {
        let response = &mut self.outgoing.response;
        debug_assert!(response.started, "the head comes first");
        if data.is_empty() {
            return; // an empty chunk would end the body
        }
        let mut len = data.len();
        let mut tail: &[u8] = b"";
        match &mut response.framing {
            ResponseFraming::Nothing => return,
            ResponseFraming::UntilClose => {}
            ResponseFraming::Chunked => {
                push_hex(&mut self.outgoing.bytes, len);
                tail = b"\r\n";
            }
            ResponseFraming::Length(left) => {
                let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(len);
                response.excess |= fits < len;
                len = fits;
                *left -= len as u64;
            }
        }
        let data = &data[..len];
        response.bytes += len as u64;
        if len <= COPIED_BLOCK_BYTES && self.outgoing.bytes.try_reserve(len + tail.len()).is_ok() {
            self.outgoing.bytes.extend_from_slice(data);
            self.outgoing.bytes.extend_from_slice(tail);
            if self.outgoing.bytes.len() > OUTGOING_BYTES {
                self.send_outgoing();
            }
            return;
        }
        self.transport.send_block(&mut self.outgoing.bytes, data, tail, own);
    }

    /// Adds `len` bytes of `file` from `offset` on as the rest of the body, whose framing must be by length: see
    /// [`Reply::start`] with `whole`. They are sent without being read into memory.
    pub fn file(&mut self, file: File, offset: u64, len: u64) {
        let response = &mut self.outgoing.response;
        let len = match &mut response.framing {
            ResponseFraming::Length(left) => {
                let fits = len.min(*left);
                *left -= fits;
                fits
            }
            ResponseFraming::UntilClose => len,
            ResponseFraming::Nothing | ResponseFraming::Chunked => return,
        };
        response.bytes += len;
        self.transport.push(&mut self.outgoing.bytes);
        self.transport.push_file(file, offset, len, self.outgoing.storage.share());
    }

    // --- between blocks ---

    /// To be called behind each block of a response that may have more: what is to be done before the next is made.
    ///
    /// A first block leaves at once, since nobody knows how long the second takes; later ones may be held for a moment. The
    /// deadline of the application's call begins anew.
    pub fn boundary(&mut self) -> Boundary {
        if self.outgoing.control.is_aborting() {
            self.cut_visibly(); // the server ends at once, and an endless stream with it
        }
        let satisfied = self.is_started()
            && (self.outgoing.response.framing == ResponseFraming::Nothing || self.outgoing.response.excess);
        if satisfied || self.is_broken() {
            self.send_outgoing();
            return Boundary::Over;
        }
        let turn = &mut self.outgoing.turn;
        turn.blocks = turn.blocks.saturating_add(1);
        turn.blocks_in_turn += 1;
        let began = *turn.began.get_or_insert_with(Guess::now);
        let is_over = turn.blocks_in_turn >= BLOCKS_PER_TURN || (turn.blocks > 1 && began.elapsed() >= TURN);
        let may_hold = (turn.blocks > 1 || self.outgoing.crowded) && self.transport.is_empty();
        if !may_hold || !self.outgoing.may_hold() {
            self.send_outgoing();
        }
        self.outgoing.end_call();
        self.outgoing.begin_call();
        if self.is_broken() {
            return Boundary::Over;
        }
        // What is whole is over, however slow its client.
        let is_whole = self.outgoing.response.framing == ResponseFraming::Length(0);
        let is_taken = self.transport.flush() == Flushed::All;
        match is_taken || is_whole {
            false => Boundary::Wait,
            true if is_over => Boundary::GiveWay,
            true => Boundary::GoOn,
        }
    }

    /// [`Reply::boundary`] and what it asks for, where the application's runtime holds nothing and has no signals. Whether
    /// the next block is to be made.
    pub fn pass_boundary(&mut self) -> bool {
        match self.boundary() {
            Boundary::GoOn => true,
            Boundary::Over => false,
            Boundary::GiveWay => {
                while !self.give_way() {}
                true
            }
            Boundary::Wait => loop {
                match self.wait_for_client() {
                    Ok(true) => return true,
                    Ok(false) => {}
                    Err(_) => return false,
                }
            },
        }
    }

    /// After [`Boundary::GiveWay`], without what the application's runtime holds: lets the other requests have their turn.
    /// `false` where a signal may have come: see to it, and call again.
    pub fn give_way(&mut self) -> bool {
        if self.outgoing.turn.place.is_none() {
            self.outgoing.watch.end_call(&self.outgoing.slot);
            let loop_index = self.outgoing.loop_index;
            self.outgoing.turn.place = self.outgoing.host.as_ref().and_then(|host| host.give_way(loop_index));
        }
        if !self.has_permit() {
            return false;
        }
        self.outgoing.turn.blocks_in_turn = 0;
        self.outgoing.turn.began = Some(Guess::now());
        self.outgoing.begin_call();
        true
    }

    /// Waits for the permit, where it has been given away. `false` where a signal may have come.
    fn has_permit(&mut self) -> bool {
        if self.outgoing.turn.place.as_ref().is_some_and(|place| !place.wait()) {
            return false;
        }
        self.outgoing.turn.place = None;
        true
    }

    /// After [`Boundary::Wait`], without what the application's runtime holds: hands over what waits. Meanwhile another
    /// thread leads and has the permit. `Ok(false)` where a signal may have come: see to it, and call again.
    ///
    /// # Errors
    /// [`Broken`] where the peer is gone or too slow, or the server is stopped at once; the response is over then.
    pub fn wait_for_client(&mut self) -> Result<bool, Broken> {
        self.wait(true)
    }

    /// For `write()`, after [`Reply::block`]: as [`Reply::wait_for_client`], but the permit stays here, since the call of
    /// the application goes on.
    ///
    /// # Errors
    /// As for [`Reply::wait_for_client`].
    pub fn hand_over(&mut self) -> Result<bool, Broken> {
        if self.outgoing.control.is_aborting() {
            self.cut_visibly();
            return Err(Broken::Io(io::ErrorKind::ConnectionAborted.into()));
        }
        self.send_outgoing();
        self.wait(false)
    }

    /// Ends a wait of `write()` that a signal has interrupted for good; nothing where there is none.
    pub fn end_wait(&mut self) {
        let Some(wait) = self.outgoing.turn.wait.take() else { return };
        self.outgoing.host.iter().for_each(|host| host.end_wait(wait.parked.is_none()));
        if wait.paused_call {
            self.outgoing.begin_call();
        }
    }

    fn wait(&mut self, parks: bool) -> Result<bool, Broken> {
        if self.outgoing.turn.wait.is_none() {
            if self.transport.release() {
                return Ok(true);
            }
            self.begin_wait(parks);
        }
        let Some(mut wait) = self.outgoing.turn.wait.take() else { return Ok(true) };
        if wait.broken.is_none() && self.outgoing.turn.place.is_none() {
            match self.until_taken(&mut wait) {
                Ok(true) => {}
                Ok(false) => {
                    self.outgoing.turn.wait = Some(wait);
                    return Ok(false);
                }
                Err(broken) => {
                    wait.broken = Some(broken);
                    self.cut_visibly();
                }
            }
        }
        if let Some(host) = &self.outgoing.host
            && self.outgoing.turn.place.is_none()
        {
            host.end_wait(wait.parked.is_none());
            self.outgoing.turn.place = wait.parked.as_ref().and_then(|parked| host.unpark(parked));
        }
        if !self.has_permit() {
            self.outgoing.turn.wait = Some(wait);
            return Ok(false);
        }
        self.outgoing.turn.blocks_in_turn = 0;
        self.outgoing.turn.began = Some(Guess::now());
        if wait.paused_call {
            self.outgoing.begin_call();
        }
        wait.broken.map_or(Ok(true), Err)
    }

    /// The client is waited for from now on.
    fn begin_wait(&mut self, parks: bool) {
        let Outgoing { host, loop_index, slot, watch, thread, .. } = &*self.outgoing;
        // Another thread of the application may be in a write(): the one that has the call goes on with it.
        let is_own = thread::current().id() == *thread;
        if is_own {
            watch.end_call(slot);
        }
        let parked = host.as_ref().filter(|_| parks).and_then(|host| host.park(*loop_index));
        host.iter().for_each(|host| host.begin_wait(parked.is_none()));
        let wait = ClientWait { parked, waited: Duration::ZERO, paused_call: is_own, broken: None };
        self.outgoing.turn.wait = Some(wait);
    }

    fn until_taken(&mut self, wait: &mut ClientWait) -> Result<bool, Broken> {
        loop {
            if self.transport.flush() == Flushed::All {
                return match self.is_broken() {
                    true => Err(Broken::Io(io::ErrorKind::BrokenPipe.into())),
                    false => Ok(true),
                };
            }
            if self.outgoing.control.is_aborting() {
                return Err(Broken::Io(io::ErrorKind::ConnectionAborted.into()));
            }
            if self.transport.take_progress() {
                wait.waited = Duration::ZERO;
                wait.parked.iter().for_each(|parked| parked.note_progress());
            }
            if wait.parked.as_ref().is_some_and(|parked| parked.is_cut()) {
                return Err(Broken::GaveWay);
            }
            let left = self.outgoing.write_timeout.saturating_sub(wait.waited);
            if left.is_zero() {
                return Err(Broken::TimedOut);
            }
            let Outgoing { turn, least_rate, response, .. } = &mut *self.outgoing;
            if turn.pace.is_too_slow(self.transport.sent(), *least_rate) {
                response.too_slow = true;
                return Err(Broken::TooSlow);
            }
            match self.transport.wait_writable(WAIT_SLICE.min(left)) {
                Ok((ended, waited)) => {
                    wait.waited += waited;
                    self.outgoing.turn.pace.wait(waited);
                    if ended != Wait::Writable {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(Broken::Io(error)),
            }
        }
    }

    /// Ends a response that cannot go on, so that its client sees that it is not whole.
    fn cut_visibly(&mut self) {
        if self.outgoing.response.framing == ResponseFraming::UntilClose {
            self.transport.reset(); // an orderly end would pass for the end of the body
        } else {
            self.transport.break_off();
        }
    }

    /// Ends the body: `false` where less came than was announced.
    pub(crate) fn finish(&mut self) -> bool {
        match self.outgoing.response.framing {
            ResponseFraming::Chunked => self.outgoing.bytes.extend_from_slice(b"0\r\n\r\n"),
            ResponseFraming::Length(left) => return left == 0,
            ResponseFraming::Nothing | ResponseFraming::UntilClose => {}
        }
        true
    }

    /// Answers with an error in place of a response that never began.
    pub(crate) fn refuse(&mut self, status: &str) {
        debug_assert!(!self.is_started(), "an error takes the place of a response, never follows one");
        let Outgoing { bytes, stamp, response, .. } = &mut *self.outgoing;
        response.bytes = finish_error(status, response.asked, stamp, bytes);
        self.outgoing.response.started = true;
        self.outgoing.response.status = code_of(status);
        self.outgoing.response.persists = false;
        self.outgoing.response.framing = ResponseFraming::Nothing;
    }
}

/// The code of a status such as `503 Service Unavailable`.
pub(crate) fn code_of(status: &str) -> u16 {
    status.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
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

//! One connection's life: read a head, collect the body, call the application, answer, again.
//!
//! ```text
//!   (Preface) ──►
//!   Head ──► Body ──► (call) ──► Streaming ──► Head         kept alive
//!     │        └─► Whole ─┘ when a thread is free
//!     └────────────────┴───────────┴──► Closing ──► Lingering ──► gone
//! ```
//!
//! Knows: `http1`, one socket.   Must not know: the poller, other connections, clocks.
//! Invariant: an idle connection owns no buffer; the iterator of a response is asked for the next block only when
//! everything before has been handed to the system, or lies where the watch sends it if the block takes its time.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::access_log::{AccessLog, Answered, Record, Told};
use crate::app::{App, Body, Progress, Request};
use crate::config::Config;
use crate::control::Control;
use crate::counters::{Cell, Counters};
use crate::http1::chunked::{Decoder, Piece};
use crate::http1::head::{Head, Scan};
use crate::http1::response::{Asked, ResponseFraming, Stamp, finish_error};
use crate::http1::{Framing, Reject, ResponseHead};
use crate::io::{Peer, Readiness, Socket};
use crate::outbox::{Flushed, Outbox};
use crate::proxies::{Forwarded, forwarded, preface};
use crate::reply::{Outgoing, Reply, code_of};
use crate::spool::Spool;
use crate::timeouts::Timeout;
use crate::watch::Watch;

/// Bytes a thread reads at once. Four times as many as most requests of a turn have together make uploads a quarter cheaper;
/// memory that no read has reached is not used.
const INPUT_BYTES: usize = 256 * 1024;

/// Fairness: what one connection may do in a turn before the others have theirs.
const REQUESTS_PER_TURN: u32 = 64;
const RECEIVES_PER_TURN: u32 = 8;
const BLOCKS_PER_TURN: u32 = 64;

/// Bytes read and thrown away after a last answer, so that a TCP reset does not destroy it on its way.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// What a thread needs to serve connections; the connections themselves own as little as they can.
pub(crate) struct Desk<D> {
    input: Box<[u8]>,
    head: Head,
    /// The application's own.
    app: D,
    /// Away while the application answers.
    outgoing: Option<Box<Outgoing>>,
    second: Option<u64>,
}

impl<D> Desk<D> {
    /// For the thread at `post`.
    pub(crate) fn new(app: D, post: usize, config: &Config, control: Arc<Control>, watch: Arc<Watch>) -> Desk<D> {
        let server =
            config.server_header.as_ref().map_or(Vec::new(), |value| [b"Server: ", &value[..], b"\r\n"].concat());
        let stamp = Stamp { date: Vec::new(), server };
        let outgoing = Outgoing::new(stamp, control, config.write_timeout, watch, post);
        Desk {
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            head: Head::default(),
            app,
            outgoing: Some(Box::new(outgoing)),
            second: None,
        }
    }

    /// Whether something would have been held if somebody ticked; says so once.
    pub(crate) fn takes_wish_for_watch(&mut self) -> bool {
        self.outgoing.as_mut().is_some_and(|outgoing| std::mem::take(&mut outgoing.wants_watch))
    }

    /// Sets the `Date` of answers to a calendar's second (RFC 9110, section 6.6.1).
    pub(crate) fn stamp(&mut self, second: u64, config: &Config) {
        if !config.date_header || self.second == Some(second) {
            return;
        }
        if let Some(outgoing) = &mut self.outgoing {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            outgoing.stamp.date = format!("Date: {date}\r\n").into_bytes();
            self.second = Some(second);
        }
    }
}

/// What a connection needs to know of the server while it is served.
pub(crate) struct Turn<'a, A> {
    pub app: &'a A,
    pub config: &'a Config,
    pub counters: &'a Counters,
    pub log: Option<&'a AccessLog>,
    /// Requests after which the server drains.
    pub last_request: u64,
    pub draining: bool,
    /// Others wait for their turn.
    pub crowded: bool,
    /// The application may be called; else what needs it waits.
    pub may_call: bool,
}

impl<A> Turn<'_, A> {
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

    /// As [`Turn::write_log`], where the application's runtime has been let go.
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

/// What a connection waits for when its turn is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// For the peer, so long; `renewed` where the time counts from now even if it was running already.
    Wait { timeout: Timeout, renewed: bool },
    /// For the others to have their turn.
    Again,
    /// For a thread that may call the application.
    Queued,
    /// For nothing: it is over.
    Close,
}

/// The response in the making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
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
    /// The peer cannot be sent anything any more.
    pub broken: bool,
}

impl Default for Answer {
    fn default() -> Answer {
        Answer {
            asked: Asked::default(),
            framing: ResponseFraming::Nothing,
            persists: false,
            started: false,
            status: 0,
            bytes: 0,
            excess: false,
            broken: false,
        }
    }
}

enum State<T> {
    /// Waiting for a request, or in the middle of its head.
    Head,
    /// In the middle of a request's body.
    Body(Box<Upload>),
    /// A request and its body are whole, and wait for a thread.
    Whole(Box<Upload>),
    /// In the middle of a response. Its head, where one was given and has not been sent.
    Streaming(T, Option<Box<ResponseHead>>),
    /// The last answer is on its way.
    Closing,
    /// The last answer has been handed over; what the peer still sends is thrown away, so many bytes of it.
    Lingering(usize),
    /// Before the first request: a proxy is to say for whom it speaks.
    Preface,
}

/// A request whose body is being collected.
#[derive(Debug)]
struct Upload {
    head: Head,
    bytes: Vec<u8>,
    spool: Spool,
    len: u64,
    rest: Rest,
}

impl Upload {
    /// What proxies say of it; it was no error when the head had come.
    fn forwarded(&self, peer: Peer, config: &Config) -> Forwarded<'_> {
        match &config.trusted {
            None => Forwarded::Unasked,
            Some(trusted) => forwarded::read(&self.head, &self.bytes, peer, trusted).unwrap_or(Forwarded::Untrusted),
        }
    }

    fn request<'a>(&'a self, peer: Peer, listener: u16, forwarded: &'a Forwarded<'a>) -> Request<'a> {
        Request {
            head: &self.head,
            bytes: &self.bytes,
            body: match &self.spool {
                Spool::Memory(memory) => Body::Memory(memory),
                Spool::File(file) => Body::File(file.get_ref()),
            },
            body_len: self.len,
            has_body: true,
            chunked: matches!(self.rest, Rest::Chunked(_)),
            peer,
            forwarded,
            listener: listener.into(),
        }
    }
}

#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(Decoder),
}

/// One peer.
pub struct Connection<S: Socket, A: App<S>> {
    pub(crate) socket: S,
    peer: Peer,
    listener: u16,
    state: State<A::Stream>,
    /// Bytes received and not used up: the start of a head, or requests that wait for an answer to be taken.
    inbox: Vec<u8>,
    scan: Scan,
    /// The inbox holds bytes that have not been looked at.
    unseen: bool,
    /// A blank line before a request line has been skipped.
    skipped_blank: bool,
    /// A request has been answered on this connection.
    served: bool,
    /// Something came in, or went out, or a request began, since the last verdict.
    progress: bool,
    /// Its last answer waits in the outbox for the end of the loop's turn.
    pub(crate) holds: bool,
    /// Its request is whole and waits for a thread.
    pub(crate) queued: bool,
    /// The peer has gone while it waited.
    gone: bool,
    /// When it was last served, it took long.
    pub(crate) blocks: bool,
    ready: Readiness,
    pub(crate) outbox: Outbox<A::Block>,
    pub(crate) answer: Answer,
    /// Of the request that is being answered, where something is noted of it.
    pub(crate) record: Option<Box<Record>>,
    /// Bytes that have come and gone, and have not been counted.
    received: u64,
    pub(crate) sent: u64,
}

type Serving<S, A> = Box<Connection<S, A>>;

impl<S: Socket, A: App<S>> Connection<S, A> {
    /// A connection just accepted. Its request is usually there already, so it is read at once.
    pub(crate) fn new(socket: S, peer: Peer, listener: usize, config: &Config) -> Serving<S, A> {
        Box::new(Connection {
            socket,
            peer,
            listener: listener as u16,
            state: if config.proxy_protocol { State::Preface } else { State::Head },
            inbox: Vec::new(),
            scan: Scan::default(),
            unseen: false,
            skipped_blank: false,
            served: false,
            progress: true,
            holds: false,
            queued: false,
            gone: false,
            blocks: false,
            ready: Readiness { readable: true, writable: true, ..Readiness::default() },
            outbox: Outbox::default(),
            answer: Answer::default(),
            record: None,
            received: 0,
            sent: 0,
        })
    }

    /// Whether news of this kind concern the connection: room to send in is no news where nothing waits to be sent.
    /// `gives_way`: who sends nothing more while it waits for a thread is taken to have gone.
    pub(crate) fn cares_for(&mut self, news: Readiness, gives_way: bool) -> bool {
        self.ready.merge(news);
        self.gone |= self.queued && (news.hung_up || (news.read_closed && gives_way));
        news.readable || news.hung_up || news.read_closed || !self.outbox.is_empty()
    }

    /// Does all that can be done without waiting, within the budget of a turn.
    pub(crate) fn serve(mut self: Box<Self>, desk: &mut Desk<A::Desk>, turn: &Turn<'_, A>) -> (Serving<S, A>, Verdict) {
        let Some(mut outgoing) = desk.outgoing.take() else { unreachable!("the desk is complete between turns") };
        let mut input = std::mem::take(&mut desk.input);
        self.holds = false;
        let was_queued = std::mem::take(&mut self.queued);
        let mut budget = Budget { requests: REQUESTS_PER_TURN, receives: RECEIVES_PER_TURN, blocks: BLOCKS_PER_TURN };
        let verdict = loop {
            if self.ready.hung_up {
                match self.state {
                    // What came before the end can still be read from a Unix socket; over TCP the error is read.
                    State::Preface | State::Head | State::Body(_) => self.ready.readable = true,
                    _ => break Verdict::Close,
                }
            }
            if self.answer.broken {
                break Verdict::Close;
            }
            if was_queued && self.gone {
                turn.counters.count(Cell::Gone);
                break Verdict::Close;
            }
            match self.flush_outbox() {
                Flushed::All => {}
                Flushed::Blocked => break self.wait(Timeout::Write),
                Flushed::Paused => break Verdict::Again,
            }
            if self.answer.broken {
                break Verdict::Close;
            }
            let flow;
            (self, outgoing, flow) = match self.state {
                _ if self.queued => (self, outgoing, Some(Verdict::Queued)),
                State::Streaming(..) => self.stream(desk, outgoing, turn, &mut budget),
                State::Whole(_) => {
                    let (connection, outgoing) = self.call_with_upload(&mut desk.app, outgoing, turn, &mut budget);
                    (connection, outgoing, None)
                }
                State::Preface | State::Head | State::Body(_) => {
                    self.receive(&mut input, desk, outgoing, turn, &mut budget)
                }
                State::Closing => self.close_or_linger(outgoing),
                State::Lingering(_) => self.linger(&mut input, outgoing, &mut budget),
            };
            // Answers leave as soon as the connection has nothing more to add to them, or a little later.
            match flow {
                None if self.may_add(&budget, turn) && outgoing.may_hold() => {}
                Some(Verdict::Wait { .. }) if turn.crowded && self.outbox.is_empty() && outgoing.may_hold() => {
                    self.holds = !outgoing.bytes.is_empty();
                    self.outbox.push_bytes(&outgoing.bytes);
                    outgoing.bytes.clear();
                    if let Some(verdict) = flow {
                        break verdict;
                    }
                }
                _ => self.send_outgoing(&mut outgoing),
            }
            if let Some(verdict) = flow {
                // What has not been taken goes first; the top of the loop sees to it.
                if self.outbox.is_empty() || verdict == Verdict::Close {
                    break verdict;
                }
            }
        };
        outgoing.bytes.clear();
        desk.input = input;
        desk.outgoing = Some(outgoing);
        if turn.counters.is_shared() {
            turn.counters.traffic(std::mem::take(&mut self.received), std::mem::take(&mut self.sent));
        }
        if verdict == Verdict::Close {
            self.abandon(turn);
        }
        (self, verdict)
    }

    /// Whether nothing can be done without the application.
    pub(crate) fn needs_app(&self) -> bool {
        (matches!(self.state, State::Streaming(..) | State::Whole(_)) || self.queued) && !self.is_gone()
    }

    /// Whether its peer has gone while its request waited for a thread.
    pub(crate) fn is_gone(&self) -> bool {
        self.queued && self.gone
    }

    /// Refuses a request that would have to wait for a thread.
    pub(crate) fn shed(mut self: Box<Self>, desk: &mut Desk<A::Desk>, turn: &Turn<'_, A>) -> (Serving<S, A>, Verdict) {
        self.queued = false;
        if let Some(outgoing) = &mut desk.outgoing {
            self.refuse_waiting(Reject::Overloaded, outgoing, turn);
            self.send_outgoing(outgoing);
        }
        self.serve(desk, turn)
    }

    /// A deadline has passed. After a last look (the thread may have been in the application while bytes came), the
    /// peer is told why, where it asked for something, and the connection ends.
    pub(crate) fn expire(
        mut self: Box<Self>,
        deadline: Timeout,
        desk: &mut Desk<A::Desk>,
        turn: &Turn<'_, A>,
    ) -> (Serving<S, A>, Verdict) {
        self.ready.readable = true;
        self.progress = false;
        let verdict;
        (self, verdict) = self.serve(desk, turn);
        if verdict != (Verdict::Wait { timeout: deadline, renewed: false }) {
            return (self, verdict);
        }
        let reject = match (deadline, &self.state) {
            (Timeout::Head, State::Head) if !self.inbox.is_empty() => Reject::HeaderTimeout,
            (Timeout::Body, State::Body(_)) => Reject::BodyTimeout,
            _ => {
                self.abandon(turn);
                return (self, Verdict::Close);
            }
        };
        if let Some(outgoing) = &mut desk.outgoing {
            self.refuse_waiting(reject, outgoing, turn);
            self.send_outgoing(outgoing);
        }
        self.serve(desk, turn)
    }

    /// Ends what is under way: the response's iterator is closed, everything else just dropped.
    pub(crate) fn abandon(&mut self, turn: &Turn<'_, A>) {
        if let State::Streaming(stream, _) = std::mem::replace(&mut self.state, State::Closing) {
            turn.app.close(stream);
        }
        self.note_end(None, turn);
    }

    /// Sends what was held. Whether all of it is gone: else the connection must be served.
    pub(crate) fn release(&mut self) -> bool {
        self.flush_outbox() == Flushed::All && !self.answer.broken
    }

    fn wait(&mut self, timeout: Timeout) -> Verdict {
        let renewed = std::mem::take(&mut self.progress);
        Verdict::Wait { timeout, renewed }
    }

    // --- sending ---

    /// Whether what follows at once may leave with what waits. A first block goes alone, unless others wait for their turn:
    /// nobody knows yet how long the next one takes.
    fn may_add(&self, budget: &Budget, turn: &Turn<'_, A>) -> bool {
        let follows = match self.state {
            State::Streaming(..) => turn.crowded || budget.blocks + 1 < BLOCKS_PER_TURN,
            State::Head | State::Body(_) | State::Whole(_) => turn.crowded,
            State::Preface | State::Closing | State::Lingering(_) => false,
        };
        follows && self.outbox.is_empty() && !self.answer.broken
    }

    /// Hands over what waits in `outgoing`; what the peer does not take goes to the outbox.
    pub(crate) fn send_outgoing(&mut self, outgoing: &mut Outgoing) {
        if outgoing.bytes.is_empty() {
            return;
        }
        if !self.outbox.is_empty() {
            self.outbox.push_bytes(&outgoing.bytes);
            self.flush_outbox();
        } else {
            let mut rest = &outgoing.bytes[..];
            while !rest.is_empty() && !self.answer.broken {
                match self.socket.send(&[IoSlice::new(rest)]) {
                    Ok(sent) => {
                        rest = &rest[sent..];
                        self.sent += sent as u64;
                        self.progress = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.outbox.push_bytes(rest);
                        break;
                    }
                    Err(_) => self.answer.broken = true,
                }
            }
        }
        outgoing.bytes.clear();
    }

    pub(crate) fn flush_outbox(&mut self) -> Flushed {
        if self.outbox.is_empty() {
            return Flushed::All;
        }
        let before = self.sent;
        let flushed = self.outbox.flush(&mut self.socket, &mut self.sent);
        self.progress |= self.sent != before;
        flushed.unwrap_or_else(|_| {
            self.answer.broken = true;
            Flushed::All
        })
    }

    // --- the response ---

    /// Asks the application for the next block.
    fn stream(
        mut self: Box<Self>,
        desk: &mut Desk<A::Desk>,
        mut outgoing: Box<Outgoing>,
        turn: &Turn<'_, A>,
        budget: &mut Budget,
    ) -> Step<S, A> {
        // While the server ends, each block may be the last that there is time for.
        let is_in_haste = budget.blocks < BLOCKS_PER_TURN && outgoing.control.is_stopping();
        if budget.blocks == 0 || is_in_haste {
            return (self, outgoing, Some(Verdict::Again));
        }
        let State::Streaming(stream, head) = std::mem::replace(&mut self.state, State::Closing) else {
            return (self, outgoing, None);
        };
        budget.blocks -= 1;
        match head {
            Some(head) => outgoing.head = *head,
            None => outgoing.head.clear(),
        }
        let began = outgoing.begin_call();
        if turn.counters.is_shared() {
            turn.counters.begin_call();
        }
        let (reply, progress) = turn.app.next(&mut desk.app, stream, Reply { connection: self, outgoing });
        let (connection, outgoing) = Self::settle(reply, progress, began, turn);
        (connection, outgoing, None)
    }

    /// What the application's answer means for the connection.
    fn settle(
        mut reply: Reply<S, A>,
        progress: Progress<A::Stream>,
        began: u32,
        turn: &Turn<'_, A>,
    ) -> (Serving<S, A>, Box<Outgoing>) {
        reply.outgoing.end_call(began);
        if turn.counters.is_shared() {
            turn.counters.end_call();
        }
        let started = reply.is_started();
        match progress {
            Progress::More(stream) => {
                let answer = reply.connection.answer;
                // Nobody reads on: no body is wanted, or all that was announced has been given.
                let satisfied = started && (answer.framing == ResponseFraming::Nothing || answer.excess);
                if !satisfied && !answer.broken {
                    let given = !started && reply.outgoing.head.is_begun();
                    let head = given.then(|| Box::new(std::mem::take(&mut reply.outgoing.head)));
                    reply.connection.state = State::Streaming(stream, head);
                    return (reply.connection, reply.outgoing);
                }
                reply.send_held();
                turn.app.close(stream);
                reply.finish();
            }
            Progress::Done if started => {
                if !reply.finish() {
                    // The peer waits for more than there is: only the end of the connection tells it.
                    turn.counters.count(Cell::Cut);
                    reply.connection.answer.persists = false;
                }
            }
            Progress::Done | Progress::Failed if !started => {
                turn.counters.count(Cell::Failed);
                reply.refuse("500 Internal Server Error");
            }
            Progress::Done | Progress::Failed => {
                // A response without a body, or one that was refused in time, is whole.
                if reply.connection.answer.framing != ResponseFraming::Nothing {
                    turn.counters.count(Cell::Cut);
                }
                reply.connection.answer.persists = false;
                if reply.connection.answer.framing == ResponseFraming::UntilClose {
                    // An orderly end would pass for the end of the body: what comes must be an error to the peer.
                    let connection = &mut *reply.connection;
                    connection.send_outgoing(&mut reply.outgoing);
                    connection.socket.reset_on_close();
                    connection.answer.broken = true;
                }
            }
        }
        let Reply { mut connection, mut outgoing } = reply;
        if connection.record.is_some() {
            connection.note_end(Some(&mut outgoing), turn);
        }
        connection.served = true;
        connection.progress = true;
        connection.state = if connection.answer.persists { State::Head } else { State::Closing };
        (connection, outgoing)
    }

    // --- the request ---

    /// Takes bytes, from the inbox or from the peer, and serves the requests in them.
    fn receive(
        mut self: Box<Self>,
        input: &mut [u8],
        desk: &mut Desk<A::Desk>,
        mut outgoing: Box<Outgoing>,
        turn: &Turn<'_, A>,
        budget: &mut Budget,
    ) -> Step<S, A> {
        if !self.unseen {
            if !self.ready.readable {
                let verdict = self.wait_for_request(turn);
                return (self, outgoing, Some(verdict));
            }
            if budget.receives == 0 {
                return (self, outgoing, Some(Verdict::Again));
            }
            budget.receives -= 1;
            let received = match self.socket.recv(input) {
                Ok(0) => {
                    // Half a request is none; whole ones have been answered.
                    self.send_outgoing(&mut outgoing);
                    return (self, outgoing, Some(Verdict::Close));
                }
                Ok(len) => {
                    self.received += len as u64;
                    // A short read means drained, unless the end of the stream is still to be read.
                    self.ready.readable = len == input.len() || self.ready.read_closed || self.ready.hung_up;
                    &input[..len]
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return (self, outgoing, None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.ready.hung_up => {
                    self.ready.readable = false;
                    return (self, outgoing, None);
                }
                // Nothing is there, and nothing can come any more.
                Err(_) => return (self, outgoing, Some(Verdict::Close)),
            };
            if self.inbox.is_empty() {
                let used;
                (self, outgoing, used) = self.feed(received, desk, outgoing, turn, budget);
                self.inbox.extend_from_slice(&received[used..]);
                return (self, outgoing, None);
            }
            self.inbox.extend_from_slice(received);
        }
        self.unseen = false;
        let mut inbox = std::mem::take(&mut self.inbox);
        let used;
        (self, outgoing, used) = self.feed(&inbox, desk, outgoing, turn, budget);
        if used < inbox.len() {
            inbox.drain(..used);
            self.inbox = inbox;
        }
        let out_of_requests = self.unseen && budget.requests == 0;
        (self, outgoing, out_of_requests.then_some(Verdict::Again))
    }

    fn wait_for_request(&mut self, turn: &Turn<'_, A>) -> Verdict {
        match (&self.state, self.inbox.is_empty()) {
            (State::Body(_), _) => self.wait(Timeout::Body),
            (_, false) => self.wait(Timeout::Head),
            (_, true) if turn.draining => self.wait(Timeout::Drain),
            (_, true) if self.served => self.wait(Timeout::KeepAlive),
            (_, true) => self.wait(Timeout::Head),
        }
    }

    /// Serves the requests in `data` one after the other; the number of bytes used up.
    ///
    /// Stops early where an answer cannot leave, goes on, or was the last; what is left over is `unseen` then.
    fn feed(
        mut self: Box<Self>,
        data: &[u8],
        desk: &mut Desk<A::Desk>,
        mut outgoing: Box<Outgoing>,
        turn: &Turn<'_, A>,
        budget: &mut Budget,
    ) -> (Serving<S, A>, Box<Outgoing>, usize) {
        let mut at = 0;
        while at < data.len() && !self.queued {
            let rest = &data[at..];
            match &mut self.state {
                State::Head if self.outbox.is_empty() && !self.answer.broken && budget.requests > 0 => {
                    // One empty line before a request is forgiven (RFC 9112, section 2.2).
                    if rest.starts_with(b"\r\n") && !self.skipped_blank {
                        self.skipped_blank = true;
                        self.scan = Scan::default(); // its CR may have been looked at alone
                        at += 2;
                        continue;
                    }
                    match desk.head.parse(rest, &mut self.scan, &turn.config.limits) {
                        // Looked at, and not enough.
                        Ok(false) => return (self, outgoing, at),
                        Ok(true) => {
                            let used;
                            (self, outgoing, used) = self.begin(rest, desk, outgoing, turn, budget);
                            at += used;
                        }
                        Err(reject) => self.refuse(reject, Told::Nothing(rest), &mut outgoing, turn),
                    }
                }
                State::Body(upload) => match upload.take(rest, turn.config) {
                    Ok((used, whole)) => {
                        at += used;
                        self.progress = true;
                        if whole {
                            (self, outgoing) = self.call_with_upload(&mut desk.app, outgoing, turn, budget);
                        }
                    }
                    Err(reject) => self.refuse_waiting(reject, &mut outgoing, turn),
                },
                State::Preface => match self.introduce(rest, turn) {
                    Ok(Some(used)) => at += used,
                    Ok(None) => return (self, outgoing, at),
                    Err(reject) => {
                        turn.counters.reject(reject);
                        self.state = State::Closing;
                        self.answer.broken = true; // nothing is said to whom nothing is known of
                    }
                },
                _ => break,
            }
        }
        self.unseen |= at < data.len();
        (self, outgoing, at)
    }

    /// Takes the proxy's word on whom it speaks for, from the front of `data`: its length where it is whole.
    #[cold]
    fn introduce(&mut self, data: &[u8], turn: &Turn<'_, A>) -> Result<Option<usize>, Reject> {
        if turn.config.trusted.as_ref().is_some_and(|trusted| !trusted.trusts(self.peer)) {
            return Err(Reject::UntrustedProxy);
        }
        let Some(preface) = preface::parse(data, turn.config.limits.max_head)? else { return Ok(None) };
        self.peer = preface.source.unwrap_or(self.peer);
        self.state = State::Head;
        Ok(Some(preface.len))
    }

    /// A head is whole: calls the application where the body is too, else begins to collect it.
    fn begin(
        mut self: Box<Self>,
        data: &[u8],
        desk: &mut Desk<A::Desk>,
        mut outgoing: Box<Outgoing>,
        turn: &Turn<'_, A>,
        budget: &mut Budget,
    ) -> (Serving<S, A>, Box<Outgoing>, usize) {
        self.scan = Scan::default();
        self.skipped_blank = false;
        self.progress = true;
        let (head_bytes, behind) = data.split_at(desk.head.len);
        let told;
        let forwarded = match &turn.config.trusted {
            None => &Forwarded::Unasked,
            Some(trusted) => match forwarded::read(&desk.head, head_bytes, self.peer, trusted) {
                Ok(forwarded) => {
                    told = forwarded;
                    &told
                }
                Err(reject) => {
                    let request = request_of(
                        &desk.head,
                        head_bytes,
                        Body::Memory(b""),
                        Framing::None,
                        self.peer,
                        &Forwarded::Untrusted,
                        self.listener,
                    );
                    self.refuse(reject, Told::Request(&request), &mut outgoing, turn);
                    return (self, outgoing, head_bytes.len());
                }
            },
        };
        let framing = desk.head.framing.unwrap_or(Framing::None);
        if desk.head.target.is_https && !forwarded.is_https() {
            let request =
                request_of(&desk.head, head_bytes, Body::Memory(b""), framing, self.peer, forwarded, self.listener);
            self.refuse(Reject::Misdirected, Told::Request(&request), &mut outgoing, turn);
            return (self, outgoing, head_bytes.len());
        }
        let length = match framing {
            Framing::None => 0,
            Framing::Length(length) => length,
            Framing::Chunked => u64::MAX,
        };
        if let Framing::Length(length) = framing
            && exceeds(length, turn.config)
        {
            let request =
                request_of(&desk.head, head_bytes, Body::Memory(b""), framing, self.peer, forwarded, self.listener);
            self.refuse(Reject::BodyTooLarge, Told::Request(&request), &mut outgoing, turn);
            return (self, outgoing, head_bytes.len());
        }
        let in_memory = usize::try_from(length).ok().filter(|length| *length <= turn.config.body_buffer);
        if let Some(body) = in_memory.and_then(|length| behind.get(..length)) {
            if !turn.may_call {
                self.queued = true; // as it lies, to be read again
                return (self, outgoing, 0);
            }
            let mut request =
                request_of(&desk.head, head_bytes, Body::Memory(body), framing, self.peer, forwarded, self.listener);
            request.body_len = length;
            let used = head_bytes.len() + body.len();
            let (connection, outgoing) = self.call(&mut desk.app, &request, outgoing, turn, budget);
            return (connection, outgoing, used);
        }
        if desk.head.expects_continue && behind.is_empty() {
            outgoing.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let rest = match framing {
            Framing::Chunked => Rest::Chunked(Decoder::new(turn.config.limits.max_head)),
            _ => Rest::Length(length),
        };
        let head = std::mem::take(&mut desk.head);
        let upload = Upload { head, bytes: head_bytes.to_vec(), spool: Spool::default(), len: 0, rest };
        self.state = State::Body(Box::new(upload));
        (self, outgoing, head_bytes.len())
    }

    fn call_with_upload(
        mut self: Box<Self>,
        desk: &mut A::Desk,
        mut outgoing: Box<Outgoing>,
        turn: &Turn<'_, A>,
        budget: &mut Budget,
    ) -> (Serving<S, A>, Box<Outgoing>) {
        let (State::Body(mut upload) | State::Whole(mut upload)) = std::mem::replace(&mut self.state, State::Head)
        else {
            return (self, outgoing);
        };
        if !turn.may_call {
            self.queued = true;
            self.state = State::Whole(upload);
            return (self, outgoing);
        }
        if upload.spool.rewind().is_err() {
            let forwarded = upload.forwarded(self.peer, turn.config);
            let request = upload.request(self.peer, self.listener, &forwarded);
            self.refuse(Reject::StorageUnavailable, Told::Request(&request), &mut outgoing, turn);
            return (self, outgoing);
        }
        let forwarded = upload.forwarded(self.peer, turn.config);
        let request = upload.request(self.peer, self.listener, &forwarded);
        self.call(desk, &request, outgoing, turn, budget)
    }

    /// The application's turn.
    fn call(
        mut self: Box<Self>,
        desk: &mut A::Desk,
        request: &Request<'_>,
        mut outgoing: Box<Outgoing>,
        turn: &Turn<'_, A>,
        budget: &mut Budget,
    ) -> (Serving<S, A>, Box<Outgoing>) {
        budget.requests = budget.requests.saturating_sub(1);
        if turn.counters.count(Cell::Requests) + 1 >= turn.last_request {
            outgoing.control.drain();
            outgoing.wants_watch = true; // for `graceful_timeout`
        }
        self.answer = Answer {
            asked: Asked {
                minor: request.head.minor,
                head: request.method() == b"HEAD",
                html: false, // set where there is need
                persists: request.head.persists && !turn.draining && !turn.config.keep_alive.is_zero(),
            },
            ..Answer::default()
        };
        if !turn.config.timeout.is_zero() {
            // A call that is over time is answered while it runs on: see `Lent::time_out`.
            self.answer.asked.html = request.prefers_html();
        }
        if !outgoing.bytes.is_empty() && !outgoing.may_hold() {
            self.send_outgoing(&mut outgoing); // the answers before: nobody would see to them during the call
        }
        outgoing.head.clear();
        if turn.log.is_some() || turn.counters.is_shared() {
            self.note_begin(&mut outgoing, Told::Request(request), turn);
        }
        let began = outgoing.begin_call();
        let (mut reply, progress) = turn.app.call(desk, request, Reply { connection: self, outgoing });
        if !reply.is_started() {
            reply.connection.answer.asked.html = request.prefers_html(); // it may become an error
        }
        Self::settle(reply, progress, began, turn)
    }

    /// Answers a fault of the peer, and ends the connection: where the next request starts is not known any more.
    #[cold]
    fn refuse(&mut self, reject: Reject, told: Told<'_>, outgoing: &mut Outgoing, turn: &Turn<'_, A>) {
        turn.counters.reject(reject);
        let asked = match told {
            Told::Request(request) => {
                Asked { head: request.method() == b"HEAD", html: request.prefers_html(), ..Asked::default() }
            }
            Told::Nothing(bytes) => Asked { head: bytes.starts_with(b"HEAD "), ..Asked::default() },
        };
        let bytes = finish_error(reject.status(), asked, &outgoing.stamp, &mut outgoing.bytes);
        if let Some(log) = turn.log {
            let mut record = outgoing.spare_record.take().unwrap_or_default();
            record.begin();
            let client = match told {
                Told::Request(request) => *request.client(),
                Told::Nothing(_) => self.peer,
            };
            log.begin(&mut record, client, told);
            let status = code_of(reject.status());
            let answered = Answered { status, reason: Some(reject), bytes, took: Duration::ZERO };
            log.end(&mut record, answered);
            outgoing.spare_record = Some(record);
        }
        self.inbox = Vec::new();
        self.unseen = true; // whatever comes still belongs to the refused request
        self.state = State::Closing;
    }

    /// Refuses what is held of a request: as a whole, up to somewhere in its body, or as bytes that have not been looked at.
    #[cold]
    fn refuse_waiting(&mut self, reject: Reject, outgoing: &mut Outgoing, turn: &Turn<'_, A>) {
        let inbox = std::mem::take(&mut self.inbox);
        match std::mem::replace(&mut self.state, State::Closing) {
            State::Body(upload) | State::Whole(upload) => {
                let forwarded = upload.forwarded(self.peer, turn.config);
                let request = upload.request(self.peer, self.listener, &forwarded);
                self.refuse(reject, Told::Request(&request), outgoing, turn);
            }
            _ => self.refuse(reject, Told::Nothing(&inbox), outgoing, turn),
        }
    }

    // --- what is noted of a request ---

    #[inline(never)]
    fn note_begin(&mut self, outgoing: &mut Outgoing, told: Told<'_>, turn: &Turn<'_, A>) {
        let mut record = outgoing.spare_record.take().unwrap_or_default();
        record.begin();
        if let Some(log) = turn.log {
            let client = match told {
                Told::Request(request) => *request.client(),
                Told::Nothing(_) => self.peer,
            };
            log.begin(&mut record, client, told);
        }
        if turn.counters.is_shared() {
            turn.counters.begin_call();
        }
        self.record = Some(record);
    }

    /// The request has been answered, or is given up.
    #[inline(never)]
    fn note_end(&mut self, outgoing: Option<&mut Outgoing>, turn: &Turn<'_, A>) {
        let Some(mut record) = self.record.take() else { return };
        let Answer { status, bytes, .. } = self.answer;
        let took = record.began.elapsed();
        if turn.counters.is_shared() {
            turn.counters.took(took);
        }
        if let Some(log) = turn.log
            && log.end(&mut record, Answered { status, reason: None, bytes, took })
        {
            turn.write_log();
        }
        if let Some(outgoing) = outgoing {
            outgoing.spare_record = Some(record);
        }
    }

    // --- the end ---

    /// Everything has been handed over. Where the peer may still be sending, a close would reset the connection and
    /// destroy the answer on its way (RFC 9112, section 9.6): only the sending direction is ended then.
    fn close_or_linger(mut self: Box<Self>, outgoing: Box<Outgoing>) -> Step<S, A> {
        let unread = self.unseen || self.ready.readable;
        if !unread || self.socket.shutdown_write().is_err() {
            return (self, outgoing, Some(Verdict::Close));
        }
        self.inbox = Vec::new();
        self.progress = true;
        self.state = State::Lingering(LINGER_BYTES);
        (self, outgoing, None)
    }

    fn linger(mut self: Box<Self>, input: &mut [u8], outgoing: Box<Outgoing>, budget: &mut Budget) -> Step<S, A> {
        let State::Lingering(left) = &mut self.state else { return (self, outgoing, Some(Verdict::Close)) };
        if budget.receives == 0 {
            return (self, outgoing, Some(Verdict::Again));
        }
        budget.receives -= 1;
        match self.socket.recv(input) {
            Ok(len) if len > 0 && len <= *left => {
                *left -= len;
                self.received += len as u64;
                (self, outgoing, None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (self, outgoing, None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready.readable = false;
                let verdict = self.wait(Timeout::Linger);
                (self, outgoing, Some(verdict))
            }
            Ok(_) | Err(_) => (self, outgoing, Some(Verdict::Close)),
        }
    }
}

/// The connection back, what waits to be sent, and the verdict where the turn is over.
type Step<S, A> = (Serving<S, A>, Box<Outgoing>, Option<Verdict>);

struct Budget {
    requests: u32,
    receives: u32,
    blocks: u32,
}

impl Upload {
    /// Takes what belongs to the body from the front of `data`: the number of bytes used up, and whether it is whole now.
    fn take(&mut self, data: &[u8], config: &Config) -> Result<(usize, bool), Reject> {
        let Upload { rest, spool, len, .. } = self;
        let mut push = |piece: &[u8]| {
            spool.push(piece, config.body_buffer).map_err(|_| Reject::StorageUnavailable)?;
            *len += piece.len() as u64;
            Ok(*len)
        };
        match rest {
            Rest::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= used as u64;
                push(&data[..used])?;
                Ok((used, *left == 0))
            }
            Rest::Chunked(decoder) => {
                let mut input = data;
                let mut so_far = push(&[])?;
                let whole = loop {
                    match decoder.next(&mut input)? {
                        Piece::Data(piece) => so_far = push(piece)?,
                        Piece::Size(size) if exceeds(so_far.saturating_add(size), config) => {
                            return Err(Reject::BodyTooLarge);
                        }
                        Piece::Size(_) => {}
                        Piece::End => break true,
                        Piece::More => break false,
                    }
                };
                Ok((data.len() - input.len(), whole))
            }
        }
    }
}

/// A request whose head has just been read.
fn request_of<'a>(
    head: &'a Head,
    bytes: &'a [u8],
    body: Body<'a>,
    framing: Framing,
    peer: Peer,
    forwarded: &'a Forwarded<'a>,
    listener: u16,
) -> Request<'a> {
    let has_body = framing != Framing::None;
    Request { head, bytes, body, body_len: 0, has_body, chunked: false, peer, forwarded, listener: listener.into() }
}

fn exceeds(length: u64, config: &Config) -> bool {
    config.max_body != 0 && length > config.max_body
}

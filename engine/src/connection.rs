//! One connection's life: read a head, collect the body, call the application, answer, again.
//!
//! | state | what moves it | to |
//! |---|---|---|
//! | Preface | the PROXY protocol's header is whole | Head |
//! | Head | a head whose body is still to come | Body |
//! | Head, Body, Whole | the request is whole, and a thread may call: the response is given | Head, or Closing where the connection does not persist |
//! | Head, Body | the request is whole, and no thread may call | Head with the bytes unseen, or Whole; `queued` both times |
//! | any of these | a fault of the peer, a deadline, too much | Closing, with the refusal on its way |
//! | any of these | the peer has ended its sending direction | Closing, with what waits on its way |
//! | Closing | everything has been sent, and the peer may still be sending | Lingering |
//! | Closing, Lingering | everything has been sent, and the peer has ended or sent too much | gone |
//!
//! Knows: `http1`, one transport.   Must not know: the poller, other connections, threads.
//! Invariant: an idle connection owns no buffer; a response is over, `close()` included, when the call comes back.

use std::io;
use std::time::Duration;

use crate::access_log::{Answered, Record, Told};
use crate::app::{App, Outcome};
use crate::config::Config;
use crate::counters::{Cell, Counters};
use crate::http1::head::Scan;
use crate::http1::response::{Asked, ResponseFraming, finish_error};
use crate::http1::{Framing, Reject};
use crate::io::{Millis, Peer, Readiness, Socket};
use crate::outbox::Flushed;
use crate::proxies::{Forwarded, forwarded, preface};
use crate::rate::LeastRate;
use crate::reply::{Outgoing, Reply, code_of};
use crate::request::{Body, Origin, Request};
use crate::spool::Means;
use crate::timeouts::Timeout;
use crate::transport::Transport;
use crate::turn::{Budget, ServeContext, ThreadState};
use crate::upload::{Upload, exceeds};

/// Bytes read and thrown away after a last answer, so that a TCP reset does not destroy it on its way; and for how long at
/// the most, however steadily they come. Some clients read an answer only when they have sent all of their request.
const LINGER_BYTES: usize = 1 << 30;
const LINGER_TIME: Millis = 30_000;

/// Bytes read to see whether a connection is idle.
const LOOK_BYTES: usize = 256;

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

enum State {
    /// Waiting for a request, or in the middle of its head.
    Head,
    /// In the middle of a request's body.
    Body(Box<Upload>),
    /// A request and its body are whole, and wait for a thread.
    Whole(Box<Upload>),
    /// The last answer is on its way.
    Closing,
    /// The last answer has been handed over; what the peer still sends is thrown away, so many bytes of it, and until then.
    Lingering { left: usize, until: Millis },
    /// Before the first request: a proxy is to say for whom it speaks.
    Preface,
}

/// One peer.
pub(crate) struct Connection<S: Socket, B> {
    /// Away while the application answers.
    transport: Option<Box<Transport<S, B>>>,
    peer: Peer,
    listener: u16,
    state: State,
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
}

/// What a step of a connection's life asks for: the next step, or the end of the turn.
type Flow = Option<Verdict>;

impl<S: Socket, B: AsRef<[u8]> + Send> Connection<S, B> {
    /// A connection just accepted. Its request is usually there already, so it is read at once.
    pub(crate) fn new(socket: S, peer: Peer, listener: usize, config: &Config) -> Box<Self> {
        Box::new(Connection {
            transport: Some(Box::new(Transport::new(socket))),
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
        })
    }

    fn transport(&mut self) -> &mut Transport<S, B> {
        match &mut self.transport {
            Some(transport) => transport,
            None => unreachable!("only a call of the application takes it away"),
        }
    }

    /// The socket, to be registered with the poller.
    pub(crate) fn socket(&mut self) -> &S {
        &self.transport().socket
    }

    /// Whether the connection must be served for this event. Becoming writable counts only while something waits to be
    /// sent. `gives_way`: a client that sends nothing more while its request waits for a thread is taken to have gone.
    pub(crate) fn cares_for(&mut self, news: Readiness, gives_way: bool) -> bool {
        self.ready.merge(news);
        self.gone |= self.queued && (news.hung_up || (news.read_closed && gives_way));
        news.readable || news.hung_up || news.read_closed || !self.transport().is_empty()
    }

    /// Does all that can be done without waiting, within the budget of a turn.
    pub(crate) fn serve<A>(&mut self, thread: &mut ThreadState<A::PerThread>, cx: &ServeContext<'_, A>) -> Verdict
    where
        A: App<S, Block = B>,
    {
        let mut input = std::mem::take(&mut thread.input);
        self.holds = false;
        let was_queued = std::mem::take(&mut self.queued);
        let mut budget = Budget::default();
        let verdict = loop {
            if self.ready.hung_up {
                match self.state {
                    // What came before the end can still be read from a Unix socket; over TCP the error is read.
                    State::Preface | State::Head | State::Body(_) => self.ready.readable = true,
                    _ => break Verdict::Close,
                }
            }
            if self.transport().is_broken() {
                break Verdict::Close;
            }
            if was_queued && self.gone {
                cx.counters.count(Cell::Gone);
                break Verdict::Close;
            }
            match self.flush(cx) {
                Flushed::All => {}
                Flushed::Blocked => break self.wait_for_reader(cx),
                Flushed::Paused => break Verdict::Again,
            }
            if self.transport().is_broken() {
                break Verdict::Close;
            }
            let flow = match self.state {
                _ if self.queued => Some(Verdict::Queued),
                State::Whole(_) => {
                    self.call_with_upload(thread, cx, &mut budget);
                    None
                }
                State::Preface | State::Head | State::Body(_) => self.receive(&mut input, thread, cx, &mut budget),
                State::Closing => self.close_or_linger(cx.attended),
                State::Lingering { .. } => self.linger(&mut input, cx.attended, &mut budget),
            };
            // Answers leave as soon as the connection has nothing more to add to them, or a little later.
            let outgoing = outgoing_of(&mut thread.outgoing);
            match flow {
                None if self.may_add(cx) && outgoing.may_hold() => {}
                Some(Verdict::Wait { .. }) if cx.crowded && self.transport().is_empty() && outgoing.may_hold() => {
                    self.holds = !outgoing.bytes.is_empty();
                    self.transport().push(&mut outgoing.bytes);
                    if let Some(verdict) = flow {
                        break verdict;
                    }
                }
                _ => self.transport().send(&mut outgoing.bytes),
            }
            if let Some(verdict) = flow {
                // What has not been taken goes first; the top of the loop sees to it.
                if self.transport().is_empty() || verdict == Verdict::Close {
                    break verdict;
                }
            }
        };
        outgoing_of(&mut thread.outgoing).bytes.clear();
        thread.input = input;
        self.count_traffic(cx.counters);
        if verdict == Verdict::Close
            && let State::Body(upload) | State::Whole(upload) = std::mem::replace(&mut self.state, State::Closing)
        {
            upload.discard(&means(cx, &detached(cx)));
        }
        verdict
    }

    /// Whether nothing can be done without the application.
    pub(crate) fn needs_app(&self) -> bool {
        (matches!(self.state, State::Whole(_)) || self.queued) && !self.is_gone()
    }

    /// Whether its peer has gone while its request waited for a thread.
    pub(crate) fn is_gone(&self) -> bool {
        self.queued && self.gone
    }

    /// Refuses a request that would have to wait for a thread.
    pub(crate) fn shed<A>(&mut self, thread: &mut ThreadState<A::PerThread>, cx: &ServeContext<'_, A>) -> Verdict
    where
        A: App<S, Block = B>,
    {
        self.queued = false;
        self.refuse_waiting(Reject::Overloaded, &mut thread.outgoing, cx);
        self.transport().send(&mut outgoing_of(&mut thread.outgoing).bytes);
        self.serve(thread, cx)
    }

    /// A deadline has passed. After a last look (the thread may have been in the application while bytes came), the
    /// peer is told why, where it asked for something, and the connection ends.
    pub(crate) fn expire<A>(
        &mut self,
        deadline: Timeout,
        thread: &mut ThreadState<A::PerThread>,
        cx: &ServeContext<'_, A>,
    ) -> Verdict
    where
        A: App<S, Block = B>,
    {
        self.ready.readable = true;
        self.progress = false;
        let verdict = self.serve(thread, cx);
        if verdict != (Verdict::Wait { timeout: deadline, renewed: false }) {
            return verdict;
        }
        let reject = match (deadline, &self.state) {
            (Timeout::Head, State::Head) if !self.inbox.is_empty() => Reject::HeaderTimeout,
            (Timeout::Body, State::Body(_)) => Reject::BodyTimeout,
            (Timeout::Write, _) => {
                self.transport().reset(); // an orderly end could pass for the end of the body
                return Verdict::Close;
            }
            _ => return Verdict::Close,
        };
        self.refuse_waiting(reject, &mut thread.outgoing, cx);
        self.transport().send(&mut outgoing_of(&mut thread.outgoing).bytes);
        self.serve(thread, cx)
    }

    /// Whether nothing is under way: no byte of a next request has come, be it that nobody has been told of it.
    pub(crate) fn is_idle(&mut self) -> bool {
        let is_at_rest = matches!(self.state, State::Head) && self.inbox.is_empty() && !self.holds && !self.queued;
        if !is_at_rest || !self.transport().is_empty() {
            return false;
        }
        let mut bytes = [0; LOOK_BYTES];
        match self.transport().recv(&mut bytes) {
            Ok(len) if len > 0 => {
                self.inbox = bytes[..len].to_vec();
                self.unseen = true;
                self.ready.readable = true;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            // Nothing there, or nothing will ever come.
            Ok(_) | Err(_) => true,
        }
    }

    /// Counts what came and went, for who reads along.
    pub(crate) fn count_traffic(&mut self, counters: &Counters) {
        if counters.is_shared() {
            let (received, sent) = self.transport().take_traffic();
            counters.traffic(received, sent);
        }
    }

    /// Sends what was held. Whether all of it is gone: else the connection must be served.
    pub(crate) fn release(&mut self) -> bool {
        self.transport().release()
    }

    /// Hands over what waits. What the application's runtime holds is let go where that may wait for a disk.
    fn flush<A>(&mut self, cx: &ServeContext<'_, A>) -> Flushed
    where
        A: App<S, Block = B>,
    {
        let transport = self.transport();
        if transport.waits_for_disk() { cx.detached(|| transport.flush()) } else { transport.flush() }
    }

    fn wait(&mut self, timeout: Timeout) -> Verdict {
        let renewed = self.transport().take_progress() | std::mem::take(&mut self.progress);
        Verdict::Wait { timeout, renewed }
    }

    /// The peer has not taken all that waits for it. Where it takes too little, nothing more is sent.
    fn wait_for_reader<A>(&mut self, cx: &ServeContext<'_, A>) -> Verdict {
        let least = LeastRate::new(cx.config.min_send_rate, cx.config.write_timeout);
        if self.transport().is_taken_too_slowly(cx.attended, least) {
            cx.counters.count(Cell::SendTooSlow);
            self.transport().reset();
            return Verdict::Close;
        }
        self.wait(Timeout::Write)
    }

    /// Whether what follows at once may leave with what waits.
    fn may_add<A>(&mut self, cx: &ServeContext<'_, A>) -> bool {
        let follows = matches!(self.state, State::Head | State::Body(_) | State::Whole(_));
        follows && cx.crowded && self.transport().is_empty() && !self.transport().is_broken()
    }

    // --- the request ---

    /// Takes bytes, from the inbox or from the peer, and serves the requests in them.
    fn receive<A>(
        &mut self,
        input: &mut [u8],
        thread: &mut ThreadState<A::PerThread>,
        cx: &ServeContext<'_, A>,
        budget: &mut Budget,
    ) -> Flow
    where
        A: App<S, Block = B>,
    {
        if !self.unseen {
            if !self.ready.readable {
                let least = LeastRate::new(cx.config.min_body_rate, cx.config.body_timeout);
                if let State::Body(upload) = &mut self.state
                    && upload.comes_too_slowly(cx.attended, least)
                {
                    self.refuse_waiting(Reject::BodyTooSlow, &mut thread.outgoing, cx);
                    return None;
                }
                return Some(self.wait_for_request(cx));
            }
            if budget.receives == 0 {
                return Some(Verdict::Again);
            }
            budget.receives -= 1;
            let received = match self.transport().recv(input) {
                Ok(0) => {
                    // Half a request is none. Whole ones have been answered; their answers may still wait to be taken.
                    self.ready.readable = false;
                    self.inbox = Vec::new();
                    self.state = State::Closing;
                    return None;
                }
                Ok(len) => {
                    // A short read means drained, unless the end of the stream is still to be read.
                    self.ready.readable = len == input.len() || self.ready.read_closed || self.ready.hung_up;
                    &input[..len]
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.ready.hung_up => {
                    self.ready.readable = false;
                    return None;
                }
                // Nothing is there, and nothing can come any more.
                Err(_) => return Some(Verdict::Close),
            };
            if self.inbox.is_empty() {
                let used = self.feed(received, thread, cx, budget);
                self.keep(&received[used..], thread, cx);
                return None;
            }
            if !self.keep(received, thread, cx) {
                return None;
            }
        }
        self.unseen = false;
        let mut inbox = std::mem::take(&mut self.inbox);
        let used = self.feed(&inbox, thread, cx, budget);
        if used < inbox.len() {
            inbox.drain(..used);
            self.inbox = inbox;
        }
        (self.unseen && budget.requests == 0).then_some(Verdict::Again)
    }

    /// Adds `bytes` to the inbox. Without memory for them the request that they belong to is refused; whether that was not so.
    fn keep<A>(&mut self, bytes: &[u8], thread: &mut ThreadState<A::PerThread>, cx: &ServeContext<'_, A>) -> bool
    where
        A: App<S, Block = B>,
    {
        let is_kept = self.inbox.try_reserve(bytes.len()).is_ok();
        if is_kept {
            self.inbox.extend_from_slice(bytes);
        } else if !matches!(self.state, State::Closing) {
            self.queued = false;
            self.refuse_waiting(Reject::OutOfMemory, &mut thread.outgoing, cx);
        }
        is_kept
    }

    fn wait_for_request<A>(&mut self, cx: &ServeContext<'_, A>) -> Verdict {
        match (&self.state, self.inbox.is_empty()) {
            (State::Body(_), _) => self.wait(Timeout::Body),
            (_, false) => self.wait(Timeout::Head),
            (_, true) if cx.draining => self.wait(Timeout::Drain),
            (_, true) if self.served => self.wait(Timeout::KeepAlive),
            (_, true) => self.wait(Timeout::Head),
        }
    }

    /// Serves the requests in `data` one after the other; the number of bytes used up.
    ///
    /// Stops early where an answer cannot leave, or was the last; what is left over is `unseen` then.
    fn feed<A>(
        &mut self,
        data: &[u8],
        thread: &mut ThreadState<A::PerThread>,
        cx: &ServeContext<'_, A>,
        budget: &mut Budget,
    ) -> usize
    where
        A: App<S, Block = B>,
    {
        let mut at = 0;
        while at < data.len() && !self.queued {
            let rest = &data[at..];
            let may_begin = budget.requests > 0 && !self.transport().is_broken() && self.transport().is_empty();
            match &mut self.state {
                State::Head if may_begin => {
                    // One empty line before a request is forgiven (RFC 9112, section 2.2).
                    if rest.starts_with(b"\r\n") && !self.skipped_blank {
                        self.skipped_blank = true;
                        self.scan = Scan::default(); // its CR may have been looked at alone
                        at += 2;
                        continue;
                    }
                    match thread.head.parse(rest, &mut self.scan, &cx.config.limits) {
                        // Looked at, and not enough.
                        Ok(false) => return at,
                        Ok(true) => at += self.begin(rest, thread, cx, budget),
                        Err(reject) => self.refuse(reject, Told::Nothing(rest), &mut thread.outgoing, cx),
                    }
                }
                State::Body(upload) => match upload.take(rest, cx.config, &means(cx, &detached(cx))) {
                    Ok((used, whole)) => {
                        at += used;
                        self.progress = true;
                        if whole {
                            self.call_with_upload(thread, cx, budget);
                        }
                    }
                    Err(refusal) => {
                        cx.note_refusal(&refusal);
                        self.refuse_waiting(refusal.reject, &mut thread.outgoing, cx);
                    }
                },
                State::Preface => match self.introduce(rest, cx) {
                    Ok(Some(used)) => at += used,
                    Ok(None) => return at,
                    Err(reject) => {
                        cx.counters.reject(reject);
                        self.state = State::Closing;
                        self.transport().break_off(); // no answer: we do not know whose connection this is
                    }
                },
                _ => break,
            }
        }
        self.unseen |= at < data.len();
        at
    }

    /// Takes the proxy's word on whom it speaks for, from the front of `data`: its length where it is whole.
    #[cold]
    fn introduce<A>(&mut self, data: &[u8], cx: &ServeContext<'_, A>) -> Result<Option<usize>, Reject> {
        if cx.config.trusted.as_ref().is_some_and(|trusted| !trusted.trusts(self.peer)) {
            return Err(Reject::UntrustedProxy);
        }
        let Some(preface) = preface::parse(data, cx.config.limits.max_head)? else { return Ok(None) };
        self.peer = preface.source.unwrap_or(self.peer);
        self.state = State::Head;
        Ok(Some(preface.len))
    }

    /// A head is whole: calls the application where the body is too, else begins to collect it. The number of bytes used up.
    fn begin<A>(
        &mut self,
        data: &[u8],
        thread: &mut ThreadState<A::PerThread>,
        cx: &ServeContext<'_, A>,
        budget: &mut Budget,
    ) -> usize
    where
        A: App<S, Block = B>,
    {
        self.scan = Scan::default();
        self.skipped_blank = false;
        self.progress = true;
        let ThreadState { head, app, outgoing, .. } = thread;
        let (head_bytes, behind) = data.split_at(head.len);
        let told;
        let forwarded = match &cx.config.trusted {
            None => &Forwarded::Unasked,
            Some(trusted) => match forwarded::read(head, head_bytes, self.peer, trusted) {
                Ok(forwarded) => {
                    told = forwarded;
                    &told
                }
                Err(reject) => {
                    let origin = Origin { peer: self.peer, forwarded: &Forwarded::Untrusted, listener: self.listener };
                    let request = Request::new(head, head_bytes, Body::Memory(b""), 0, origin);
                    self.refuse(reject, Told::Request(&request), outgoing, cx);
                    return head_bytes.len();
                }
            },
        };
        let origin = Origin { peer: self.peer, forwarded, listener: self.listener };
        if head.target.is_https && !forwarded.is_https() {
            let request = Request::new(head, head_bytes, Body::Memory(b""), 0, origin);
            self.refuse(Reject::Misdirected, Told::Request(&request), outgoing, cx);
            return head_bytes.len();
        }
        let length = match head.framing.unwrap_or(Framing::None) {
            Framing::None => 0,
            Framing::Length(length) => length,
            Framing::Chunked => u64::MAX,
        };
        if length != u64::MAX && exceeds(length, cx.config) {
            let request = Request::new(head, head_bytes, Body::Memory(b""), 0, origin);
            self.refuse(Reject::BodyTooLarge, Told::Request(&request), outgoing, cx);
            return head_bytes.len();
        }
        let in_memory = usize::try_from(length).ok().filter(|length| *length <= cx.config.body_buffer);
        if let Some(body) = in_memory.and_then(|length| behind.get(..length)) {
            if !cx.may_call {
                self.queued = true; // as it lies, to be read again
                return 0;
            }
            let request = Request::new(head, head_bytes, Body::Memory(body), length, origin);
            let used = head_bytes.len() + body.len();
            self.call(&request, app, outgoing, cx, budget);
            return used;
        }
        if head.expects_continue && behind.is_empty() {
            outgoing_of(outgoing).bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        match Upload::new(std::mem::take(head), head_bytes, cx.storage.share(), cx.config, cx.attended) {
            Ok(upload) => self.state = State::Body(Box::new(upload)),
            Err(head) => {
                let request = Request::new(&head, head_bytes, Body::Memory(b""), 0, origin);
                self.refuse(Reject::OutOfMemory, Told::Request(&request), outgoing, cx);
            }
        }
        head_bytes.len()
    }

    fn call_with_upload<A>(
        &mut self,
        thread: &mut ThreadState<A::PerThread>,
        cx: &ServeContext<'_, A>,
        budget: &mut Budget,
    ) where
        A: App<S, Block = B>,
    {
        let (State::Body(mut upload) | State::Whole(mut upload)) = std::mem::replace(&mut self.state, State::Head)
        else {
            return;
        };
        if !cx.may_call {
            self.queued = true;
            self.state = State::Whole(upload);
            return;
        }
        let detached = detached(cx);
        let means = means(cx, &detached);
        let rewound = upload.rewind(&means);
        let forwarded = upload.forwarded(self.peer, cx.config);
        let origin = Origin { peer: self.peer, forwarded: &forwarded, listener: self.listener };
        let request = upload.request(origin);
        match rewound {
            Ok(is_file) => {
                if is_file {
                    cx.storage.note_success();
                }
                self.call(&request, &mut thread.app, &mut thread.outgoing, cx, budget);
            }
            Err(refusal) => {
                cx.note_refusal(&refusal);
                self.refuse(refusal.reject, Told::Request(&request), &mut thread.outgoing, cx);
            }
        }
        upload.discard(&means);
    }

    /// The application's turn: from here to the end of the response the request is this thread's.
    fn call<A>(
        &mut self,
        request: &Request<'_>,
        app: &mut A::PerThread,
        outgoing: &mut Option<Box<Outgoing>>,
        cx: &ServeContext<'_, A>,
        budget: &mut Budget,
    ) where
        A: App<S, Block = B>,
    {
        let (Some(mut transport), Some(mut own)) = (self.transport.take(), outgoing.take()) else {
            unreachable!("a thread has one call at a time, and so has a connection")
        };
        budget.requests = budget.requests.saturating_sub(1);
        if cx.counters.count(Cell::Requests) + 1 >= cx.last_request {
            own.control.drain();
        }
        let asked = Asked {
            minor: request.head.minor,
            head: request.method() == b"HEAD",
            html: false,
            persists: request.head.persists && !cx.draining && !cx.config.keep_alive.is_zero(),
        };
        if !own.bytes.is_empty() && !own.may_hold() {
            transport.send(&mut own.bytes); // the answers before: nobody would see to them during the call
        }
        own.head.clear();
        let is_noted = cx.log.is_some() || cx.counters.is_shared();
        if is_noted {
            self.note_begin(&mut own, Told::Request(request), cx);
        }
        cx.take_permit();
        own.begin_call();
        let mut reply = Reply::new(transport, own, asked);
        if !cx.config.timeout.is_zero() {
            // A call that is over time is answered while it runs on: see `Reply::time_out`.
            reply.outgoing.response.asked.html = request.prefers_html();
        }
        let (mut reply, outcome) = cx.app.call(app, request, reply);
        if !reply.is_started() {
            reply.outgoing.response.asked.html = request.prefers_html(); // it may become an error
        }
        reply.outgoing.end_call();
        if reply.ends_with_connection() {
            reply.outgoing.watch.note_finished(&reply.outgoing.slot);
        }
        cx.permits.give_back();
        let persists = settle(&mut reply, outcome, cx);
        if is_noted {
            note_end(&mut reply, cx);
        }
        self.served = true;
        self.progress = true;
        self.state = if persists { State::Head } else { State::Closing };
        let Reply { transport, outgoing: own } = reply;
        self.transport = Some(transport);
        *outgoing = Some(own);
    }

    /// Answers a fault of the peer, and ends the connection: where the next request starts is not known any more.
    #[cold]
    fn refuse<A>(
        &mut self,
        reject: Reject,
        told: Told<'_>,
        outgoing: &mut Option<Box<Outgoing>>,
        cx: &ServeContext<'_, A>,
    ) {
        let outgoing = outgoing_of(outgoing);
        cx.counters.reject(reject);
        let asked = match told {
            Told::Request(request) => {
                Asked { head: request.method() == b"HEAD", html: request.prefers_html(), ..Asked::default() }
            }
            Told::Nothing(bytes) => Asked { head: bytes.starts_with(b"HEAD "), ..Asked::default() },
        };
        let bytes = finish_error(reject.status(), asked, &outgoing.stamp, &mut outgoing.bytes);
        if let Some(log) = cx.log {
            outgoing.record.begin();
            let client = match told {
                Told::Request(request) => *request.client(),
                Told::Nothing(_) => self.peer,
            };
            log.begin(&mut outgoing.record, client, told);
            let status = code_of(reject.status());
            let answered = Answered { status, reason: Some(reject), bytes, took: Duration::ZERO };
            log.end(&mut outgoing.record, answered);
        }
        self.inbox = Vec::new();
        self.unseen = true; // whatever comes still belongs to the refused request
        self.state = State::Closing;
    }

    /// Refuses what is held of a request: as a whole, up to somewhere in its body, or as bytes that have not been looked at.
    #[cold]
    fn refuse_waiting<A>(&mut self, reject: Reject, outgoing: &mut Option<Box<Outgoing>>, cx: &ServeContext<'_, A>)
    where
        A: App<S, Block = B>,
    {
        let inbox = std::mem::take(&mut self.inbox);
        match std::mem::replace(&mut self.state, State::Closing) {
            State::Body(upload) | State::Whole(upload) => {
                let forwarded = upload.forwarded(self.peer, cx.config);
                let origin = Origin { peer: self.peer, forwarded: &forwarded, listener: self.listener };
                self.refuse(reject, Told::Request(&upload.request(origin)), outgoing, cx);
                upload.discard(&means(cx, &detached(cx)));
            }
            _ => self.refuse(reject, Told::Nothing(&inbox), outgoing, cx),
        }
    }

    #[inline(never)]
    fn note_begin<A>(&mut self, outgoing: &mut Outgoing, told: Told<'_>, cx: &ServeContext<'_, A>) {
        outgoing.record.begin();
        outgoing.is_recorded = true;
        if let Some(log) = cx.log {
            let client = match told {
                Told::Request(request) => *request.client(),
                Told::Nothing(_) => self.peer,
            };
            log.begin(&mut outgoing.record, client, told);
        }
        if cx.counters.is_shared() {
            cx.counters.begin_call();
        }
    }

    // --- the end ---

    /// Everything has been handed over. Where the peer may still be sending, a close would reset the connection and
    /// destroy the answer on its way (RFC 9112, section 9.6): only the sending direction is ended then.
    fn close_or_linger(&mut self, now: Millis) -> Flow {
        let unread = self.unseen || self.ready.readable;
        if !unread || self.transport().socket.shutdown_write().is_err() {
            return Some(Verdict::Close);
        }
        self.inbox = Vec::new();
        self.progress = true;
        self.state = State::Lingering { left: LINGER_BYTES, until: now + LINGER_TIME };
        None
    }

    fn linger(&mut self, input: &mut [u8], now: Millis, budget: &mut Budget) -> Flow {
        let State::Lingering { left, until } = self.state else { return Some(Verdict::Close) };
        if now >= until {
            return Some(Verdict::Close);
        }
        if budget.receives == 0 {
            return Some(Verdict::Again);
        }
        budget.receives -= 1;
        match self.transport().recv(input) {
            Ok(len) if len > 0 && len <= left => {
                self.progress = true;
                self.state = State::Lingering { left: left - len, until };
                None
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready.readable = false;
                Some(self.wait(Timeout::Linger))
            }
            Ok(_) | Err(_) => Some(Verdict::Close),
        }
    }
}

/// How a spool waits for a disk.
fn detached<S: Socket, A: App<S>>(cx: &ServeContext<'_, A>) -> impl Fn(&mut (dyn FnMut() + Send)) {
    |work| cx.detached(work)
}

/// What a spool may use.
fn means<'a, A>(cx: &ServeContext<'_, A>, detached: &'a dyn Fn(&mut (dyn FnMut() + Send))) -> Means<'a> {
    Means { body_buffer: cx.config.body_buffer, connections: cx.counters.get(Cell::Open), detached }
}

/// A thread's own, between two calls of the application.
fn outgoing_of(outgoing: &mut Option<Box<Outgoing>>) -> &mut Outgoing {
    match outgoing {
        Some(outgoing) => outgoing,
        None => unreachable!("only a call of the application takes it away"),
    }
}

/// What the end of the application's work means for the response: whether the connection persists.
fn settle<S: Socket, B: AsRef<[u8]>, A>(reply: &mut Reply<S, B>, outcome: Outcome, cx: &ServeContext<'_, A>) -> bool {
    let started = reply.is_started();
    if reply.outgoing.response.too_slow {
        cx.counters.count(Cell::SendTooSlow);
    }
    if !started {
        cx.counters.count(Cell::Failed);
        reply.refuse("500 Internal Server Error");
    } else if outcome == Outcome::Done {
        if !reply.finish() {
            // The peer waits for more than there is: only the end of the connection tells it.
            cx.counters.count(Cell::Cut);
            reply.outgoing.response.persists = false;
        }
    } else {
        reply.outgoing.response.persists = false;
        // A response without a body, or one that was refused in time, is whole.
        if reply.outgoing.response.framing != ResponseFraming::Nothing {
            cx.counters.count(Cell::Cut);
        }
        if reply.outgoing.response.framing == ResponseFraming::UntilClose {
            // An orderly end would pass for the end of the body: what comes must be an error to the peer.
            reply.transport.send(&mut reply.outgoing.bytes);
            reply.transport.reset();
        }
    }
    reply.outgoing.response.persists
}

/// The request has been answered, or is given up.
#[inline(never)]
fn note_end<S: Socket, A: App<S>>(reply: &mut Reply<S, A::Block>, cx: &ServeContext<'_, A>) {
    let (status, bytes) = (reply.outgoing.response.status, reply.outgoing.response.bytes);
    let record: &mut Record = &mut reply.outgoing.record;
    reply.outgoing.is_recorded = false;
    let took = record.began.elapsed();
    if cx.counters.is_shared() {
        cx.counters.end_call();
        cx.counters.took(took);
    }
    if let Some(log) = cx.log
        && log.end(record, Answered { status, reason: None, bytes, took })
    {
        cx.write_log();
    }
}

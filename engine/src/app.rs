//! The only door to the application: the question put to it, and its answers.
//! Must not know: which language it is written in.

use std::fs::File;
use std::time::Duration;

use crate::http1::head::Head;
use crate::http1::names::{self, Known};
use crate::http1::prefers_html;
use crate::io::{Peer, Socket};
use crate::proxies::Forwarded;
use crate::reply::Reply;

/// What answers requests.
///
/// Nothing of the loop is held while one of these runs: a call may take as long as it likes.
pub trait App<S: Socket>: Send + Sync + Sized + 'static {
    /// A block of a response's body that the application's runtime owns; sent without a copy where it is large.
    type Block: AsRef<[u8]> + Send + Sync + 'static;
    /// The rest of a response that is produced bit by bit.
    type Stream: Send + Sync + 'static;

    /// What a thread keeps from one call to the next.
    type Desk: Send;

    /// The desk of the thread at `post`, a number below the count of threads, or `usize::MAX` for one that calls nothing.
    fn desk(&self, post: usize) -> Self::Desk;

    /// Answers `request` through `reply`, which comes back whatever happens.
    fn call(
        &self,
        desk: &mut Self::Desk,
        request: &Request<'_>,
        reply: Reply<S, Self>,
    ) -> (Reply<S, Self>, Progress<Self::Stream>);

    /// Goes on with a response: one block, as soon as there is one.
    fn next(
        &self,
        desk: &mut Self::Desk,
        stream: Self::Stream,
        reply: Reply<S, Self>,
    ) -> (Reply<S, Self>, Progress<Self::Stream>);

    /// Ends a response that nobody waits for any more. Every stream ends here or by [`App::next`] giving no further one.
    fn close(&self, stream: Self::Stream);

    /// Runs `wait`, which may block the thread; what the application's runtime holds is let go for so long.
    fn blocking<T: Send>(&self, wait: impl FnOnce() -> T + Send) -> T;

    /// The waker was used: runs what the application's runtime has queued (signal handlers).
    fn woken(&self) -> Wake;

    /// A call takes long. Told by the watch, which must not be kept: what takes time is left to another thread.
    fn takes_long(&self, _call: &LongCall) {}

    /// The server ends though no thread has come back from the application within `graceful_timeout`. Told by the watch.
    fn gives_up(&self) {}

    /// The server ends by itself: `max_requests` have come. Called once, and followed by a drain.
    fn drains(&self) {}

    /// The access log cannot be written, from now on and until this is called again. The interpreter is not held.
    fn log_fails(&self, _error: &std::io::Error) {}

    /// A thread has left [`Server::work`](crate::Server::work).
    fn left(&self) {}
}

/// A call of the application that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongCall {
    /// The post of its thread.
    pub post: usize,
    /// Its number there: see [`Reply::call_number`](crate::Reply::call_number).
    pub number: u32,
    /// For how long it has been running.
    pub so_far: Duration,
    /// Past `timeout`; else past `slow_request`.
    pub is_over_time: bool,
}

/// How far a response has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// All of it has been given.
    Done,
    /// More will come from here.
    More(T),
    /// The application failed: 500 where nothing was sent, else the connection is cut.
    Failed,
}

/// What the runtime wants of the server after a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing.
    GoOn,
    /// The end, after the requests in flight.
    Drain,
}

/// A whole request body.
#[derive(Debug)]
pub enum Body<'a> {
    /// In memory; empty where there is none.
    Memory(&'a [u8]),
    /// In an unlinked temporary file, rewound.
    File(&'a File),
}

/// A whole request, borrowed from the bytes it came in.
#[derive(Debug)]
pub struct Request<'a> {
    pub(crate) head: &'a Head,
    pub(crate) bytes: &'a [u8],
    /// The body.
    pub body: Body<'a>,
    /// Bytes of the body.
    pub body_len: u64,
    /// Whether there is a body, be it an empty one (`Content-Length: 0`, an empty chunked body).
    pub has_body: bool,
    /// Whether the body came in the chunked coding, by now decoded.
    pub chunked: bool,
    /// Who is at the other end of the connection, or of the one to the proxy where that speaks the PROXY protocol.
    pub peer: Peer,
    /// What trusted proxies say of where it comes from.
    pub forwarded: &'a Forwarded<'a>,
    /// The index of the listener it came by.
    pub listener: usize,
}

impl<'a> Request<'a> {
    /// Who asks: the peer, or whom the proxies ask for.
    #[inline]
    pub fn client(&self) -> &Peer {
        match self.forwarded {
            Forwarded::By(origin) => origin.client.as_ref().unwrap_or(&self.peer),
            _ => &self.peer,
        }
    }

    /// The method, case preserved.
    pub fn method(&self) -> &'a [u8] {
        self.head.method.of(self.bytes)
    }

    /// The target as sent.
    pub fn target(&self) -> &'a [u8] {
        self.head.target.whole.of(self.bytes)
    }

    /// The path, still percent-encoded; `/` where an absolute target has none (RFC 9110, section 4.2.3).
    pub fn path(&self) -> &'a [u8] {
        match self.head.target.path.of(self.bytes) {
            [] => b"/",
            path => path,
        }
    }

    /// Whether the path holds percent-escapes.
    pub fn path_is_escaped(&self) -> bool {
        self.head.target.escaped
    }

    /// What follows the `?`.
    pub fn query(&self) -> &'a [u8] {
        self.head.target.query.of(self.bytes)
    }

    /// The authority of an absolute target, to be taken for the `Host` (RFC 9112, section 3.2.2).
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.head.target.authority.map(|span| span.of(self.bytes))
    }

    /// Whether an error is a page of HTML for it, not plain text: see [`prefers_html`](crate::http1::prefers_html).
    #[cold]
    pub(crate) fn prefers_html(&self) -> bool {
        let accept = self.fields().filter(|(known, ..)| *known == names::ACCEPT);
        prefers_html(accept.map(|(_, _, value)| value))
    }

    /// The minor version of HTTP/1.
    pub fn minor(&self) -> u8 {
        self.head.minor
    }

    /// The fields in their order: the index in [`crate::http1::names::NAMES`], the name, the value.
    pub fn fields(&self) -> impl Iterator<Item = (Known, &'a [u8], &'a [u8])> {
        let bytes = self.bytes;
        self.head.fields.iter().map(move |field| (field.known, field.name.of(bytes), field.value.of(bytes)))
    }
}

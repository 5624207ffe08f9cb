//! A whole request, as the application is asked to answer it: borrowed from the bytes in which it came.
//! Must not know: sockets, how a body was collected.

use std::fs::File;

use crate::http1::head::Head;
use crate::http1::names::{self, Known};
use crate::http1::{Framing, prefers_html};
use crate::io::Peer;
use crate::proxies::Forwarded;

/// A whole request body.
#[derive(Debug)]
pub enum Body<'a> {
    /// In memory; empty where there is none.
    Memory(&'a [u8]),
    /// In an unlinked temporary file, rewound.
    File(&'a File),
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub peer: Peer,
    pub forwarded: &'a Forwarded<'a>,
    pub listener: u16,
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
    /// Whether there is a body; an empty one counts (`Content-Length: 0`, an empty chunked body).
    pub has_body: bool,
    /// Whether the body came in the chunked coding, by now decoded.
    pub chunked: bool,
    /// The other end of the connection; behind a proxy that speaks the PROXY protocol, the client that it names.
    pub peer: Peer,
    /// What trusted proxies say of where it comes from.
    pub forwarded: &'a Forwarded<'a>,
    /// The index of the listener it came by.
    pub listener: usize,
}

impl<'a> Request<'a> {
    /// A request whose body lies in memory or in a file, `body_len` bytes of it.
    pub(crate) fn new(head: &'a Head, bytes: &'a [u8], body: Body<'a>, body_len: u64, origin: Origin<'a>) -> Self {
        let framing = head.framing.unwrap_or(Framing::None);
        Request {
            head,
            bytes,
            body,
            body_len,
            has_body: framing != Framing::None,
            chunked: framing == Framing::Chunked,
            peer: origin.peer,
            forwarded: origin.forwarded,
            listener: origin.listener.into(),
        }
    }

    /// The client: the peer, or the client that trusted proxies name.
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

    /// The authority of an absolute target, which takes the place of `Host` (RFC 9112, section 3.2.2).
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

//! A request whose body is being collected: its head, and what has come of the body.
//! Knows: the coding of bodies, their limits.   Must not know: sockets, connections.

use crate::config::Config;
use crate::http1::chunked::{Decoder, Piece};
use crate::http1::head::Head;
use crate::http1::{Framing, Reject};
use crate::io::Peer;
use crate::proxies::{Forwarded, forwarded};
use crate::request::{Body, Origin, Request};
use crate::spool::Spool;

/// A request whose body is being collected.
#[derive(Debug)]
pub(crate) struct Upload {
    head: Head,
    bytes: Vec<u8>,
    spool: Spool,
    len: u64,
    remaining: Remaining,
}

/// What is still to come.
#[derive(Debug)]
enum Remaining {
    Length(u64),
    Chunked(Decoder),
}

impl Upload {
    /// Behind a head, whose bytes are `bytes`.
    pub(crate) fn new(head: Head, bytes: &[u8], config: &Config) -> Upload {
        let remaining = match head.framing {
            Some(Framing::Chunked) => Remaining::Chunked(Decoder::new(config.limits.max_head)),
            Some(Framing::Length(length)) => Remaining::Length(length),
            Some(Framing::None) | None => Remaining::Length(0),
        };
        Upload { head, bytes: bytes.to_vec(), spool: Spool::default(), len: 0, remaining }
    }

    /// What proxies say of it; it was no error when the head had come.
    pub(crate) fn forwarded(&self, peer: Peer, config: &Config) -> Forwarded<'_> {
        match &config.trusted {
            None => Forwarded::Unasked,
            Some(trusted) => forwarded::read(&self.head, &self.bytes, peer, trusted).unwrap_or(Forwarded::Untrusted),
        }
    }

    /// The request, as far as it has come.
    pub(crate) fn request<'a>(&'a self, origin: Origin<'a>) -> Request<'a> {
        let body = match &self.spool {
            Spool::Memory(memory) => Body::Memory(memory),
            Spool::File(file) => Body::File(file.get_ref()),
        };
        Request::new(&self.head, &self.bytes, body, self.len, origin)
    }

    /// The body is whole: makes it ready to be read from its start.
    pub(crate) fn rewind(&mut self) -> Result<(), Reject> {
        self.spool.rewind().map_err(|_| Reject::StorageUnavailable)
    }

    /// Takes what belongs to the body from the front of `data`: the number of bytes used up, and whether it is whole now.
    pub(crate) fn take(&mut self, data: &[u8], config: &Config) -> Result<(usize, bool), Reject> {
        let Upload { remaining, spool, len, .. } = self;
        let mut push = |piece: &[u8]| {
            spool.push(piece, config.body_buffer).map_err(|_| Reject::StorageUnavailable)?;
            *len += piece.len() as u64;
            Ok(*len)
        };
        match remaining {
            Remaining::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= used as u64;
                push(&data[..used])?;
                Ok((used, *left == 0))
            }
            Remaining::Chunked(decoder) => {
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

/// Whether a body of that length is larger than allowed.
pub(crate) fn exceeds(length: u64, config: &Config) -> bool {
    config.max_body != 0 && length > config.max_body
}

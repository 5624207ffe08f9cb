//! A request whose body is being collected: its head, and what has come of the body.
//! Knows: the coding of bodies, their limits.   Must not know: sockets, connections.

use std::io;
use std::time::Duration;

use crate::config::Config;
use crate::http1::chunked::{Decoder, Piece};
use crate::http1::head::Head;
use crate::http1::{Framing, Reject};
use crate::io::{Millis, Peer};
use crate::proxies::{Forwarded, forwarded};
use crate::rate::{LeastRate, Pace};
use crate::request::{Origin, Request};
use crate::spool::{Means, Spool, SpoolError};
use crate::storage::Share;

/// A request whose body is being collected.
#[derive(Debug)]
pub(crate) struct Upload {
    head: Head,
    bytes: Vec<u8>,
    spool: Spool,
    len: u64,
    remaining: Remaining,
    /// Bytes of the body and its coding so far; and when the pace was looked at last, and how many there were then.
    received: u64,
    pace: Pace,
    seen: (Millis, u64),
}

/// What is still to come.
#[derive(Debug)]
enum Remaining {
    Length(u64),
    Chunked(Decoder),
}

/// Why an upload is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub reject: Reject,
    /// The system's word, where it is the system that refuses.
    pub error: Option<io::Error>,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Refusal {
        Refusal { reject, error: None }
    }
}

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Refusal {
        match error {
            SpoolError::Full => Reject::StorageFull.into(),
            SpoolError::Io(error) => Refusal { reject: Reject::StorageUnavailable, error: Some(error) },
        }
    }
}

impl Upload {
    /// Behind a head, whose bytes are `bytes`.
    ///
    /// # Errors
    /// Where the system has no memory for the head; it is given back.
    pub(crate) fn new(head: Head, bytes: &[u8], share: Share, config: &Config, now: Millis) -> Result<Upload, Head> {
        let remaining = match head.framing {
            Some(Framing::Chunked) => Remaining::Chunked(Decoder::new(config.limits.max_head)),
            Some(Framing::Length(length)) => Remaining::Length(length),
            Some(Framing::None) | None => Remaining::Length(0),
        };
        let mut own = Vec::new();
        if own.try_reserve_exact(bytes.len()).is_err() {
            return Err(head);
        }
        own.extend_from_slice(bytes);
        let (spool, pace) = (Spool::new(share), Pace::default());
        Ok(Upload { head, bytes: own, spool, len: 0, remaining, received: 0, pace, seen: (now, 0) })
    }

    /// All that has come by `now` has been taken; the clock stands still while nobody looks for more. Whether bytes have come
    /// that are fewer than `least` asks for. Where none have, there is the deadline.
    pub(crate) fn comes_too_slowly(&mut self, now: Millis, least: LeastRate) -> bool {
        let (before, received) = std::mem::replace(&mut self.seen, (now, self.received));
        self.pace.wait(Duration::from_millis(now.saturating_sub(before)));
        self.received != received && self.pace.is_too_slow(self.received, least)
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
        Request::new(&self.head, &self.bytes, self.spool.body(), self.len, origin)
    }

    /// The body is whole: makes it ready to be read from its start. Whether it is in a file.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn rewind(&mut self, means: &Means<'_>) -> Result<bool, Refusal> {
        self.spool.rewind(means).map_err(|error| SpoolError::Io(error).into())
    }

    /// Lets go of the body.
    pub(crate) fn discard(self, means: &Means<'_>) {
        self.spool.discard(means);
    }

    /// Takes what belongs to the body from the front of `data`: the number of bytes used up, and whether it is whole now.
    ///
    /// # Errors
    /// What is wrong with the coding, and what is too large, or has no place.
    pub(crate) fn take(&mut self, data: &[u8], config: &Config, means: &Means<'_>) -> Result<(usize, bool), Refusal> {
        let (used, whole) = self.take_part(data, config, means)?;
        self.received += used as u64;
        Ok((used, whole))
    }

    fn take_part(&mut self, data: &[u8], config: &Config, means: &Means<'_>) -> Result<(usize, bool), Refusal> {
        let Upload { remaining, spool, len, .. } = self;
        let mut push = |piece: &[u8]| {
            spool.push(piece, means)?;
            *len += piece.len() as u64;
            Ok::<u64, Refusal>(*len)
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
                            return Err(Reject::BodyTooLarge.into());
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

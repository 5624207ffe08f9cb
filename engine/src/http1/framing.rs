//! How long a request's body is, and whether the connection persists: one decision, in one place.
//! Knows: RFC 9112 sections 6 and 9.3, RFC 9110 section 8.6.   Must not know: bytes of bodies, responses.

use super::{Reject, bytes};

/// The framing of a request's body (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What the fields say about framing and persistence, gathered while the head is parsed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    length: Option<u64>,
    codings: Codings,
    close: bool,
    keep_alive: bool,
}

/// The list of transfer codings, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Codings {
    /// No `Transfer-Encoding` at all.
    #[default]
    Absent,
    /// A field without an element.
    Empty,
    /// `chunked` alone: the only list this server understands.
    Chunked,
    /// Other codings.
    Other,
    /// Other codings, then `chunked`.
    OtherThenChunked,
    /// Something after `chunked`, which must be the last and only once.
    AfterChunked,
}

impl Evidence {
    /// One `Content-Length` line. A second one is refused even where it is equal, and so is a list: both are
    /// allowed to be (RFC 9110, section 8.6), and no client sends them.
    pub fn content_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        let length = decimal(value).ok_or(Reject::BadContentLength)?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Reject::RepeatedContentLength),
        }
    }

    /// One `Transfer-Encoding` line; several make one list (RFC 9112, section 6.1).
    pub fn transfer_encoding(&mut self, value: &[u8]) {
        if self.codings == Codings::Absent {
            self.codings = Codings::Empty;
        }
        for element in bytes::list(value) {
            let chunked = element.eq_ignore_ascii_case(b"chunked");
            self.codings = match (self.codings, chunked) {
                (Codings::Absent | Codings::Empty, true) => Codings::Chunked,
                (Codings::Other, true) => Codings::OtherThenChunked,
                (Codings::Absent | Codings::Empty | Codings::Other, false) => Codings::Other,
                (Codings::Chunked | Codings::OtherThenChunked | Codings::AfterChunked, _) => Codings::AfterChunked,
            };
        }
    }

    /// One `Connection` line (RFC 9110, section 7.6.1).
    pub fn connection(&mut self, value: &[u8]) {
        for option in bytes::list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// The decision of RFC 9112, section 6.3, as a table; what is ambiguous is refused, never guessed.
    pub fn framing(&self, minor: u8) -> Result<Framing, Reject> {
        match (self.codings, self.length, minor) {
            (Codings::Absent, None, _) => Ok(Framing::None),
            (Codings::Absent, Some(length), _) => Ok(Framing::Length(length)),
            (_, Some(_), _) => Err(Reject::LengthAndTransferEncoding),
            (_, None, 0) => Err(Reject::TransferEncodingIn10),
            (Codings::Chunked, None, _) => Ok(Framing::Chunked),
            (Codings::OtherThenChunked, None, _) => Err(Reject::UnknownTransferCoding),
            (Codings::Empty | Codings::Other | Codings::AfterChunked, None, _) => Err(Reject::ChunkedNotFinal),
        }
    }

    /// Whether the peer lets the connection persist (RFC 9112, section 9.3).
    pub fn persists(&self, minor: u8) -> bool {
        !self.close && (minor >= 1 || self.keep_alive)
    }
}

/// `1*DIGIT` that fits 63 bits; neither a sign nor a blank (RFC 9110, section 8.6).
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    (number <= i64::MAX as u64).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(minor: u8, lengths: &[&str], encodings: &[&str]) -> Result<Framing, Reject> {
        let mut evidence = Evidence::default();
        for length in lengths {
            evidence.content_length(length.as_bytes())?;
        }
        for encoding in encodings {
            evidence.transfer_encoding(encoding.as_bytes());
        }
        evidence.framing(minor)
    }

    #[test]
    fn framing_follows_rfc_9112_section_6_3() {
        use Framing::*;
        use Reject::*;
        type Row<'a> = (u8, &'a [&'a str], &'a [&'a str], Result<Framing, Reject>);
        let rows: &[Row] = &[
            (1, &[], &[], Ok(None)),
            (1, &["0"], &[], Ok(Length(0))),
            (0, &["5"], &[], Ok(Length(5))),
            (1, &["5", "5"], &[], Err(RepeatedContentLength)),
            (1, &["5, 5"], &[], Err(BadContentLength)),
            (1, &["005"], &[], Ok(Length(5))),
            (1, &["5", "6"], &[], Err(RepeatedContentLength)),
            (1, &["5,6"], &[], Err(BadContentLength)),
            (1, &["+5"], &[], Err(BadContentLength)),
            (1, &["-5"], &[], Err(BadContentLength)),
            (1, &["5 5"], &[], Err(BadContentLength)),
            (1, &["0x5"], &[], Err(BadContentLength)),
            (1, &[""], &[], Err(BadContentLength)),
            (1, &["5,"], &[], Err(BadContentLength)),
            (1, &["9223372036854775807"], &[], Ok(Length(i64::MAX as u64))),
            (1, &["9223372036854775808"], &[], Err(BadContentLength)),
            (1, &["99999999999999999999999"], &[], Err(BadContentLength)),
            (1, &[], &["chunked"], Ok(Chunked)),
            (1, &[], &["Chunked"], Ok(Chunked)),
            (1, &[], &[", chunked"], Ok(Chunked)),
            (1, &[], &["gzip, chunked"], Err(UnknownTransferCoding)),
            (1, &[], &["gzip", "chunked"], Err(UnknownTransferCoding)),
            (1, &[], &["gzip, chunked, chunked"], Err(ChunkedNotFinal)),
            (1, &[], &["chunked, gzip"], Err(ChunkedNotFinal)),
            (1, &[], &["chunked, gzip, chunked"], Err(ChunkedNotFinal)),
            (1, &[], &["chunked", "chunked"], Err(ChunkedNotFinal)),
            (1, &[], &["chunked", "identity"], Err(ChunkedNotFinal)),
            (1, &[], &["identity"], Err(ChunkedNotFinal)),
            (1, &[], &["xchunked"], Err(ChunkedNotFinal)),
            (1, &[], &["chunked;q=1"], Err(ChunkedNotFinal)),
            (1, &[], &["\"chunked\""], Err(ChunkedNotFinal)),
            (1, &[], &[""], Err(ChunkedNotFinal)),
            (1, &["5"], &["chunked"], Err(LengthAndTransferEncoding)),
            (1, &["0"], &["gzip"], Err(LengthAndTransferEncoding)),
            (0, &[], &["chunked"], Err(TransferEncodingIn10)),
            (0, &["5"], &["chunked"], Err(LengthAndTransferEncoding)),
        ];
        for (minor, lengths, encodings, want) in rows {
            assert_eq!(decide(*minor, lengths, encodings), *want, "1.{minor} {lengths:?} {encodings:?}");
        }
    }

    #[test]
    fn persistence_follows_rfc_9112_section_9_3() {
        let rows: &[(u8, &[&str], bool)] = &[
            (1, &[], true),
            (1, &["close"], false),
            (1, &["foo, Close"], false),
            (1, &["foo", "close"], false),
            (1, &["closed"], true),
            (1, &["keep-alive"], true),
            (1, &["keep-alive, close"], false),
            (0, &[], false),
            (0, &["Keep-Alive"], true),
            (0, &["foo,keep-alive"], true),
            (0, &["close, keep-alive"], false),
            (0, &["keep-alives"], false),
        ];
        for (minor, lines, want) in rows {
            let mut evidence = Evidence::default();
            lines.iter().for_each(|line| evidence.connection(line.as_bytes()));
            assert_eq!(evidence.persists(*minor), *want, "1.{minor} {lines:?}");
        }
    }
}

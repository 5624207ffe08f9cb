//! Request head: bytes to method, target, fields and framing.
//! Knows: RFC 9112 sections 2 to 6, `Limits`.   Must not know: sockets, time, bodies.
//! Invariant: any split of a head gives the same verdict; what `Scan` has passed is not looked at again before the end.

use super::framing::Evidence;
use super::names::{self, Known};
use super::target::{self, Span, Target};
use super::{Framing, Limits, Reject, bytes};

/// One field line.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name, as sent.
    pub name: Span,
    /// The value without the blanks around it.
    pub value: Span,
    /// The name's index in [`names::NAMES`].
    pub known: Known,
}

/// A parsed request head; its spans point into the bytes it was parsed from.
#[derive(Debug, Default)]
pub struct Head {
    /// The method, any token (RFC 9110, section 9.1).
    pub method: Span,
    /// The target, taken apart.
    pub target: Target,
    /// The minor version: 0, or 1 for every later one.
    pub minor: u8,
    /// The fields in their order.
    pub fields: Vec<Field>,
    /// Bytes of the head, the blank line included.
    pub len: usize,
    /// How long the body is.
    pub framing: Option<Framing>,
    /// Whether the peer lets the connection persist.
    pub persists: bool,
    /// Whether the peer waits for `100 Continue` (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
}

/// How far an incomplete head has been looked at, so that a trickling peer costs O(n).
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Where the unfinished line starts; 0 is the request line.
    line: u32,
    /// The next byte to look at.
    at: u32,
}

impl Head {
    /// Parses the head at the front of `buffer`: `true` if it is whole, `false` if more bytes are needed.
    ///
    /// A whole head is read in one pass. Only where that fails, the lines are counted, from where `scan` left off,
    /// to tell an incomplete head from a bad one: a request line is judged when its line ends, fields when all are
    /// there, a bare LF at once.
    pub fn parse(&mut self, buffer: &[u8], scan: &mut Scan, limits: &Limits) -> Result<bool, Reject> {
        if scan.at == 0 && self.read(buffer, limits) == Ok(true) && self.len <= limits.max_head {
            return Ok(true);
        }
        match scan.end(buffer, limits.max_head)? {
            Some(end) => self.read(&buffer[..end], limits),
            None => Ok(false),
        }
    }

    /// Reads a whole head; `Ok(false)` where the bytes end before it does.
    fn read(&mut self, buffer: &[u8], limits: &Limits) -> Result<bool, Reject> {
        self.fields.clear();
        let (request_line, line_end) = RequestLine::read(buffer)?;
        let mut evidence = Evidence::default();
        let mut expectation = Expectation::None;
        let mut hosts = 0;
        let mut at = match buffer.get(line_end..) {
            Some([b'\r', b'\n', ..]) => line_end + 2,
            _ => return Ok(false), // `Scan` has seen the line's end where this is the last word
        };
        loop {
            match buffer.get(at..) {
                Some([b'\r', b'\n', ..]) => break,
                Some([b'\r']) | Some([]) | None => return Ok(false),
                Some(_) => {}
            }
            let Some((field, next)) = read_field(buffer, at)? else { return Ok(false) };
            if self.fields.len() == limits.max_fields {
                return Err(Reject::TooManyFields);
            }
            self.fields.push(field);
            let value = field.value.of(buffer);
            match field.known {
                names::HOST => {
                    hosts += 1;
                    if !target::is_authority(value) {
                        return Err(Reject::BadHost);
                    }
                }
                names::CONNECTION => evidence.connection(value),
                names::CONTENT_LENGTH => evidence.content_length(value)?,
                names::TRANSFER_ENCODING => evidence.transfer_encoding(value),
                names::EXPECT => expectation = expectation.and(value),
                _ => {}
            }
            at = next;
        }
        self.method = request_line.method;
        self.minor = request_line.minor;
        self.target = target::parse(buffer, request_line.target, self.method.of(buffer))?;
        self.len = at + 2;
        match hosts {
            0 if self.minor >= 1 && limits.require_host => return Err(Reject::MissingHost),
            0 | 1 => {}
            _ => return Err(Reject::DuplicateHost),
        }
        self.framing = Some(evidence.framing(self.minor)?);
        self.persists = evidence.persists(self.minor);
        self.expects_continue = match expectation {
            // An expectation in HTTP/1.0 is ignored (RFC 9110, section 10.1.1).
            _ if self.minor == 0 => false,
            Expectation::None => false,
            Expectation::Continue => true,
            Expectation::Unknown => return Err(Reject::ExpectationFailed),
        };
        Ok(true)
    }
}

#[derive(Clone, Copy)]
enum Expectation {
    None,
    Continue,
    Unknown,
}

impl Expectation {
    /// Adds one `Expect` line (RFC 9110, section 10.1.1).
    fn and(self, value: &[u8]) -> Expectation {
        bytes::list(value).fold(self, |so_far, element| match so_far {
            Expectation::None | Expectation::Continue if element.eq_ignore_ascii_case(b"100-continue") => {
                Expectation::Continue
            }
            _ => Expectation::Unknown,
        })
    }
}

struct RequestLine {
    method: Span,
    target: Span,
    minor: u8,
}

impl RequestLine {
    /// `method SP request-target SP HTTP-version` (RFC 9112, section 3) at the front of `bytes`, up to their end or a CR;
    /// and the index behind it.
    fn read(bytes: &[u8]) -> Result<(RequestLine, usize), Reject> {
        let method = bytes.iter().position(|byte| !bytes::is_token(*byte)).unwrap_or(bytes.len());
        match bytes.get(method) {
            Some(b' ') if method > 0 => {}
            Some(_) => return Err(Reject::BadMethod),
            None => return Err(Reject::BadRequestLine),
        }
        let start = method + 1;
        let end = bytes::target_end(bytes, start);
        match bytes.get(end) {
            Some(b' ') if end > start => {}
            None if end > start => return Err(Reject::BadVersion),
            _ => return Err(Reject::BadTarget),
        }
        let Some((version, rest @ ([] | [b'\r', ..]))) = bytes[end + 1..].split_first_chunk::<8>() else {
            return Err(Reject::BadVersion);
        };
        let minor = match version {
            b"HTTP/1.1" => 1,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] => (minor - b'0').min(1),
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Reject::VersionNotSupported),
            _ => return Err(Reject::BadVersion),
        };
        let line = RequestLine { method: Span::new(0, method), target: Span::new(start, end), minor };
        Ok((line, bytes.len() - rest.len()))
    }
}

/// `field-name ":" OWS field-value OWS` (RFC 9112, section 5) and the index behind its line; `None` where the line is not whole.
fn read_field(buffer: &[u8], at: usize) -> Result<Option<(Field, usize)>, Reject> {
    let mut colon = bytes::colon(buffer, at);
    let known = names::known(&buffer[at..colon]);
    // The known ones are tokens.
    if known == names::UNKNOWN && !bytes::is_name(&buffer[at..colon]) {
        colon = at + buffer[at..colon].iter().position(|byte| !bytes::is_token(*byte)).unwrap_or(colon - at);
    }
    match buffer.get(colon) {
        None => return Ok(None),
        Some(b':') if colon > at => {}
        Some(b' ' | b'\t') if colon == at => return Err(Reject::ObsFold),
        Some(b' ' | b'\t') => return Err(Reject::SpaceBeforeColon),
        Some(_) => return Err(Reject::BadFieldName),
    }
    let end = bytes::value_end(buffer, colon + 1);
    match buffer.get(end..) {
        Some([b'\r', b'\n', ..]) => {}
        None | Some([]) | Some([b'\r']) => return Ok(None),
        Some([b'\n', ..]) => return Err(Reject::BareLf),
        Some(_) => return Err(Reject::BadFieldValue),
    }
    let mut start = colon + 1;
    while start < end && matches!(buffer[start], b' ' | b'\t') {
        start += 1;
    }
    let mut stop = end;
    while stop > start && matches!(buffer[stop - 1], b' ' | b'\t') {
        stop -= 1;
    }
    Ok(Some((Field { name: Span::new(at, colon), value: Span::new(start, stop), known }, end + 2)))
}

impl Scan {
    /// The index behind the blank line that ends the head, or `None` where it has not come.
    fn end(&mut self, buffer: &[u8], max_head: usize) -> Result<Option<usize>, Reject> {
        // What cannot start a method (a TLS handshake, say) need not be waited for.
        if buffer.first().is_some_and(|byte| !bytes::is_token(*byte) && !matches!(byte, b'\r' | b'\n')) {
            return Err(Reject::BadMethod);
        }
        let window = &buffer[..buffer.len().min(max_head)];
        while let Some(offset) = memchr::memchr(b'\n', &window[self.at as usize..]) {
            let lf = self.at as usize + offset;
            let Some(line) = window[self.line as usize..lf].strip_suffix(b"\r") else { return Err(Reject::BareLf) };
            if self.line == 0 {
                if RequestLine::read(line)?.1 != line.len() {
                    return Err(Reject::BadVersion);
                }
            } else if line.is_empty() {
                return Ok(Some(lf + 1));
            }
            self.line = (lf + 1) as u32;
            self.at = self.line;
        }
        self.at = window.len() as u32;
        match (window.len() == max_head, self.line) {
            (false, _) => Ok(None),
            (true, 0) if memchr::memchr(b' ', window).is_none() => Err(Reject::MethodTooLong),
            (true, 0) => Err(Reject::TargetTooLong),
            (true, _) => Err(Reject::HeadTooLarge),
        }
    }
}

//! One line of the access log: what is noted while a request is answered, and the line made of it.
//! Knows: requests, responses, escaping.   Must not know: files, when lines are written.
//! Invariant: a line is one line, whatever a peer or the application put into it.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::format::{LogFormat, Part, Unit, What};
use crate::http1::{Reject, bytes};
use crate::io::Peer;
use crate::request::Request;

/// How much of a line that was no request is shown.
pub(super) const SHOWN_BYTES: usize = 1000;

/// What was asked, as far as it is known.
#[derive(Clone, Copy)]
pub(crate) enum Told<'a> {
    Request(&'a Request<'a>),
    /// Bytes that are no request.
    Nothing(&'a [u8]),
}

/// What is noted of a request while it is answered: what of its line is known when it begins.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) began: Instant,
    /// What parts told of the request, one behind the other, and where each ends.
    noted: Vec<u8>,
    ends: Vec<usize>,
    /// The head of the response, where a part tells of it.
    head: Vec<u8>,
    wants_head: bool,
}

impl Default for Record {
    fn default() -> Record {
        Record { began: Instant::now(), noted: Vec::new(), ends: Vec::new(), head: Vec::new(), wants_head: false }
    }
}

impl Record {
    /// Of a new request; all else is forgotten.
    pub(crate) fn begin(&mut self) {
        self.began = Instant::now();
        self.noted.clear();
        self.ends.clear();
        self.head.clear();
    }

    /// Keeps the head of the response, where a part tells of it.
    pub(crate) fn note_head(&mut self, head: &[u8]) {
        if self.wants_head {
            self.head.extend_from_slice(head);
        }
    }
}

/// The end of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// 0: nothing was.
    pub(crate) status: u16,
    /// Why the server refused the request; nothing where the application was called.
    pub(crate) reason: Option<Reject>,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

/// Makes the lines of one log.
pub(super) struct Renderer {
    pub(super) format: LogFormat,
    pub(super) pid: u32,
}

impl Renderer {
    /// Notes in `record` what is known of a request that begins.
    pub(super) fn begin(&self, record: &mut Record, peer: Peer, told: Told<'_>, second: u64) {
        record.wants_head = self.format.wants_response_fields;
        for part in &self.format.parts {
            if let Part::Value(what) = part
                && self.note(&mut record.noted, what, peer, told, second)
            {
                record.ends.push(record.noted.len());
            }
        }
    }

    /// The line of a request that has been answered, its end included; it stays in `record` until the next one begins.
    pub(super) fn line<'r>(&self, record: &'r mut Record, answered: Answered) -> &'r [u8] {
        let Record { noted: line, ends, head, .. } = record;
        let noted = line.len();
        let mut ends = ends.iter().copied();
        let mut from = 0;
        for part in &self.format.parts {
            match part {
                Part::Literal(text) => line.extend_from_slice(text),
                Part::Value(what) if !what.is_known_later() => {
                    let to = ends.next().unwrap_or(from);
                    line.extend_from_within(from..to);
                    from = to;
                }
                Part::Value(what) => self.note_answered(line, what, head, answered),
            }
        }
        line.push(b'\n');
        &line[noted..]
    }

    /// Whether the part was known by now, and has been added to `out`.
    fn note(&self, out: &mut Vec<u8>, what: &What, peer: Peer, told: Told<'_>, second: u64) -> bool {
        let request = match told {
            Told::Request(request) => Some(request),
            Told::Nothing(_) => None,
        };
        let of = |get: fn(&Request<'_>) -> Vec<u8>| request.map(get);
        match what {
            _ if what.is_known_later() => return false,
            What::ClfTime => clf_time(out, second),
            What::IsoTime => iso_time(out, second),
            What::Pid { in_angles: true } => push(out, format_args!("<{}>", self.pid)),
            What::Pid { in_angles: false } => push(out, format_args!("{}", self.pid)),
            What::Remote => match peer.ip {
                Some(ip) if self.format.is_json => push(out, format_args!("\"{ip}\"")),
                Some(ip) => push(out, format_args!("{ip}")),
                None => self.text(out, None),
            },
            What::User => self.text(out, request.and_then(user).as_deref()),
            What::RequestLine => match told {
                Told::Request(request) => {
                    self.text(out, Some(request.method()));
                    out.push(b' ');
                    self.text(out, Some(request.target()));
                    out.extend_from_slice(if request.minor() == 0 { b" HTTP/1.0" } else { b" HTTP/1.1" });
                }
                Told::Nothing(bytes) => self.text(out, Some(shown(bytes)).filter(|shown| !shown.is_empty())),
            },
            What::Method => self.text(out, request.map(Request::method)),
            What::Target => match told {
                Told::Request(request) => self.text(out, Some(request.target())),
                Told::Nothing(bytes) => self.text(out, Some(shown(bytes)).filter(|shown| !shown.is_empty())),
            },
            What::Path => self.text(out, request.map(Request::path)),
            What::Query => self.text(out, Some(request.map_or(b"", Request::query))),
            What::Protocol => {
                let protocol = of(|request| format!("HTTP/1.{}", request.minor().min(1)).into_bytes());
                self.text(out, protocol.as_deref());
            }
            What::RequestField(name) => {
                let fields = request.into_iter().flat_map(Request::fields);
                let values = fields.filter(|(_, field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
                self.values(out, values.map(|(_, _, value)| value));
            }
            _ => out.push(b'-'),
        }
        true
    }

    fn note_answered(&self, out: &mut Vec<u8>, what: &What, head: &[u8], answered: Answered) {
        let Answered { status, reason, bytes, took } = answered;
        match what {
            What::Status if status == 0 => self.text(out, None),
            What::Status => push(out, format_args!("{status}")),
            What::Reason => self.text(out, reason.map(|reason| reason.label().as_bytes())),
            What::Bytes { dash: true } if bytes == 0 => out.push(b'-'),
            What::Bytes { .. } => push(out, format_args!("{bytes}")),
            What::Took(Unit::Seconds) => push(out, format_args!("{}", took.as_secs())),
            What::Took(Unit::Millis) => push(out, format_args!("{}", took.as_millis())),
            What::Took(Unit::Micros) => push(out, format_args!("{}", took.as_micros())),
            What::Took(Unit::DecimalSeconds) => {
                push(out, format_args!("{}.{:06}", took.as_secs(), took.subsec_micros()));
            }
            What::ResponseField(name) => {
                let lines = head.split(|byte| *byte == b'\n').skip(1);
                let values = lines.filter_map(|line| {
                    let colon = memchr::memchr(b':', line)?;
                    let value = bytes::trim(&line[colon + 1..line.len().saturating_sub(1).max(colon + 1)]);
                    line[..colon].eq_ignore_ascii_case(name.as_bytes()).then_some(value)
                });
                self.values(out, values);
            }
            _ => out.push(b'-'),
        }
    }

    /// Values of one name, as one (RFC 9110, section 5.3).
    fn values<'a>(&self, out: &mut Vec<u8>, mut values: impl Iterator<Item = &'a [u8]>) {
        match (values.next(), values.next()) {
            (Some(first), Some(second)) => {
                let mut all = [first, second].join(&b", "[..]);
                for value in values {
                    all.extend_from_slice(b", ");
                    all.extend_from_slice(value);
                }
                self.text(out, Some(&all));
            }
            (first, _) => self.text(out, first),
        }
    }

    /// Text from outside, escaped; `-`, or `null`, where there is none.
    fn text(&self, out: &mut Vec<u8>, text: Option<&[u8]>) {
        match (text, self.format.is_json) {
            (Some(text), true) => escape_json(out, text),
            (Some(text), false) => escape(out, text),
            (None, true) => out.extend_from_slice(b"null"),
            (None, false) => out.push(b'-'),
        }
    }
}

fn push(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let _ = out.write_fmt(text); // to memory
}

/// The first line of what was no request.
fn shown(bytes: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
    &bytes[..end.min(SHOWN_BYTES)]
}

// Times are UTC: the standard library knows no other, and nobody has to ask in which zone a server stood.

/// `[10/Oct/2000:13:55:36 +0000]`
fn clf_time(out: &mut Vec<u8>, second: u64) {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second)); // Tue, 10 Oct 2000 13:55:36 GMT
    push(out, format_args!("[{}/{}/{}:{} +0000]", &date[5..7], &date[8..11], &date[12..16], &date[17..25]));
}

/// `"2000-10-10T13:55:36Z"`
fn iso_time(out: &mut Vec<u8>, second: u64) {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    let month = MONTHS.iter().position(|month| *month == &date[8..11]).map_or(0, |index| index + 1);
    push(out, format_args!("\"{}-{month:02}-{}T{}Z\"", &date[12..16], &date[5..7], &date[17..25]));
}

/// The name in `Authorization: Basic` (RFC 7617).
fn user(request: &Request<'_>) -> Option<Vec<u8>> {
    let (_, _, value) = request.fields().find(|(_, name, _)| name.eq_ignore_ascii_case(b"authorization"))?;
    let space = memchr::memchr(b' ', value)?;
    if !value[..space].eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let mut decoded = from_base64(bytes::trim(&value[space..]))?;
    decoded.truncate(memchr::memchr(b':', &decoded)?);
    (!decoded.is_empty()).then_some(decoded)
}

/// RFC 4648, section 4.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

/// As Apache does: printable ASCII stays, quotes and backslashes are escaped, everything else is `\n`, `\t` or `\xhh`.
pub(super) fn escape(out: &mut Vec<u8>, text: &[u8]) {
    if text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(text);
        return;
    }
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => push(out, format_args!("\\x{byte:02x}")),
        }
    }
}

/// A string of JSON (RFC 8259, section 7). What is not UTF-8 is taken for Latin-1.
pub(super) fn escape_json(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    match std::str::from_utf8(text) {
        Ok(text) => text.chars().for_each(|character| escape_json_char(out, character)),
        Err(_) => text.iter().for_each(|byte| escape_json_char(out, char::from(*byte))),
    }
    out.push(b'"');
}

fn escape_json_char(out: &mut Vec<u8>, character: char) {
    match character {
        '"' | '\\' => push(out, format_args!("\\{character}")),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Ends of lines, for some who read.
        '\u{2028}' | '\u{2029}' => push(out, format_args!("\\u{:04x}", u32::from(character))),
        _ if character.is_control() => push(out, format_args!("\\u{:04x}", u32::from(character))),
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

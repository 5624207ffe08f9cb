//! Response head: what the application gives, checked and serialized; then framing, in one place.
//! Knows: RFC 9110 sections 6 to 8 and 15, RFC 9112 sections 6, 7 and 9, PEP 3333's rule on hop-by-hop fields.
//! Must not know: sockets, time, where a body comes from.

use std::fmt;

use super::{bytes, framing::decimal};

/// Why a response head of the application cannot be sent. `Display` is for the application's author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// Not three digits from 200 on, a space, a reason phrase.
    Status(String),
    /// CR, LF, NUL or another control character in the reason phrase (RFC 9112, section 4).
    Reason(String),
    /// Not a token (RFC 9110, section 5.1).
    Name(String),
    /// CR, LF, NUL or another control character in a value (RFC 9110, section 5.5).
    Value(String, String),
    /// A `Content-Length` that is not a decimal number, or differs from the one before (RFC 9110, section 8.6).
    ContentLength(String),
}

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadHead::Status(status) => {
                write!(f, "'status' must be 3-digit, from 200 to 999, then a space and a reason (got {status:?})")
            }
            BadHead::Reason(status) => write!(f, "'status' must not hold control characters (got {status:?})"),
            BadHead::Name(name) => write!(f, "header name {name:?} is not a token (RFC 9110, section 5.1)"),
            BadHead::Value(name, value) => {
                write!(f, "value of header {name:?} must not hold control characters (got {value:?})")
            }
            BadHead::ContentLength(value) => {
                write!(f, "'Content-Length' must be one decimal number, and the same if given twice (got {value:?})")
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    // Latin-1, as PEP 3333 has it, and no longer than a line of a log.
    bytes.iter().take(100).map(|byte| char::from(*byte)).collect()
}

/// Room for the fields that the server adds to a head beside its [`Stamp`].
const FIELDS_BYTES: usize = 96;

/// Status line and fields as the application gave them, serialized; without what the server adds.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    bytes: Vec<u8>,
    status: u16,
    content_length: Option<u64>,
    close: bool,
    has_date: bool,
    has_server: bool,
}

impl ResponseHead {
    /// Starts anew with `status`, such as `200 OK`.
    pub fn begin(&mut self, status: &[u8]) -> Result<(), BadHead> {
        self.clear();
        let [hundreds @ b'2'..=b'9', tens @ b'0'..=b'9', units @ b'0'..=b'9', reason @ ..] = status else {
            return Err(BadHead::Status(text(status)));
        };
        if !matches!(reason, [] | [b' ', ..]) {
            return Err(BadHead::Status(text(status)));
        }
        if bytes::value_end(reason, 0) != reason.len() {
            return Err(BadHead::Reason(text(status)));
        }
        self.status = [hundreds, tens, units].iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0'));
        self.bytes.extend_from_slice(b"HTTP/1.1 ");
        self.bytes.extend_from_slice(status);
        if reason.is_empty() {
            // The space belongs to the line even where no reason follows (RFC 9112, section 4).
            self.bytes.push(b' ');
        }
        self.bytes.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Adds a field. Fields that belong to the connection are absorbed: `Connection: close` is honoured, the others
    /// (`Transfer-Encoding` among them) are the server's to send (PEP 3333, "Other HTTP Features").
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadHead> {
        if !bytes::is_name(name) {
            return Err(BadHead::Name(text(name)));
        }
        if bytes::value_end(value, 0) != value.len() {
            return Err(BadHead::Value(text(name), text(value)));
        }
        match self.role(name) {
            Role::Plain => {}
            Role::Absorbed => return Ok(()),
            Role::Connection => {
                self.close |= bytes::list(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                return Ok(());
            }
            Role::ContentLength => {
                let length = decimal(bytes::trim(value)).ok_or_else(|| BadHead::ContentLength(text(value)))?;
                match self.content_length {
                    Some(known) if known == length => return Ok(()),
                    Some(_) => return Err(BadHead::ContentLength(text(value))),
                    None => self.content_length = Some(length),
                }
                if matches!(self.status, 204 | 205) {
                    return Ok(()); // not allowed there (RFC 9110, sections 8.6 and 15.3.6)
                }
            }
            Role::Date => self.has_date = true,
            Role::Server => self.has_server = true,
        }
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn role(&self, name: &[u8]) -> Role {
        // Most applications spell it as it is here.
        let is = |other: &str| name == other.as_bytes() || name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            2 if is("TE") => Role::Absorbed,
            4 if is("Date") => Role::Date,
            6 if is("Server") => Role::Server,
            7 if is("Upgrade") || is("Trailer") => Role::Absorbed,
            10 if is("Connection") => Role::Connection,
            10 if is("Keep-Alive") => Role::Absorbed,
            14 if is("Content-Length") => Role::ContentLength,
            16 if is("Proxy-Connection") => Role::Absorbed,
            17 if is("Transfer-Encoding") => Role::Absorbed,
            _ => Role::Plain,
        }
    }

    /// Forgets everything, and keeps the buffer.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        *self = ResponseHead { bytes, ..ResponseHead::default() };
    }

    /// Whether a status has been given.
    pub fn is_begun(&self) -> bool {
        self.status != 0
    }

    /// The status code; 0 before [`ResponseHead::begin`].
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Bytes that the whole head has at the most.
    pub(crate) fn room(&self, stamp: &Stamp) -> usize {
        self.bytes.len() + stamp.date.len() + stamp.server.len() + FIELDS_BYTES
    }
}

enum Role {
    Plain,
    Absorbed,
    Connection,
    ContentLength,
    Date,
    Server,
}

/// What the request says about the response to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The request's minor version.
    pub minor: u8,
    /// The method is HEAD: fields as for GET, no body (RFC 9110, section 9.3.2).
    pub head: bool,
    /// An error of the server's own is a page of HTML, not plain text: see [`prefers_html`](super::prefers_html).
    pub html: bool,
    /// The connection may persist: the peer lets it, the server is not draining, and keep-alive is not switched off.
    pub persists: bool,
}

/// How the end of a response's body is told (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is no body: HEAD, 204, 205, 304. What the application sends is dropped.
    Nothing,
    /// So many bytes are left; what exceeds them is cut.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// The end of the connection: in HTTP/1.0 alone.
    UntilClose,
}

/// What the server says about itself in every response.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// `Date: …\r\n`, or nothing.
    pub date: Vec<u8>,
    /// `Server: …\r\n`, or nothing.
    pub server: Vec<u8>,
}

/// Appends the whole head to `out`: the application's part, `Date`, `Connection`, and the framing, which is decided
/// here and nowhere else. `whole` is the body's length where the application gave all of it at once.
///
/// Returns the framing and whether the connection persists.
pub fn finish_head(
    head: &ResponseHead,
    asked: Asked,
    whole: Option<u64>,
    stamp: &Stamp,
    out: &mut Vec<u8>,
) -> (ResponseFraming, bool) {
    use ResponseFraming::*;
    let bodiless = asked.head || matches!(head.status, 204 | 205 | 304);
    let may_persist = asked.persists && !head.close;
    // What is said about the length, how the body is framed, and whether the connection can persist.
    let (length, framing, persists) = match (head.status, head.content_length, whole) {
        (204 | 304, _, _) => (None, Nothing, may_persist),
        (205, _, _) => (Some(0), Nothing, may_persist),
        (_, Some(length), _) => (None, Length(length), may_persist),
        // An empty answer to HEAD says nothing of the length that GET would have (RFC 9110, section 8.6).
        (_, None, Some(0)) if asked.head => (None, Nothing, may_persist),
        (_, None, Some(whole)) => (Some(whole), Length(whole), may_persist),
        // Chunked even where the connection ends with the body: else a body that was cut would pass for whole.
        (_, None, None) if asked.minor >= 1 => (None, Chunked, may_persist),
        // HTTP/1.0 has only the end of the connection to end the body; a response to HEAD has no body to end.
        (_, None, None) => (None, UntilClose, may_persist && asked.head),
    };
    out.extend_from_slice(&head.bytes);
    if !head.has_date {
        out.extend_from_slice(&stamp.date);
    }
    if !head.has_server {
        out.extend_from_slice(&stamp.server);
    }
    if let Some(length) = length {
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if persists { b"Connection: Keep-Alive\r\n" } else { b"Connection: close\r\n" });
    if framing == Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    (if bodiless { Nothing } else { framing }, persists)
}

/// Appends a whole answer that ends the connection: a refusal, 500, or a 503, which asks to be tried again in a second
/// (RFC 9110, section 10.2.3). Its body is the status alone (RFC 9110, section 15.5); what else the server knows of the
/// error is for its log.
///
/// Returns the bytes of the body.
#[cold]
pub fn finish_error(status: &str, asked: Asked, stamp: &Stamp, out: &mut Vec<u8>) -> u64 {
    let text = [status, "\n"];
    let page = ["<!doctype html>\n<html lang=\"en\"><title>", status, "</title><h1>", status, "</h1></html>\n"];
    let (content_type, body) = if asked.html { ("text/html", &page[..]) } else { ("text/plain", &text[..]) };
    let len: usize = body.iter().map(|piece| piece.len()).sum();
    push(out, &["HTTP/1.1 ", status, "\r\n"]);
    out.extend_from_slice(&stamp.date);
    out.extend_from_slice(&stamp.server);
    push(out, &[if status.starts_with("503") { "Retry-After: 1\r\n" } else { "" }]);
    push(out, &["Content-Type: ", content_type, "; charset=utf-8\r\n"]);
    push(out, &["Content-Length: ", itoa::Buffer::new().format(len), "\r\nConnection: close\r\n\r\n"]);
    if asked.head {
        return 0;
    }
    push(out, body);
    len as u64
}

fn push(out: &mut Vec<u8>, pieces: &[&str]) {
    pieces.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: &str, fields: &[(&str, &str)]) -> Result<ResponseHead, BadHead> {
        let mut head = ResponseHead::default();
        head.begin(status.as_bytes())?;
        for (name, value) in fields {
            head.field(name.as_bytes(), value.as_bytes())?;
        }
        Ok(head)
    }

    fn finish(
        status: &str,
        fields: &[(&str, &str)],
        asked: Asked,
        whole: Option<u64>,
    ) -> (String, ResponseFraming, bool) {
        let mut out = Vec::new();
        let stamp = Stamp { date: b"Date: d\r\n".to_vec(), server: Vec::new() };
        let head = head(status, fields).unwrap_or_else(|bad| panic!("{bad}"));
        let (framing, persists) = finish_head(&head, asked, whole, &stamp, &mut out);
        (String::from_utf8_lossy(&out).into_owned(), framing, persists)
    }

    const GET_11: Asked = Asked { minor: 1, head: false, html: false, persists: true };

    #[test]
    fn framing_is_a_table() {
        use ResponseFraming::*;
        let head_11 = Asked { head: true, ..GET_11 };
        let close_11 = Asked { persists: false, ..GET_11 };
        let keep_10 = Asked { minor: 0, ..GET_11 };
        let get_10 = Asked { minor: 0, persists: false, ..GET_11 };
        let head_10 = Asked { head: true, ..keep_10 };
        let length: &[(&str, &str)] = &[("Content-Length", "5")];
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Asked, Option<u64>, ResponseFraming, bool, &'a str);
        let rows: &[Row] = &[
            ("200 OK", length, GET_11, None, Length(5), true, "Content-Length: 5"),
            ("200 OK", length, GET_11, Some(3), Length(5), true, "Content-Length: 5"),
            ("200 OK", &[], GET_11, Some(3), Length(3), true, "Content-Length: 3"),
            ("200 OK", &[], GET_11, None, Chunked, true, "Transfer-Encoding: chunked"),
            ("200 OK", &[], close_11, None, Chunked, false, "Transfer-Encoding: chunked"),
            ("200 OK", &[("Connection", "close")], GET_11, None, Chunked, false, "Transfer-Encoding: chunked"),
            ("200 OK", &[], Asked { head: true, ..close_11 }, None, Nothing, false, "Transfer-Encoding: chunked"),
            ("200 OK", &[], get_10, None, UntilClose, false, ""),
            ("200 OK", &[], keep_10, None, UntilClose, false, ""),
            ("200 OK", length, keep_10, None, Length(5), true, "Content-Length: 5"),
            ("200 OK", length, get_10, None, Length(5), false, "Content-Length: 5"),
            ("200 OK", length, head_11, None, Nothing, true, "Content-Length: 5"),
            ("200 OK", &[], head_11, None, Nothing, true, "Transfer-Encoding: chunked"),
            ("200 OK", &[], head_10, None, Nothing, true, ""),
            ("200 OK", &[], head_11, Some(3), Nothing, true, "Content-Length: 3"),
            ("200 OK", &[], head_11, Some(0), Nothing, true, ""),
            ("204 No Content", &[], GET_11, Some(5), Nothing, true, ""),
            ("204 No Content", length, GET_11, None, Nothing, true, ""),
            ("205 Reset Content", &[], GET_11, Some(5), Nothing, true, "Content-Length: 0"),
            ("304 Not Modified", &[], keep_10, None, Nothing, true, ""),
            ("304 Not Modified", length, GET_11, None, Nothing, true, "Content-Length: 5"),
        ];
        for (status, fields, asked, whole, framing, persists, line) in rows {
            let (wire, got_framing, got_persists) = finish(status, fields, *asked, *whole);
            assert_eq!((got_framing, got_persists), (*framing, *persists), "{status} {fields:?} {asked:?}");
            let framing_lines: Vec<&str> = wire
                .lines()
                .filter(|l| l.starts_with("Content-Length") || l.starts_with("Transfer-Encoding"))
                .collect();
            assert_eq!(framing_lines.concat(), *line, "{status} {fields:?} {asked:?}");
            assert!(wire.contains(if *persists { "Connection: Keep-Alive\r\n" } else { "Connection: close\r\n" }));
            assert!(wire.ends_with("\r\n\r\n"));
        }
    }

    #[test]
    fn errors_say_their_status_as_text_or_as_a_page() {
        let stamp = Stamp { date: b"Date: d\r\n".to_vec(), server: b"Server: s\r\n".to_vec() };
        let error = |status: &str, head, html| {
            let mut out = b"before ".to_vec();
            let sent = finish_error(status, Asked { head, html, ..GET_11 }, &stamp, &mut out);
            let text = String::from_utf8_lossy(&out).into_owned();
            let (head, body) =
                text.split_once("\r\n\r\n").map(|(head, body)| (head.to_owned(), body.to_owned())).unwrap_or_default();
            assert_eq!(sent, body.len() as u64);
            (head, body)
        };
        let (head, body) = error("400 Bad Request", false, false);
        assert_eq!(body, "400 Bad Request\n");
        let lines = "before HTTP/1.1 400 Bad Request\r\nDate: d\r\nServer: s\r\nContent-Type: text/plain; charset=utf-8\r\n\
                     Content-Length: 16\r\nConnection: close";
        assert_eq!(head, lines);
        let (head, body) = error("503 Service Unavailable", false, true);
        let page = "<!doctype html>\n<html lang=\"en\"><title>503 Service Unavailable</title>\
                    <h1>503 Service Unavailable</h1></html>\n";
        assert_eq!(body, page);
        let lines =
            format!("Retry-After: 1\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}", page.len());
        assert!(head.contains(&lines), "{head}");
        for html in [false, true] {
            let (with_body, _) = error("408 Request Timeout", false, html);
            assert_eq!(error("408 Request Timeout", true, html), (with_body, String::new()), "HEAD: fields as for GET");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_absorbed_and_close_is_honoured() {
        let fields =
            [("connection", "foo, Close"), ("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=5"), ("X", "y")];
        let (wire, framing, persists) = finish("200 OK", &fields, GET_11, Some(2));
        assert_eq!(wire, "HTTP/1.1 200 OK\r\nX: y\r\nDate: d\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
        assert_eq!((framing, persists), (ResponseFraming::Length(2), false));
    }

    #[test]
    fn a_field_is_plain_whose_name_is_only_as_long_as_one_that_is_not() {
        for name in [
            "XY",
            "Vary",
            "ETag",
            "Cookie",
            "Refresh",
            "Set-Cookie",
            "Accept-Charset",
            "Accept-Language-",
            "X-Forwarded-Proto",
        ] {
            let stamp = Stamp { date: b"Date: d\r\n".to_vec(), server: b"Server: s\r\n".to_vec() };
            let mut out = Vec::new();
            let head = head("200 OK", &[(name, "5, close")]).unwrap_or_else(|bad| panic!("{bad}"));
            let finished = finish_head(&head, GET_11, None, &stamp, &mut out);
            assert_eq!(finished, (ResponseFraming::Chunked, true), "{name}");
            let wire = String::from_utf8_lossy(&out);
            let lines =
                format!("HTTP/1.1 200 OK\r\n{name}: 5, close\r\nDate: d\r\nServer: s\r\nConnection: Keep-Alive\r\n");
            assert!(wire.starts_with(&lines), "{wire}");
        }
    }

    #[test]
    fn a_length_that_is_given_twice_is_sent_once() {
        for second in ["5", " 5\t", "005"] {
            let fields = [("Content-Length", "5"), ("content-length", second), ("CONTENT-LENGTH", "5")];
            let (wire, framing, persists) = finish("200 OK", &fields, GET_11, None);
            assert_eq!((framing, persists), (ResponseFraming::Length(5), true));
            assert_eq!(
                wire, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: d\r\nConnection: Keep-Alive\r\n\r\n",
                "{second:?}"
            );
        }
    }

    #[test]
    fn the_applications_own_date_stands() {
        let (wire, ..) = finish("200 OK", &[("date", "mine")], GET_11, Some(0));
        assert!(wire.contains("date: mine\r\n") && !wire.contains("Date: d"));
    }

    #[test]
    fn what_would_break_the_wire_is_refused() {
        for status in ["", "20", "2000 OK", "200OK", "abc", "100 Continue", "101 Switching Protocols", "099 X"] {
            assert!(matches!(head(status, &[]), Err(BadHead::Status(_))), "{status:?}");
        }
        for status in ["200 O\r\nK", "200 O\nK", "200 \0"] {
            assert!(matches!(head(status, &[]), Err(BadHead::Reason(_))), "{status:?}");
        }
        for name in ["", "A b", "A:", "A\r\n", "Ü", "A\0"] {
            assert!(matches!(head("200 OK", &[(name, "v")]), Err(BadHead::Name(_))), "{name:?}");
        }
        for value in ["a\r\nb", "a\nb", "a\rb", "a\0b", "a\x7fb"] {
            assert!(matches!(head("200 OK", &[("A", value)]), Err(BadHead::Value(..))), "{value:?}");
        }
        for length in ["", "-1", "+1", "1.0", "0x1", "1, 2", "99999999999999999999"] {
            assert!(
                matches!(head("200 OK", &[("Content-Length", length)]), Err(BadHead::ContentLength(_))),
                "{length:?}"
            );
        }
        let twice = [("Content-Length", "1"), ("Content-Length", "2")];
        assert!(matches!(head("200 OK", &twice), Err(BadHead::ContentLength(_))));
    }
}

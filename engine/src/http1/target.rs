//! Request targets: which form, where the path and the query are; percent-decoding.
//! Knows: RFC 9112 section 3.2, RFC 3986.   Must not know: fields, WSGI.

use std::net::Ipv6Addr;

use super::{Reject, bytes};

/// A part of a head: bytes `start..end` of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Span {
    /// The bytes of the span in `head`.
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.start as usize..self.end as usize]
    }

    pub(crate) fn new(start: usize, end: usize) -> Span {
        // Heads are limited far below 4 GiB: see `MAX_HEAD_BYTES`.
        Span { start: start as u32, end: end as u32 }
    }
}

/// A request target taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The whole target, as sent.
    pub whole: Span,
    /// The path, still percent-encoded; `*` in the asterisk form.
    pub path: Span,
    /// What follows the `?`, without it.
    pub query: Span,
    /// The authority of an absolute target, which stands above `Host` (RFC 9112, section 3.2.2).
    pub authority: Option<Span>,
    /// Whether the scheme of an absolute target is `https`: the server must not answer without TLS (RFC 9110, section 7.4).
    pub is_https: bool,
    /// Whether the path holds a percent-escape.
    pub escaped: bool,
}

/// Takes the target at `span` of `head` apart (RFC 9112, section 3.2).
pub fn parse(head: &[u8], span: Span, method: &[u8]) -> Result<Target, Reject> {
    let target = span.of(head);
    let at = span.start as usize;
    let mut parts = Target { whole: span, ..Target::default() };
    let path_at = match target {
        _ if method == b"CONNECT" => return Err(Reject::ConnectRefused),
        [b'/', path @ ..] if path.iter().all(|byte| bytes::is_plain(*byte)) => {
            parts.path = span;
            parts.query = Span { start: span.end, end: span.end };
            return Ok(parts);
        }
        // Refused, not cut off: a proxy that took the fragment for a part of the path has applied its rules to another path.
        _ if bytes::find(b'#', target).is_some() => return Err(Reject::FragmentInTarget),
        [b'/', ..] => 0,
        b"*" if method == b"OPTIONS" => {
            parts.path = span;
            return Ok(parts);
        }
        _ => {
            let scheme = scheme_of(target).ok_or(Reject::BadTarget)?;
            let authority_at = scheme.len() + "://".len();
            let rest = &target[authority_at..];
            let len = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            // An http URI has a host (RFC 9110, section 4.2.1), though a `Host` field may be empty.
            if matches!(rest[..len], [] | [b':', ..]) || !is_authority(&rest[..len]) {
                return Err(Reject::BadTarget);
            }
            parts.is_https = scheme.eq_ignore_ascii_case(b"https");
            if !parts.is_https && !scheme.eq_ignore_ascii_case(b"http") {
                return Err(Reject::Misdirected);
            }
            parts.authority = Some(Span::new(at + authority_at, at + authority_at + len));
            authority_at + len
        }
    };
    let end = target.len();
    let question = bytes::find(b'?', &target[path_at..]).map_or(end, |i| path_at + i);
    parts.path = Span::new(at + path_at, at + question);
    parts.query = if question < end { Span::new(at + question + 1, at + end) } else { Span::new(at + end, at + end) };
    parts.escaped = escapes(&target[path_at..question])?;
    Ok(parts)
}

/// Whether `authority` is `uri-host [ ":" port ]`, the host possibly empty (RFC 9110, section 7.2; RFC 3986, section 3.2).
pub fn is_authority(authority: &[u8]) -> bool {
    let (host_is_good, rest) = match authority {
        [b'[', literal @ ..] => match bytes::find(b']', literal) {
            Some(end) => (is_ip_literal(&literal[..end]), &literal[end + 1..]),
            None => return false,
        },
        _ => {
            let end_of = |inside: fn(u8) -> bool| authority.iter().position(|byte| !inside(*byte));
            match end_of(bytes::is_host).map(|end| authority.split_at(end)) {
                None => return true,
                Some((_, [b'%', ..])) => {
                    let end = end_of(|byte| bytes::is_host(byte) || byte == b'%').unwrap_or(authority.len());
                    let (name, rest) = authority.split_at(end);
                    (escapes(name).is_ok(), rest)
                }
                Some((_, rest)) => (true, rest),
            }
        }
    };
    let port_is_good = match rest {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_good && port_is_good
}

/// What stands in brackets: an IPv6 address, or one of a version to come (RFC 3986, section 3.2.2).
fn is_ip_literal(literal: &[u8]) -> bool {
    match literal {
        [b'v' | b'V', version @ ..] => match version.iter().position(|byte| *byte == b'.') {
            Some(dot @ 1..) => {
                let (digits, address) = (&version[..dot], &version[dot + 1..]);
                let good = |byte: &u8| *byte == b':' || bytes::is_host(*byte);
                digits.iter().all(u8::is_ascii_hexdigit) && !address.is_empty() && address.iter().all(good)
            }
            _ => false,
        },
        _ => std::str::from_utf8(literal).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()),
    }
}

/// The scheme in front of the `://` of an absolute target (RFC 3986, section 3.1).
fn scheme_of(target: &[u8]) -> Option<&[u8]> {
    let (scheme, behind) = target.split_at(bytes::find(b':', target)?);
    let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let is_scheme = scheme.first()?.is_ascii_alphabetic() && scheme.iter().all(is_inside);
    (is_scheme && behind.starts_with(b"://")).then_some(scheme)
}

/// Whether `path` holds escapes; a `%` without two hexadecimal digits is refused (RFC 3986, section 2.1).
fn escapes(path: &[u8]) -> Result<bool, Reject> {
    let mut rest = path;
    while let Some(percent) = bytes::find(b'%', rest) {
        match rest.get(percent + 1..percent + 3) {
            Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest = &rest[percent + 3..],
            _ => return Err(Reject::BadEscape),
        }
    }
    Ok(rest.len() != path.len())
}

/// Appends `path` to `decoded` with its percent-escapes resolved (RFC 3986, section 2.1), once.
pub fn decode(path: &[u8], decoded: &mut Vec<u8>) {
    let mut rest = path;
    while let Some(percent) = bytes::find(b'%', rest) {
        decoded.extend_from_slice(&rest[..percent]);
        match rest.get(percent + 1..percent + 3).and_then(|digits| std::str::from_utf8(digits).ok()) {
            Some(digits) if u8::from_str_radix(digits, 16).is_ok() => {
                decoded.extend(u8::from_str_radix(digits, 16));
                rest = &rest[percent + 3..];
            }
            _ => {
                decoded.push(b'%');
                rest = &rest[percent + 1..];
            }
        }
    }
    decoded.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts<'a> = (&'a str, &'a str, Option<&'a str>);

    fn parts<'a>(method: &str, target: &'a str) -> Result<Parts<'a>, Reject> {
        let span = Span::new(0, target.len());
        let text = |span: Span| &target[span.start as usize..span.end as usize];
        let parsed = parse(target.as_bytes(), span, method.as_bytes())?;
        Ok((text(parsed.path), text(parsed.query), parsed.authority.map(text)))
    }

    #[test]
    fn targets_follow_rfc_9112_section_3_2() {
        use Reject::*;
        let rows: &[(&str, &str, Result<Parts, Reject>)] = &[
            ("GET", "/", Ok(("/", "", None))),
            ("GET", "/a/b?c=d?e", Ok(("/a/b", "c=d?e", None))),
            ("GET", "/a?", Ok(("/a", "", None))),
            ("GET", "/a#f", Err(FragmentInTarget)),
            ("GET", "/a#", Err(FragmentInTarget)),
            ("GET", "/a?b#f", Err(FragmentInTarget)),
            ("GET", "http://h#f", Err(FragmentInTarget)),
            ("GET", "https://h/a#f", Err(FragmentInTarget)),
            ("OPTIONS", "*#", Err(FragmentInTarget)),
            ("GET", "/a%23f", Ok(("/a%23f", "", None))),
            ("GET", "//a", Ok(("//a", "", None))),
            ("OPTIONS", "*", Ok(("*", "", None))),
            ("GET", "*", Err(BadTarget)),
            ("OPTIONS", "**", Err(BadTarget)),
            ("GET", "http://h", Ok(("", "", Some("h")))),
            ("GET", "HTTP://h:80/a?b", Ok(("/a", "b", Some("h:80")))),
            ("GET", "https://[::1]:8/a", Ok(("/a", "", Some("[::1]:8")))),
            ("GET", "http://h?q", Ok(("", "q", Some("h")))),
            ("GET", "http://", Err(BadTarget)),
            ("GET", "http:///a", Err(BadTarget)),
            ("GET", "http://u@h/", Err(BadTarget)),
            ("GET", "ftp://h/", Err(Misdirected)),
            ("GET", "httpss://h/", Err(Misdirected)),
            ("GET", "a+b-c.1://h", Err(Misdirected)),
            ("GET", "1a://h/", Err(BadTarget)),
            ("GET", "a_b://h/", Err(BadTarget)),
            ("GET", "://h/", Err(BadTarget)),
            ("GET", "ftp://u@h/", Err(BadTarget)),
            ("GET", "http:/h", Err(BadTarget)),
            ("GET", "h:80", Err(BadTarget)),
            ("GET", "a", Err(BadTarget)),
            ("GET", "?a", Err(BadTarget)),
            ("CONNECT", "h:80", Err(ConnectRefused)),
            ("CONNECT", "/", Err(ConnectRefused)),
            ("GET", "/%41", Ok(("/%41", "", None))),
            ("GET", "/%", Err(BadEscape)),
            ("GET", "/%4", Err(BadEscape)),
            ("GET", "/%4g", Err(BadEscape)),
            ("GET", "/%%41", Err(BadEscape)),
            ("GET", "/?%", Ok(("/", "%", None))),
        ];
        for (method, target, want) in rows {
            assert_eq!(parts(method, target), *want, "{method} {target}");
        }
    }

    #[test]
    fn the_scheme_is_told_whatever_its_case() {
        for (target, want) in
            [("http://h/", false), ("HTTPS://h/", true), ("hTTps://h:8443", true), ("/https://h", false)]
        {
            let parsed = parse(target.as_bytes(), Span::new(0, target.len()), b"GET");
            assert_eq!(parsed.map(|parsed| parsed.is_https), Ok(want), "{target}");
        }
    }

    #[test]
    fn authorities_follow_rfc_3986_section_3_2() {
        for good in
            ["", "h", "h:80", "h:", ":80", "a.b-c_d~e", "a%2Db", "1.2.3.4:5", "[::1]", "[::1]:80", "[v1.a:b]", "a,b"]
        {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "h:a", "h:1:2", "h:+1", "::1", "[::1", "[::1]x", "[h]", "[]", "[v1.]", "h]", "a b", "u@h", "h%zz", "h/",
            "ü",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn decode_resolves_each_escape_once() {
        for (path, want) in [("/a%20b", &b"/a b"[..]), ("/%2541", b"/%41"), ("/%C3%bc", b"/\xc3\xbc"), ("/%", b"/%")] {
            let mut decoded = Vec::new();
            decode(path.as_bytes(), &mut decoded);
            assert_eq!(decoded, want, "{path}");
        }
    }
}

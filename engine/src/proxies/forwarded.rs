//! What proxies say of a request's way here: `Forwarded` (RFC 7239), or X-Forwarded-For, -Proto, -Host and -Port.
//! Knows: fields, addresses.   Must not know: sockets, WSGI.
//! Invariant: fields are read from the right, hop by hop, and only as far as those who passed them on are trusted.

use std::net::{IpAddr, Ipv6Addr};

use super::Trusted;
use crate::http1::head::Head;
use crate::http1::names::{self, Known};
use crate::http1::target::is_authority;
use crate::http1::{Reject, bytes};
use crate::io::Peer;

/// What is to be made of these fields in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded<'a> {
    /// Nothing: nobody is trusted, and the application may know better.
    Unasked,
    /// They are not from anybody who is trusted: whoever reads them is deceived.
    Untrusted,
    /// This.
    By(Origin<'a>),
}

impl Forwarded<'_> {
    /// Whether a trusted proxy says that the client spoke to it over TLS.
    pub fn is_https(&self) -> bool {
        matches!(self, Forwarded::By(Origin { scheme: Some(Scheme::Https), .. }))
    }
}

/// Where a request comes from, as far as it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The nearest hop that is not trusted; without an address where a proxy keeps it to itself (`unknown`, RFC 7239,
    /// section 6). A port of 0 is not known.
    pub client: Option<Peer>,
    /// How the client speaks to the first proxy that is trusted.
    pub scheme: Option<Scheme>,
    /// The `Host` it sent there.
    pub host: Option<&'a [u8]>,
    /// The port it came to.
    pub port: Option<u16>,
}

/// HTTP over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TCP.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As in `wsgi.url_scheme`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port that URLs leave out.
    pub fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Whether a field of this name is for the ear of `trusted` servers only.
pub fn is_claim(known: Known, name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    match known {
        names::FORWARDED..=names::X_REAL_IP => true,
        names::UNKNOWN => name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)),
        _ => false,
    }
}

/// What the head's fields say, where `peer` is trusted.
///
/// # Errors
/// [`Reject::BadForwarded`] where somebody who is trusted says what cannot be understood, or both families of fields are
/// there and differ: one of them is then the client's own. To go on without them would be to take the proxy for the client,
/// which a client could bring about.
#[cold]
pub fn read<'a>(head: &Head, bytes: &'a [u8], peer: Peer, trusted: &Trusted) -> Result<Forwarded<'a>, Reject> {
    if !trusted.trusts(peer) {
        return Ok(Forwarded::Untrusted);
    }
    let fields = Fields { head, bytes };
    let is_told = |known| fields.elements(known).next().is_some();
    let older = [names::X_FORWARDED_FOR, names::X_FORWARDED_PROTO, names::X_FORWARDED_HOST, names::X_FORWARDED_PORT];
    let newer = match fields.lines(names::FORWARDED).next() {
        Some(_) => Some(fields.forwarded(trusted)?),
        None => None,
    };
    let older = match older.into_iter().any(is_told) {
        true => Some(fields.x_forwarded(trusted)?),
        false => None,
    };
    match (newer, older) {
        (Some(newer), Some(older)) if !agree(&newer, &older) => Err(Reject::BadForwarded),
        (newer, older) => Ok(Forwarded::By(older.or(newer).unwrap_or_default())),
    }
}

/// Whether both families say the same, the port apart, which only one of them has.
fn agree(newer: &Origin<'_>, older: &Origin<'_>) -> bool {
    let hosts_agree = match (newer.host, older.host) {
        (Some(newer), Some(older)) => newer.eq_ignore_ascii_case(older),
        (newer, older) => newer == older,
    };
    newer.client.map(|client| client.ip) == older.client.map(|client| client.ip)
        && newer.scheme == older.scheme
        && hosts_agree
}

#[derive(Clone, Copy)]
struct Fields<'h, 'a> {
    head: &'h Head,
    bytes: &'a [u8],
}

impl<'h, 'a> Fields<'h, 'a> {
    /// The field's values, the last line first.
    fn lines(self, known: Known) -> impl Iterator<Item = &'a [u8]> + use<'h, 'a> {
        let bytes = self.bytes;
        self.head.fields.iter().rev().filter(move |field| field.known == known).map(move |field| field.value.of(bytes))
    }

    /// What stands between the commas, from the right. Also nothing: that would be a hop of which nothing is known.
    fn elements(self, known: Known) -> impl Iterator<Item = &'a [u8]> + use<'h, 'a> {
        self.lines(known).flat_map(|line| line.rsplit(|byte| *byte == b',')).map(bytes::trim)
    }

    fn x_forwarded(self, trusted: &Trusted) -> Result<Origin<'a>, Reject> {
        let (mut client, mut at) = (None, 0);
        for (index, element) in self.elements(names::X_FORWARDED_FOR).enumerate() {
            let hop = Hop::parse(element).ok_or(Reject::BadForwarded)?;
            (client, at) = (Some(hop.peer()), index);
            if !hop.is_passed_over(trusted) {
                break;
            }
        }
        let beside_client = |known| self.beside(known, at);
        let scheme = beside_client(names::X_FORWARDED_PROTO)?.map(scheme).transpose()?;
        let host = beside_client(names::X_FORWARDED_HOST)?.map(host).transpose()?;
        let port = beside_client(names::X_FORWARDED_PORT)?.map(port).transpose()?;
        Ok(Origin { client, scheme, host, port })
    }

    /// What is said where the client is the hop with the index `at` in X-Forwarded-For, from the right. Some proxies add to
    /// a field, most replace it; where fewer have added than passed it on, it is not clear who said what.
    fn beside(self, known: Known, at: usize) -> Result<Option<&'a [u8]>, Reject> {
        match self.elements(known).count() {
            0 => Ok(None),
            1 => Ok(self.elements(known).next()),
            count if count > at => Ok(self.elements(known).nth(at)),
            _ => Err(Reject::BadForwarded),
        }
    }

    fn forwarded(self, trusted: &Trusted) -> Result<Origin<'a>, Reject> {
        let mut client = None;
        let mut last = Element::default();
        'hops: for line in self.lines(names::FORWARDED) {
            for text in split(line).ok_or(Reject::BadForwarded)?.into_iter().rev() {
                last = Element::parse(text).ok_or(Reject::BadForwarded)?;
                let Some(node) = last.client else { break 'hops };
                let hop = Hop::parse(node).ok_or(Reject::BadForwarded)?;
                client = Some(hop.peer());
                if !hop.is_passed_over(trusted) {
                    break 'hops;
                }
            }
        }
        let scheme = last.proto.map(scheme).transpose()?;
        let host = last.host.map(host).transpose()?;
        Ok(Origin { client, scheme, host, port: None })
    }
}

/// One that passed a request on.
#[derive(Clone, Copy)]
enum Hop {
    At(Peer),
    /// It came by a Unix socket, as nginx writes it.
    Unix,
    /// It does not say (RFC 7239, section 6.2 and 6.3).
    Hidden,
}

impl Hop {
    /// An address with or without a port, an IPv6 one with or without brackets; `unknown`, `_obfuscated`, `unix:`
    /// (RFC 7239, section 6).
    fn parse(node: &[u8]) -> Option<Hop> {
        let node = std::str::from_utf8(node).ok()?;
        if node == "unix:" {
            return Some(Hop::Unix);
        }
        let (name, port): (&str, Option<&str>) = match node.strip_prefix('[') {
            Some(rest) => match rest.split_once(']')? {
                (name, "") => (name, None),
                (name, after) => (name, Some(after.strip_prefix(':')?)),
            },
            None if node.bytes().filter(|byte| *byte == b':').count() > 1 => (node, None),
            None => node.split_once(':').map_or((node, None), |(name, port)| (name, Some(port))),
        };
        let port = match port {
            None => 0,
            Some(port) if is_obfuscated(port) => 0,
            Some(port) => decimal(port.as_bytes())?,
        };
        let ip: IpAddr = match name.contains(':') || node.starts_with('[') {
            true => name.parse::<Ipv6Addr>().ok()?.into(),
            false if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) => return Some(Hop::Hidden),
            false => name.parse().ok()?,
        };
        Some(Hop::At(Peer { ip: Some(ip.to_canonical()), port }))
    }

    fn peer(self) -> Peer {
        match self {
            Hop::At(peer) => peer,
            Hop::Unix | Hop::Hidden => Peer::default(),
        }
    }

    /// Whether the one before it counts.
    fn is_passed_over(self, trusted: &Trusted) -> bool {
        match self {
            Hop::At(peer) => trusted.names(peer.ip),
            Hop::Unix => trusted.names(None),
            Hop::Hidden => false,
        }
    }
}

fn is_obfuscated(name: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.len() > 1 && name.starts_with('_') && name.bytes().all(is_inside)
}

fn decimal(text: &[u8]) -> Option<u16> {
    let is_number = matches!(text.len(), 1..=5) && text.iter().all(u8::is_ascii_digit);
    if is_number { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Proxies say `ws` and `wss` of a request to upgrade.
fn scheme(text: &[u8]) -> Result<Scheme, Reject> {
    let is = |name: &str| text.eq_ignore_ascii_case(name.as_bytes());
    match () {
        () if is("http") || is("ws") => Ok(Scheme::Http),
        () if is("https") || is("wss") => Ok(Scheme::Https),
        () => Err(Reject::BadForwarded),
    }
}

fn host(text: &[u8]) -> Result<&[u8], Reject> {
    let is_host = !matches!(text, [] | [b':', ..]) && is_authority(text);
    if is_host { Ok(text) } else { Err(Reject::BadForwarded) }
}

fn port(text: &[u8]) -> Result<u16, Reject> {
    decimal(text).filter(|port| *port != 0).ok_or(Reject::BadForwarded)
}

/// The elements of a `Forwarded` line: what stands between commas that are in no quoted string. `None` where a string has
/// no end, for who knows then where one was to begin: one proxy would swallow what another has added.
fn split(line: &[u8]) -> Option<Vec<&[u8]>> {
    let mut elements = Vec::new();
    let (mut start, mut is_quoted, mut is_escaped) = (0, false, false);
    for (at, byte) in line.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => {
                elements.push(bytes::trim(&line[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    elements.push(bytes::trim(&line[start..]));
    (!is_quoted).then_some(elements)
}

/// A `forwarded-element` (RFC 7239, section 4).
#[derive(Clone, Copy, Default)]
struct Element<'a> {
    client: Option<&'a [u8]>,
    proto: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
}

impl<'a> Element<'a> {
    /// Pairs with semicolons between them, blanks allowed there; of each parameter one at the most.
    fn parse(text: &'a [u8]) -> Option<Element<'a>> {
        let mut element = Element::default();
        let mut rest = text;
        loop {
            let (name, behind) = rest.split_at(rest.iter().position(|byte| !bytes::is_token(*byte))?);
            let (value, behind) = value(behind.strip_prefix(b"=")?)?;
            let place = match name {
                [] => return None,
                _ if name.eq_ignore_ascii_case(b"for") => Some(&mut element.client),
                _ if name.eq_ignore_ascii_case(b"proto") => Some(&mut element.proto),
                _ if name.eq_ignore_ascii_case(b"host") => Some(&mut element.host),
                _ => None,
            };
            if let Some(place) = place
                && place.replace(value).is_some()
            {
                return None;
            }
            rest = match bytes::trim(behind) {
                [] => return Some(element),
                [b';', behind @ ..] => bytes::trim(behind),
                _ => return None,
            };
            if rest.is_empty() {
                return Some(element);
            }
        }
    }
}

/// A value at the front of `text`, and what is behind it. Without quotes more is taken than a token, since many forget them
/// around a colon. A string with escapes is given as it is: none of those that are read has a use for them.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(inside) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| matches!(byte, b';' | b'"' | b' ' | b'\t')).unwrap_or(text.len());
        return (end > 0).then(|| text.split_at(end));
    };
    let mut is_escaped = false;
    let end = inside.iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })?;
    Some((&inside[..end], &inside[end + 1..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::http1::Limits;
    use crate::http1::head::Scan;

    /// The fields as seen by a server that trusts `list`: `client scheme host port`, `-` for what is not told.
    fn read_as(list: &str, peer: &str, fields: &str) -> Result<String, Reject> {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", fields.replace('\n', "\r\n"));
        let mut head = Head::default();
        assert_eq!(head.parse(text.as_bytes(), &mut Scan::default(), &Limits::default()), Ok(true), "{fields}");
        let peer = match peer {
            "unix" => Peer::default(),
            ip => Peer::new(std::net::SocketAddr::new(ip.parse().unwrap(), 1)),
        };
        let trusted = Trusted::parse(list).unwrap().unwrap();
        Ok(match read(&head, text.as_bytes(), peer, &trusted)? {
            Forwarded::Unasked => unreachable!("somebody is trusted"),
            Forwarded::Untrusted => "untrusted".to_owned(),
            Forwarded::By(Origin { client, scheme, host, port }) => {
                let client = client.map(|client| match client {
                    Peer { ip: None, .. } => "hidden".to_owned(),
                    Peer { ip: Some(ip), port: 0 } => ip.to_string(),
                    Peer { ip: Some(ip), port } => format!("{ip}#{port}"),
                });
                let host = host.map(|host| String::from_utf8(host.to_vec()).unwrap());
                let told = [client, scheme.map(|s| s.name().to_owned()), host, port.map(|port| port.to_string())];
                told.map(|part| part.unwrap_or("-".to_owned())).join(" ")
            }
        })
    }

    const PROXIES: &str = "10.0.0.0/8, ::1, unix";

    fn check(rows: &[(&str, &str)]) {
        for (fields, want) in rows {
            let want = if *want == "refused" { Err(Reject::BadForwarded) } else { Ok((*want).to_owned()) };
            assert_eq!(read_as(PROXIES, "10.0.0.1", &format!("{fields}\n")), want, "{fields}");
        }
    }

    #[test]
    fn nothing_counts_from_a_peer_that_is_not_trusted() {
        for peer in ["192.0.2.1", "::2"] {
            for fields in ["", "X-Forwarded-For: 1.2.3.4\n", "X-Forwarded-For: x\nForwarded: y\n"] {
                assert_eq!(read_as(PROXIES, peer, fields), Ok("untrusted".to_owned()));
            }
        }
        for (list, peer) in [(PROXIES, "unix"), (PROXIES, "::ffff:10.0.0.1"), ("*", "192.0.2.1"), ("*", "unix")] {
            assert_eq!(read_as(list, peer, "X-Forwarded-For: 1.2.3.4\n"), Ok("1.2.3.4 - - -".to_owned()));
        }
    }

    #[test]
    fn x_forwarded() {
        check(&[
            ("X-Nothing: 1", "- - - -"),
            ("X-Forwarded-For: 192.0.2.1", "192.0.2.1 - - -"),
            ("x-forwarded-for:\t192.0.2.1 ", "192.0.2.1 - - -"),
            ("X-Forwarded-For: 192.0.2.1:4660", "192.0.2.1#4660 - - -"),
            ("X-Forwarded-For: 2001:db8::1", "2001:db8::1 - - -"),
            ("X-Forwarded-For: [2001:db8::1]", "2001:db8::1 - - -"),
            ("X-Forwarded-For: [2001:db8::1]:4660", "2001:db8::1#4660 - - -"),
            ("X-Forwarded-For: ::ffff:192.0.2.1", "192.0.2.1 - - -"),
            ("X-Forwarded-For: unknown", "hidden - - -"),
            // The nearest that is not trusted; what is beyond is its own word.
            ("X-Forwarded-For: 192.0.2.66, 192.0.2.1", "192.0.2.1 - - -"),
            ("X-Forwarded-For: 192.0.2.66, 192.0.2.1, 10.0.0.2, ::1, 10.9.9.9", "192.0.2.1 - - -"),
            ("X-Forwarded-For: 192.0.2.66\nX-Forwarded-For: 192.0.2.1", "192.0.2.1 - - -"),
            ("X-Forwarded-For: 192.0.2.66, 192.0.2.1\nX-Forwarded-For: 10.0.0.2", "192.0.2.1 - - -"),
            ("X-Forwarded-For: <script>, 192.0.2.1", "192.0.2.1 - - -"),
            ("X-Forwarded-For: , 192.0.2.1", "192.0.2.1 - - -"),
            ("X-Forwarded-For: 127.0.0.1, 192.0.2.1", "192.0.2.1 - - -"),
            ("X-Forwarded-For: 10.0.0.9, 192.0.2.1", "192.0.2.1 - - -"),
            ("X-Forwarded-For: 192.0.2.1, unknown, 10.0.0.2", "hidden - - -"),
            ("X-Forwarded-For: 192.0.2.1, unix:", "192.0.2.1 - - -"),
            // All are trusted: the farthest asks for itself.
            ("X-Forwarded-For: 10.0.0.3, 10.0.0.2", "10.0.0.3 - - -"),
            // What cannot be understood where it counts.
            ("X-Forwarded-For:", "refused"),
            ("X-Forwarded-For: 192.0.2.1,", "refused"),
            ("X-Forwarded-For: 192.0.2.1, , 10.0.0.2", "refused"),
            ("X-Forwarded-For: 192.0.2.1, localhost, 10.0.0.2", "refused"),
            ("X-Forwarded-For: 192.0.2.1 10.0.0.2", "refused"),
            ("X-Forwarded-For: 192.0.2.256", "refused"),
            ("X-Forwarded-For: 192.0.2.1:65536", "refused"),
            ("X-Forwarded-For: 192.0.2.1:", "refused"),
            ("X-Forwarded-For: \"192.0.2.1\"", "refused"),
            ("X-Forwarded-For: [192.0.2.1]", "refused"),
            ("X-Forwarded-For: [::1", "refused"),
            ("X-Forwarded-For: [::1]x", "refused"),
            ("X-Forwarded-For: fe80::1%eth0", "refused"),
            ("X-Forwarded-For: \u{e9}", "refused"),
        ]);
    }

    #[test]
    fn x_forwarded_proto_host_and_port() {
        check(&[
            ("X-Forwarded-Proto: https", "- https - -"),
            ("X-Forwarded-Proto: HTTP", "- http - -"),
            ("X-Forwarded-Proto: wss", "- https - -"),
            ("X-Forwarded-Host: example.com:8443", "- - example.com:8443 -"),
            ("X-Forwarded-Host: [::1]", "- - [::1] -"),
            ("X-Forwarded-Port: 8443", "- - - 8443"),
            ("X-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: https", "192.0.2.1 https - -"),
            // Each proxy has replaced them: what counts is what the first has heard.
            (
                "X-Forwarded-For: 192.0.2.1, 10.0.0.2\nX-Forwarded-Proto: https\nX-Forwarded-Host: a",
                "192.0.2.1 https a -",
            ),
            // Each has added to them: the client's own word is farther left.
            ("X-Forwarded-Proto: https, http", "- http - -"),
            ("X-Forwarded-Proto: https\nX-Forwarded-Proto: http", "- http - -"),
            ("X-Forwarded-For: 192.0.2.1, 10.0.0.2\nX-Forwarded-Proto: https, http", "192.0.2.1 https - -"),
            ("X-Forwarded-For: 192.0.2.1, 10.0.0.2\nX-Forwarded-Host: evil, a, b", "192.0.2.1 - a -"),
            ("X-Forwarded-For: 192.0.2.1\nX-Forwarded-Host: evil, a", "192.0.2.1 - a -"),
            ("X-Forwarded-For: 192.0.2.1\nX-Forwarded-Port: x, 443", "192.0.2.1 - - 443"),
            // One has and another has not.
            ("X-Forwarded-For: 192.0.2.1, 10.0.0.2, 10.0.0.3\nX-Forwarded-Proto: https, http", "refused"),
            ("X-Forwarded-Proto: gopher", "refused"),
            ("X-Forwarded-Proto:", "refused"),
            ("X-Forwarded-Proto: https,", "refused"),
            ("X-Forwarded-Host:", "refused"),
            ("X-Forwarded-Host: :80", "refused"),
            ("X-Forwarded-Host: user@example.com", "refused"),
            ("X-Forwarded-Host: example.com/a", "refused"),
            ("X-Forwarded-Host: a b", "refused"),
            ("X-Forwarded-Port: 0", "refused"),
            ("X-Forwarded-Port: 65536", "refused"),
            ("X-Forwarded-Port: +80", "refused"),
        ]);
    }

    #[test]
    fn forwarded() {
        check(&[
            ("Forwarded: for=192.0.2.1", "192.0.2.1 - - -"),
            (
                "forwarded: For=\"192.0.2.1\";Proto=HTTPS;Host=\"example.com:8443\"",
                "192.0.2.1 https example.com:8443 -",
            ),
            ("Forwarded: for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17#4711 - - -"),
            ("Forwarded: for=\"192.0.2.1:_port\"", "192.0.2.1 - - -"),
            ("Forwarded: for=192.0.2.1; proto=http ;by=203.0.113.43;", "192.0.2.1 http - -"),
            ("Forwarded: for=unknown;host=a", "hidden - a -"),
            ("Forwarded: for=_hidden-1.x", "hidden - - -"),
            ("Forwarded: for=\"unknown:80\"", "hidden - - -"),
            // Quotes that are forgotten.
            ("Forwarded: for=[2001:db8::1]:4711;host=a:80", "2001:db8::1#4711 - a:80 -"),
            // The nearest that is not trusted, and what was said beside it.
            ("Forwarded: for=192.0.2.66;host=evil, for=192.0.2.1;host=a", "192.0.2.1 - a -"),
            ("Forwarded: for=192.0.2.66;proto=https, for=192.0.2.1", "192.0.2.1 - - -"),
            ("Forwarded: for=192.0.2.1;proto=https;host=a, for=10.0.0.2;proto=http;host=b", "192.0.2.1 https a -"),
            ("Forwarded: for=192.0.2.66\nForwarded: for=192.0.2.1, for=10.0.0.2", "192.0.2.1 - - -"),
            ("Forwarded: for=192.0.2.1;x=\"a, for=1.2.3.4;\\\"\"", "192.0.2.1 - - -"),
            ("Forwarded: rubbish, for=192.0.2.1", "192.0.2.1 - - -"),
            ("Forwarded: for=\"\nForwarded: for=192.0.2.1", "192.0.2.1 - - -"),
            ("Forwarded: for=10.0.0.3, for=10.0.0.2;proto=https", "10.0.0.3 - - -"),
            // A proxy that does not tell for whom it speaks.
            ("Forwarded: proto=https", "- https - -"),
            ("Forwarded: for=192.0.2.66, proto=https", "- https - -"),
            ("Forwarded: by=10.0.0.5, for=10.0.0.2", "10.0.0.2 - - -"),
            // A client that tries to swallow what the proxy adds.
            ("Forwarded: for=10.0.0.9;x=\", for=192.0.2.1", "refused"),
            ("Forwarded: for=10.0.0.9;x=\", for=\"[2001:db8::1]:80\"", "refused"),
            ("Forwarded: for=10.0.0.9;x=\", for=192.0.2.1;host=\"a\"", "refused"),
            ("Forwarded: for=10.0.0.9;x=\"\\, for=192.0.2.1;host=\"a\"", "refused"),
            // A backslash escapes nothing outside a quoted string.
            ("Forwarded: for=10.0.0.9;x=\\,for=192.0.2.1", "192.0.2.1 - - -"),
            ("Forwarded: for=10.0.0.9;x=\\\\,for=192.0.2.1", "192.0.2.1 - - -"),
            ("Forwarded: for=10.0.0.9\\, for=192.0.2.1", "192.0.2.1 - - -"),
            ("Forwarded:", "refused"),
            ("Forwarded: for=192.0.2.1,", "refused"),
            ("Forwarded: for=192.0.2.1, ,for=10.0.0.2", "refused"),
            ("Forwarded: for", "refused"),
            ("Forwarded: for=", "refused"),
            ("Forwarded: for=\"\"", "refused"),
            ("Forwarded: for =192.0.2.1", "refused"),
            ("Forwarded: for= 192.0.2.1", "refused"),
            ("Forwarded: for=192.0.2.1;for=192.0.2.2", "refused"),
            ("Forwarded: for=192.0.2.1 proto=https", "refused"),
            ("Forwarded: for=\"192.0.2.1\"x", "refused"),
            ("Forwarded: for=192\"0", "refused"),
            ("Forwarded: =192.0.2.1", "refused"),
            ("Forwarded: ;for=192.0.2.1", "refused"),
            ("Forwarded: for=\"192.0.2\\.1\"", "refused"),
            ("Forwarded: for=localhost", "refused"),
            ("Forwarded: for=_", "refused"),
            ("Forwarded: for=192.0.2.1;proto=gopher", "refused"),
            ("Forwarded: for=192.0.2.1;host=\"a b\"", "refused"),
            ("Forwarded: for=192.0.2.1;host=\"\"", "refused"),
        ]);
    }

    #[test]
    fn both_families_must_say_the_same() {
        let both = "Forwarded: for=192.0.2.1;proto=https;host=Example.com";
        check(&[
            (
                &format!("{both}\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: example.com"),
                "192.0.2.1 https example.com -",
            ),
            ("Forwarded: for=\"192.0.2.1:5\"\nX-Forwarded-For: 192.0.2.66, 192.0.2.1", "192.0.2.1 - - -"),
            ("Forwarded: for=192.0.2.66\nX-Forwarded-For: 192.0.2.1", "refused"),
            ("Forwarded: host=evil\nX-Forwarded-For: 192.0.2.1", "refused"),
            ("Forwarded: for=192.0.2.1;host=evil\nX-Forwarded-For: 192.0.2.1", "refused"),
            ("Forwarded: for=192.0.2.1;proto=https\nX-Forwarded-For: 192.0.2.1", "refused"),
            ("Forwarded: for=192.0.2.1\nX-Forwarded-Proto: https", "refused"),
            ("Forwarded: for=192.0.2.1\nX-Forwarded-Port: 443", "refused"),
            ("Forwarded: rubbish\nX-Forwarded-For: 192.0.2.1", "refused"),
            ("Forwarded: for=192.0.2.1\nX-Forwarded-For: rubbish", "refused"),
        ]);
    }

    #[test]
    fn where_everybody_may_speak_only_those_who_are_named_are_passed_over() {
        for (list, want) in [("*", "10.0.0.2"), ("* 10.0.0.0/8", "192.0.2.1"), ("* 0.0.0.0/0", "192.0.2.66")] {
            let fields = "X-Forwarded-For: 192.0.2.66, 192.0.2.1, 10.0.0.2\n";
            assert_eq!(read_as(list, "203.0.113.1", fields), Ok(format!("{want} - - -")), "{list}");
        }
        assert_eq!(read_as("10.0.0.1", "10.0.0.1", "X-Forwarded-For: 1.2.3.4, unix:\n"), Ok("hidden - - -".to_owned()));
    }

    #[test]
    fn claims_are_known_by_their_names() {
        for name in ["Forwarded", "x-forwarded-for", "X-FORWARDED-PREFIX", "X-Forwarded-Ssl", "X-Real-IP"] {
            assert!(is_claim(names::known(name.as_bytes()), name.as_bytes()), "{name}");
        }
        for name in ["Host", "Via", "X-Request-ID", "X-Forwarde", "X-Forwarded", "Forwarded-For"] {
            assert!(!is_claim(names::known(name.as_bytes()), name.as_bytes()), "{name}");
        }
    }
}

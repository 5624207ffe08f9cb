//! What a proxy says of a connection before its first request: the PROXY protocol, versions 1 and 2.
//! Knows: HAProxy's `doc/proxy-protocol.txt`, section 2.   Must not know: sockets, time, who is trusted.
//! Invariant: any split of the bytes gives the same verdict; each look costs the same however much has come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::http1::Reject;
use crate::io::Peer;

/// Bytes of the longest line of version 1, its end included.
const LINE_BYTES: usize = 107;

const LINE_START: &[u8; 6] = b"PROXY ";

/// How version 2 begins: no other protocol's first bytes, and no line of any.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

/// A whole preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// Bytes of it.
    pub len: usize,
    /// Whom the proxy speaks for; `None` where it speaks for itself (a health check), or does not know: then the peer is
    /// who it is.
    pub source: Option<Peer>,
}

/// Reads the preface at the front of `bytes`, of which there may be `limit`: `Ok(None)` if more are needed.
///
/// # Errors
/// What is no preface, as soon as it cannot become one.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<Preface>, Reject> {
    if is_begun_by(bytes, SIGNATURE) {
        return binary(bytes, limit);
    }
    if is_begun_by(bytes, LINE_START) {
        return line(bytes);
    }
    Err(Reject::BadProxyHeader)
}

/// Whether `bytes`, as far as they go, are those of `start`.
fn is_begun_by(bytes: &[u8], start: &[u8]) -> bool {
    let len = bytes.len().min(start.len());
    bytes[..len] == start[..len]
}

/// Version 1 (section 2.1).
fn line(bytes: &[u8]) -> Result<Option<Preface>, Reject> {
    let window = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() < LINE_BYTES { Ok(None) } else { Err(Reject::BadProxyHeader) };
    };
    let text = window[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(LINE_START));
    let text = text.and_then(|line| std::str::from_utf8(line).ok()).ok_or(Reject::BadProxyHeader)?;
    let source = source_of(text).ok_or(Reject::BadProxyHeader)?;
    Ok(Some(Preface { len: end + 1, source }))
}

fn source_of(text: &str) -> Option<Option<Peer>> {
    let mut words = text.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None); // what follows is for nobody
    }
    let (from, to) = (words.next()?, words.next()?);
    let (ip, _): (IpAddr, IpAddr) = match family {
        "TCP4" => (from.parse::<Ipv4Addr>().ok()?.into(), to.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (from.parse::<Ipv6Addr>().ok()?.into(), to.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let (port, _) = (decimal(words.next()?)?, decimal(words.next()?)?);
    words.next().is_none().then(|| Some(Peer::new(SocketAddr::new(ip, port))))
}

/// A port: no sign, no zero before the first digit.
fn decimal(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// Version 2 (section 2.2).
fn binary(bytes: &[u8], limit: usize) -> Result<Option<Preface>, Reject> {
    let bad = Err(Reject::BadProxyHeader);
    // Each byte is judged as soon as it is there.
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return bad,
    };
    // Over a stream or over datagrams (a client of HTTP/3): the addresses lie the same.
    let needed = match bytes.get(13) {
        None => return Ok(None),
        Some(_) if is_local => 0, // to be skipped, whatever it is
        Some(0x00) => 0,
        Some(0x11 | 0x12) => 12,
        Some(0x21 | 0x22) => 36,
        Some(0x31 | 0x32) => 216,
        Some(_) => return bad,
    };
    let Some([high, low]) = bytes.get(14..FIXED_BYTES) else { return Ok(None) };
    let block_len = usize::from(u16::from_be_bytes([*high, *low]));
    let len = FIXED_BYTES + block_len;
    if block_len < needed || len > limit {
        return bad;
    }
    let Some(block) = bytes.get(FIXED_BYTES..len) else { return Ok(None) };
    // What follows the addresses (TLVs) is for others.
    let source = match (needed, block) {
        (12, [a, b, c, d, _, _, _, _, high, low, ..]) => {
            Some(peer(Ipv4Addr::new(*a, *b, *c, *d).into(), [*high, *low]))
        }
        (36, _) => match (block.first_chunk::<16>(), block.get(32..34)) {
            (Some(ip), Some([high, low])) => Some(peer(Ipv6Addr::from(*ip).into(), [*high, *low])),
            _ => return bad,
        },
        (216, _) => Some(Peer::default()),
        _ => None,
    };
    Ok(Some(Preface { len, source }))
}

fn peer(ip: IpAddr, port: [u8; 2]) -> Peer {
    Peer::new(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let len = (block.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, block].concat()
    }

    fn v4_block() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0, 80]
    }

    fn v6_block(ip: &str) -> Vec<u8> {
        let ip: Ipv6Addr = ip.parse().unwrap();
        [&ip.octets()[..], &[0; 16], &[0x12, 0x34, 0, 80]].concat()
    }

    /// The verdict on the whole, held against that on every prefix and with a request behind.
    fn verdict(bytes: &[u8]) -> Result<Option<Preface>, Reject> {
        let whole = parse(bytes, LIMIT);
        for end in 0..bytes.len() {
            match parse(&bytes[..end], LIMIT) {
                Ok(None) => {}
                Err(_) if whole.is_err() => break,
                other => panic!("{other:?} of the first {end} bytes, {whole:?} of all: {}", bytes.escape_ascii()),
            }
        }
        let behind = parse(&[bytes, b"GET / HTTP/1.1\r\n\r\n"].concat(), LIMIT);
        if !matches!(whole, Ok(None)) {
            assert_eq!(behind, whole, "{}", bytes.escape_ascii());
        }
        whole
    }

    #[test]
    fn whom_the_proxy_speaks_for() {
        let tlvs = [&v4_block()[..], &[0x01, 0, 2, b'h', b'2', 0x04, 0, 1, 0]].concat();
        let rows: &[(&[u8], Option<&str>)] = &[
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 4660 80\r\n", Some("192.0.2.1:4660")),
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
            (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0:0")),
            (b"PROXY TCP6 2001:db8::1 ::1 4660 80\r\n", Some("[2001:db8::1]:4660")),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4660 80\r\n", Some("192.0.2.1:4660")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
            (&v2(0x21, 0x11, &v4_block()), Some("192.0.2.1:4660")),
            (&v2(0x21, 0x12, &v4_block()), Some("192.0.2.1:4660")),
            (&v2(0x21, 0x11, &tlvs), Some("192.0.2.1:4660")),
            (&v2(0x21, 0x21, &v6_block("2001:db8::1")), Some("[2001:db8::1]:4660")),
            (&v2(0x21, 0x21, &v6_block("::ffff:192.0.2.1")), Some("192.0.2.1:4660")),
            (&v2(0x21, 0x31, &[b'/'; 216]), Some("unix")),
            (&v2(0x20, 0x00, b""), None),
            (&v2(0x20, 0x11, &v4_block()), None),
            (&v2(0x20, 0xff, b"xyz"), None),
            (&v2(0x21, 0x00, b""), None),
            (&v2(0x21, 0x00, &[0x04, 0, 0]), None),
            (&v2(0x21, 0x11, &[v4_block(), vec![0; LIMIT - 28]].concat()), Some("192.0.2.1:4660")),
        ];
        for (bytes, want) in rows {
            let source = want.map(|want| match want {
                "unix" => Peer::default(),
                address => Peer::new(address.parse().unwrap()),
            });
            assert_eq!(verdict(bytes), Ok(Some(Preface { len: bytes.len(), source })), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_none_is_refused_as_soon_as_that_is_known() {
        let longest = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; LINE_BYTES]].concat();
        let rows: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"proxy TCP4",
            b"PROXY  TCP4\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
            b"PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 host 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 \r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
            b"PROXY TCP6 [::1] ::1 1 2\r\n",
            b"PROXY TCP6 ::1%1 ::1 1 2\r\n",
            b"PROXY TCP4 \xff 198.51.100.1 1 2\r\n",
            &longest,
            &v2(0x11, 0x11, &v4_block()),
            &v2(0x22, 0x11, &v4_block()),
            &v2(0x01, 0x11, &v4_block()),
            &v2(0x21, 0x10, &v4_block()),
            &v2(0x21, 0x13, &v4_block()),
            &v2(0x21, 0x41, &v4_block()),
            &v2(0x21, 0x11, &v4_block()[..11]),
            &v2(0x21, 0x21, &v6_block("::1")[..35]),
            &v2(0x21, 0x31, &[0; 215]),
            &v2(0x21, 0x11, &[0; LIMIT - 15]),
            &v2(0x20, 0x00, &[0; LIMIT - 15]),
        ];
        for bytes in rows {
            assert_eq!(verdict(bytes), Err(Reject::BadProxyHeader), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_beginning_is_waited_for() {
        for bytes in [&b""[..], b"PROXY", b"PROXY TCP4 192.0.2.1", b"\r\n\r\n", SIGNATURE, &v2(0x21, 0x11, b"")[..15]] {
            assert_eq!(verdict(bytes), Ok(None), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_length_that_is_not_allowed_is_not_waited_for() {
        let mut bytes = v2(0x21, 0x11, b"");
        bytes[14..].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(verdict(&bytes), Err(Reject::BadProxyHeader));
    }
}

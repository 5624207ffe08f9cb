//! What proxies say: whatever the fields are, nothing panics, what is made of them is well-formed, and what a client adds on
//! the left of a field changes nothing but to a refusal. The bytes up to a NUL are the client's, the rest the proxy's.
#![no_main]

use bjoern_engine::http1::Limits;
use bjoern_engine::http1::head::{Head, Scan};
use bjoern_engine::http1::target::is_authority;
use bjoern_engine::io::Peer;
use bjoern_engine::proxies::{Forwarded, Origin, Trusted, forwarded};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 5] = ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"];

/// The origin by a request's fields; `Err` where they are refused, or are no fields.
fn read(fields: &[u8], check: impl FnOnce(Origin<'_>)) -> Result<(), ()> {
    let bytes = [b"GET / HTTP/1.1\r\nHost: h\r\n", fields, b"\r\n"].concat();
    let mut head = Head::default();
    let limits = Limits { max_fields: 20, ..Limits::default() };
    let Ok(true) = head.parse(&bytes, &mut Scan::default(), &limits) else { return Err(()) };
    let Ok(Some(trusted)) = Trusted::parse("unix 10.0.0.0/8") else { unreachable!("it is right") };
    match forwarded::read(&head, &bytes, Peer::default(), &trusted) {
        Ok(Forwarded::By(origin)) => check(origin),
        Ok(other) => panic!("{other:?}, but the peer is trusted"),
        Err(_) => return Err(()),
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let _ = read(bytes, |origin| {
        assert!(origin.host.is_none_or(|host| !host.is_empty() && is_authority(host)));
        assert!(origin.port != Some(0));
    });
    // A proxy that is told an address and adds it to the field, on the same line or on one of its own.
    let name = NAMES[usize::from(*choice) % 2];
    let (added, client) = match name {
        "Forwarded" => ("for=\"192.0.2.1:5\";host=\"h:80\"", "192.0.2.1"),
        _ => ("192.0.2.1", "192.0.2.1"),
    };
    let value: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)).collect();
    let separator = if choice & 2 == 0 { ", ".to_owned() } else { format!("\r\n{name}: ") };
    let line = [name.as_bytes(), b": ", &value, separator.as_bytes(), added.as_bytes(), b"\r\n"].concat();
    let _ = read(&line, |origin| {
        let ip = origin.client.and_then(|client| client.ip);
        assert_eq!(ip.map(|ip| ip.to_string()).as_deref(), Some(client), "{}", line.escape_ascii());
        assert!(origin.host.is_none_or(|host| host == b"h:80"));
    });
});

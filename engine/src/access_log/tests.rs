//! Formats, escaping and writing, as tables.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::line::{SHOWN_BYTES, escape, escape_json};
use super::*;
use crate::http1::head::{Head, Scan};
use crate::http1::{Limits, Reject};
use crate::request::{Body, Request};

const REQUEST: &str = "GET /a%20b?q=1&r=2 HTTP/1.1\r\n\
    Host: h\r\n\
    Referer: http://r/\r\n\
    User-Agent: A \"B\" \\C\r\n\
    Authorization: Basic YnJpYW46c2VjcmV0\r\n\
    X-Twice: 1\r\n\
    x-twice: 2\r\n\
    X-Empty:\r\n\
    X-Tab: a\tb\u{e9}\r\n\r\n";

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nServer: s \"1\"\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\n";

const ANSWERED: Answered = Answered { status: 200, reason: None, bytes: 13, took: Duration::from_micros(2_034_056) };

fn log(format: &str) -> AccessLog {
    let nowhere = Sink::new(File::options().append(true).open("/dev/null").unwrap()).unwrap();
    let log = AccessLog::with(nowhere, None, LogFormat::parse(format).unwrap());
    AccessLog { clock: || 971_186_136, renderer: Renderer { pid: 42, ..log.renderer }, ..log }
}

fn peer(address: &str) -> Peer {
    Peer { ip: Some(address.parse().unwrap()), port: 5 }
}

/// The line of a request that was answered.
fn line_of(log: &AccessLog, bytes: &[u8], peer: Peer, answered: Answered) -> String {
    let mut head = Head::default();
    let is_request = head.parse(bytes, &mut Scan::default(), &Limits::default());
    let body = Body::Memory(b"");
    let forwarded = &crate::proxies::Forwarded::Unasked;
    let request = Request {
        head: &head,
        bytes,
        body,
        body_len: 0,
        has_body: false,
        chunked: false,
        peer,
        forwarded,
        listener: 0,
    };
    let told = if is_request == Ok(true) { Told::Request(&request) } else { Told::Nothing(bytes) };
    let mut record = Record::default();
    record.begin();
    log.begin(&mut record, peer, told);
    record.note_head(HEAD);
    log.end(&mut record, answered);
    String::from_utf8(log.take_lines(Vec::new())).unwrap()
}

/// As it stands in a file of Latin-1, as peers may send it.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|character| u32::from(character) as u8).collect()
}

fn line(format: &str) -> String {
    let line = line_of(&log(format), &latin1(REQUEST), peer("192.0.2.1"), ANSWERED);
    line.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn each_atom() {
    let table = [
        ("%(h)s", "192.0.2.1"),
        ("%(l)s", "-"),
        ("%(u)s", "brian"),
        ("%(t)s", "[10/Oct/2000:13:55:36 +0000]"),
        ("%(r)s", "GET /a%20b?q=1&r=2 HTTP/1.1"),
        ("%(m)s", "GET"),
        ("%(U)s", "/a%20b"),
        ("%(q)s", "q=1&r=2"),
        ("%(H)s", "HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(reason)s", "-"),
        ("%(B)s", "13"),
        ("%(b)s", "13"),
        ("%(f)s", "http://r/"),
        ("%(a)s", r#"A \"B\" \\C"#),
        ("%(T)s", "2"),
        ("%(M)s", "2034"),
        ("%(D)s", "2034056"),
        ("%(L)s", "2.034056"),
        ("%(p)s", "<42>"),
        ("%({x-twice}i)s", "1, 2"),
        ("%({X-Tab}i)s", r"a\tb\xe9"),
        ("%({x-empty}i)s", ""),
        ("%({x-none}i)s", "-"),
        ("%({server}o)s", r#"s \"1\""#),
        ("%({Set-Cookie}o)s", "a, b"),
        ("%({x-none}o)s", "-"),
        ("a%%b %(s)s%%", "a%b 200%"),
    ];
    for (format, told) in table {
        assert_eq!(line(format), told, "{format}");
    }
}

#[test]
fn formats_with_names() {
    let common = r#"192.0.2.1 - brian [10/Oct/2000:13:55:36 +0000] "GET /a%20b?q=1&r=2 HTTP/1.1" 200 13"#;
    assert_eq!(line("common"), common);
    assert_eq!(line("combined"), format!(r#"{common} "http://r/" "A \"B\" \\C""#));
    let json = [
        r#"{"time": "2000-10-10T13:55:36Z", "remote": "192.0.2.1", "user": "brian", "method": "GET", "#,
        r#""target": "/a%20b?q=1&r=2", "protocol": "HTTP/1.1", "status": 200, "reason": null, "bytes": 13, "seconds": 2.034056, "#,
        r#""host": "h", "referer": "http://r/", "user_agent": "A \"B\" \\C", "pid": 42}"#,
    ];
    assert_eq!(line("json"), json.concat());
}

#[test]
fn what_was_no_request_is_shown_as_far_as_a_line_goes() {
    let long = "x".repeat(2000);
    let cut = "x".repeat(SHOWN_BYTES);
    let table: &[(&[u8], &str, &str)] = &[
        (b"\x16\x03\x01\"\n\x00more", r#""\x16\x03\x01\"" 400 -"#, r#""target": "\u0016\u0003\u0001\"""#),
        (b"GET  / HTTP/1.1\r\n\r\n", r#""GET  / HTTP/1.1" 400 -"#, r#""target": "GET  / HTTP/1.1""#),
        (b"", r#""-" 400 -"#, r#""target": null"#),
        (long.as_bytes(), &format!(r#""{cut}" 400 -"#), &format!(r#""target": "{cut}""#)),
    ];
    let answered = Answered { status: 400, reason: Some(Reject::BadMethod), bytes: 0, took: Duration::ZERO };
    for (bytes, text, json) in table {
        let common = line_of(&log("common"), bytes, Peer::default(), answered);
        assert_eq!(common, format!("- - - [10/Oct/2000:13:55:36 +0000] {text}\n"));
        let line = line_of(&log("json"), bytes, Peer::default(), answered);
        assert!(line.contains(json) && line.contains(r#""remote": null, "user": null, "method": null"#), "{line}");
    }
    assert_eq!(line_of(&log("%(reason)s"), b"", Peer::default(), answered), "bad_method\n");
    assert!(
        line_of(&log("json"), b"", Peer::default(), answered).contains(r#""status": 400, "reason": "bad_method", "#)
    );
    let given_up = Answered { status: 0, reason: None, ..answered };
    assert_eq!(line_of(&log("%(s)s"), b"", Peer::default(), given_up), "-\n");
    assert!(
        line_of(&log("json"), b"", Peer::default(), given_up).contains(r#""status": null, "reason": null, "bytes": 0"#)
    );
}

#[test]
fn no_byte_of_a_peer_makes_a_second_line_or_ends_a_string() {
    let all: Vec<u8> = (0..=255).collect();
    let (mut text, mut json) = (Vec::new(), Vec::new());
    escape(&mut text, &all);
    escape_json(&mut json, &all);
    assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)));
    assert_eq!(text.iter().filter(|byte| **byte == b'"').count(), 1, "and that one is escaped");
    let json = String::from_utf8(json).unwrap();
    assert!(!json.chars().any(char::is_control));
    assert!(json.ends_with("þÿ\""));
    for (utf8, escaped) in [("é€", "\"é€\""), ("a\u{2028}b\u{85}", "\"a\\u2028b\\u0085\""), ("\r\n", "\"\\r\\n\"")]
    {
        let mut json = Vec::new();
        escape_json(&mut json, utf8.as_bytes());
        assert_eq!(String::from_utf8(json).unwrap(), escaped);
    }
}

#[test]
fn formats_that_are_none() {
    let table = [
        ("", "no format"),
        ("plain", "no format"),
        ("%(x)s", "%(x)s is no atom"),
        ("%h", "\"%h\" is no atom"),
        ("%(h)", "\"%(h)\" is no atom"),
        ("100%", "\"%\" is no atom"),
        ("%({}i)s", "%({}i)s is no atom"),
        ("%({a b}i)s", "%({a b}i)s is no atom"),
        ("%({PATH_INFO}e)s", "%({PATH_INFO}e)s is no atom"),
        ("%(h)s\n", "control characters"),
    ];
    for (format, reason) in table {
        let bad = LogFormat::parse(format).unwrap_err().to_string();
        assert!(bad.contains(reason), "{format:?}: {bad}");
    }
}

#[test]
fn users_of_basic_authorization() {
    let table = [
        ("Basic YnJpYW46c2VjcmV0", "brian"),
        ("bAsIc  YTo=", "a"),
        ("Basic YSIKYjpj", r#"a\"\nb"#),
        ("Basic OnB3", "-"),
        ("Basic YWJj", "-"),
        ("Basic %%%%", "-"),
        ("Basic", "-"),
        ("Bearer YnJpYW46c2VjcmV0", "-"),
    ];
    for (value, user) in table {
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {value}\r\n\r\n");
        let line = line_of(&log("%(u)s"), request.as_bytes(), Peer::default(), ANSWERED);
        assert_eq!(line, format!("{user}\n"), "{value}");
    }
}

// --- writing ---

/// A log to a stream that takes nothing when it is full, and what reads from it.
fn blocked_log(format: &str) -> (AccessLog, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let sink = Sink::new(File::from(OwnedFd::from(ours))).unwrap();
    (AccessLog::with(sink, None, LogFormat::parse(format).unwrap()), theirs)
}

fn add(log: &AccessLog, status: u16) {
    let mut record = Record::default();
    record.begin();
    log.begin(&mut record, Peer::default(), Told::Nothing(b"x"));
    log.end(&mut record, Answered { status, ..ANSWERED });
}

fn read(stream: &mut UnixStream) -> String {
    use std::io::Read;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text); // until it would block
    String::from_utf8(text).unwrap()
}

#[test]
fn lines_of_a_turn_leave_together_and_in_order() {
    let (log, mut reader) = blocked_log("%(s)s");
    assert!(!log.has_lines());
    add(&log, 201);
    add(&log, 202);
    assert!(log.has_lines());
    assert_eq!(read(&mut reader), "");
    let lost = log.write();
    assert_eq!((lost.lines, lost.error.is_none()), (0, true));
    assert_eq!(read(&mut reader), "201\n202\n");
    assert!(!log.has_lines());
}

#[test]
fn what_a_reader_does_not_take_is_kept_up_to_a_limit_and_the_rest_counted() {
    let (log, mut reader) = blocked_log("%(s)s");
    let mut lost = 0;
    let count = 500_000;
    for status in 0..count {
        add(&log, status as u16 % 100 + 100);
        if status % 1000 == 0 {
            lost += log.write().lines;
        }
    }
    lost += log.write().lines;
    let mut text = read(&mut reader);
    while log.has_lines() {
        assert_eq!(log.write().lines, 0);
        text += &read(&mut reader);
    }
    assert!(lost > 0 && text.len() >= KEPT - 4, "{lost}, {}", text.len());
    assert_eq!(text.lines().count() as u64 + lost, count);
    assert!(text.lines().all(|line| line.len() == 3), "every line is whole");
}

#[test]
fn a_failure_is_told_once_until_the_file_takes_something_again() {
    let (log, reader) = blocked_log("%(s)s");
    drop(reader);
    add(&log, 200);
    let lost = log.write();
    assert_eq!((lost.lines, lost.error.is_some()), (1, true));
    add(&log, 200);
    let lost = log.write();
    assert_eq!((lost.lines, lost.error.is_some()), (1, false));
}

#[test]
fn a_renamed_file_is_left_when_it_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let log = AccessLog::open(path.clone(), LogFormat::parse("%(s)s").unwrap()).unwrap();
    add(&log, 200);
    log.write();
    std::fs::rename(&path, &old).unwrap();
    add(&log, 201);
    log.reopen().unwrap();
    add(&log, 202);
    log.write();
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "200\n201\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "202\n");
    drop(folder);
    assert!(log.reopen().is_err());
    add(&log, 203);
    assert_eq!(log.write().lines, 0, "it has the file still");
}

#[test]
fn what_cannot_be_opened_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("missing/log")] {
        assert!(AccessLog::open(path, LogFormat::parse("common").unwrap()).is_err());
    }
}

#[test]
fn a_pipe_gets_pieces_that_it_takes_whole() {
    let (reader, writer) = io::pipe().unwrap();
    let sink = Sink::new(File::from(OwnedFd::from(writer))).unwrap();
    assert!(sink.is_pipe);
    let log = AccessLog::with(sink, None, LogFormat::parse("%(s)s").unwrap());
    (0..3000).for_each(|_| add(&log, 200)); // 12 kB
    log.write();
    drop(log);
    let text = io::read_to_string(reader).unwrap();
    assert_eq!(text, "200\n".repeat(3000));
}

//! The wire cases of `tests/cases`, each three ways: whole, byte by byte, with another request behind.
//! Here is how it works: 1. a case is read from its file; 2. a simulated peer sends it; 3. the answers are compared.

#![allow(clippy::unwrap_used)]

mod sim;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::Socket;
use bjoern_engine::{App, Body, Config, Progress, Reply, Request, Server, Wake};
use sim::{Act, Shared, SimNet};

/// Answers 200 to everything, and says what it saw.
struct Mirror;

impl<S: Socket> App<S> for Mirror {
    type Block = Vec<u8>;
    type Stream = ();

    fn call(&self, request: &Request<'_>, mut reply: Reply<S, Self>) -> (Reply<S, Self>, Progress<()>) {
        let Body::Memory(body) = request.body else { panic!("the cases' bodies stay in memory") };
        let saw = saw(request.method(), request.target(), body);
        let mut head = ResponseHead::default();
        let fields = head.begin(b"200 OK").and_then(|()| head.field(b"Saw", saw.as_bytes()));
        fields.unwrap_or_else(|bad| panic!("{bad}"));
        reply.start(&head, Some(0));
        (reply, Progress::Done)
    }

    fn next(&self, (): (), reply: Reply<S, Self>) -> (Reply<S, Self>, Progress<()>) {
        (reply, Progress::Done)
    }

    fn close(&self, (): ()) {}

    fn blocking<T: Send>(&self, wait: impl FnOnce() -> T + Send) -> T {
        wait()
    }

    fn woken(&self) -> Wake {
        Wake::GoOn
    }
}

fn saw(method: &[u8], target: &[u8], body: &[u8]) -> String {
    let body = if body.len() > 64 { format!("#{}", body.len()) } else { format!("\"{}\"", escape(body)) };
    format!("{} {} {body}", escape(method), escape(target))
}

/// Printable, and the same in both languages that run the cases.
fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\0' => text.push_str("\\0"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => write!(text, "\\x{other:02X}").unwrap_or_default(),
        }
        text
    })
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((inner, behind)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'))
            && let Some((piece, count)) = inner.rsplit_once('*')
        {
            let count: usize = count.parse().unwrap_or_else(|_| panic!("a repetition without a number: {text}"));
            bytes.extend(unescape(piece).repeat(count));
            rest = behind;
            continue;
        }
        if first != '\\' {
            bytes.extend(first.to_string().as_bytes());
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (byte, len) = match &rest[1..2] {
            "r" => (b'\r', 2),
            "n" => (b'\n', 2),
            "t" => (b'\t', 2),
            "0" => (0, 2),
            "\\" => (b'\\', 2),
            "x" => (u8::from_str_radix(&rest[2..4], 16).unwrap_or_else(|_| panic!("a bad \\x in {text}")), 4),
            other => panic!("an unknown escape \\{other} in {text}"),
        };
        bytes.push(byte);
        rest = &rest[len..];
    }
    bytes
}

struct Case {
    name: String,
    wire: Vec<u8>,
    finish: bool,
    /// `200 GET / ""`, …
    answers: Vec<String>,
    open: bool,
}

fn read_cases(text: &str, file: &str) -> Vec<Case> {
    let lines = text.lines().map(|line| if line.starts_with('#') { "" } else { line });
    let text = lines.collect::<Vec<_>>().join("\n");
    text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()).map(|block| read_case(block, file)).collect()
}

fn read_case(block: &str, file: &str) -> Case {
    let mut lines: Vec<&str> = block.lines().collect();
    let (Some(want), name) = (lines.pop().and_then(|line| line.strip_prefix("=> ")), lines.remove(0)) else {
        panic!("{file}: a case without =>: {block}")
    };
    assert!(name.contains(" | "), "{file}: a case without a section: {name}");
    let wire = lines.concat();
    let (wire, finish) = wire.strip_suffix("{fin}").map_or((&wire[..], false), |wire| (wire, true));
    let mut answers: Vec<String> = want.split(';').map(|answer| answer.trim().to_owned()).collect();
    let open = match answers.pop().as_deref() {
        Some("open") => true,
        Some("close") => false,
        end => panic!("{file}: {name}: the end is {end:?}, not open or close"),
    };
    Case { name: format!("{file}: {name}"), wire: unescape(wire), finish, answers, open }
}

/// What came back: the answers, and whether the connection was left open.
fn exchange(pieces: &[&[u8]], finish: bool) -> (Vec<String>, bool) {
    let mut acts = vec![Act::Connect, Act::TakeAll];
    for piece in pieces {
        acts.push(Act::Send(piece.to_vec()));
        if pieces.len() > 1 {
            // A pause between the pieces, so that each is a read of its own.
            acts.push(Act::Sleep(1));
        }
    }
    if finish {
        acts.push(Act::Finish);
    }
    let world = Shared::new(1, vec![(1 << 20, acts)]);
    let (net, end) = SimNet::new(world.clone());
    // No timeout falls within a case; a connection that ends by one was open.
    let day = std::time::Duration::from_secs(86_400);
    let config = Config {
        max_head: 4096,
        max_fields: 20,
        max_body: 65536,
        header_timeout: day,
        body_timeout: day,
        keep_alive: day,
        ..Config::default()
    };
    let server = Server::new(net, Mirror, config);
    end.set(server.stopper()).ok();
    server.run().unwrap();
    let world = world.lock();
    let wire = &world.wires[0];
    let open = wire.closed_at >= 86_400_000;
    (read_answers(&wire.taken, open), open)
}

/// The status lines and `Saw` fields; checks on the way that each answer is well-formed.
fn read_answers(mut taken: &[u8], open: bool) -> Vec<String> {
    let mut answers = Vec::new();
    while !taken.is_empty() {
        // A connection that ended by a timeout may have got a 408, which is no answer of the case.
        if open && taken.starts_with(b"HTTP/1.1 408") {
            break;
        }
        let end = taken.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("an answer without an end: {}", escape(taken));
        });
        let head = String::from_utf8(taken[..end].to_vec()).unwrap();
        taken = &taken[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.1 ").map(|rest| &rest[..3]).unwrap_or_else(|| panic!("{status}"));
        if code == "100" {
            answers.push("100".to_owned());
            continue;
        }
        let fields: Vec<&str> = lines.collect();
        assert!(fields.contains(&"Content-Length: 0"), "{head}");
        assert!(fields.iter().filter(|field| field.starts_with("Date: ")).count() == 1, "{head}");
        let last = fields.contains(&"Connection: close");
        assert!(!last || taken.is_empty(), "nothing follows the last answer");
        let saw = fields.iter().find_map(|field| field.strip_prefix("Saw: "));
        answers.push(saw.map_or(code.to_owned(), |saw| format!("{code} {saw}")));
    }
    answers
}

fn check(case: &Case) {
    let want = (case.answers.clone(), case.open);
    assert_eq!(exchange(&[&case.wire], case.finish), want, "whole: {}", case.name);
    let mut trickled = exchange(&case.wire.chunks(1).collect::<Vec<_>>(), case.finish);
    // Sent byte by byte, a body is always awaited, so the interim answer may come where it would not have.
    trickled.0.retain(|answer| answer != "100");
    let mut expected = want.clone();
    expected.0.retain(|answer| answer != "100");
    assert_eq!(trickled, expected, "byte by byte: {}", case.name);
    if !case.finish {
        let behind = [&case.wire[..], b"GET /behind HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
        let mut want = want;
        if want.1 {
            want.0.push("200 GET /behind \"\"".to_owned());
        }
        let (mut got, open) = exchange(&[&behind], false);
        // With more behind the head the peer does not wait.
        got.retain(|answer| answer != "100");
        want.0.retain(|answer| answer != "100");
        assert_eq!((got, open), want, "another request behind: {}", case.name);
    }
}

#[test]
fn every_case_three_ways() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases");
    let mut count = 0;
    let mut failures = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        for case in read_cases(&fs::read_to_string(&path).unwrap(), &file) {
            count += 1;
            if let Err(failure) = std::panic::catch_unwind(|| check(&case)) {
                let text =
                    failure.downcast_ref::<String>().cloned().unwrap_or_else(|| format!("{} panicked", case.name));
                failures.push(text);
            }
        }
    }
    assert!(failures.is_empty(), "{} of {count} cases fail:\n{}", failures.len(), failures.join("\n"));
    assert!(count >= 10, "the cases are not where they should be: {}", directory.display());
}

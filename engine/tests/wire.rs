//! The wire cases of `tests/cases`, each three ways: whole, byte by byte, with another request behind.
//! Here is how it works: 1. a case is read from its file; 2. a simulated peer sends it; 3. the answers are compared.
#![allow(clippy::unwrap_used)]

mod sim;

use std::fs;
use std::path::Path;

use sim::mirror::{self, escape};

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
    let (taken, open) = mirror::exchange(pieces, finish);
    (read_answers(&taken, open), open)
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
        let body = if code == "200" { String::new() } else { format!("{}\n", &status["HTTP/1.1 ".len()..]) };
        assert!(fields.contains(&format!("Content-Length: {}", body.len()).as_str()), "{head}");
        // What an error says is not sent to HEAD, which is then the last.
        if !(code != "200" && taken.is_empty()) {
            taken = taken.strip_prefix(body.as_bytes()).unwrap_or_else(|| panic!("{code}: {}", escape(taken)));
        }
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
    assert!(count >= 715, "the cases are not where they should be: {}", directory.display());
}

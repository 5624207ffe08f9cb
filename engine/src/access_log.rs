//! The access log: a format read once into a list of parts, a line for each request, many lines with one write.
//! Knows: formats, escaping, the file.   Must not know: sockets, the loop, when it is time to write.
//! Invariant: a line is one line, whatever a peer or the application put into it; nothing is rendered under a lock.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::http1::bytes;
use crate::io::Peer;
use crate::request::Request;

/// The formats that have a name.
const COMMON: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s"#;
const COMBINED: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

/// The members of a line of `json`, in their order.
const JSON: &[(&str, What)] = &[
    ("time", What::IsoTime),
    ("remote", What::Remote),
    ("user", What::User),
    ("method", What::Method),
    ("target", What::Target),
    ("protocol", What::Protocol),
    ("status", What::Status),
    ("bytes", What::Bytes { dash: false }),
    ("seconds", What::Took(Unit::DecimalSeconds)),
    ("host", What::RequestField(Name::Known("host"))),
    ("referer", What::RequestField(Name::Known("referer"))),
    ("user_agent", What::RequestField(Name::Known("user-agent"))),
    ("pid", What::Pid { in_angles: false }),
];

/// Bytes that wait for a turn's end; more are written at once.
const FULL: usize = 256 * 1024;

/// Bytes that are kept for a file that takes none now, such as a pipe that nobody reads; what comes then is lost.
const KEPT: usize = 1024 * 1024;

/// What a pipe takes whole or not at all (PIPE_BUF of Linux; elsewhere it is less, and lines of several processes may mix).
const PIPE_BYTES: usize = 4096;

/// How much of a line that was no request is shown.
const SHOWN_BYTES: usize = 1000;

/// A format that is none. `Display` is for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFormat(String);

impl fmt::Display for BadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    Millis,
    Micros,
    DecimalSeconds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Known(&'static str),
    Given(Box<str>),
}

impl Name {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Known(name) => name.as_bytes(),
            Name::Given(name) => name.as_bytes(),
        }
    }
}

/// What a part of a line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Remote,
    Dash,
    User,
    ClfTime,
    IsoTime,
    RequestLine,
    Method,
    Target,
    Path,
    Query,
    Protocol,
    Status,
    Bytes { dash: bool },
    Took(Unit),
    Pid { in_angles: bool },
    RequestField(Name),
    ResponseField(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Value(What),
}

/// A format of lines.
#[derive(Clone, Debug)]
pub struct LogFormat {
    parts: Vec<Part>,
    is_json: bool,
    wants_response_fields: bool,
}

impl LogFormat {
    /// `common`, `combined`, `json`, or text with gunicorn's atoms, such as `%(h)s "%(r)s" %(s)s`.
    ///
    /// # Errors
    /// An atom that does not exist, or text in which one does not end.
    pub fn parse(text: &str) -> Result<LogFormat, BadFormat> {
        let parts = match text {
            "json" => json_parts(),
            "common" => atoms(COMMON)?,
            "combined" => atoms(COMBINED)?,
            _ if text.contains('%') => atoms(text)?,
            _ => {
                let message = format!("{text:?} is no format: give common, combined, json, or atoms such as %(h)s");
                return Err(BadFormat(message));
            }
        };
        let wants_response_fields = parts.iter().any(|part| matches!(part, Part::Value(What::ResponseField(_))));
        Ok(LogFormat { parts, is_json: text == "json", wants_response_fields })
    }
}

fn json_parts() -> Vec<Part> {
    let mut parts = Vec::new();
    for (index, (name, what)) in JSON.iter().enumerate() {
        let before = if index == 0 { "{" } else { ", " };
        parts.push(Part::Literal(format!("{before}\"{name}\": ").into_bytes().into()));
        parts.push(Part::Value(what.clone()));
    }
    parts.push(Part::Literal((*b"}").into()));
    parts
}

fn atoms(text: &str) -> Result<Vec<Part>, BadFormat> {
    if text.chars().any(char::is_control) {
        return Err(BadFormat("a format must not hold control characters: each request is one line".to_owned()));
    }
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        literal.extend_from_slice(before.as_bytes());
        if let Some(behind) = behind.strip_prefix('%') {
            literal.push(b'%');
            rest = behind;
            continue;
        }
        let atom = behind.strip_prefix('(').and_then(|behind| behind.split_once(")s"));
        let Some((name, behind)) = atom else {
            let found: String = behind.chars().take(10).collect();
            return Err(BadFormat(format!(
                "\"%{found}\" is no atom: they are written as %(h)s, and a percent sign as %%"
            )));
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(Part::Value(atom_called(name)?));
        rest = behind;
    }
    literal.extend_from_slice(rest.as_bytes());
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

fn atom_called(name: &str) -> Result<What, BadFormat> {
    if let Some((field, kind)) = name.strip_prefix('{').and_then(|name| name.split_once('}'))
        && bytes::is_name(field.as_bytes())
    {
        let field = Name::Given(field.to_ascii_lowercase().into());
        match kind {
            "i" => return Ok(What::RequestField(field)),
            "o" => return Ok(What::ResponseField(field)),
            _ => {}
        }
    }
    Ok(match name {
        "h" => What::Remote,
        "l" => What::Dash,
        "u" => What::User,
        "t" => What::ClfTime,
        "r" => What::RequestLine,
        "m" => What::Method,
        "U" => What::Path,
        "q" => What::Query,
        "H" => What::Protocol,
        "s" => What::Status,
        "B" => What::Bytes { dash: false },
        "b" => What::Bytes { dash: true },
        "f" => What::RequestField(Name::Known("referer")),
        "a" => What::RequestField(Name::Known("user-agent")),
        "T" => What::Took(Unit::Seconds),
        "M" => What::Took(Unit::Millis),
        "D" => What::Took(Unit::Micros),
        "L" => What::Took(Unit::DecimalSeconds),
        "p" => What::Pid { in_angles: true },
        _ => {
            let known = "h l u t r m U q H s B b f a T M D L p, {field}i of a request, {field}o of its response";
            return Err(BadFormat(format!("%({name})s is no atom; there are {known}")));
        }
    })
}

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
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

struct Sink {
    file: File,
    is_pipe: bool,
    /// What the file has not taken, from the start of a line on, or from within the first.
    rest: Vec<u8>,
    /// The file failed, and it was told.
    has_failed: bool,
}

impl Sink {
    fn new(file: File) -> io::Result<Sink> {
        let is_pipe = file.metadata()?.file_type().is_fifo();
        Ok(Sink { file, is_pipe, rest: Vec::new(), has_failed: false })
    }
}

/// What is to be done about lines that could not be written.
pub(crate) struct Lost {
    pub(crate) lines: u64,
    /// To be told to somebody; the file's second failure in a row is none.
    pub(crate) error: Option<io::Error>,
}

/// A log that several threads write to.
pub struct AccessLog {
    format: LogFormat,
    /// To be opened anew by it; nothing where the file was given open.
    path: Option<PathBuf>,
    pid: u32,
    /// Seconds since 1970.
    clock: fn() -> u64,
    lines: Mutex<Vec<u8>>,
    /// Whether there are any, as a hint that needs no lock.
    has_lines: AtomicBool,
    sink: Mutex<Sink>,
}

/// Lines are added to, wherever `path` leads. It neither waits for a pipe's reader nor becomes a terminal's owner.
fn open(path: &Path) -> io::Result<Sink> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    Sink::new(File::options().append(true).create(true).custom_flags(flags.bits() as i32).open(path)?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessLog {
    /// A log at the end of the file at `path`, which is made where there is none.
    ///
    /// # Errors
    /// What the system says of opening it.
    pub fn open(path: PathBuf, format: LogFormat) -> io::Result<AccessLog> {
        let sink = open(&path)?;
        Ok(AccessLog::with(sink, Some(path), format))
    }

    /// A log on standard output.
    ///
    /// # Errors
    /// It is not open.
    pub fn on_stdout(format: LogFormat) -> io::Result<AccessLog> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(AccessLog::with(Sink::new(stdout.into())?, None, format))
    }

    fn with(sink: Sink, path: Option<PathBuf>, format: LogFormat) -> AccessLog {
        AccessLog {
            format,
            path,
            pid: std::process::id(),
            clock: crate::io::calendar,
            lines: Mutex::default(),
            has_lines: AtomicBool::new(false),
            sink: Mutex::new(sink),
        }
    }

    /// The file, as a message can name it.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Opens the file at its path anew, which another process may have moved away. Standard output stays.
    ///
    /// # Errors
    /// What the system says; the log goes on in the file it had.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut fresh = open(path)?;
        let mut sink = lock(&self.sink);
        let mut lines = self.take_lines(Vec::new());
        // What was told before goes where it belongs, as far as that can be.
        let _ = write(&mut sink, &mut lines);
        fresh.rest = lines;
        *sink = fresh;
        if !sink.rest.is_empty() {
            self.has_lines.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    // --- lines ---

    /// Notes in `record` what is known of a request that begins.
    pub(crate) fn begin(&self, record: &mut Record, peer: Peer, told: Told<'_>) {
        let second = (self.clock)();
        record.wants_head = self.format.wants_response_fields;
        for part in &self.format.parts {
            if let Part::Value(what) = part
                && self.note(&mut record.noted, what, peer, told, second)
            {
                record.ends.push(record.noted.len());
            }
        }
    }

    /// Adds a request's line to those that wait. Whether there are so many that they should not wait any longer.
    pub(crate) fn end(&self, record: &mut Record, answered: Answered) -> bool {
        let mut line = std::mem::take(&mut record.noted);
        let noted = line.len();
        let mut ends = record.ends.iter().copied();
        let mut from = 0;
        for part in &self.format.parts {
            match part {
                Part::Literal(text) => line.extend_from_slice(text),
                Part::Value(what) if !what.is_known_later() => {
                    let to = ends.next().unwrap_or(from);
                    line.extend_from_within(from..to);
                    from = to;
                }
                Part::Value(what) => self.note_answered(&mut line, what, &record.head, answered),
            }
        }
        line.push(b'\n');
        let mut lines = lock(&self.lines);
        lines.extend_from_slice(&line[noted..]);
        let is_full = lines.len() >= FULL;
        // Under the lock: who takes them takes all that the hint was about.
        self.has_lines.store(true, Ordering::Relaxed);
        drop(lines);
        record.noted = line;
        is_full
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
        let Answered { status, bytes, took } = answered;
        match what {
            What::Status if status == 0 => self.text(out, None),
            What::Status => push(out, format_args!("{status}")),
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

    // --- writing ---

    /// Whether lines wait to be written.
    pub(crate) fn has_lines(&self) -> bool {
        self.has_lines.load(Ordering::Relaxed)
    }

    fn take_lines(&self, spare: Vec<u8>) -> Vec<u8> {
        let mut lines = lock(&self.lines);
        self.has_lines.store(false, Ordering::Relaxed);
        std::mem::replace(&mut *lines, spare)
    }

    /// Writes the lines that wait, with one call where the file takes them whole. May block for as long as that takes.
    pub(crate) fn write(&self) -> Lost {
        let mut sink = lock(&self.sink);
        let rest = std::mem::take(&mut sink.rest);
        let mut lines = if rest.is_empty() {
            self.take_lines(rest)
        } else {
            let mut all = rest;
            all.append(&mut self.take_lines(Vec::new()));
            all
        };
        let result = write(&mut sink, &mut lines);
        let mut lost = Lost { lines: 0, error: None };
        match result {
            Ok(()) => sink.has_failed = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The lines that came last, from the first that is whole on.
                if lines.len() > KEPT {
                    let kept = lines[..KEPT].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                    lost.lines = count_lines(&lines[kept..]);
                    lines.truncate(kept);
                }
                // Tried again with the next lines, or at the next turn's end.
                sink.rest = lines;
                self.has_lines.store(true, Ordering::Relaxed);
                return lost;
            }
            Err(error) => {
                lost.lines = count_lines(&lines);
                lost.error = (!std::mem::replace(&mut sink.has_failed, true)).then_some(error);
            }
        }
        // The buffer is used again, unless it was an unusual one.
        lines.clear();
        if lines.capacity() <= 2 * FULL {
            let mut waiting = lock(&self.lines);
            if waiting.capacity() == 0 {
                *waiting = lines;
            }
        }
        lost
    }
}

impl What {
    /// Whether only the answer tells it.
    fn is_known_later(&self) -> bool {
        matches!(self, What::Status | What::Bytes { .. } | What::Took(_) | What::ResponseField(_))
    }
}

/// Writes `lines`; what is left of them has not been written.
fn write(sink: &mut Sink, lines: &mut Vec<u8>) -> io::Result<()> {
    let mut gone = 0;
    let result = loop {
        let left = &lines[gone..];
        if left.is_empty() {
            break Ok(());
        }
        // Other processes may write to the same pipe: what is not longer than that is not mixed with theirs.
        let piece = if sink.is_pipe && left.len() > PIPE_BYTES {
            let end = left[..PIPE_BYTES].iter().rposition(|byte| *byte == b'\n');
            &left[..end.map_or(left.len(), |end| end + 1)]
        } else {
            left
        };
        match sink.file.write(piece) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => gone += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    lines.drain(..gone);
    result
}

fn count_lines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
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
fn escape(out: &mut Vec<u8>, text: &[u8]) {
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
fn escape_json(out: &mut Vec<u8>, text: &[u8]) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

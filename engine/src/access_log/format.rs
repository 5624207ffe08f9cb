//! The formats of the access log: text with gunicorn's atoms, or JSON, read once into a list of parts.
//! Knows: names of formats, atoms and members.   Must not know: requests, how a value is written, files.

use std::fmt;

use crate::http1::bytes;

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
    ("reason", What::Reason),
    ("bytes", What::Bytes { dash: false }),
    ("seconds", What::Took(Unit::DecimalSeconds)),
    ("host", What::RequestField(Name::Known("host"))),
    ("referer", What::RequestField(Name::Known("referer"))),
    ("user_agent", What::RequestField(Name::Known("user-agent"))),
    ("pid", What::Pid { in_angles: false }),
];

/// A format that is none. `Display` is for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFormat(String);

impl fmt::Display for BadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
    Micros,
    DecimalSeconds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Known(&'static str),
    Given(Box<str>),
}

impl Name {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Known(name) => name.as_bytes(),
            Name::Given(name) => name.as_bytes(),
        }
    }
}

/// What a part of a line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
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
    Reason,
    Bytes { dash: bool },
    Took(Unit),
    Pid { in_angles: bool },
    RequestField(Name),
    ResponseField(Name),
}

impl What {
    /// Whether only the answer tells it.
    pub(super) fn is_known_later(&self) -> bool {
        matches!(self, What::Status | What::Reason | What::Bytes { .. } | What::Took(_) | What::ResponseField(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(Box<[u8]>),
    Value(What),
}

/// A format of lines.
#[derive(Clone, Debug)]
pub struct LogFormat {
    pub(super) parts: Vec<Part>,
    pub(super) is_json: bool,
    pub(super) wants_response_fields: bool,
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
        "reason" => What::Reason,
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
            let known = "h l u t r m U q H s reason B b f a T M D L p, {field}i of a request, {field}o of its response";
            return Err(BadFormat(format!("%({name})s is no atom; there are {known}")));
        }
    })
}

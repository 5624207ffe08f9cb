//! Field names that are worth a table: recognised once, compared as numbers afterwards.
//! The application's side keeps a prepared key for each, by the same index.

/// The index of a known field name in [`NAMES`]; [`UNKNOWN`] for any other.
pub type Known = u8;

/// A name that is not in the table.
pub const UNKNOWN: Known = u8::MAX;

/// The known names, lower case. At most 64, so that a set of them is one word.
pub const NAMES: [&str; 64] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "expect",
    "cookie",
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-charset",
    "user-agent",
    "referer",
    "origin",
    "cache-control",
    "pragma",
    "upgrade-insecure-requests",
    "if-modified-since",
    "if-none-match",
    "if-match",
    "if-unmodified-since",
    "if-range",
    "range",
    "authorization",
    "date",
    "te",
    "trailer",
    "upgrade",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
    "x-csrftoken",
    "x-correlation-id",
    "dnt",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-user",
    "sec-fetch-dest",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-gpc",
    "priority",
    "save-data",
    "keep-alive",
    "proxy-connection",
    "traceparent",
    "tracestate",
    "content-encoding",
    "content-md5",
    "access-control-request-method",
    "access-control-request-headers",
    "max-forwards",
    "from",
    "last-event-id",
    "cf-connecting-ip",
    "true-client-ip",
];

/// `Host`
pub const HOST: Known = 0;
/// `Connection`
pub const CONNECTION: Known = 1;
/// `Content-Length`
pub const CONTENT_LENGTH: Known = 2;
/// `Content-Type`
pub const CONTENT_TYPE: Known = 3;
/// `Transfer-Encoding`
pub const TRANSFER_ENCODING: Known = 4;
/// `Expect`
pub const EXPECT: Known = 5;
/// `Cookie`
pub const COOKIE: Known = 6;

const fn hash(first: u8, before_last: u8, last: u8, len: usize) -> usize {
    let word = len + first as usize * 77 + before_last as usize * 7 + last as usize * 47;
    word & 255
}

/// A perfect hash: the multipliers were searched for, and the compiler checks that no two names meet.
const TABLE: [Known; 256] = {
    let mut table = [UNKNOWN; 256];
    let mut index = 0;
    while index < NAMES.len() {
        let name = NAMES[index].as_bytes();
        let slot = hash(name[0], name[name.len() - 2], name[name.len() - 1], name.len());
        assert!(table[slot] == UNKNOWN, "two names in one slot: choose other multipliers");
        table[slot] = index as Known;
        index += 1;
    }
    table
};

/// The index of `name` in [`NAMES`], whatever its case.
pub fn known(name: &[u8]) -> Known {
    let [first, .., before_last, last] = name else {
        return match name {
            [t, e] if t | 0x20 == b't' && e | 0x20 == b'e' => 25,
            _ => UNKNOWN,
        };
    };
    let index = TABLE[hash(first | 0x20, before_last | 0x20, last | 0x20, name.len())];
    match NAMES.get(index as usize) {
        Some(candidate) if candidate.as_bytes().eq_ignore_ascii_case(name) => index,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_its_neighbours_are_not() {
        for (index, name) in NAMES.iter().enumerate() {
            assert_eq!(known(name.as_bytes()), index as Known, "{name}");
            assert_eq!(known(name.to_uppercase().as_bytes()), index as Known, "{name}");
            assert_eq!(known(format!("{name}x").as_bytes()), UNKNOWN);
            assert_eq!(known(&name.as_bytes()[1..]), UNKNOWN);
        }
        assert_eq!(known(b""), UNKNOWN);
        assert_eq!(known(b"x"), UNKNOWN);
    }

    #[test]
    fn constants_name_their_rows() {
        let rows = [
            (HOST, "host"),
            (CONNECTION, "connection"),
            (CONTENT_LENGTH, "content-length"),
            (CONTENT_TYPE, "content-type"),
            (TRANSFER_ENCODING, "transfer-encoding"),
            (EXPECT, "expect"),
            (COOKIE, "cookie"),
            (25, "te"),
        ];
        for (index, name) in rows {
            assert_eq!(NAMES[index as usize], name);
        }
    }
}

//! Field names that are worth a table: recognised once, compared as numbers afterwards.
//! The application's side keeps a prepared key for each, by the same index.

/// The index of a known field name in [`NAMES`]; [`UNKNOWN`] for any other.
pub type Known = u8;

/// A name that is not in the table.
pub const UNKNOWN: Known = u8::MAX;

/// The known names, as most peers spell them. At most 64, so that a set of them is one word.
pub const NAMES: [&str; 64] = [
    "Host",
    "Connection",
    "Content-Length",
    "Content-Type",
    "Transfer-Encoding",
    "Expect",
    "Cookie",
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Accept-Charset",
    "User-Agent",
    "Referer",
    "Origin",
    "Cache-Control",
    "Pragma",
    "Upgrade-Insecure-Requests",
    "If-Modified-Since",
    "If-None-Match",
    "If-Match",
    "If-Unmodified-Since",
    "If-Range",
    "Range",
    "Authorization",
    "Date",
    "TE",
    "Trailer",
    "Upgrade",
    "Via",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Real-IP",
    "X-Request-ID",
    "X-Requested-With",
    "X-CSRFToken",
    "X-Correlation-ID",
    "DNT",
    "Sec-Fetch-Site",
    "Sec-Fetch-Mode",
    "Sec-Fetch-User",
    "Sec-Fetch-Dest",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "Sec-GPC",
    "Priority",
    "Save-Data",
    "Keep-Alive",
    "Proxy-Connection",
    "traceparent",
    "tracestate",
    "Content-Encoding",
    "Content-MD5",
    "Access-Control-Request-Method",
    "Access-Control-Request-Headers",
    "Max-Forwards",
    "From",
    "Last-Event-ID",
    "CF-Connecting-IP",
    "True-Client-IP",
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
/// `Accept`
pub const ACCEPT: Known = 7;
/// `Forwarded`; up to [`X_REAL_IP`] all are what proxies say of the peer behind them.
pub const FORWARDED: Known = 29;
/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: Known = 30;
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: Known = 31;
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: Known = 32;
/// `X-Forwarded-Port`
pub const X_FORWARDED_PORT: Known = 33;
/// `X-Real-IP`
pub const X_REAL_IP: Known = 35;

/// Where a name of three letters or more is looked for; the case of letters does not matter.
const fn slot(name: &[u8]) -> usize {
    let (first, before_last, last) = (name[0] | 0x20, name[name.len() - 2] | 0x20, name[name.len() - 1] | 0x20);
    let word = name.len() + first as usize * 77 + before_last as usize * 7 + last as usize * 47;
    word & 255
}

/// A perfect hash: the multipliers were searched for, and the compiler checks that no two names meet.
const TABLE: [Known; 256] = {
    let mut table = [UNKNOWN; 256];
    let mut index = 0;
    while index < NAMES.len() {
        let name = NAMES[index].as_bytes();
        let slot = slot(name);
        assert!(table[slot] == UNKNOWN, "two names in one slot: choose other multipliers");
        table[slot] = index as Known;
        index += 1;
    }
    table
};

/// The index of `name` in [`NAMES`], whatever its case.
pub fn known(name: &[u8]) -> Known {
    let [_, _, _, ..] = name else {
        return match name {
            [t, e] if t | 0x20 == b't' && e | 0x20 == b'e' => 25,
            _ => UNKNOWN,
        };
    };
    let index = TABLE[slot(name)];
    match NAMES.get(index as usize) {
        // Most peers spell it as the table does.
        Some(candidate) if candidate.as_bytes() == name || candidate.as_bytes().eq_ignore_ascii_case(name) => index,
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
            assert_eq!(known(name.to_lowercase().as_bytes()), index as Known, "{name}");
            assert_eq!(known(format!("{name}x").as_bytes()), UNKNOWN);
            assert_eq!(known(&name.as_bytes()[1..]), UNKNOWN);
        }
        assert_eq!(known(b""), UNKNOWN);
        assert_eq!(known(b"x"), UNKNOWN);
    }

    #[test]
    fn constants_name_their_rows() {
        let rows = [
            (HOST, "Host"),
            (CONNECTION, "Connection"),
            (CONTENT_LENGTH, "Content-Length"),
            (CONTENT_TYPE, "Content-Type"),
            (TRANSFER_ENCODING, "Transfer-Encoding"),
            (EXPECT, "Expect"),
            (COOKIE, "Cookie"),
            (FORWARDED, "Forwarded"),
            (X_FORWARDED_FOR, "X-Forwarded-For"),
            (X_FORWARDED_PROTO, "X-Forwarded-Proto"),
            (X_FORWARDED_HOST, "X-Forwarded-Host"),
            (X_FORWARDED_PORT, "X-Forwarded-Port"),
            (X_REAL_IP, "X-Real-IP"),
            (25, "TE"),
        ];
        for (index, name) in rows {
            assert_eq!(NAMES[index as usize], name);
        }
    }
}

//! Classes of bytes (RFC 9110 section 5.5 and 5.6.2, RFC 3986) and the scans built on them.
//! Must not know: what a line means.

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;
const HOST: u8 = 8;
const PLAIN: u8 = 16;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let mut class = 0;
        if b.is_ascii_alphanumeric() || is_one_of(b, b"!#$%&'*+-.^_`|~") {
            class |= TOKEN;
        }
        if b == b'\t' || (b >= b' ' && b != 0x7f) {
            class |= VALUE;
        }
        if b > b' ' && b < 0x7f {
            class |= if is_one_of(b, b"#?%") { TARGET } else { TARGET | PLAIN };
        }
        if b.is_ascii_alphanumeric() || is_one_of(b, b"-._~!$&'()*+,;=") {
            class |= HOST;
        }
        classes[byte] = class;
        byte += 1;
    }
    classes
};

const fn is_one_of(byte: u8, set: &[u8]) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == byte {
            return true;
        }
        i += 1;
    }
    false
}

/// `tchar` of RFC 9110, section 5.6.2.
pub fn is_token(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

/// A byte of a field value: VCHAR, obs-text, SP or HTAB (RFC 9110, section 5.5).
pub fn is_value(byte: u8) -> bool {
    CLASSES[byte as usize] & VALUE != 0
}

/// A visible ASCII byte, as request targets are made of; stricter grammar is the path's affair.
pub fn is_target(byte: u8) -> bool {
    CLASSES[byte as usize] & TARGET != 0
}

/// A byte of a target that is nothing but a path: no escape, no query, no fragment.
pub fn is_plain(byte: u8) -> bool {
    CLASSES[byte as usize] & PLAIN != 0
}

/// A byte of a `reg-name` but for escapes (RFC 3986, section 3.2.2).
pub fn is_host(byte: u8) -> bool {
    CLASSES[byte as usize] & HOST != 0
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// Whether `name` is a token. Most names are letters and hyphens, which are told eight at a time.
pub fn is_name(name: &[u8]) -> bool {
    match name.as_chunks() {
        ([], _) => !name.is_empty() && name.iter().all(|byte| is_token(*byte)),
        (words, _) => {
            let last = name.last_chunk().is_some_and(is_word);
            last && words.iter().all(is_word) || name.iter().all(|byte| is_token(*byte))
        }
    }
}

/// Whether all eight are ASCII letters or hyphens.
fn is_word(bytes: &[u8; 8]) -> bool {
    let x = u64::from_le_bytes(*bytes);
    // Of bytes below 0x80 none of these carries into the next one.
    let low = (x | (ONES * 0x20)) & !HIGH;
    let from_a = low + ONES * (0x80 - u64::from(b'a'));
    let above_z = low + ONES * (0x7f - u64::from(b'z'));
    let hyphen = HIGH - ((x & !HIGH) ^ (ONES * u64::from(b'-')));
    ((from_a & !above_z) | hyphen) & !x & HIGH == HIGH
}

/// The index of the first colon at or after `from`; `bytes.len()` if there is none. Eight bytes at a time.
pub fn colon(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let x = u64::from_le_bytes(*word) ^ (ONES * u64::from(b':'));
        let found = x.wrapping_sub(ONES) & !x & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize; // the lowest flagged byte is exact
        }
        at += 8;
    }
    while at < bytes.len() && bytes[at] != b':' {
        at += 1;
    }
    at
}

/// The index of the first byte at or after `from` that no target may hold; `bytes.len()` if there is none.
pub fn target_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let x = u64::from_le_bytes(*word);
        let blank = x.wrapping_sub(ONES * 0x21) & !x;
        let y = x ^ (ONES * 0x7f);
        let delete = y.wrapping_sub(ONES) & !y;
        let found = (blank | delete | x) & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize; // the lowest flagged byte is exact
        }
        at += 8;
    }
    while at < bytes.len() && is_target(bytes[at]) {
        at += 1;
    }
    at
}

/// The index of the first byte at or after `from` that no field value may hold; `bytes.len()` if there is none.
///
/// Eight bytes at a time, since values are most of a head.
pub fn value_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let x = u64::from_le_bytes(*word);
        let control = x.wrapping_sub(ONES * 0x20) & !x;
        let y = x ^ (ONES * 0x7f);
        let delete = y.wrapping_sub(ONES) & !y;
        let found = (control | delete) & HIGH;
        if found == 0 {
            at += 8;
            continue;
        }
        // The lowest flagged byte is exact; those above it may be a borrow.
        at += (found.trailing_zeros() / 8) as usize;
        if bytes[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    while at < bytes.len() && is_value(bytes[at]) {
        at += 1;
    }
    at
}

/// The index of the first `byte` in `bytes`. What is as short as most targets and hosts is looked through at once.
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    if bytes.len() < 16 { bytes.iter().position(|other| *other == byte) } else { memchr::memchr(byte, bytes) }
}

/// `value` without spaces and tabs around it (OWS, RFC 9110, section 5.6.3).
pub fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte != b' ' && *byte != b'\t';
    let Some(start) = value.iter().position(blank) else { return &[] };
    let end = value.iter().rposition(blank).map_or(start, |last| last + 1);
    &value[start..end]
}

/// The elements of a comma-separated list, empty ones left out (RFC 9110, section 5.6.1.2).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colon_is_found_at_every_position_behind_every_byte() {
        for byte in 0..=255u8 {
            for len in 0..20 {
                for position in 0..=len {
                    let mut line = vec![byte; len];
                    line.insert(position, b':');
                    let first = if byte == b':' { 0 } else { position };
                    assert_eq!(colon(&line, 0), first);
                    assert_eq!(colon(&line[..first], 0), first);
                    assert_eq!(colon(&line, first), first);
                }
            }
        }
    }

    #[test]
    fn names_and_target_ends_agree_with_the_table_for_every_byte_at_every_position() {
        for byte in 0..=255u8 {
            for len in 1..20 {
                for position in 0..len {
                    let mut text = vec![b'a'; len];
                    text[position] = byte;
                    assert_eq!(is_name(&text), is_token(byte), "byte {byte} at {position} of {len}");
                    let want = if is_target(byte) { len } else { position };
                    assert_eq!(target_end(&text, 0), want, "byte {byte} at {position} of {len}");
                }
            }
        }
        assert!(!is_name(b""));
    }

    /// Eight bytes are looked at in one word, where one must not make up for another.
    #[test]
    fn names_agree_with_the_table_for_every_two_bytes_in_eight() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let want = is_token(first) && is_token(second);
                for (one, other) in [(0, 1), (0, 7), (3, 4), (6, 7)] {
                    let mut text = *b"abcdefgh";
                    (text[one], text[other]) = (first, second);
                    assert_eq!(is_name(&text), want, "{first} at {one}, {second} at {other}");
                }
                let alternate = [first, second].repeat(4);
                assert_eq!(is_name(&alternate), want, "{first} and {second} in turn");
            }
        }
    }

    #[test]
    fn value_end_agrees_with_the_table_for_every_byte_at_every_position() {
        for byte in 0..=255u8 {
            for position in 0..20 {
                let mut line = vec![b'a'; 20];
                line[position] = byte;
                let want = if is_value(byte) { 20 } else { position };
                assert_eq!(value_end(&line, 0), want, "byte {byte:#x} at {position}");
                line.fill(0xff);
                line[position] = byte;
                assert_eq!(value_end(&line, 0), want, "byte {byte:#x} at {position} between obs-text");
            }
        }
    }

    #[test]
    fn trim_takes_blanks_from_both_ends_only() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
        assert_eq!(trim(b""), b"");
    }

    #[test]
    fn list_leaves_out_empty_elements() {
        assert_eq!(list(b", a ,, b,").collect::<Vec<_>>(), [b"a", b"b"]);
    }
}

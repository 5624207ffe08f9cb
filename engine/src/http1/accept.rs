//! `Accept`: whether a client would rather have HTML than plain text.
//! Knows: RFC 9110 section 12.5.1.   Must not know: what is sent in either of them.

use super::bytes;

/// A weight in thousandths (RFC 9110, section 12.4.2).
type Weight = u16;

const FULL: Weight = 1000;

/// Whether `values`, those of all `Accept` fields, name `text/html`, and give plain text no more weight than that.
///
/// Browsers name it when a person opens a page; programs mostly take anything, and get text.
pub fn prefers_html<'a>(values: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut html, mut plain, mut any_text, mut anything) = (None, None, None, None);
    for element in values.flat_map(bytes::list) {
        let mut parts = element.split(|byte| *byte == b';').map(bytes::trim);
        let Some(range) = parts.next() else { continue };
        let weight = parts.find_map(weight).unwrap_or(FULL);
        let is = |other: &[u8]| range.eq_ignore_ascii_case(other);
        match () {
            () if is(b"text/html") => html = html.max(Some(weight)),
            () if is(b"text/plain") => plain = plain.max(Some(weight)),
            () if is(b"text/*") => any_text = any_text.max(Some(weight)),
            () if is(b"*/*") => anything = anything.max(Some(weight)),
            () => {}
        }
    }
    // The most specific range counts.
    let plain = plain.or(any_text).or(anything).unwrap_or(0);
    html.is_some_and(|html| html > 0 && html >= plain)
}

/// The weight in a parameter `q=0.5`; `None` for another parameter, or for a weight that is none.
fn weight(parameter: &[u8]) -> Option<Weight> {
    let value = match parameter {
        [b'q' | b'Q', b'=', value @ ..] => value,
        _ => return None,
    };
    match value {
        [b'1', ..] => Some(FULL),
        [b'0'] => Some(0),
        [b'0', b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            let digit = |index: usize| digits.get(index).map_or(0, |digit| Weight::from(digit - b'0'));
            Some(100 * digit(0) + 10 * digit(1) + digit(2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_html_and_programs_text() {
        let rows: &[(&[&str], bool)] = &[
            // Firefox, Chrome, Safari when a person opens a page; Internet Explorer's oldest habit.
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], true),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"], true),
            (&["image/gif, image/jpeg, */*"], false),
            // A browser's script, an image; curl; nothing.
            (&["application/json, text/plain, */*"], false),
            (&["image/avif,image/webp,*/*;q=0.8"], false),
            (&["*/*"], false),
            (&["text/*"], false),
            (&[""], false),
            (&[], false),
            (&["text/html"], true),
            (&["TEXT/HTML;charset=utf-8;Q=0.5"], true),
            (&["text/htmlx", "text"], false),
            (&["text/html, text/plain"], true),
            (&["text/plain, text/html"], true),
            (&["text/html;q=0.9, text/plain"], false),
            (&["text/html;q=0.9", "text/plain;q=0.89"], true),
            (&["text/plain;q=0.001", "text/html ; q=0.002"], true),
            (&["text/html;q=0.5, */*"], false),
            (&["text/html;q=0.5, text/*;q=0.4, */*"], true),
            (&["text/html;q=0.5, text/plain;q=0.1, text/*"], true),
            (&["text/html;q=0"], false),
            (&["text/html;q=0.0, */*"], false),
            (&["text/html;q=0.000"], false),
            (&["text/html;q=1.000"], true),
            // What is no weight is none.
            (&["text/html;q=, text/plain;q=0.9"], true),
            (&["text/html;q=0.1234, text/plain;q=0.9"], true),
            (&["text/html;q=0.x, text/plain;q=0.9"], true),
            (&["text/html;level=1;q=0.1, text/plain;q=0.2"], false),
            (&[",;,text/html,,"], true),
        ];
        for (values, want) in rows {
            assert_eq!(prefers_html(values.iter().map(|value| value.as_bytes())), *want, "{values:?}");
        }
    }
}

//! The whole connection: any split of the bytes gives the same answers, but for the interim one, and nothing panics.
#![no_main]

#[path = "../../tests/sim/mod.rs"]
mod sim;

use libfuzzer_sys::fuzz_target;

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// All that came back without interim answers, which depend on whether the body was there, and without dates.
fn answers(pieces: &[&[u8]], finish: bool) -> (Vec<u8>, bool) {
    let (taken, open) = sim::mirror::exchange(pieces, finish);
    let mut kept = Vec::new();
    let mut rest = &taken[..];
    while let Some(at) = rest.windows(INTERIM.len()).position(|window| window == INTERIM) {
        kept.extend_from_slice(&rest[..at]);
        rest = &rest[at + INTERIM.len()..];
    }
    kept.extend_from_slice(rest);
    let mut lines: Vec<&[u8]> = kept.split(|byte| *byte == b'\n').collect();
    lines.retain(|line| !line.starts_with(b"Date: "));
    (lines.join(&b'\n'), open)
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let finish = step & 1 == 1;
    let pieces: Vec<&[u8]> = bytes.chunks(1 + usize::from(step >> 1)).collect();
    assert_eq!(answers(&[bytes], finish), answers(&pieces, finish));
});

//! A chunked body decodes to the same bytes, and ends at the same byte, however it is torn.
#![no_main]

use bjoern_engine::http1::Reject;
use bjoern_engine::http1::chunked::{Decoder, Piece};
use libfuzzer_sys::fuzz_target;

/// The data, and how many bytes the body took where it is whole.
fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, Option<usize>), (Vec<u8>, Reject)> {
    let mut decoder = Decoder::new(64);
    let (mut body, mut used) = (Vec::new(), 0);
    for piece in bytes.chunks(step) {
        let mut input = piece;
        loop {
            match decoder.next(&mut input) {
                Ok(Piece::Data(data)) => body.extend_from_slice(data),
                Ok(Piece::Size(_)) => {}
                Ok(Piece::More) => break,
                Ok(Piece::End) => return Ok((body, Some(used + piece.len() - input.len()))),
                Err(reject) => return Err((body, reject)),
            }
        }
        used += piece.len();
    }
    Ok((body, None))
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    assert_eq!(decode(bytes, bytes.len().max(1)), decode(bytes, 1 + usize::from(*step)));
});

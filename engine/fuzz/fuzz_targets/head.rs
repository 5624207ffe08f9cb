//! A head gives the same verdict however it is torn. The first byte chooses the length of the pieces.
#![no_main]

use bjoern_engine::http1::{Head, Limits, Reject, head::Scan};
use libfuzzer_sys::fuzz_target;

fn verdict(head: &mut Head, bytes: &[u8], step: usize) -> Result<Option<usize>, Reject> {
    let limits = Limits { max_head: 512, max_fields: 8, ..Limits::default() };
    let mut scan = Scan::default();
    let mut end = 0;
    while end < bytes.len() {
        end = bytes.len().min(end + step);
        if head.parse(&bytes[..end], &mut scan, &limits)? {
            return Ok(Some(head.len));
        }
    }
    Ok(None)
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let (mut whole, mut torn) = (Head::default(), Head::default());
    let verdicts = (verdict(&mut whole, bytes, usize::MAX / 2), verdict(&mut torn, bytes, 1 + usize::from(*step)));
    assert_eq!(verdicts.0, verdicts.1);
    if let Ok(Some(len)) = verdicts.0 {
        assert!(len <= bytes.len() && bytes[..len].ends_with(b"\r\n\r\n"));
        assert_eq!(format!("{whole:?}"), format!("{torn:?}"));
        for field in &whole.fields {
            assert!(!field.name.of(bytes).is_empty());
            assert!(!field.value.of(bytes).iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        }
    }
});

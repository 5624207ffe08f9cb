//! A connection's beginning by the PROXY protocol gives the same verdict however it is torn, and never reaches past its end.
#![no_main]

use bjoern_engine::http1::Reject;
use bjoern_engine::proxies::preface::{Preface, parse};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 512;

fn verdict(bytes: &[u8], step: usize) -> Result<Option<Preface>, Reject> {
    let mut end = 0;
    while end < bytes.len() {
        end = bytes.len().min(end + step);
        if let Some(preface) = parse(&bytes[..end], LIMIT)? {
            return Ok(Some(preface));
        }
    }
    Ok(None)
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let whole = verdict(bytes, usize::MAX / 2);
    assert_eq!(whole, verdict(bytes, 1 + usize::from(*step)));
    match whole {
        Ok(Some(preface)) => {
            assert!(preface.len <= bytes.len().min(LIMIT));
            assert_eq!(parse(&bytes[..preface.len], LIMIT), whole, "what follows is another's");
        }
        Ok(None) => assert!(bytes.len() < LIMIT, "nothing is waited for that is not allowed"),
        Err(_) => {}
    }
});

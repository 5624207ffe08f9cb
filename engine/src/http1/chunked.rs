//! The chunked transfer coding, decoded as it arrives.
//! Knows: RFC 9112 section 7.1.   Must not know: where the bytes go, limits on the whole body.
//! Invariant: any split of the input gives the same data and the same verdict.

use super::{Reject, bytes};

/// Bytes of extensions a single chunk may carry: what is in use is far shorter.
pub const MAX_EXTENSION_BYTES: u16 = 1024;

/// Bytes of sizes and extensions a whole body may carry beyond [`free_overhead`] (CVE-2023-39326).
const MAX_OVERHEAD_BYTES: i64 = 16 * 1024;

/// What a chunk of `size` bytes may spend on its size and extensions uncounted.
fn free_overhead(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX / 4).saturating_mul(2).saturating_add(16)
}

/// The decoder's place in the grammar of RFC 9112, section 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SizeStart,
    Size,
    SizeBlank,
    NameStart,
    Name,
    NameBlank,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    ValueEnd,
    ValueBlank,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
    Done,
}

/// What the decoder found next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of the body.
    Data(&'a [u8]),
    /// The size of the next chunk is known: a limit can be checked before its bytes come.
    Size(u64),
    /// The body is whole.
    End,
    /// All input is used up.
    More,
}

/// Decodes one chunked body.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    left: u64,
    /// Bytes of the size and its extensions so far.
    extension: u16,
    /// Bytes of overhead in all, less what was free.
    overhead: i64,
    trailer: u32,
    max_trailer: u32,
}

impl Decoder {
    /// A decoder whose trailer section may hold `max_trailer` bytes.
    pub fn new(max_trailer: usize) -> Decoder {
        let max_trailer = u32::try_from(max_trailer).unwrap_or(u32::MAX);
        Decoder { state: State::SizeStart, left: 0, extension: 0, overhead: 0, trailer: 0, max_trailer }
    }

    /// Takes from the front of `input` what the next piece needs.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, Reject> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.state {
                State::Done => return Ok(Piece::End),
                State::Data => {
                    let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                    let (data, rest) = input.split_at(take);
                    *input = rest;
                    self.left -= take as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Piece::Data(data));
                }
                _ => {
                    self.state = self.step(byte)?;
                    *input = rest;
                    match self.state {
                        State::Done => return Ok(Piece::End),
                        State::Data => return Ok(Piece::Size(self.left)),
                        _ => {}
                    }
                }
            }
        }
        Ok(if self.state == State::Done { Piece::End } else { Piece::More })
    }

    /// One byte of what is not data.
    fn step(&mut self, byte: u8) -> Result<State, Reject> {
        if matches!(self.state, State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf) {
            self.trailer += 1;
            if self.trailer > self.max_trailer {
                return Err(Reject::TrailerTooLarge);
            }
        }
        match (self.state, byte) {
            (State::SizeStart, _) if byte.is_ascii_hexdigit() => {
                self.left = 0;
                self.extension = 0;
                self.size_digit(byte)
            }
            (State::Size, _) if byte.is_ascii_hexdigit() => self.size_digit(byte),
            (State::Size, b'\r') => Ok(State::SizeLf),
            // Blanks are "bad whitespace": accepted before an extension, nowhere else (RFC 9112, section 7.1.1).
            (State::Size | State::SizeBlank, b' ' | b'\t') => self.extension_byte(State::SizeBlank),
            (State::Size | State::SizeBlank, b';') => self.extension_byte(State::NameStart),
            (State::SizeStart | State::Size | State::SizeBlank, _) => Err(Reject::BadChunkSize),
            (
                State::NameStart
                | State::Name
                | State::NameBlank
                | State::ValueStart
                | State::Value
                | State::Quoted
                | State::QuotedPair
                | State::ValueEnd
                | State::ValueBlank,
                _,
            ) => self.extension(byte),
            (State::SizeLf, b'\n') => {
                self.overhead = (self.overhead + i64::from(self.extension) - free_overhead(self.left)).max(0);
                match self.left {
                    _ if self.overhead > MAX_OVERHEAD_BYTES => Err(Reject::BadChunkExtension),
                    0 => Ok(State::TrailerStart),
                    _ => Ok(State::Data),
                }
            }
            (State::SizeLf, _) => Err(Reject::BadChunkSize),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::SizeStart),
            (State::DataCr | State::DataLf, _) => Err(Reject::BadChunkEnd),
            (State::TrailerStart, b'\r') => Ok(State::FinalLf),
            (State::TrailerStart | State::TrailerName, _) if bytes::is_token(byte) => Ok(State::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if bytes::is_value(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::FinalLf, b'\n') => Ok(State::Done),
            (State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::FinalLf, _) => {
                Err(Reject::BadTrailer)
            }
            (State::Data | State::Done, _) => unreachable!("data and the end are not stepped through"),
        }
    }

    /// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )` (RFC 9112, section 7.1.1), behind a `;`.
    fn extension(&mut self, byte: u8) -> Result<State, Reject> {
        use State::*;
        let blank = matches!(byte, b' ' | b'\t');
        let token = bytes::is_token(byte);
        let next = match (self.state, byte) {
            (Name | Value | ValueEnd, b'\r') => return Ok(SizeLf),
            (Quoted, b'"') => ValueEnd,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, _) if bytes::is_value(byte) => Quoted,
            (NameStart, _) if blank => NameStart,
            (NameStart | Name, _) if token => Name,
            (Name | NameBlank, b'=') => ValueStart,
            (Name | NameBlank | Value | ValueEnd | ValueBlank, b';') => NameStart,
            (Name | NameBlank, _) if blank => NameBlank,
            (ValueStart, _) if blank => ValueStart,
            (ValueStart, b'"') => Quoted,
            (ValueStart | Value, _) if token => Value,
            (Value | ValueEnd | ValueBlank, _) if blank => ValueBlank,
            _ => return Err(Reject::BadChunkExtension),
        };
        self.extension_byte(next)
    }

    fn size_digit(&mut self, byte: u8) -> Result<State, Reject> {
        let digit = (byte as char).to_digit(16).ok_or(Reject::BadChunkSize)?;
        if self.left >> 59 != 0 {
            return Err(Reject::BadChunkSize);
        }
        self.left = self.left << 4 | u64::from(digit);
        // Leading zeros are digits too: without a bound a "size" could go on for ever.
        self.extension_byte(State::Size)
    }

    fn extension_byte(&mut self, next: State) -> Result<State, Reject> {
        self.extension += 1;
        if self.extension > MAX_EXTENSION_BYTES { Err(Reject::BadChunkExtension) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body and what is left over, or the refusal.
    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, bool, Vec<u8>), Reject> {
        let mut decoder = Decoder::new(64);
        let (mut body, mut left_over, mut done) = (Vec::new(), Vec::new(), false);
        for part in parts {
            let mut input = *part;
            while !done {
                match decoder.next(&mut input)? {
                    Piece::Data(data) => body.extend_from_slice(data),
                    Piece::Size(_) => {}
                    Piece::End => done = true,
                    Piece::More => break,
                }
            }
            left_over.extend_from_slice(input);
        }
        Ok((body, done, left_over))
    }

    /// Three ways in: whole, byte by byte, and with another request behind.
    fn check(wire: &[u8], want: Result<&[u8], Reject>) {
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        let behind = [wire, b"GET / HTTP/1.1\r\n"].concat();
        let text = String::from_utf8_lossy(wire);
        match want {
            Ok(body) => {
                assert_eq!(decode(&[wire]), Ok((body.to_vec(), true, vec![])), "whole: {text}");
                assert_eq!(decode(&bytes), Ok((body.to_vec(), true, vec![])), "byte by byte: {text}");
                let left_over = b"GET / HTTP/1.1\r\n".to_vec();
                assert_eq!(decode(&[&behind]), Ok((body.to_vec(), true, left_over)), "another behind: {text}");
            }
            Err(reject) => {
                assert_eq!(decode(&[wire]), Err(reject), "whole: {text}");
                assert_eq!(decode(&bytes), Err(reject), "byte by byte: {text}");
                assert_eq!(decode(&[&behind]), Err(reject), "another behind: {text}");
            }
        }
    }

    #[test]
    fn bodies_follow_rfc_9112_section_7_1() {
        use Reject::*;
        check(b"0\r\n\r\n", Ok(b""));
        check(b"5\r\nhello\r\n0\r\n\r\n", Ok(b"hello"));
        check(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", Ok(b"hello world"));
        check(b"A\r\n0123456789\r\n000\r\n\r\n", Ok(b"0123456789"));
        check(b"5;a=b\r\nhello\r\n0;x\r\n\r\n", Ok(b"hello"));
        check(b"5 ;a=\"b c\"\r\nhello\r\n0\r\n\r\n", Ok(b"hello"));
        check(b"0\r\nA: b\r\nC:\r\n\r\n", Ok(b""));
        check(b"5 \r\nhello\r\n0\r\n\r\n", Err(BadChunkSize));
        check(b" 5\r\nhello\r\n0\r\n\r\n", Err(BadChunkSize));
        check(b"\r\nhello", Err(BadChunkSize));
        check(b"-5\r\nhello\r\n", Err(BadChunkSize));
        check(b"+5\r\nhello\r\n", Err(BadChunkSize));
        check(b"0x5\r\nhello\r\n", Err(BadChunkSize));
        check(b"5_0\r\nhello\r\n", Err(BadChunkSize));
        check(b"5\nhello\r\n", Err(BadChunkSize));
        check(b"5\r\r\nhello\r\n", Err(BadChunkSize));
        check(b"10000000000000000\r\n", Err(BadChunkSize));
        check(b"5;a;b = \"\\\"\" ; c\r\nhello\r\n0\r\n\r\n", Ok(b"hello"));
        check(b"5;\r\nhello\r\n", Err(BadChunkExtension));
        check(b"5;a=\r\nhello\r\n", Err(BadChunkExtension));
        check(b"5;a b\r\nhello\r\n", Err(BadChunkExtension));
        check(b"5;a \r\nhello\r\n", Err(BadChunkExtension));
        check(b"5;a=\"b\r\nhello\r\n", Err(BadChunkExtension));
        check(b"5;a=\"b\"c\r\nhello\r\n", Err(BadChunkExtension));
        check(b"5;a\nhello\r\n", Err(BadChunkExtension));
        check(b"5;a\x00b\r\nhello\r\n", Err(BadChunkExtension));
        check(b"5\r\nhello0\r\n\r\n", Err(BadChunkEnd));
        check(b"5\r\nhello\n0\r\n\r\n", Err(BadChunkEnd));
        check(b"5\r\nhello\rX", Err(BadChunkEnd));
        check(b"4\r\nhello\r\n0\r\n\r\n", Err(BadChunkEnd));
        check(b"0\r\n\n", Err(BadTrailer));
        check(b"0\r\n\rX", Err(BadTrailer));
        check(b"0\r\nA b: c\r\n\r\n", Err(BadTrailer));
        check(b"0\r\nA : c\r\n\r\n", Err(BadTrailer));
        check(b"0\r\nA: b\nC: d\r\n\r\n", Err(BadTrailer));
        check(b"0\r\nA: b\r\n c\r\n\r\n", Err(BadTrailer));
        check(b"0\r\nA: b\x00\r\n\r\n", Err(BadTrailer));
        check(b"0\r\nGET / HTTP/1.1\r\n\r\n", Err(BadTrailer));
    }

    #[test]
    fn extensions_sizes_and_trailers_are_bounded() {
        let extension = [b"5;", "x".repeat(MAX_EXTENSION_BYTES as usize).as_bytes(), b"\r\n"].concat();
        check(&extension, Err(Reject::BadChunkExtension));
        let zeros = "0".repeat(MAX_EXTENSION_BYTES as usize + 1);
        check(zeros.as_bytes(), Err(Reject::BadChunkExtension));
        // Field lines up to the limit, their ends included; the blank line behind them counts with its CR alone.
        let trailer = |len: usize| [b"0\r\nA: ", "x".repeat(len - 6).as_bytes(), b"\r\n\r\n"].concat();
        check(&trailer(64), Ok(b""));
        check(&trailer(65), Err(Reject::TrailerTooLarge));
        check(&trailer(1000), Err(Reject::TrailerTooLarge));
    }

    #[test]
    fn the_overhead_of_a_body_is_bounded() {
        let chunk = [b"1;a=", "x".repeat(100).as_bytes(), b"\r\nx\r\n"].concat();
        assert_eq!(decode(&[&chunk.repeat(300)]), Err(Reject::BadChunkExtension));
        let signed = [b"10000;s=", "f".repeat(90).as_bytes(), b"\r\n", &vec![b'x'; 0x10000][..], b"\r\n"].concat();
        assert_eq!(decode(&[&signed.repeat(20)]).map(|(body, ..)| body.len()), Ok(20 * 0x10000));
        let bytes = b"1\r\nx\r\n".repeat(100_000);
        assert_eq!(decode(&[&bytes]).map(|(body, ..)| body.len()), Ok(100_000));
    }

    #[test]
    fn an_unfinished_body_asks_for_more() {
        assert_eq!(decode(&[b"5\r\nhel"]), Ok((b"hel".to_vec(), false, vec![])));
        assert_eq!(decode(&[b"5\r\nhello\r\n0\r\n"]), Ok((b"hello".to_vec(), false, vec![])));
    }
}

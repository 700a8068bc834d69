//! Where a message body ends (RFC 9112 §6, §7.1): by length, by chunks, or by the close of the connection.
//!
//! Refuses to know heads, sockets and what the body means. Framing that two readers could read differently is an error.

use std::fmt;

use super::headers::is_token_byte;
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Exactly this many bytes; 0 is a message without body.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Everything until the peer closes; responses only.
    UntilClose,
}

/// Why a body cannot be read on. The connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk does not begin with 1 to 16 hexadecimal digits, followed by CRLF or `;`.
    ChunkSize,
    /// The line with the chunk size is longer than `CHUNK_LINE_BYTES_MAX`.
    ChunkLineTooLong,
    /// The data of a chunk is not followed by CRLF: its size is wrong.
    ChunkEnd,
    /// A control character, a bare CR or a bare LF in a chunk extension or a trailer field.
    BadByte,
    /// A line of the trailer section is no field: perhaps the next message.
    TrailerLine,
    /// The trailer fields are longer than `TRAILER_BYTES_MAX`.
    TrailerTooLarge,
    /// The peer closed before the end of the body.
    Truncated,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChunkSize => {
                f.write_str("a chunk must begin with its size: 1 to 16 hexadecimal digits, then CRLF")
            }
            Self::ChunkLineTooLong => {
                write!(
                    f,
                    "a chunk-size line is longer than {CHUNK_LINE_BYTES_MAX} bytes: leave out the extensions"
                )
            }
            Self::ChunkEnd => f.write_str("the data of a chunk is not followed by CRLF: its size is wrong"),
            Self::BadByte => f.write_str(
                "a control character, bare CR or bare LF stands in a chunk extension or trailer field",
            ),
            Self::TrailerLine => f.write_str("a line behind the last chunk is not `name: value`"),
            Self::TrailerTooLarge => {
                write!(f, "the trailer fields are longer than {TRAILER_BYTES_MAX} bytes: send fewer of them")
            }
            Self::Truncated => f.write_str("the connection was closed before the end of the body"),
        }
    }
}

impl std::error::Error for BodyError {}

/// Cuts one body out of the bytes of a connection.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
}

/// Where the reader stands. Counters are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a body of known length, with this much to come; never 0.
    Length(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the digits of a chunk size. `padded`: white space that only a `;` may follow has been seen (RFC 9112
    /// §7.1.1 allows it there and nowhere else).
    Extension {
        size: u64,
        line: usize,
        padded: bool,
    },
    /// Behind the CR of a chunk-size line.
    SizeLf {
        size: u64,
    },
    /// In the data of a chunk; never 0.
    Data(u64),
    DataCr,
    DataLf,
    /// In the trailer section, with this many bytes of it seen.
    Trailer {
        seen: usize,
        part: Part,
    },
    /// Behind a CR in the trailer section; `last` when its line was empty.
    TrailerLf {
        seen: usize,
        last: bool,
    },
    Done,
    Failed(BodyError),
}

/// Where in a line of the trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Start,
    Name,
    Value,
}

impl BodyReader {
    /// A reader for a body that begins at the next byte.
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Length(0) => State::Done,
            BodyLength::Length(left) => State::Length(left),
            BodyLength::Chunked => State::Size { size: 0, digits: 0 },
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the body has ended; the bytes that follow belong to the next message.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes the peer has announced and not sent: of the body, or of the chunk at hand.
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            _ => 0,
        }
    }

    /// Takes some bytes from the front of `input`: how many, and which of them are data (possibly none).
    ///
    /// Call again with the rest until nothing is consumed or the body is done. Never consumes past the end of the
    /// body. An error stays: later calls return it again.
    pub fn read<'a>(&mut self, input: &'a [u8]) -> Result<(usize, &'a [u8]), BodyError> {
        let mut consumed = 0;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let left = match self.state {
                State::Length(left) | State::Data(left) => left,
                State::UntilClose => return Ok((input.len(), input)),
                State::Done => return Ok((consumed, &[])),
                State::Failed(error) => return Err(error),
                _ => {
                    let Some(&byte) = rest.first() else { return Ok((consumed, &[])) };
                    self.state = self.framing(byte).unwrap_or_else(State::Failed);
                    consumed += 1;
                    continue;
                }
            };
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let data = rest.get(..take).unwrap_or_default();
            // Cannot wrap: `take` is at most `left`.
            let left = left - take as u64;
            self.state = match self.state {
                State::Length(_) if left == 0 => State::Done,
                State::Length(_) => State::Length(left),
                _ if left == 0 => State::DataCr,
                _ => State::Data(left),
            };
            return Ok((consumed + take, data));
        }
    }

    /// Tells the reader that the peer has closed: the end of a body `UntilClose`, an error before any other end.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        let error = match self.state {
            State::Done => return Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                return Ok(());
            }
            State::Failed(error) => error,
            _ => BodyError::Truncated,
        };
        self.state = State::Failed(error);
        Err(error)
    }

    /// The state behind one byte of chunk framing. Byte by byte is enough: framing is short and bounded.
    fn framing(&self, byte: u8) -> Result<State, BodyError> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == 16 {
                    return Err(BodyError::ChunkSize);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                // Cannot overflow: at most 16 digits of 4 bits.
                State::Size { size: (size << 4) | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(BodyError::ChunkSize),
            (State::Size { size, .. }, b'\r') => State::SizeLf { size },
            (State::Size { size, digits }, b';' | b' ' | b'\t') => {
                State::Extension { size, line: usize::from(digits) + 1, padded: byte != b';' }
            }
            (State::Size { .. }, _) => return Err(BodyError::ChunkSize),
            (State::Extension { size, padded: false, .. }, b'\r') => State::SizeLf { size },
            (State::Extension { size, line, padded }, _) => {
                if padded && !matches!(byte, b' ' | b'\t' | b';') {
                    return Err(BodyError::ChunkSize);
                }
                if is_control(byte) {
                    return Err(BodyError::BadByte);
                }
                if line >= CHUNK_LINE_BYTES_MAX {
                    return Err(BodyError::ChunkLineTooLong);
                }
                State::Extension { size, line: line + 1, padded: padded && byte != b';' }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::Trailer { seen: 0, part: Part::Start },
            (State::SizeLf { size }, b'\n') => State::Data(size),
            (State::SizeLf { .. }, _) => return Err(BodyError::BadByte),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::DataCr | State::DataLf, _) => return Err(BodyError::ChunkEnd),
            (State::Trailer { seen, part: part @ (Part::Start | Part::Value) }, b'\r') => {
                State::TrailerLf { seen, last: part == Part::Start }
            }
            (State::Trailer { part: Part::Name, .. }, b'\r') => return Err(BodyError::TrailerLine),
            (State::Trailer { seen, part }, _) => {
                if is_control(byte) {
                    return Err(BodyError::BadByte);
                }
                if seen >= TRAILER_BYTES_MAX {
                    return Err(BodyError::TrailerTooLarge);
                }
                let part = match (part, byte) {
                    (Part::Name, b':') | (Part::Value, _) => Part::Value,
                    (Part::Start | Part::Name, _) if is_token_byte(byte) => Part::Name,
                    _ => return Err(BodyError::TrailerLine),
                };
                State::Trailer { seen: seen + 1, part }
            }
            (State::TrailerLf { last: true, .. }, b'\n') => State::Done,
            (State::TrailerLf { seen, .. }, b'\n') => State::Trailer { seen: seen + 2, part: Part::Start },
            (State::TrailerLf { .. }, _) => return Err(BodyError::BadByte),
            // No framing is read in these.
            (State::Length(_) | State::UntilClose | State::Data(_) | State::Done | State::Failed(_), _) => {
                self.state
            }
        })
    }
}

/// Ends the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// The chunk that ends a chunked body, without trailer fields.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the line before the data of a chunk; behind the data goes [`CHUNK_END`]. `len` must not be 0, which would
/// end the body.
pub fn push_chunk_size(out: &mut Vec<u8>, len: usize) {
    // By hand: this runs for each token, and the formatting machinery costs several times as much.
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        let value = (len >> (digit * 4)) & 0xf;
        out.push(b"0123456789abcdef".get(value).copied().unwrap_or_default());
    }
    out.extend_from_slice(b"\r\n");
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `pieces` as one body: its data, how many bytes were consumed, and whether it ended.
    fn read<'a>(
        length: BodyLength,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let mut reader = BodyReader::new(length);
        let (mut data, mut total) = (Vec::new(), 0);
        for mut piece in pieces {
            loop {
                let (consumed, slice) = reader.read(piece)?;
                data.extend_from_slice(slice);
                total += consumed;
                piece = &piece[consumed..];
                if consumed == 0 || reader.is_done() {
                    break;
                }
            }
        }
        Ok((data, total, reader.is_done()))
    }

    #[track_caller]
    fn check(length: BodyLength, input: &[u8], expected: Result<(&[u8], usize, bool), BodyError>) {
        let expected = expected.map(|(data, consumed, done)| (data.to_vec(), consumed, done));
        for cut in 0..=input.len() {
            assert_eq!(read(length, [&input[..cut], &input[cut..]]), expected, "cut at {cut}");
        }
        assert_eq!(read(length, input.chunks(1)), expected, "byte by byte");
    }

    #[track_caller]
    fn check_chunked(input: &str, expected: &str, rest: &str) {
        let consumed = input.len() - rest.len();
        check(BodyLength::Chunked, input.as_bytes(), Ok((expected.as_bytes(), consumed, true)));
    }

    #[track_caller]
    fn check_refused(input: &str, expected: BodyError) {
        check(BodyLength::Chunked, input.as_bytes(), Err(expected));
    }

    #[test]
    fn a_length_ends_the_body() {
        check(BodyLength::Length(0), b"next", Ok((b"", 0, true)));
        check(BodyLength::Length(3), b"abcnext", Ok((b"abc", 3, true)));
        check(BodyLength::Length(9), b"abc", Ok((b"abc", 3, false)));
        check(BodyLength::Length(u64::MAX), b"abc", Ok((b"abc", 3, false)));
        check(BodyLength::UntilClose, b"abc\r\n0\r\n", Ok((b"abc\r\n0\r\n", 8, false)));
    }

    #[test]
    fn chunks_are_joined() {
        check_chunked("0\r\n\r\nnext", "", "next");
        check_chunked("3\r\nabc\r\n0\r\n\r\n", "abc", "");
        check_chunked("1\r\na\r\nB\r\n0123\r\n56789\r\n00\r\n\r\nGET /", "a0123\r\n56789", "GET /");
        check_chunked("0000000000000001\r\na\r\n0\r\n\r\n", "a", "");
        check_chunked("2;name=\"v\"\r\nab\r\n0;x\r\n\r\n", "ab", "");
        check_chunked("2 \t;name\r\nab\r\n0\r\n\r\n", "ab", "");
        check_chunked("0\r\nA: b\r\nC: d\r\n\r\nx", "", "x");
    }

    #[test]
    fn ambiguous_chunks_are_refused() {
        for size in
            ["\r\n", "+1\r\n", "-1\r\n", "0x1\r\n", " 1\r\n", "g\r\n", ";x\r\n", "1 \r\n", "1\n", "1_0\r\n"]
        {
            check_refused(size, BodyError::ChunkSize);
        }
        check_refused("00000000000000001\r\n", BodyError::ChunkSize);
        check_refused("1\rx", BodyError::BadByte);
        check_refused("1;a\nb\r\n", BodyError::BadByte);
        check_refused("1;a\rb\r\n", BodyError::BadByte);
        check_refused("1;a\0b\r\n", BodyError::BadByte);
        check_refused("1\r\nab\r\n", BodyError::ChunkEnd);
        check_refused("1\r\na\n", BodyError::ChunkEnd);
        check_refused("1\r\na\rx", BodyError::ChunkEnd);
        check_refused("0\r\n\n", BodyError::BadByte);
        check_refused("0\r\nA: b\n\n", BodyError::BadByte);
        check_refused("0\r\nA: b\rc\r\n\r\n", BodyError::BadByte);
        check_refused("0\r\n\r\r\n", BodyError::BadByte);
    }

    #[test]
    fn trailer_lines_are_fields() {
        for line in ["a\r\n", "GET / HTTP/1.1\r\n", ": b\r\n", " a: b\r\n", "a : b\r\n", "A: b\r\n c\r\n"] {
            check_refused(&format!("0\r\n{line}\r\n"), BodyError::TrailerLine);
        }
        check_chunked("0\r\na:\r\nb: c:\td \u{e9}\r\n\r\n", "", "");
    }

    #[test]
    fn the_largest_size_fits_and_the_chunk_goes_on() {
        check(BodyLength::Chunked, b"ffffffffffffffff\r\nabc", Ok((b"abc", 21, false)));
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let line = |len: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(len - 2));
        check_chunked(&line(CHUNK_LINE_BYTES_MAX), "a", "");
        check_refused(&line(CHUNK_LINE_BYTES_MAX + 1), BodyError::ChunkLineTooLong);
        let trailer = |len: usize| format!("0\r\nx:{}\r\n\r\n", "y".repeat(len - 2));
        let read_whole = |text: &str| read(BodyLength::Chunked, [text.as_bytes()]).map(|(_, _, done)| done);
        assert_eq!(read_whole(&trailer(TRAILER_BYTES_MAX)), Ok(true));
        assert_eq!(read_whole(&trailer(TRAILER_BYTES_MAX + 1)), Err(BodyError::TrailerTooLarge));
        let many = format!("0\r\n{}\r\n", "a:\r\n".repeat(TRAILER_BYTES_MAX));
        assert_eq!(read_whole(&many), Err(BodyError::TrailerTooLarge));
    }

    #[test]
    fn a_close_ends_only_what_has_no_other_end() {
        let close = |length, input: &[u8]| {
            let mut reader = BodyReader::new(length);
            let mut rest = input;
            while let Ok((consumed, _)) = reader.read(rest)
                && consumed > 0
            {
                rest = &rest[consumed..];
            }
            (reader.end_of_input(), reader.is_done())
        };
        assert_eq!(close(BodyLength::UntilClose, b"abc"), (Ok(()), true));
        assert_eq!(close(BodyLength::Length(3), b"abc"), (Ok(()), true));
        assert_eq!(close(BodyLength::Length(4), b"abc"), (Err(BodyError::Truncated), false));
        let chunked = b"3\r\nabc\r\n0\r\nA: b\r\n\r\n";
        for cut in 0..chunked.len() {
            let expected = (Err(BodyError::Truncated), false);
            assert_eq!(close(BodyLength::Chunked, &chunked[..cut]), expected, "closed after {cut}");
        }
        assert_eq!(close(BodyLength::Chunked, chunked), (Ok(()), true));
        assert_eq!(close(BodyLength::Chunked, b"zz"), (Err(BodyError::ChunkSize), false));
    }

    #[test]
    fn an_error_stays() {
        let mut reader = BodyReader::new(BodyLength::Chunked);
        assert_eq!(reader.read(b"z"), Err(BodyError::ChunkSize));
        assert_eq!(reader.read(b"0\r\n\r\n"), Err(BodyError::ChunkSize));
    }

    fn chunk(data: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        push_chunk_size(&mut wire, data.len());
        [&wire, data, CHUNK_END].concat()
    }

    #[test]
    fn big_chunks_come_as_one_slice() {
        let data = vec![7; 100_000];
        let wire = chunk(&data);
        let mut reader = BodyReader::new(BodyLength::Chunked);
        let (consumed, slice) = reader.read(&wire).unwrap();
        assert_eq!((consumed, slice), (wire.len() - 2, &data[..]));
    }

    #[test]
    fn what_is_written_reads_back() {
        for len in [1, 9, 10, 15, 16, 17, 255, 256, 4095, 4096, 65_536] {
            let data = vec![b'x'; len];
            let wire = [&chunk(&data), LAST_CHUNK].concat();
            let expected = Ok((data, wire.len(), true));
            assert_eq!(read(BodyLength::Chunked, [&wire[..]]), expected, "{len} bytes");
        }
        let wire = chunk(&[0; 26]);
        assert!(wire.starts_with(b"1a\r\n"), "the size is hexadecimal: {wire:?}");
    }
}

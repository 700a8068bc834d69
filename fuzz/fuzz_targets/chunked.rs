//! A body reads the same however it is split, and ends where it ends; what is written reads back.
#![no_main]

use ai_free_swap::http::body::{BodyError, BodyLength, BodyReader, CHUNK_END, LAST_CHUNK, push_chunk_size};
use libfuzzer_sys::fuzz_target;

/// What one reading brought: the data before any error, the bytes consumed if there was none, and how it ended.
type Read = (Vec<u8>, Result<(usize, bool), BodyError>);

fn read<'a>(length: BodyLength, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut reader = BodyReader::new(length);
    let (mut data, mut total) = (Vec::new(), 0);
    for mut piece in pieces {
        loop {
            let (consumed, slice) = match reader.read(piece) {
                Ok(read) => read,
                Err(error) => {
                    assert_eq!(reader.end_of_input(), Err(error));
                    return (data, Err(error));
                }
            };
            assert!(slice.len() <= consumed && consumed <= piece.len());
            data.extend_from_slice(slice);
            total += consumed;
            piece = &piece[consumed..];
            if consumed == 0 || reader.is_done() {
                break;
            }
        }
        assert!(piece.is_empty() || reader.is_done(), "all of the input is taken before the end");
    }
    let done = reader.is_done();
    let complete = done || length == BodyLength::UntilClose;
    assert_eq!(reader.end_of_input().is_ok(), complete);
    (data, Ok((total, done)))
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else { return };
    let cut = input.len() * usize::from(cut) / 255;
    for length in [BodyLength::Chunked, BodyLength::Length(cut as u64), BodyLength::UntilClose] {
        let whole = read(length, [input]);
        assert_eq!(read(length, [&input[..cut], &input[cut..]]), whole, "cut at {cut}");
        assert_eq!(read(length, input.chunks(1)), whole, "byte by byte");
        if let Ok((consumed, true)) = whole.1 {
            assert_eq!(read(length, [&input[..consumed]]), whole, "what follows has no influence");
        }
    }

    let mut wire = Vec::new();
    let (left, right) = input.split_at(cut);
    for data in [left, right].into_iter().filter(|data| !data.is_empty()) {
        push_chunk_size(&mut wire, data.len());
        wire.extend_from_slice(data);
        wire.extend_from_slice(CHUNK_END);
    }
    wire.extend_from_slice(LAST_CHUNK);
    let end = wire.len();
    wire.extend_from_slice(b"next");
    assert_eq!(read(BodyLength::Chunked, [&wire[..]]), (input.to_vec(), Ok((end, true))));
});

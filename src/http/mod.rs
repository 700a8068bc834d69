//! HTTP/1.1 and event-stream framing as pure state machines: bytes in, bytes out. Knows no JSON and no socket.

pub mod body;
pub mod head;
mod head_error;
mod headers;
pub mod sse;

/// Position of the first byte for which `stop` holds, which may be control characters only.
///
/// Eight bytes at a time are looked at for any of those: long lines of JSON are what this runs over.
fn position(bytes: &[u8], stop: impl Fn(u8) -> bool) -> Option<usize> {
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk::<8>() {
        if has_control(u64::from_le_bytes(*word))
            && let Some(at) = word.iter().position(|&b| stop(b))
        {
            return Some(bytes.len() - rest.len() + at);
        }
        rest = behind;
    }
    while let Some((&b, behind)) = rest.split_first() {
        if stop(b) {
            return Some(bytes.len() - rest.len());
        }
        rest = behind;
    }
    None
}

/// Whether some byte of `word` is below 0x20, or 0x7f.
fn has_control(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let low = word.wrapping_sub(ONES * 0x20);
    let delete = (word ^ (ONES * 0x7f)).wrapping_sub(ONES);
    (low | delete) & !word & (ONES << 7) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_seen_wherever_they_stand() {
        for byte in 0..=255u8 {
            for at in 0..8 {
                let mut word = [b'.'; 8];
                word[at] = byte;
                assert_eq!(has_control(u64::from_le_bytes(word)), byte.is_ascii_control(), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn position_agrees_with_the_plain_search() {
        for len in 0..100 {
            for hit in 0..=len {
                let mut bytes = vec![b'.'; len];
                if let Some(byte) = bytes.get_mut(hit) {
                    *byte = b'\n';
                }
                let expected = bytes.iter().position(|&b| b == b'\n');
                assert_eq!(position(&bytes, |b| b == b'\n'), expected, "{hit} of {len}");
            }
        }
    }
}

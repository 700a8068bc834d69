//! HTTP/1.1 and event-stream framing as pure state machines: bytes in, bytes out. Knows no JSON and no socket.

pub mod body;
pub mod head;
mod head_error;
mod headers;
pub mod sse;

/// Position of the first byte for which `stop` holds.
///
/// Whole blocks are tested without a branch per byte, which the compiler turns into vector instructions; long lines
/// of JSON are what this runs over.
fn position(bytes: &[u8], stop: impl Fn(u8) -> bool) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<32>();
    let clear = blocks.iter().take_while(|block| !block.iter().fold(false, |hit, &b| hit | stop(b))).count();
    let start = clear * 32;
    let rest = bytes.get(start..)?;
    rest.iter().position(|&b| stop(b)).map(|at| start + at)
}

#[cfg(test)]
mod tests {
    use super::position;

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

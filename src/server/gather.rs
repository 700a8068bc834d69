//! A body while it comes. A vector that grows is copied again and again, and leaves behind a buffer of half its size
//! each time: many bodies at once took twice their bytes. Knows no sockets and no framing.

use crate::limits::BODY_BLOCK_BYTES;

/// Bytes in blocks, to be joined once, when all are there: only the body that is being joined is held twice.
#[derive(Default)]
pub struct Gather {
    full: Vec<Vec<u8>>,
    full_bytes: usize,
    last: Vec<u8>,
}

impl Gather {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.full_bytes + self.last.len()
    }

    /// Bytes that the last block takes without growing.
    pub fn room(&self) -> usize {
        self.last.capacity() - self.last.len()
    }

    /// The last block, to be appended to within its [`room`](Self::room).
    pub fn last(&mut self) -> &mut Vec<u8> {
        &mut self.last
    }

    /// Appends; `announced` bytes are to come after these, as far as is known. At most one block is prepared for them:
    /// an announcement costs its sender nothing.
    pub fn push(&mut self, mut data: &[u8], announced: u64) {
        loop {
            let room = BODY_BLOCK_BYTES.max(self.last.capacity()) - self.last.len();
            // Within `data` by the `min`.
            let (now, later) = data.split_at(room.min(data.len()));
            self.last.extend_from_slice(now);
            if later.is_empty() {
                return;
            }
            let next = usize::try_from(announced).unwrap_or(usize::MAX).saturating_add(later.len());
            let next = Vec::with_capacity(next.min(BODY_BLOCK_BYTES));
            self.full_bytes += self.last.len();
            self.full.push(std::mem::replace(&mut self.last, next));
            data = later;
        }
    }

    /// All bytes in one piece.
    pub fn whole(self) -> Vec<u8> {
        if self.full.is_empty() {
            return self.last;
        }
        let mut whole = Vec::with_capacity(self.len());
        for block in self.full {
            whole.extend_from_slice(&block);
        }
        whole.extend_from_slice(&self.last);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_come_out_in_order() {
        let data: Vec<u8> = (0..3 * BODY_BLOCK_BYTES + 7).map(|i| (i % 251) as u8).collect();
        for size in [1000, BODY_BLOCK_BYTES - 1, BODY_BLOCK_BYTES, BODY_BLOCK_BYTES + 1, data.len()] {
            let mut gather = Gather::default();
            let mut left = data.len() as u64;
            for (at, piece) in data.chunks(size).enumerate() {
                left -= piece.len() as u64;
                let direct = piece.len().min(gather.room());
                if at % 3 == 2 {
                    gather.last().extend_from_slice(&piece[..direct]);
                    gather.push(&piece[direct..], left);
                } else {
                    gather.push(piece, left);
                }
                assert_eq!(gather.len() as u64, data.len() as u64 - left);
            }
            let whole = gather.whole();
            assert!(whole == data, "pieces of {size}");
            assert_eq!(whole.capacity(), data.len(), "pieces of {size}");
        }
    }

    #[test]
    fn a_small_body_is_not_copied_and_an_announcement_prepares_one_block() {
        let mut gather = Gather::default();
        gather.push(&[1; 1000], u64::MAX);
        assert!(gather.room() <= BODY_BLOCK_BYTES);
        let before = gather.last().as_ptr();
        let whole = gather.whole();
        assert_eq!(whole.as_ptr(), before);

        let mut gather = Gather::default();
        gather.push(&vec![1; BODY_BLOCK_BYTES + 1], u64::MAX);
        assert_eq!(gather.room(), BODY_BLOCK_BYTES - 1);
    }

    #[test]
    fn nothing_is_nothing() {
        let mut gather = Gather::default();
        gather.push(&[], 5);
        assert_eq!((gather.len(), gather.whole()), (0, Vec::new()));
    }
}

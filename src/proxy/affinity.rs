//! Which backend a conversation was last answered by, for `selection: sticky`: provider caches and thinking
//! signatures are worth something only where they were made.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::CONVERSATIONS_MAX;

/// Backends by conversation, both as hashes. The oldest go when there are too many.
#[derive(Debug, Default)]
pub struct Affinity {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_conversation: HashMap<u64, u64>,
    /// Oldest first; each once.
    order: VecDeque<u64>,
}

impl Affinity {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backend that answered last.
    pub fn backend(&self, conversation: u64) -> Option<u64> {
        self.lock().by_conversation.get(&conversation).copied()
    }

    /// It has answered.
    pub fn answered(&self, conversation: u64, backend: u64) {
        let mut inner = self.lock();
        if inner.by_conversation.insert(conversation, backend).is_none() {
            inner.order.push_back(conversation);
        }
        while inner.order.len() > CONVERSATIONS_MAX {
            if let Some(oldest) = inner.order.pop_front() {
                inner.by_conversation.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts_and_the_oldest_conversation_goes() {
        let affinity = Affinity::default();
        assert_eq!(affinity.backend(0), None);
        affinity.answered(0, 7);
        affinity.answered(0, 8);
        assert_eq!(affinity.backend(0), Some(8));
        for conversation in 1..=CONVERSATIONS_MAX as u64 {
            affinity.answered(conversation, 1);
        }
        assert_eq!(affinity.backend(0), None, "one too many");
        assert_eq!(affinity.backend(1), Some(1));
    }
}

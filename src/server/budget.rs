//! The memory that all request bodies in flight may take together, and whose turn it is when it gets short.

use crate::limits::BODY_WITHOUT_TURN_BYTES_MAX;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A number of bytes to share.
pub struct Budget {
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    used: usize,
    /// Shares that may grow, in the order in which they began.
    growing: BTreeSet<u64>,
    next: u64,
    waiting: Vec<Waker>,
}

/// Bytes taken from a budget; given back when dropped.
pub struct Share {
    budget: Arc<Budget>,
    number: u64,
    bytes: usize,
}

impl Budget {
    /// `max` bytes for all.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share of nothing, to grow.
    pub fn share(self: &Arc<Self>) -> Share {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.growing.insert(number);
        Share { budget: Arc::clone(self), number, bytes: 0 }
    }
}

impl Share {
    /// Takes `more` bytes, waiting for others to end if need be. Deadlines are the caller's.
    ///
    /// Shares grow as bytes arrive, not by what a head announces: an announcement costs its sender nothing. Beyond
    /// half of the memory only the oldest large one grows. Otherwise many could each hold a part and wait for the
    /// rest, and none would ever be whole.
    pub async fn grow(&mut self, more: usize) {
        poll_fn(|cx| {
            let mut inner = self.budget.lock();
            let used = inner.used + more;
            let turn = used <= self.budget.max / 2
                || self.bytes + more <= BODY_WITHOUT_TURN_BYTES_MAX
                || inner.growing.first() == Some(&self.number);
            if turn && used <= self.budget.max {
                inner.used = used;
                return Poll::Ready(());
            }
            inner.waiting.retain(|waker| !waker.will_wake(cx.waker()));
            inner.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        self.bytes += more;
    }

    /// The body is whole: the turn is another's.
    pub fn complete(&self) {
        let mut inner = self.budget.lock();
        if inner.growing.remove(&self.number) {
            inner.waiting.drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut inner = self.budget.lock();
        inner.used -= self.bytes;
        inner.growing.remove(&self.number);
        inner.waiting.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};
    use std::pin::pin;

    #[test]
    fn one_byte_too_many_waits_until_another_share_ends() {
        block_on(async {
            let budget = Budget::new(100);
            let (mut first, mut second) = (budget.share(), budget.share());
            first.grow(60).await;
            second.grow(40).await;
            let mut one_more = pin!(second.grow(1));
            assert_eq!(poll_once(one_more.as_mut()).await, None);
            drop(first);
            assert_eq!(poll_once(one_more.as_mut()).await, Some(()));
        });
    }

    #[test]
    fn when_memory_gets_short_the_oldest_grows_until_it_is_whole() {
        const LARGE: usize = BODY_WITHOUT_TURN_BYTES_MAX + 1;
        block_on(async {
            let budget = Budget::new(LARGE * 6);
            let (mut first, mut second, mut third) = (budget.share(), budget.share(), budget.share());
            third.grow(LARGE).await;
            second.grow(LARGE).await;
            first.grow(LARGE).await;
            let mut third_grows = pin!(third.grow(1));
            assert_eq!(poll_once(third_grows.as_mut()).await, None, "half is taken");
            let mut second_grows = pin!(second.grow(1));
            assert_eq!(poll_once(second_grows.as_mut()).await, None, "the first is older");
            assert_eq!(poll_once(pin!(budget.share().grow(BODY_WITHOUT_TURN_BYTES_MAX))).await, Some(()));
            assert_eq!(poll_once(pin!(first.grow(LARGE))).await, Some(()), "it is its turn");
            first.complete();
            assert_eq!(poll_once(third_grows.as_mut()).await, None);
            assert_eq!(poll_once(second_grows.as_mut()).await, Some(()), "now it is the oldest");
        });
    }
}

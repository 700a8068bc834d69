//! The memory that all request bodies in flight may take together.

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
    waiting: Vec<Waker>,
}

/// Bytes taken from a budget; given back when dropped.
pub struct Share {
    budget: Arc<Budget>,
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
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

impl Share {
    /// Takes `more` bytes, waiting for others to end if need be. Deadlines are the caller's.
    ///
    /// Shares grow as bytes arrive, not by what a head announces: an announcement costs its sender nothing.
    pub async fn grow(&mut self, more: usize) {
        poll_fn(|cx| {
            let mut inner = self.budget.lock();
            if inner.used + more <= self.budget.max {
                inner.used += more;
                return Poll::Ready(());
            }
            inner.waiting.retain(|waker| !waker.will_wake(cx.waker()));
            inner.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        self.bytes += more;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut inner = self.budget.lock();
            inner.used -= self.bytes;
            inner.waiting.drain(..).for_each(Waker::wake);
        }
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
}

//! Wakes the requests that wait for a limit: one ring for all, and each looks for itself whether it is its turn.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A bell that everybody who waits can hear.
#[derive(Debug, Default)]
pub struct Bell {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rings: u64,
    waiting: Vec<Waker>,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it has rung. To be asked before looking whether there is anything to wait for.
    pub fn rings(&self) -> u64 {
        self.lock().rings
    }

    /// Something has changed that somebody may wait for.
    pub fn ring(&self) {
        let waiting = {
            let mut inner = self.lock();
            inner.rings += 1;
            std::mem::take(&mut inner.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits for a ring after the `seen` ones.
    pub async fn heard(&self, seen: u64) {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.rings != seen {
                return Poll::Ready(());
            }
            inner.waiting.retain(|waker| !waker.will_wake(cx.waker()));
            inner.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

//! Which client connections are open, which of them wait for a request, and who must go when there are too many.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// All client connections of the process.
pub struct Connections {
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: usize,
    /// Of those, the ones that were told to go and have not gone yet.
    leaving: usize,
    /// By the order in which they fell idle: the first has been so for longest.
    idle: BTreeMap<u64, Waker>,
    next_idle: u64,
    /// Who waits for a connection to end: the listener, or the end of the process.
    waiting: Vec<Waker>,
    draining: bool,
}

/// One open connection; counts until it is dropped.
pub struct Slot {
    connections: Arc<Connections>,
    evicted: AtomicBool,
}

/// The connection has to end: it is the longest idle one and another needs its place, or the process ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Evicted;

impl Connections {
    /// At most `max` connections, at least one.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more connection may be open. When all places are taken, the longest idle connection is told
    /// to go; with none idle this waits for one to end.
    pub async fn room(&self) {
        self.wait_until(|inner| {
            if inner.open - inner.leaving >= self.max {
                evict_longest_idle(inner);
            }
            inner.open < self.max
        })
        .await;
    }

    /// Waits until no connection is open.
    pub async fn all_ended(&self) {
        self.wait_until(|inner| inner.open == 0).await;
    }

    async fn wait_until(&self, mut done: impl FnMut(&mut Inner) -> bool) {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if done(&mut inner) {
                return Poll::Ready(());
            }
            inner.waiting.retain(|waker| !waker.will_wake(cx.waker()));
            inner.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Counts a new connection.
    pub fn open(self: &Arc<Self>) -> Slot {
        self.lock().open += 1;
        Slot { connections: Arc::clone(self), evicted: AtomicBool::new(false) }
    }

    /// Frees a descriptor by telling the longest idle connection to go.
    pub fn shed_one(&self) {
        evict_longest_idle(&mut self.lock());
    }

    /// Ends all idle connections now, and the others after their request.
    pub fn drain(&self) {
        let mut inner = self.lock();
        inner.draining = true;
        while evict_longest_idle(&mut inner) {}
    }

    /// Whether the process is ending.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }
}

/// Removes the connection from the idle ones and wakes it: it finds itself gone.
fn evict_longest_idle(inner: &mut Inner) -> bool {
    match inner.idle.pop_first() {
        Some((_, waker)) => {
            inner.leaving += 1;
            waker.wake();
            true
        }
        None => false,
    }
}

impl Slot {
    /// Waits for `work` as an idle connection.
    ///
    /// # Errors
    /// [`Evicted`] if the connection has to go first.
    pub async fn idle<F: Future>(&self, work: F) -> Result<F::Output, Evicted> {
        let mut work = pin!(work);
        let mut place = Place { slot: self, key: None };
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let mut inner = self.connections.lock();
            match place.key {
                Some(key) => match inner.idle.get_mut(&key) {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => {
                        self.evicted.store(true, Ordering::Relaxed);
                        return Poll::Ready(Err(Evicted));
                    }
                },
                None if inner.draining => return Poll::Ready(Err(Evicted)),
                None => {
                    let key = inner.next_idle;
                    inner.next_idle += 1;
                    inner.idle.insert(key, cx.waker().clone());
                    place.key = Some(key);
                    if inner.open >= self.connections.max {
                        wake_all(&mut inner);
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether the process is ending: no further request on this connection.
    pub fn is_draining(&self) -> bool {
        self.connections.is_draining()
    }
}

/// The entry of an idle connection; gone with the wait.
struct Place<'a> {
    slot: &'a Slot,
    key: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut inner = self.slot.connections.lock();
        let told_to_go = inner.idle.remove(&key).is_none();
        if told_to_go && !self.slot.evicted.load(Ordering::Relaxed) {
            // A request came at the same moment: it stays.
            inner.leaving -= 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        inner.open -= 1;
        if self.evicted.load(Ordering::Relaxed) {
            inner.leaving -= 1;
        }
        wake_all(&mut inner);
    }
}

fn wake_all(inner: &mut Inner) {
    inner.waiting.drain(..).for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, pending, poll_once};

    #[test]
    fn the_longest_idle_connection_makes_room() {
        block_on(async {
            let connections = Connections::new(2);
            let (first, second) = (connections.open(), connections.open());
            let mut second_idle = pin!(second.idle(pending::<()>()));
            assert_eq!(poll_once(second_idle.as_mut()).await, None);
            let mut first_idle = pin!(first.idle(pending::<()>()));
            assert_eq!(poll_once(first_idle.as_mut()).await, None);

            let mut room = pin!(connections.room());
            assert_eq!(poll_once(room.as_mut()).await, None, "both places are taken");
            assert_eq!(poll_once(second_idle.as_mut()).await, Some(Err(Evicted)), "it fell idle first");
            assert_eq!(poll_once(first_idle.as_mut()).await, None);
        });
    }

    #[test]
    fn one_newcomer_costs_one_connection() {
        block_on(async {
            let connections = Connections::new(2);
            let (first, second) = (connections.open(), connections.open());
            let mut room = pin!(connections.room());
            assert_eq!(poll_once(room.as_mut()).await, None, "nobody is idle");
            let mut first_idle = Box::pin(first.idle(pending::<()>()));
            assert_eq!(poll_once(first_idle.as_mut()).await, None);
            assert_eq!(poll_once(room.as_mut()).await, None, "the first is told to go");
            let mut second_idle = pin!(second.idle(pending::<()>()));
            assert_eq!(poll_once(second_idle.as_mut()).await, None);
            assert_eq!(poll_once(room.as_mut()).await, None);
            assert_eq!(poll_once(second_idle.as_mut()).await, None, "one place is enough");
            assert_eq!(poll_once(first_idle.as_mut()).await, Some(Err(Evicted)));
            drop(first_idle);
            drop(first);
            assert_eq!(poll_once(room.as_mut()).await, Some(()));
        });
    }

    #[test]
    fn a_connection_at_work_is_not_disturbed_and_the_listener_waits() {
        block_on(async {
            let connections = Connections::new(1);
            let slot = connections.open();
            let mut room = pin!(connections.room());
            assert_eq!(poll_once(room.as_mut()).await, None);
            drop(slot);
            assert_eq!(poll_once(room.as_mut()).await, Some(()));
        });
    }

    #[test]
    fn draining_ends_the_idle_ones_and_refuses_to_idle_again() {
        block_on(async {
            let connections = Connections::new(9);
            let slot = connections.open();
            {
                let mut idle = pin!(slot.idle(pending::<()>()));
                assert_eq!(poll_once(idle.as_mut()).await, None);
                connections.drain();
                assert_eq!(poll_once(idle.as_mut()).await, Some(Err(Evicted)));
            }
            assert_eq!(slot.idle(pending::<()>()).await, Err(Evicted));
            let mut ended = pin!(connections.all_ended());
            assert_eq!(poll_once(ended.as_mut()).await, None);
            drop(slot);
            assert_eq!(poll_once(ended.as_mut()).await, Some(()));
        });
    }
}

//! Deadlines: one registry for the whole process and one driver that sleeps until the earliest entry.
//!
//! A timer of the reactor costs an eventfd write and a new `epoll_wait` each time one is set, several times per
//! request. Nearly all deadlines here are seconds ahead and dropped long before they end, so setting one is a map
//! insertion, dropping one a map removal, and the driver is disturbed only by a deadline earlier than its planned
//! wake-up. Knows nothing of sockets. Deadlines may fire a few milliseconds late, never early.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use async_io::Timer;

/// The deadline passed before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for Elapsed {}

/// A future that is ready once `when` has passed. Needs a running [`drive`].
pub fn sleep_until(when: Instant) -> Sleep {
    Sleep { when, entry: None }
}

/// Runs `f` until `when` at the latest. `f` is polled first: a result that is there wins over a passed deadline.
///
/// A large future comes pinned: one that is handed over by value has two places in the memory of whoever awaits this.
pub fn with_deadline<F: Future + Unpin>(
    when: Instant,
    mut f: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    let mut sleep = sleep_until(when);
    poll_fn(move |cx| {
        if let Poll::Ready(output) = Pin::new(&mut f).poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
    })
}

/// Wakes what sleeps. The program spawns this once on its executor, before anything that sets a deadline is
/// expected to fire; it never ends. More than one at a time is harmless (tests), and the process is not woken
/// while no deadline is set.
pub async fn drive() {
    let mut driver = Driver { id: None, timer: None };
    poll_fn(|cx| driver.poll(cx)).await
}

/// See [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    when: Instant,
    /// The key in the registry, and the waker kept there: comparing it needs no lock.
    entry: Option<(u64, Waker)>,
}

impl Sleep {
    /// Moves the deadline. Takes effect at the next poll, so poll afterwards.
    pub fn reset(&mut self, when: Instant) {
        if when != self.when {
            self.deregister();
            self.when = when;
        }
    }

    fn deregister(&mut self) {
        if let Some((id, _)) = self.entry.take() {
            // The waker is dropped after the lock: it may own a task whose end comes back here.
            let removed = registry().sleepers.remove(&(self.when, id));
            drop(removed);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.when {
            self.deregister();
            return Poll::Ready(());
        }
        if self.entry.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let when = self.when;
        let waker = cx.waker().clone();
        let mut registry = registry();
        let id = match &self.entry {
            Some((id, _)) => *id,
            None => registry.next_id(),
        };
        let replaced = registry.sleepers.insert((when, id), waker.clone());
        let drivers = registry.plan(when);
        drop(registry);
        drop(replaced);
        drivers.into_iter().for_each(Waker::wake);
        self.entry = Some((id, waker));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.deregister();
    }
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { sleepers: BTreeMap::new(), last_id: 0, planned: None, drivers: BTreeMap::new() });

struct Registry {
    sleepers: BTreeMap<(Instant, u64), Waker>,
    last_id: u64,
    /// When the drivers wake by themselves. Removing a sleeper does not touch it: a driver that wakes for nobody
    /// just plans anew.
    planned: Option<Instant>,
    drivers: BTreeMap<u64, Waker>,
}

/// Nothing below panics while it holds the lock, so a poisoned one is as good as new.
fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    fn next_id(&mut self) -> u64 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    /// Says whom to wake so that somebody is up at `when`: nobody, if that is planned anyway.
    fn plan(&mut self, when: Instant) -> Vec<Waker> {
        if self.planned.is_some_and(|planned| planned <= when) {
            return Vec::new();
        }
        // Without a driver nothing is planned; the first one looks at everything.
        self.planned = if self.drivers.is_empty() { None } else { Some(when) };
        self.drivers.values().cloned().collect()
    }
}

struct Driver {
    id: Option<u64>,
    timer: Option<(Instant, Timer)>,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let planned = self.wake_due(cx.waker());
            let Some(planned) = planned else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = match &mut self.timer {
                Some((at, timer)) if *at == planned => timer,
                timer => &mut timer.insert((planned, Timer::at(planned))).1,
            };
            match Pin::new(timer).poll(cx) {
                Poll::Pending => return Poll::Pending,
                // A timer that is ready is spent.
                Poll::Ready(_) => self.timer = None,
            }
        }
    }

    /// Wakes the sleepers whose time has come and plans for the next one.
    fn wake_due(&mut self, waker: &Waker) -> Option<Instant> {
        let now = Instant::now();
        let mut registry = registry();
        let id = match self.id {
            Some(id) => id,
            None => *self.id.insert(registry.next_id()),
        };
        let replaced = registry.drivers.insert(id, waker.clone());
        let mut due = Vec::new();
        while let Some(first) = registry.sleepers.first_entry() {
            if first.key().0 > now {
                break;
            }
            due.push(first.remove());
        }
        registry.planned = registry.sleepers.first_key_value().map(|((when, _), _)| *when);
        let planned = registry.planned;
        drop(registry);
        drop(replaced);
        due.into_iter().for_each(Waker::wake);
        planned
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut registry = registry();
        let gone = registry.drivers.remove(&id);
        // The plan may have been this driver's alone.
        registry.planned = None;
        let others: Vec<Waker> = registry.drivers.values().cloned().collect();
        drop(registry);
        drop(gone);
        others.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, or, yield_now};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Runs `f` beside a driver of its own.
    fn run<T>(f: impl Future<Output = T>) -> T {
        block_on(or(f, async {
            drive().await;
            unreachable!("the driver never ends")
        }))
    }

    fn after(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn a_result_that_is_there_wins_over_a_passed_deadline() {
        assert_eq!(run(with_deadline(after(0), pin!(async { 7 }))), Ok(7));
    }

    #[test]
    fn a_future_that_never_ends_is_cut_not_early() {
        let when = after(30);
        assert_eq!(run(with_deadline(when, std::future::pending::<()>())), Err(Elapsed));
        assert!(Instant::now() >= when, "fired before its time");
    }

    #[test]
    fn thousands_fire_in_order_and_leave_nothing_behind() {
        let executor = smol::Executor::new();
        let fired = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        run(executor.run(async {
            // Scattered over 97 ms by a factor prime to the count.
            let tasks: Vec<_> = (0..5000_u64)
                .map(|n| {
                    let fired = fired.clone();
                    let when = start + Duration::from_micros(n * 7919 % 5000 * 20);
                    executor.spawn(async move {
                        sleep_until(when).await;
                        assert!(Instant::now() >= when, "fired before its time");
                        fired.lock().unwrap().push(when);
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        }));
        let fired = fired.lock().unwrap();
        assert_eq!(fired.len(), 5000);
        assert!(registry().sleepers.keys().all(|(when, _)| !fired.contains(when)));
    }

    #[test]
    fn sooner_and_later_resets_count() {
        run(async {
            let mut sleep = sleep_until(after(60_000));
            poll_once(&mut sleep).await;
            let sooner = after(20);
            sleep.reset(sooner);
            (&mut sleep).await;
            assert!(Instant::now() >= sooner);

            let first = after(10);
            sleep.reset(first);
            poll_once(&mut sleep).await;
            let later = after(50);
            sleep.reset(later);
            (&mut sleep).await;
            assert!(Instant::now() >= later, "the old deadline fired");
        });
    }

    #[test]
    fn a_dropped_sleep_is_forgotten() {
        run(async {
            let when = after(3_600_000);
            let mut sleep = sleep_until(when);
            assert!(!is_registered(when), "registered before the first poll");
            poll_once(&mut sleep).await;
            assert!(is_registered(when));
            drop(sleep);
            assert!(!is_registered(when));
        });
    }

    #[test]
    fn a_sleep_that_moves_to_another_task_wakes_that_one() {
        run(async {
            let mut sleep = sleep_until(after(30));
            let counter = Arc::new(Count(AtomicUsize::new(0)));
            let other = Waker::from(counter.clone());
            assert!(Pin::new(&mut sleep).poll(&mut Context::from_waker(&other)).is_pending());
            (&mut sleep).await;
            assert_eq!(counter.0.load(Ordering::SeqCst), 0, "the old task was woken");
        });
    }

    #[test]
    fn later_deadlines_do_not_disturb_a_planned_driver() {
        let counter = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(counter.clone());
        let start = Instant::now();
        let mut registry = Registry {
            sleepers: BTreeMap::new(),
            last_id: 0,
            planned: None,
            drivers: BTreeMap::from([(1, waker)]),
        };
        let steps = [(50, 1), (60, 0), (50, 0), (40, 1), (45, 0)];
        for (ms, woken) in steps {
            let drivers = registry.plan(start + Duration::from_millis(ms));
            assert_eq!(drivers.len(), woken, "deadline at {ms} ms");
        }
        registry.drivers.clear();
        assert!(registry.plan(start).is_empty());
        assert_eq!(registry.planned, None, "nobody is there to keep a plan");
    }

    #[test]
    fn another_driver_takes_over_when_one_ends() {
        run(async {
            let mut first = Box::pin(drive());
            poll_once(&mut first).await;
            let when = after(20);
            let mut sleep = sleep_until(when);
            poll_once(&mut sleep).await;
            drop(first);
            (&mut sleep).await;
        });
    }

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn poll_once(f: &mut (impl Future<Output = ()> + Unpin)) {
        yield_now().await;
        assert!(futures_lite::future::poll_once(f).await.is_none(), "ready too early");
    }

    fn is_registered(when: Instant) -> bool {
        registry().sleepers.keys().any(|(key, _)| *key == when)
    }
}

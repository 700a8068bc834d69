//! Idle connections to providers, kept for the next request.

use super::conn::Conn;
use crate::limits::{POOL_IDLE_MAX, POOL_IDLE_PER_HOST_MAX, POOL_IDLE_TIME};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Connections by origin: scheme, host, port, proxy and trust together.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<HashMap<Arc<str>, Vec<Idle>>>,
}

struct Idle {
    conn: Conn,
    since: Instant,
}

impl Pool {
    /// The connection to `origin` that was used last and still looks alive.
    ///
    /// Last in, first out: the fewest connections stay warm and the others run out. One that has something to read
    /// was closed, or holds bytes that would be taken for an answer to the next request: it is dropped.
    pub fn take(&self, origin: &str, now: Instant) -> Option<Conn> {
        loop {
            let mut conn = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let stack = idle.get_mut(origin)?;
                let Idle { conn, since } = stack.pop()?;
                if now.duration_since(since) > POOL_IDLE_TIME {
                    // All below are older still.
                    stack.clear();
                    return None;
                }
                conn
            };
            if conn.is_quiet() {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection whose last exchange ended cleanly; drops it when the pool is full.
    pub fn put(&self, origin: &Arc<str>, conn: Conn, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = idle.values().map(Vec::len).sum();
        let stack = match idle.get_mut(origin) {
            Some(stack) => stack,
            None => idle.entry(Arc::clone(origin)).or_default(),
        };
        if all < POOL_IDLE_MAX && stack.len() < POOL_IDLE_PER_HOST_MAX {
            stack.push(Idle { conn, since: now });
        }
    }

    /// Closes all idle connections: their descriptors are needed.
    pub fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes what has been idle for too long, and what the provider has closed. To be called now and then.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, stack| {
            // One that has something to read was closed by the other side, or is of no use.
            stack.retain_mut(|idle| now.duration_since(idle.since) <= POOL_IDLE_TIME && idle.conn.is_quiet());
            !stack.is_empty()
        });
    }
}

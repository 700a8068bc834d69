//! Responses that a client may go on from or ask for again: the last few, in memory.

use crate::dialect::raw;
use crate::limits::{STORED_BYTES_MAX, STORED_RESPONSE_BYTES_MAX, STORED_RESPONSES_MAX};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The responses kept. The oldest ones go when there are too many or they take too much.
#[derive(Default)]
pub struct Store {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: HashMap<String, Kept>,
    /// Oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

struct Kept {
    response: Arc<str>,
    /// The items of the conversation so far, each as JSON.
    items: Arc<Vec<String>>,
    /// Those of the response are among them. Most responses are never gone on from: it can wait.
    whole: bool,
    bytes: usize,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `response`, the response object `id` as JSON, with the items that led to it. What is too large is not kept.
    pub fn keep(&self, id: String, response: String, items: Vec<String>) {
        // Twice the response: its output will be among the items.
        let bytes = 2 * response.len() + items.iter().map(String::len).sum::<usize>();
        if bytes > STORED_RESPONSE_BYTES_MAX {
            return;
        }
        let mut inner = self.lock();
        inner.remove(&id);
        inner.bytes += bytes;
        inner.order.push_back(id.clone());
        inner
            .by_id
            .insert(id, Kept { response: response.into(), items: Arc::new(items), whole: false, bytes });
        while inner.order.len() > STORED_RESPONSES_MAX || inner.bytes > STORED_BYTES_MAX {
            let Some(oldest) = inner.order.front().cloned() else { break };
            inner.remove(&oldest);
        }
    }

    /// The response with this id.
    pub fn response(&self, id: &str) -> Option<Arc<str>> {
        self.lock().by_id.get(id).map(|kept| Arc::clone(&kept.response))
    }

    /// The conversation up to and with this response.
    pub fn items(&self, id: &str) -> Option<Arc<Vec<String>>> {
        self.lock().by_id.get_mut(id).map(Kept::items)
    }

    /// Forgets one; whether it was there.
    pub fn forget(&self, id: &str) -> bool {
        self.lock().remove(id)
    }
}

impl Kept {
    fn items(&mut self) -> Arc<Vec<String>> {
        if !std::mem::replace(&mut self.whole, true)
            && let Some(output) = output_of(&self.response)
        {
            // Nobody has a share in them yet, so nothing is copied.
            Arc::make_mut(&mut self.items).extend(output);
        }
        Arc::clone(&self.items)
    }
}

/// The items of a response.
fn output_of(response: &str) -> Option<Vec<String>> {
    let [output] = raw::members(response, &["output"]).ok()?;
    raw::elements(output.unwrap_or("[]")).map(|item| item.ok().map(str::to_owned)).collect()
}

impl Inner {
    fn remove(&mut self, id: &str) -> bool {
        let Some(kept) = self.by_id.remove(id) else { return false };
        self.bytes -= kept.bytes;
        // Mostly the first: it is the oldest that goes.
        if let Some(at) = self.order.iter().position(|known| known == id) {
            self.order.remove(at);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(id: &str, text: &str) -> String {
        format!(r#"{{"id":"{id}","output":[{{"type":"message","x":"{text}"}}]}}"#)
    }

    #[test]
    fn a_response_is_kept_with_its_conversation_until_it_is_forgotten() {
        let store = Store::default();
        store.keep("a".into(), response("a", "hi"), vec!["1".into()]);
        assert_eq!(
            store.items("a").unwrap()[..],
            ["1".to_owned(), r#"{"type":"message","x":"hi"}"#.to_owned()]
        );
        assert_eq!(&*store.response("a").unwrap(), response("a", "hi"));
        assert!(store.forget("a") && !store.forget("a"));
        assert!(store.items("a").is_none() && store.response("a").is_none());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_too_large() {
        let store = Store::default();
        for n in 0..=STORED_RESPONSES_MAX {
            store.keep(n.to_string(), response(&n.to_string(), ""), Vec::new());
        }
        assert!(store.items("0").is_none() && store.items("1").is_some());
        let large = "x".repeat(STORED_RESPONSE_BYTES_MAX / 2 - 100);
        for n in 0..=STORED_BYTES_MAX / STORED_RESPONSE_BYTES_MAX {
            store.keep(format!("large{n}"), response(&format!("large{n}"), &large), Vec::new());
        }
        assert!(store.items("1").is_none(), "the small ones were older");
        assert!(store.items("large0").is_none() && store.items("large1").is_some());
        store.keep("huge".into(), response("huge", &"x".repeat(STORED_RESPONSE_BYTES_MAX)), Vec::new());
        assert!(store.items("huge").is_none());
    }
}

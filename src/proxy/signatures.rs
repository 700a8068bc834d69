//! Gemini's thought signatures, for clients that have no place for them: its calls are refused without (translation §8).

use crate::dialect::answer::Sink;
use crate::dialect::model::{Block, Event, Part, Request};
use crate::limits::{SIGNATURE_BYTES_MAX, SIGNATURES_BYTES_MAX, SIGNATURES_MAX};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Signatures by the id of their call. The oldest go when there are too many or they take too much.
#[derive(Debug, Default)]
pub struct Signatures {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<Arc<str>, Box<str>>,
    /// Oldest first; each id once.
    order: VecDeque<Arc<str>>,
    /// Of ids and signatures.
    bytes: usize,
}

impl Signatures {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes events on to `sink`; the signatures among them are remembered.
    pub fn watch<'s>(&'s self, sink: Sink<'s>) -> impl FnMut(Event<'_>) + 's {
        move |event| {
            if let Event::Open(Block::Tool { id, signature: Some(signature), .. }) = event {
                self.remember(id, signature);
            }
            sink(event);
        }
    }

    /// Remembers one, unless it is too long to be one.
    pub fn remember(&self, id: &str, signature: &str) {
        let bytes = id.len() + signature.len();
        if signature.is_empty() || bytes > SIGNATURE_BYTES_MAX {
            return;
        }
        let mut inner = self.lock();
        inner.forget(id);
        let id: Arc<str> = id.into();
        inner.bytes += bytes;
        inner.order.push_back(Arc::clone(&id));
        inner.by_id.insert(id, signature.into());
        while inner.order.len() > SIGNATURES_MAX || inner.bytes > SIGNATURES_BYTES_MAX {
            let Some(oldest) = inner.order.front().cloned() else { break };
            inner.forget(&oldest);
        }
    }

    /// The one of this call.
    pub fn of(&self, id: &str) -> Option<String> {
        self.lock().by_id.get(id).map(|known| known.to_string())
    }

    /// Gives the calls of a request back what their client has dropped.
    pub fn fill(&self, request: &mut Request<'_>) {
        let inner = self.lock();
        if inner.by_id.is_empty() {
            return;
        }
        for part in request.turns.iter_mut().flat_map(|turn| &mut turn.parts) {
            if let Part::ToolCall { id, signature, .. } = part
                && signature.as_deref().is_none_or(str::is_empty)
            {
                *signature = inner.by_id.get(&**id).map(|known| Cow::Owned(known.to_string()));
            }
        }
    }
}

impl Inner {
    fn forget(&mut self, id: &str) {
        let Some((id, signature)) = self.by_id.remove_entry(id) else { return };
        self.bytes -= id.len() + signature.len();
        // Mostly the first: it is the oldest that goes.
        if let Some(at) = self.order.iter().position(|known| *known == id) {
            self.order.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::model::{Role, Turn};

    /// What a call with this id and signature has after filling.
    fn filled(signatures: &Signatures, id: &str, signature: Option<&str>) -> Option<String> {
        let call = Part::ToolCall {
            id: id.to_owned().into(),
            name: "f".into(),
            arguments: "{}".into(),
            signature: signature.map(|signature| signature.to_owned().into()),
        };
        let turns = vec![Turn { role: Role::Assistant, parts: vec![Part::Text("x".into()), call] }];
        let mut request = Request { turns, ..Request::default() };
        signatures.fill(&mut request);
        match request.turns.pop()?.parts.pop()? {
            Part::ToolCall { signature, .. } => signature.map(Cow::into_owned),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_gets_its_signature_back_unless_the_client_kept_one() {
        let signatures = Signatures::default();
        assert_eq!(filled(&signatures, "a", None), None);
        let mut passed = 0;
        {
            let mut count = |_: Event<'_>| passed += 1;
            let mut watch = signatures.watch(&mut count);
            watch(Event::Open(Block::Tool { id: "a", name: "f", signature: Some("sig-a") }));
            watch(Event::Close { signature: Some("of thinking") });
            watch(Event::Open(Block::Tool { id: "b", name: "f", signature: None }));
        }
        assert_eq!(passed, 3, "all events go on");
        assert_eq!(filled(&signatures, "a", None).as_deref(), Some("sig-a"));
        assert_eq!(filled(&signatures, "a", Some("")).as_deref(), Some("sig-a"));
        assert_eq!(filled(&signatures, "a", Some("own")).as_deref(), Some("own"));
        assert_eq!(filled(&signatures, "b", None), None);
        signatures.remember("a", "later");
        assert_eq!(filled(&signatures, "a", None).as_deref(), Some("later"));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_too_large() {
        let signatures = Signatures::default();
        for n in 0..=SIGNATURES_MAX {
            signatures.remember(&format!("{n:05}"), "s");
        }
        assert_eq!(filled(&signatures, "00000", None), None);
        assert_eq!(filled(&signatures, "00001", None).as_deref(), Some("s"));

        let large = "x".repeat(SIGNATURE_BYTES_MAX - 1);
        let fit = SIGNATURES_BYTES_MAX / SIGNATURE_BYTES_MAX;
        for id in ('a'..).take(fit) {
            signatures.remember(&id.to_string(), &large);
        }
        assert_eq!(filled(&signatures, "00001", None), None, "the small ones were older");
        assert!(filled(&signatures, "a", None).is_some());
        signatures.remember("one more", "s");
        assert_eq!(filled(&signatures, "a", None), None);
        assert!(filled(&signatures, "b", None).is_some());
        let inner = signatures.lock();
        assert_eq!((inner.by_id.len(), inner.order.len()), (fit, fit));
        assert_eq!(inner.bytes, (fit - 1) * SIGNATURE_BYTES_MAX + "one mores".len());
        drop(inner);

        signatures.remember("huge", &format!("{large}x"));
        assert_eq!(filled(&signatures, "huge", None), None);
    }
}

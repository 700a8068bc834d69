//! The order of a conversation (translation §2 to §5): neighbours of one role merged, each call answered in the next
//! user turn, results first. Knows no protocol.

use super::super::model::{Part, Role, Text, Turn};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

/// Stands where a call was never answered: providers refuse a history with an open call.
pub(super) const NO_RESULT: &str = "(no result)";

/// Collects parts in the order the client sent them; [`finish`](Self::finish) makes turns of them.
#[derive(Debug, Default)]
pub(super) struct Turns<'a> {
    entries: Vec<(Role, Part<'a>)>,
    /// Calls that a result without an id may belong to, oldest first.
    open: VecDeque<Cow<'a, str>>,
    /// Ids that have had a result.
    answered: HashSet<Cow<'a, str>>,
    made_up: usize,
}

impl<'a> Turns<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a part; empty texts are nothing.
    pub(super) fn push(&mut self, role: Role, part: Part<'a>) {
        if matches!(&part, Part::Text(text) | Part::System(text) | Part::Refusal(text) if text.is_empty()) {
            return;
        }
        if role == Role::Assistant && !matches!(self.entries.last(), Some((Role::Assistant, _))) {
            self.open.clear();
        }
        self.entries.push((role, part));
    }

    pub(super) fn text(&mut self, role: Role, text: Text<'a>) {
        self.push(role, Part::Text(text));
    }

    /// Adds a call. Some clients and old protocols have no ids: one is made up from the call's number, the same on
    /// every turn.
    pub(super) fn call(
        &mut self,
        id: Option<Cow<'a, str>>,
        name: Cow<'a, str>,
        arguments: Cow<'a, str>,
        signature: Option<Cow<'a, str>>,
    ) {
        let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| {
            self.made_up += 1;
            Cow::Owned(format!("call_made_up_{}", self.made_up))
        });
        self.answered.remove(&id);
        self.push(Role::Assistant, Part::ToolCall { id: id.clone(), name, arguments, signature });
        self.open.push_back(id);
    }

    /// Adds a result. Without an id it belongs to the oldest call still open.
    pub(super) fn result(&mut self, id: Option<Cow<'a, str>>, parts: Vec<Part<'a>>, is_error: bool) {
        let mut id = id.filter(|id| !id.is_empty());
        while id.is_none() {
            match self.open.pop_front() {
                Some(oldest) if self.answered.contains(&oldest) => {}
                Some(oldest) => id = Some(oldest),
                None => break,
            }
        }
        let id = id.unwrap_or_default();
        self.answered.insert(id.clone());
        self.push(Role::User, Part::ToolResult { id, parts, is_error });
    }

    /// The turns, as the model demands them.
    pub(super) fn finish(self) -> Vec<Turn<'a>> {
        let Plan { ids, answers, claimed, runs } = Plan::of(&self.entries);
        let mut entries: Vec<Option<(Role, Part<'a>)>> = self.entries.into_iter().map(Some).collect();
        let mut out = Out(Vec::new());
        let mut ids = ids.into_iter().peekable();
        let mut due = Vec::new();
        let mut run = 0;
        for at in 0..entries.len() {
            let this_run = runs.get(at).copied().unwrap_or_default();
            if this_run != run {
                run = this_run;
                due.drain(..).for_each(|result| out.push(Role::User, result));
            }
            if claimed.get(at) == Some(&true) {
                continue;
            }
            let Some((role, part)) = entries.get_mut(at).and_then(Option::take) else { continue };
            match part {
                Part::ToolCall { id, name, arguments, signature } => {
                    let renamed = ids.next_if(|(call, _)| *call == at);
                    let id = renamed.map_or(id, |(_, id)| Cow::Owned(id));
                    let result =
                        answers.get(at).copied().flatten().and_then(|at| entries.get_mut(at)?.take());
                    due.push(match result {
                        Some((_, Part::ToolResult { parts, is_error, .. })) => {
                            Part::ToolResult { id: id.clone(), parts, is_error }
                        }
                        _ => Part::ToolResult {
                            id: id.clone(),
                            parts: vec![Part::Text(NO_RESULT.into())],
                            is_error: false,
                        },
                    });
                    out.push(role, Part::ToolCall { id, name, arguments, signature });
                }
                Part::ToolResult { parts, .. } => {
                    out.push(Role::User, Part::Text("[result of a tool call that is not shown]".into()));
                    parts.into_iter().for_each(|part| out.push(Role::User, part));
                }
                part => out.push(role, part),
            }
        }
        due.drain(..).for_each(|result| out.push(Role::User, result));
        out.0
    }
}

/// The turns without any thinking, for a provider that refused a foreign signature (translation §8).
pub(super) fn without_thinking(turns: Vec<Turn<'_>>) -> Vec<Turn<'_>> {
    let mut out = Out(Vec::with_capacity(turns.len()));
    for turn in turns {
        let kept = turn
            .parts
            .into_iter()
            .filter(|part| !matches!(part, Part::Thinking { .. } | Part::RedactedThinking(_)));
        kept.for_each(|part| out.push(turn.role, part));
    }
    out.0
}

struct Out<'a>(Vec<Turn<'a>>);

impl<'a> Out<'a> {
    fn push(&mut self, role: Role, part: Part<'a>) {
        match self.0.last_mut() {
            Some(turn) if turn.role == role => turn.parts.push(part),
            _ => self.0.push(Turn { role, parts: vec![part] }),
        }
    }
}

/// Which result answers which call; all numbers are places in the list of entries.
struct Plan {
    /// Of each entry: the number of its run of one role.
    runs: Vec<usize>,
    /// Of each call: its result.
    answers: Vec<Option<usize>>,
    /// Of each result: it has found its call.
    claimed: Vec<bool>,
    /// New ids of calls whose id was taken already, in the order of the calls.
    ids: Vec<(usize, String)>,
}

impl Plan {
    fn of(entries: &[(Role, Part<'_>)]) -> Self {
        let mut plan = Self {
            runs: Vec::with_capacity(entries.len()),
            answers: vec![None; entries.len()],
            claimed: vec![false; entries.len()],
            ids: Vec::new(),
        };
        // Sorted by id: cheaper than a map of lists.
        let mut named: Vec<(&str, usize)> = Vec::new();
        let (mut run, mut last) = (0, None);
        for (at, (role, part)) in entries.iter().enumerate() {
            if last.is_some_and(|last| last != *role) {
                run += 1;
            }
            last = Some(*role);
            plan.runs.push(run);
            match part {
                Part::ToolCall { id, .. } | Part::ToolResult { id, .. } => named.push((id, at)),
                _ => {}
            }
        }
        named.sort();
        let is_call = |at: usize| matches!(entries.get(at), Some((_, Part::ToolCall { .. })));
        let (mut calls, mut results, mut again) = (Vec::new(), Vec::new(), false);
        for same in named.chunk_by(|(a, _), (b, _)| a == b) {
            calls.clear();
            results.clear();
            for &(_, at) in same {
                if is_call(at) { calls.push(at) } else { results.push(at) }
            }
            plan.pair(&calls, &results);
            again |= calls.len() > 1;
        }
        if again {
            plan.rename(entries, &named);
        }
        plan
    }

    /// Pairs the calls and results of one id. Some servers count ids anew in every answer, so a result belongs to
    /// the calls of the last run before it; one that came too early to the first call that has none.
    fn pair(&mut self, calls: &[usize], results: &[usize]) {
        let run_of = |at: usize| self.runs.get(at).copied();
        let mut pairs = Vec::new();
        let mut results = results.iter().copied().peekable();
        let mut spare = VecDeque::new();
        for group in calls.chunk_by(|a, b| run_of(*a) == run_of(*b)) {
            let (Some(&first), Some(&last)) = (group.first(), group.last()) else { continue };
            while let Some(early) = results.next_if(|at| *at < first) {
                spare.push_back(early);
            }
            let next = calls.get(calls.partition_point(|call| *call <= last)).copied().unwrap_or(usize::MAX);
            for &call in group {
                let own = results.next_if(|at| *at < next);
                if let Some(result) = own.or_else(|| spare.pop_front()) {
                    pairs.push((call, result));
                }
            }
        }
        for (call, result) in pairs {
            if let (Some(answer), Some(claimed)) = (self.answers.get_mut(call), self.claimed.get_mut(result))
            {
                *answer = Some(result);
                *claimed = true;
            }
        }
    }

    /// Ids must be unique in a request (anthropic-messages §4): the second call of an id gets another.
    fn rename(&mut self, entries: &[(Role, Part<'_>)], named: &[(&str, usize)]) {
        let is_taken = |id: &str| named.binary_search_by(|(known, _)| (*known).cmp(id)).is_ok();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (at, (_, part)) in entries.iter().enumerate() {
            let Part::ToolCall { id, .. } = part else { continue };
            let count = seen.entry(id).or_default();
            *count += 1;
            if *count > 1 {
                let mut new = format!("{id}_{count}");
                while is_taken(&new) {
                    *count += 1;
                    new = format!("{id}_{count}");
                }
                self.ids.push((at, new));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter each: `u`, `a` text of user and assistant, `s` a system text, `cX` a call, `rX` a result.
    #[track_caller]
    fn check(script: &str, expected: &str) {
        let mut turns = Turns::default();
        for word in script.split(' ') {
            let (kind, id) = word.split_at(1);
            let id = (id != "-").then(|| Cow::Owned(id.to_owned()));
            match kind {
                "u" => turns.text(Role::User, word.to_owned().into()),
                "a" => turns.text(Role::Assistant, word.to_owned().into()),
                "s" => turns.push(Role::User, Part::System("s".into())),
                "c" => turns.call(id, "f".into(), "{}".into(), None),
                _ => turns.result(id, vec![Part::Text(word.to_owned().into())], false),
            }
        }
        let turns = turns.finish();
        let mut out = Vec::new();
        for turn in &turns {
            let parts: Vec<String> = turn.parts.iter().map(show).collect();
            out.push(format!("{}[{}]", if turn.role == Role::User { "U" } else { "A" }, parts.join(" ")));
        }
        assert_eq!(out.join(" "), expected, "{script}");
        assert!(turns.windows(2).all(|pair| pair[0].role != pair[1].role), "{script}: neighbours");
    }

    fn show(part: &Part) -> String {
        match part {
            Part::Text(text) if text.starts_with('[') => "orphan".into(),
            Part::Text(text) | Part::System(text) => text.to_string(),
            Part::ToolCall { id, .. } => format!("c:{id}"),
            Part::ToolResult { id, parts, .. } => {
                format!("{id}={}", parts.iter().map(show).collect::<Vec<_>>().join(","))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn results_come_first_and_in_the_order_of_the_calls() {
        check("u c1 c2 r2 r1 u", "U[u] A[c:1 c:2] U[1=r1 2=r2 u]");
        check("u c1 c2 u r2 r1", "U[u] A[c:1 c:2] U[1=r1 2=r2 u]");
        check("u a c1 r1 c2 r2", "U[u] A[a c:1] U[1=r1] A[c:2] U[2=r2]");
        check("u c1 a r1", "U[u] A[c:1 a] U[1=r1]");
        check("u c1 s r1 a", "U[u] A[c:1] U[1=r1 s] A[a]");
    }

    #[test]
    fn results_move_to_their_calls() {
        check("u c1 u a r1 u", "U[u] A[c:1] U[1=r1 u] A[a] U[u]");
        check("u r1 c1 u", "U[u] A[c:1] U[1=r1 u]");
        check("r1 c1", "A[c:1] U[1=r1]");
        check("a r1 c1", "A[a c:1] U[1=r1]");
        check("c1 r1 a r2 c2", "A[c:1] U[1=r1] A[a c:2] U[2=r2]");
    }

    #[test]
    fn what_is_missing_is_made_up() {
        check("u c1", "U[u] A[c:1] U[1=(no result)]");
        check("u c1 u", "U[u] A[c:1] U[1=(no result) u]");
        check("u c1 c2 r2 a u", "U[u] A[c:1 c:2] U[1=(no result) 2=r2] A[a] U[u]");
        check("u r9 a", "U[u orphan r9] A[a]");
        check("c1 r1 r1", "A[c:1] U[1=r1 orphan r1]");
        check("u c- r- u", "U[u] A[c:call_made_up_1] U[call_made_up_1=r- u]");
        check("c- c- r- r-", "A[c:call_made_up_1 c:call_made_up_2] U[call_made_up_1=r- call_made_up_2=r-]");
        check("c1 c2 r1 r-", "A[c:1 c:2] U[1=r1 2=r-]");
        check("u r-", "U[u orphan r-]");
        check("c1 u a c2 r-", "A[c:1] U[1=(no result) u] A[a c:2] U[2=r-]");
    }

    #[test]
    fn ids_that_come_again_are_other_calls() {
        check("c1 r1 c1 r1", "A[c:1] U[1=r1] A[c:1_2] U[1_2=r1]");
        check("c1 c1 r1 r1", "A[c:1 c:1_2] U[1=r1 1_2=r1]");
        check("c1 u c1 r1", "A[c:1] U[1=(no result) u] A[c:1_2] U[1_2=r1]");
        check("c1 c1_2 c1 r1", "A[c:1 c:1_2 c:1_3] U[1=r1 1_2=(no result) 1_3=(no result)]");
    }

    #[test]
    fn neighbours_merge_and_empty_texts_vanish() {
        check("u u a a s s", "U[u u] A[a a] U[s s]");
        let mut turns = Turns::default();
        turns.text(Role::User, "".into());
        assert!(turns.is_empty() && turns.finish().is_empty());
    }
}

//! `ai-free-swap explain`: what would become of a request, by the program's own plan and without any call.

use crate::config::{Config, ModelRouting, Protocol, Selection};
use crate::dialect::ask::{self, Ask, Dialect};
use crate::dialect::request::estimate;
use crate::proxy::demand;
use crate::proxy::job::{Reading, passes};
use crate::proxy::state::{Plan, State};
use crate::proxy::status::{moment, seconds_up};
use crate::proxy::upstream::Upstream;
use crate::route::Now;
use crate::route::ledger::{Spent, Standing};
use crate::route::plan::{Outcome, Record, Skipped, Step, words};
use crate::route::quota::{Shortage, Source};
use crate::route::verdict::{Class, Scope, Verdict};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt::Write;

/// What is to be explained.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question<'a> {
    /// The model asked for; wins over the one in `body`.
    pub model: Option<&'a str>,
    /// A request as a client would send it.
    pub body: Option<&'a [u8]>,
    /// Whose protocol the body is in; `None`: to be guessed.
    pub dialect: Option<Dialect>,
    /// Whether the state holds what earlier runs have left.
    pub remembers: bool,
}

/// The plan in words.
///
/// # Errors
/// The body is no request: what a client would be told.
pub fn explain(state: &State, question: &Question<'_>, now: Now) -> Result<String, String> {
    let request = question.body.map(|body| Request::read(body, question.dialect)).transpose()?;
    let model = question.model.or_else(|| request.as_ref().and_then(|request| request.ask.model()));
    let rehearsal = Rehearsal::new(state, model, question.body, request.as_ref(), now);
    // Writing to a String cannot fail.
    let mut text = String::new();
    if let Some(request) = &request {
        let _ = writeln!(text, "{}", request.describe(question));
    }
    let _ = writeln!(text, "{}", describe_model(&state.config, model, &rehearsal));

    let shown = |place: usize| {
        let named = state.stats.backend(place).zip(state.config.backends.get(place));
        named.map_or_else(String::new, |(series, config)| format!("{} ({})", series.label, config.model))
    };
    let places = 0..state.config.backends.len();
    let width = places.clone().map(|place| shown(place).chars().count()).max().unwrap_or(0);
    let mut priority = None;
    for (place, fate, standing) in &rehearsal.fates {
        let Some(config) = state.config.backends.get(*place) else { continue };
        if priority != Some(config.priority) {
            priority = Some(config.priority);
            let same = |place: usize| state.config.backends.get(place).map(|peer| peer.priority) == priority;
            let peers = rehearsal.fates.iter().filter(|(place, ..)| same(*place)).count();
            let order = if peers > 1 { order(state.config.selection) } else { "" };
            let _ = writeln!(text, "priority {}{order}:", config.priority);
        }
        let mut notes = vec![note(fate, *standing, now)];
        let upstream = state.upstreams.get(*place);
        notes.extend(request.as_ref().zip(upstream).map(|(request, upstream)| request.way(upstream)));
        notes.retain(|note| !note.is_empty());
        let line = format!("  {:<width$}  {}", shown(*place), notes.join("; "));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let is_candidate = |place: &usize| rehearsal.fates.iter().any(|(other, ..)| other == place);
    let others: Vec<String> = places.filter(|place| !is_candidate(place)).map(shown).collect();
    if !others.is_empty() {
        let _ = writeln!(text, "no candidates, as they have another model: {}", others.join(", "));
    }
    if let Some(refusal) = &rehearsal.refusal {
        let _ = writeln!(text, "{refusal}");
    } else if state.config.keep_cycles > 1 {
        let _ = writeln!(
            text,
            "Who fails for the moment is asked again, in up to {} passes.",
            state.config.keep_cycles
        );
    }
    if !question.remembers {
        text.push_str(
            "Nothing is remembered, as there is no state_file: who rests just now is in GET /status.\n",
        );
    }
    Ok(text)
}

fn describe_model(config: &Config, model: Option<&str>, rehearsal: &Rehearsal) -> String {
    let named = model.map_or_else(|| "no model".into(), |model| format!("model `{}`", model.escape_debug()));
    let means = match config.model_routing {
        ModelRouting::Any => "any backend (model_routing: any)",
        ModelRouting::Match if rehearsal.fates.len() < config.backends.len() => "the backends that have it",
        ModelRouting::Match => "any backend (model_routing: match, and none or all have it)",
    };
    format!("{named}: {means}")
}

/// How those of one priority are ordered.
fn order(selection: Selection) -> &'static str {
    match selection {
        Selection::Random => ", in random order",
        Selection::LeastUsed => ", who has most left first",
        Selection::Sticky => ", in random order, but first who answered the conversation before",
    }
}

/// A request as far as it matters here.
struct Request<'a> {
    text: &'a str,
    ask: Ask,
    /// In the neutral form; or why that cannot be.
    reading: Result<Reading<'a>, String>,
}

impl<'a> Request<'a> {
    fn read(body: &'a [u8], dialect: Option<Dialect>) -> Result<Self, String> {
        let dialect = dialect.unwrap_or_else(|| guess(body));
        let asked = ask::text(body).and_then(|text| Ok((text, Ask::parse(dialect, text)?)));
        let (text, ask) =
            asked.map_err(|e| format!("the request is refused as {}: {}", dialect.name(), e.message))?;
        let reading = Reading::new(dialect, text, &[]).map_err(|e| e.message.into_owned());
        Ok(Self { text, ask, reading })
    }

    fn describe(&self, question: &Question<'_>) -> String {
        let guessed = if question.dialect.is_none() { " (guessed; see --dialect)" } else { "" };
        let stream = if self.ask.stream() { "a stream" } else { "a whole answer" };
        let size = match &self.reading {
            Ok(reading) => format!("about {} input tokens", estimate::input_tokens(&reading.request)),
            Err(why) => format!("cannot be translated: {why}"),
        };
        let before = matches!(&self.ask, Ask::Other(_, envelope) if envelope.previous.is_some());
        let before = if before { ", without the conversation before it" } else { "" };
        format!("request in {}{guessed}, for {stream}, {size}{before}", self.ask.dialect().name())
    }

    /// How it would go to this backend.
    fn way(&self, upstream: &Upstream) -> String {
        if passes(&self.ask, self.text, upstream) {
            return "as it came".into();
        }
        let target = if upstream.protocol() == Protocol::OpenAi { "chat" } else { "messages" };
        match &self.reading {
            Ok(_) => format!("translated to {target}"),
            Err(_) => format!("cannot be translated to {target}"),
        }
    }
}

/// Whose protocol a request is in, as far as it shows. What all three could have sent is chat.
pub fn guess(body: &[u8]) -> Dialect {
    let Ok(Value::Object(top)) = serde_json::from_slice(body) else { return Dialect::Chat };
    let has = |keys: &[&str]| keys.iter().any(|key| top.contains_key(*key));
    if !has(&["messages"]) && has(&["input", "previous_response_id", "instructions"]) {
        return Dialect::Responses;
    }
    let list = |key: &str| top.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let contents = list("messages").iter().filter_map(|message| message.get("content")?.as_array());
    let anthropic = ["tool_use", "tool_result", "thinking", "redacted_thinking", "document", "image"];
    let mut types = contents.flatten().filter_map(|part| part.get("type")?.as_str());
    if has(&["system", "stop_sequences", "thinking", "top_k"])
        || list("tools").iter().any(|tool| tool.get("input_schema").is_some())
        || types.any(|kind| anthropic.contains(&kind))
    {
        return Dialect::Messages;
    }
    // Messages has only the roles `user` and `assistant`, and demands `max_tokens`.
    let only_chat = has(&[
        "max_completion_tokens",
        "response_format",
        "stop",
        "n",
        "stream_options",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logprobs",
        "logit_bias",
        "reasoning_effort",
        "parallel_tool_calls",
        "functions",
        "user",
    ]) || list("tools").iter().any(|tool| tool.get("function").is_some())
        || list("messages").iter().any(|message| {
            let role = message.get("role").and_then(Value::as_str);
            !matches!(role, Some("user" | "assistant")) || message.get("tool_calls").is_some()
        });
    if has(&["max_tokens"]) && !only_chat { Dialect::Messages } else { Dialect::Chat }
}

/// What becomes of a candidate if nobody before it answers.
enum Fate {
    /// It is tried, perhaps after a wait.
    Tried,
    /// It is not, as it rests: what the walk says of that.
    Rests(String),
    /// Why it is not.
    Skipped(String),
}

/// The walk of a request that every backend fails for good, and that changes nothing.
struct Rehearsal {
    /// By place in the config, in the order in which they are shown, and how they stood before.
    fates: Vec<(usize, Fate, Standing)>,
    /// What the client is told, if nobody is asked.
    refusal: Option<String>,
}

impl Rehearsal {
    fn new(
        state: &State,
        model: Option<&str>,
        body: Option<&[u8]>,
        request: Option<&Request<'_>>,
        now: Now,
    ) -> Self {
        let reading = request.and_then(|request| request.reading.as_ref().ok());
        let exact = || reading.map(|reading| demand::exact(&reading.request));
        let bytes = body.map_or(0, <[u8]>::len);
        let Plan { mut walk, tokens, .. } = state.plan(model, bytes, exact, || None);
        let mut ledger = state.ledger();
        let standings: Vec<Standing> =
            (0..state.config.backends.len()).map(|place| ledger.standing(place, tokens, now.mono)).collect();
        let mut tried = HashSet::new();
        let mut time = now.mono;
        loop {
            match walk.next(&mut ledger, time) {
                Step::Try(ticket) => {
                    ledger.end(ticket, Spent::Nothing);
                    tried.insert(ticket.backend);
                    walk.failed(fails_for_good());
                }
                Step::Wait(until) if until > time => time = until,
                Step::Wait(_) | Step::Exhausted => break,
            }
        }
        if let Some(number) = walk.queued() {
            ledger.leave(number);
        }
        let fate = |record: Record<'_>| match record.skipped {
            _ if tried.contains(&record.backend) => Fate::Tried,
            Some(Skipped::Benched(..) | Skipped::Short(..)) => Fate::Rests(record.to_string()),
            _ => Fate::Skipped(record.to_string()),
        };
        let standing = |place: usize| standings.get(place).copied().unwrap_or(Standing::Open);
        let records = walk.records().map(|record| (record.backend, fate(record)));
        let refusal = tried.is_empty().then(|| match walk.outcome(&ledger, time) {
            Outcome::AllUnfit { .. } => {
                "It fits nowhere: the client is told so (400), and nobody is asked.".into()
            }
            Outcome::AllFailed { retry_at: Some(at) } => {
                format!(
                    "Nobody can be asked before {}: the client gets 503 (529 in Messages).",
                    moment(at, now)
                )
            }
            _ => "Nobody can be asked: the client gets 503 (529 in Messages).".to_owned(),
        });
        // A random order says nothing: as they stand in the config.
        let by_walk = state.config.selection == Selection::LeastUsed;
        let priority = |place: usize| state.config.backends.get(place).map(|config| config.priority);
        let key = |place: usize| (priority(place), if by_walk { 0 } else { place });
        let mut fates: Vec<(usize, Fate, Standing)> = Vec::new();
        for (place, fate) in records {
            let at = fates.partition_point(|(other, ..)| key(*other) <= key(place));
            fates.insert(at, (place, fate, standing(place)));
        }
        Self { fates, refusal }
    }
}

/// A failure that concerns nobody but the backend that had it.
fn fails_for_good() -> Verdict {
    Verdict {
        class: Class::Forbidden,
        scope: Scope::Request,
        status: None,
        retry: None,
        message: "".into(),
        quotes: false,
    }
}

fn note(fate: &Fate, standing: Standing, now: Now) -> String {
    let bench = match standing {
        Standing::Benched { until, known, class, .. } => {
            let source = if known { "told by the provider" } else { "our guess" };
            let left = seconds_up(until.saturating_duration_since(now.mono));
            format!("{}, benched until {} ({left} s, {source})", class.words(), moment(until, now))
        }
        Standing::Short(shortage @ Shortage::Spent { until, source, .. }) => {
            let source = if source == Source::Told { "told by the provider" } else { "counted" };
            let left = seconds_up(until.saturating_duration_since(now.mono));
            format!("{} until {} ({left} s, {source})", words(shortage), moment(until, now))
        }
        Standing::Short(shortage) => words(shortage).into(),
        Standing::Open => String::new(),
        Standing::HalfOpen | Standing::Probing => "has rested, so one request tries it first".into(),
    };
    match (fate, standing) {
        (Fate::Tried, Standing::Benched { known: true, .. } | Standing::Short(_)) => {
            format!("waited for if nobody else answers: {bench}")
        }
        (Fate::Tried, Standing::Benched { .. }) => format!("only if nobody else answers: {bench}"),
        (Fate::Tried, _) => bench,
        (Fate::Rests(why), _) if bench.is_empty() => why.clone(),
        (Fate::Rests(_), _) => format!("skipped: {bench}"),
        (Fate::Skipped(why), _) => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::net::proxy_env::ProxyEnv;
    use crate::proxy::upstream::Trust;
    use crate::route::verdict::{Retry, Source};
    use std::time::{Duration, Instant, SystemTime};

    const SECOND: Duration = Duration::from_secs(1);

    fn state(config: &str) -> State {
        let config = config::load(config, "config.yaml", &|_| None).unwrap();
        let proxies = ProxyEnv::from_env(&|_| None).unwrap();
        State::new(config, &mut Trust::new(None), &proxies, None, None).unwrap()
    }

    #[test]
    fn who_rests_is_told_from_who_is_waited_for() {
        let names = ["open", "long", "short", "down", "key"];
        let backends =
            names.map(|name| format!("{{provider: demo, model: m, name: {name}, account: {name}}}"));
        let state =
            state(&format!("max_wait: 20\nproviders: [{{priority: 1, backends: [{}]}}]", backends.join(",")));
        let now = Now { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        let failures = [
            (Class::RateLimited, Some(600 * SECOND)),
            (Class::RateLimited, Some(10 * SECOND)),
            (Class::Down, None),
            (Class::Forbidden, None),
        ];
        for (place, (class, wait)) in failures.into_iter().enumerate() {
            let retry = wait.map(|wait| Retry { until: now.mono + wait, source: Source::Told });
            let verdict = Verdict { class, scope: Scope::Backend, retry, ..fails_for_good() };
            let mut ledger = state.ledger();
            let ticket = ledger.begin(place + 1, 0, now.mono);
            ledger.failure(ticket, &verdict, now.mono, &mut fastrand::Rng::with_seed(1));
            ledger.end(ticket, Spent::Nothing);
        }
        let text = explain(&state, &Question::default(), now).unwrap();
        for line in [
            "  open (m)\n",
            "  long (m)   skipped: rate limited, benched until 1970-01-01T00:10:00Z (600 s, told by the provider)\n",
            "  short (m)  waited for if nobody else answers: rate limited, benched",
            "  down (m)   only if nobody else answers: failed, benched until",
            "  key (m)    skipped: forbidden, benched until 1970-01-01T00:10:00Z (600 s, our guess)\n",
        ] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }
        assert!(!text.contains("Nobody"), "{text}");
        // Nothing has changed by it.
        assert_eq!(explain(&state, &Question::default(), now).unwrap(), text);
    }

    #[test]
    fn what_the_client_gets_if_nobody_can_be_asked() {
        let now = Now { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        let body = br#"{"messages":[{"role":"user","content":"one two three four five six"}]}"#;
        for (backends, wait, expected) in [
            ("{provider: demo, model: m, context: 3}", None, "It fits nowhere"),
            (
                "{provider: demo, model: m}",
                Some(600 * SECOND),
                "Nobody can be asked before 1970-01-01T00:10:00Z:",
            ),
            ("{provider: demo, model: m}", None, "Nobody can be asked: the client gets 503"),
            ("{provider: demo, model: m}, {provider: demo, model: m, account: x}", None, "  demo#2 (m)"),
        ] {
            let state = state(&format!("max_wait: 0\nproviders: [{{priority: 1, backends: [{backends}]}}]"));
            let retry = wait.map(|wait| Retry { until: now.mono + wait, source: Source::Told });
            let class = if wait.is_some() { Class::RateLimited } else { Class::Forbidden };
            let verdict = Verdict { class, scope: Scope::Backend, retry, ..fails_for_good() };
            {
                let mut ledger = state.ledger();
                let ticket = ledger.begin(0, 0, now.mono);
                ledger.failure(ticket, &verdict, now.mono, &mut fastrand::Rng::with_seed(1));
                ledger.end(ticket, Spent::Nothing);
            }
            let text = explain(&state, &Question { body: Some(body), ..Question::default() }, now).unwrap();
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
    }

    #[test]
    fn a_protocol_shows_by_its_fields() {
        use Dialect::{Chat, Messages, Responses};
        let hi = r#""messages":[{"role":"user","content":"hi"}]"#;
        for (body, expected) in [
            (format!("{{{hi}}}"), Chat),
            (format!(r#"{{{hi},"max_tokens":5}}"#), Messages),
            (format!(r#"{{{hi},"max_tokens":5,"stop":["x"]}}"#), Chat),
            (format!(r#"{{{hi},"max_tokens":5,"tools":[{{"type":"function","function":{{}}}}]}}"#), Chat),
            (format!(r#"{{{hi},"tools":[{{"name":"x","input_schema":{{}}}}]}}"#), Messages),
            (format!(r#"{{{hi},"system":"x"}}"#), Messages),
            (r#"{"max_tokens":5,"messages":[{"role":"system","content":"x"}]}"#.into(), Chat),
            (r#"{"messages":[{"role":"user","content":[{"type":"image","source":{}}]}]}"#.into(), Messages),
            (r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#.into(), Chat),
            (r#"{"input":"hi"}"#.into(), Responses),
            (r#"{"input":[],"instructions":"x","max_output_tokens":5}"#.into(), Responses),
            (format!(r#"{{{hi},"input":"x"}}"#), Chat),
            ("[]".into(), Chat),
            ("not JSON".into(), Chat),
            (r#"{"messages":7,"tools":"x"}"#.into(), Chat),
        ] {
            assert_eq!(guess(body.as_bytes()), expected, "{body}");
        }
    }
}

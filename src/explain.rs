//! `ai-free-swap explain`: what would become of a request, by the program's own plan and without any call.

use crate::config::{Backend, Config, ModelRouting, Protocol};
use crate::dialect::ask::{Ask, Dialect};
use crate::dialect::request::estimate;
use crate::proxy::job::{Reading, passes};
use crate::proxy::state::State;
use crate::proxy::status::{moment, seconds_up};
use crate::proxy::upstream::Upstream;
use crate::route::Now;
use crate::route::ledger::Standing;
use crate::route::plan::{Step, Walk};
use crate::route::verdict::{Class, Scope, Verdict};
use serde_json::Value;
use std::collections::HashMap;
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
}

/// The plan in words.
///
/// # Errors
/// The body is no request: what a client would be told.
pub fn explain(state: &State, question: &Question<'_>, now: Now) -> Result<String, String> {
    let request = question.body.map(|body| Request::read(body, question.dialect)).transpose()?;
    let model = question.model.or_else(|| request.as_ref().and_then(|request| request.ask.model()));
    let standings = state.standings(now.mono);
    let rehearsal = Rehearsal::new(state, model, now);
    // Writing to a String cannot fail.
    let mut text = String::new();
    if let Some(request) = &request {
        let _ = writeln!(text, "{}", request.describe(question));
    }
    let _ = writeln!(text, "{}", describe_model(&state.config, model, &rehearsal));

    let backends: Vec<_> = state.config.backends.iter().zip(&state.upstreams).zip(standings).collect();
    let shown = |config: &Backend| format!("{} ({})", config.name, config.model);
    let width = backends.iter().map(|((config, _), _)| shown(config).chars().count()).max().unwrap_or(0);
    let mut priority = None;
    for (place, ((config, upstream), standing)) in backends.iter().enumerate() {
        let Some(fate) = rehearsal.fates.get(&place) else { continue };
        if priority != Some(config.priority) {
            priority = Some(config.priority);
            let peers = backends.iter().enumerate().filter(|(place, ((peer, _), _))| {
                peer.priority == config.priority && rehearsal.fates.contains_key(place)
            });
            let order = if peers.count() > 1 { ", in random order" } else { "" };
            let _ = writeln!(text, "priority {}{order}:", config.priority);
        }
        let mut notes = vec![note(fate, *standing, now)];
        notes.extend(request.as_ref().map(|request| request.way(upstream)));
        notes.retain(|note| !note.is_empty());
        let line = format!("  {:<width$}  {}", shown(config), notes.join("; "));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let others = backends.iter().enumerate().filter(|(place, _)| !rehearsal.fates.contains_key(place));
    let others: Vec<String> = others.map(|(_, ((config, _), _))| shown(config)).collect();
    if !others.is_empty() {
        let _ = writeln!(text, "no candidates, as they have another model: {}", others.join(", "));
    }
    if state.config.keep_cycles > 1 {
        let _ = writeln!(
            text,
            "Who fails for the moment is asked again, in up to {} passes.",
            state.config.keep_cycles
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

/// A request as far as it matters here.
struct Request<'a> {
    ask: Ask,
    /// In the neutral form; or why that cannot be.
    reading: Result<Reading<'a>, String>,
}

impl<'a> Request<'a> {
    fn read(body: &'a [u8], dialect: Option<Dialect>) -> Result<Self, String> {
        let dialect = dialect.unwrap_or_else(|| guess(body));
        let ask = Ask::parse(dialect, body)
            .map_err(|e| format!("the request is refused as {}: {}", dialect.name(), e.message))?;
        let reading = Reading::new(dialect, body, &[]).map_err(|e| e.message.into_owned());
        Ok(Self { ask, reading })
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
        if passes(&self.ask, upstream) {
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
    let parts = list("messages").iter().filter_map(|message| message["content"].as_array()).flatten();
    let anthropic = ["tool_use", "tool_result", "thinking", "redacted_thinking", "document", "image"];
    let mut types = parts.filter_map(|part| part["type"].as_str());
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
            !matches!(message["role"].as_str(), Some("user" | "assistant"))
                || message.get("tool_calls").is_some()
        });
    if has(&["max_tokens"]) && !only_chat { Dialect::Messages } else { Dialect::Chat }
}

/// What becomes of a candidate if nobody before it answers.
enum Fate {
    /// It is tried, perhaps after a wait.
    Tried,
    /// Why it is not.
    Skipped(String),
}

/// The walk of a request that every backend fails for good, and that changes nothing.
struct Rehearsal {
    fates: HashMap<usize, Fate>,
}

impl Rehearsal {
    fn new(state: &State, model: Option<&str>, now: Now) -> Self {
        let mut ledger = state.ledger();
        let mut walk: Walk = state.walk_in(model, &ledger);
        let mut fates = HashMap::new();
        let mut time = now.mono;
        loop {
            match walk.next(&mut ledger, time) {
                Step::Try(ticket) => {
                    ledger.abandon(ticket);
                    fates.insert(ticket.backend, Fate::Tried);
                    walk.failed(fails_for_good());
                }
                Step::Wait(until) if until > time => time = until,
                Step::Wait(_) | Step::Exhausted => break,
            }
        }
        for record in walk.records() {
            fates.entry(record.backend).or_insert_with(|| Fate::Skipped(record.to_string()));
        }
        Self { fates }
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
        Standing::Open => String::new(),
        Standing::HalfOpen | Standing::Probing => "was down, so one request tries it first".into(),
    };
    match (fate, standing) {
        (Fate::Tried, Standing::Benched { known: true, .. }) => {
            format!("waited for if nobody else answers: {bench}")
        }
        (Fate::Tried, Standing::Benched { .. }) => format!("only if nobody else answers: {bench}"),
        (Fate::Tried, _) => bench,
        (Fate::Skipped(_), Standing::Benched { .. }) => format!("skipped: {bench}"),
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
        State::new(config, &mut Trust::new(None), &proxies, None).unwrap()
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
            let ticket = ledger.begin(place + 1, now.mono);
            ledger.failure(ticket, &verdict, now.mono, &mut fastrand::Rng::with_seed(1));
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
        // Nothing has changed by it.
        assert_eq!(explain(&state, &Question::default(), now).unwrap(), text);
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

//! What one failed attempt means: its class, how far the meaning reaches, and when the provider may be asked again.
//!
//! Judges from status, headers, body or the kind of failure. Benches nothing and knows no other attempt.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::provider::learn::{self, Lack};
pub use crate::provider::ratelimit::Window;
use crate::provider::ratelimit::{self, Heard, Told, unix_ms};
use crate::route::Now;
use crate::route::message::{Body, short};
use crate::secret::Secret;

/// Why an attempt brought nothing the client could have (DESIGN has the table of what follows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Too many requests or tokens for the moment.
    RateLimited,
    /// A quota of the window is used up.
    QuotaDone(Window),
    /// The key is not accepted.
    KeyBad,
    /// The model does not exist (any more) for this key.
    ModelGone,
    /// Unreachable, broken, overloaded, or too slow.
    Down,
    /// An answer without text, tool call or reasoning.
    Empty,
    /// More than this model or this tier can take at once.
    TooLarge,
    /// Refused for a reason that is neither key nor quota: region, terms, subscription.
    Forbidden,
    /// The model's own output was malformed.
    OutputInvalid,
    /// Content policy of this provider.
    Blocked,
    /// The request itself.
    BadRequest,
}

impl Class {
    /// In a few words, for logs and error messages.
    pub fn words(self) -> &'static str {
        match self {
            Self::RateLimited => "rate limited",
            Self::QuotaDone(Window::Day) => "daily quota used up",
            Self::QuotaDone(Window::Month) => "monthly quota used up",
            Self::QuotaDone(Window::Credit) => "no credit",
            Self::KeyBad => "key refused",
            Self::ModelGone => "model not available",
            Self::Down => "failed",
            Self::Empty => "empty answer",
            Self::TooLarge => "request too large",
            Self::Forbidden => "forbidden",
            Self::OutputInvalid => "malformed model output",
            Self::Blocked => "blocked by content policy",
            Self::BadRequest => "request refused",
        }
    }

    /// Every class with its name in files, labels and JSON.
    const NAMES: [(Self, &'static str); 13] = [
        (Self::RateLimited, "rate_limited"),
        (Self::QuotaDone(Window::Day), "quota_day"),
        (Self::QuotaDone(Window::Month), "quota_month"),
        (Self::QuotaDone(Window::Credit), "no_credit"),
        (Self::KeyBad, "key_bad"),
        (Self::ModelGone, "model_gone"),
        (Self::Down, "down"),
        (Self::Empty, "empty"),
        (Self::TooLarge, "too_large"),
        (Self::Forbidden, "forbidden"),
        (Self::OutputInvalid, "output_invalid"),
        (Self::Blocked, "blocked"),
        (Self::BadRequest, "bad_request"),
    ];

    /// Its name in files, labels and JSON.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(class, _)| *class == self).map_or("", |(_, name)| name)
    }

    /// The class of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(class, _)| *class)
    }

    /// May go away by itself, so that a later cycle of the same request tries again.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Down | Self::Empty | Self::OutputInvalid)
    }

    /// The backend has looked at the request and found the fault there.
    pub fn is_clients(self) -> bool {
        matches!(self, Self::TooLarge | Self::Blocked | Self::BadRequest)
    }
}

/// What a failure keeps from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing beyond this request.
    Request,
    /// This key with this model.
    Backend,
    /// Everything with this key.
    Key,
    /// Everything that shares the account's limits.
    Account,
    /// Everything at this provider's address.
    Provider,
}

/// Who says when the provider may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The provider, in this answer.
    Told,
    /// The provider's published rule (its day ends at midnight somewhere).
    Calendar,
}

/// When the provider may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The earliest useful moment.
    pub until: Instant,
    /// Who says so.
    pub source: Source,
}

/// One failed attempt, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it means.
    pub class: Class,
    /// How far it reaches.
    pub scope: Scope,
    /// The status of the answer, if there was one; of a 2xx with an error inside, the one the error names.
    pub status: Option<u16>,
    /// When to ask again, if that is known and not guessed.
    pub retry: Option<Retry>,
    /// The provider's words, or ours for a failed exchange: one line, masked, at most 300 characters.
    pub message: Box<str>,
    /// Whether `message` quotes the other side, which may name itself.
    pub quotes: bool,
}

/// What a refusal says beyond this attempt: about limits and the model.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Limits, from header fields and body.
    pub told: Vec<Told>,
    /// The model's window in tokens, if the request was refused as too long.
    pub context: Option<u64>,
    /// What the model cannot do.
    pub lacks: Option<Lack>,
}

/// An error answer, judged, and what it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What it means for this attempt.
    pub verdict: Verdict,
    /// What it says for later ones.
    pub learned: Learned,
}

/// With `#`, without what the other side said.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.words())?;
        if let Some(status) = self.status {
            write!(f, " ({status})")?;
        }
        let is_hidden = f.alternate() && self.quotes;
        if is_hidden || self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

/// Where an exchange was when its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Name, route, TCP.
    Connect,
    /// TLS handshake.
    Tls,
    /// Sending the request.
    Send,
    /// Until the head of the answer.
    Head,
    /// Until the first content of a stream.
    FirstContent,
    /// Until the end of a whole answer.
    Body,
    /// Between two pieces of a stream.
    Silence,
}

/// An attempt that ended without an answer to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Name not found, no route, refused, or the outbound proxy said no.
    Connect(String),
    /// The handshake failed, or the certificate is not good.
    Tls(String),
    /// Closed or reset before the head of an answer.
    Closed,
    /// Closed or reset before the end of an answer.
    Truncated,
    /// Time was up.
    Timeout(Phase),
    /// No HTTP, no JSON, or not the dialect expected.
    Garbled(String),
    /// Redirects are not followed: a key must not travel to wherever an answer points.
    Redirect(u16),
    /// The answer exceeded a limit.
    TooLong,
    /// A good answer that says nothing.
    Empty,
}

/// Judges an exchange that failed without an error answer.
pub fn judge_failure(failure: &Failure) -> Verdict {
    let (class, status, message) = match failure {
        Failure::Connect(why) => (Class::Down, None, format!("no connection: {why}")),
        Failure::Tls(why) => (Class::Down, None, format!("no TLS connection: {why}")),
        Failure::Closed => (Class::Down, None, "connection closed before an answer".to_owned()),
        Failure::Truncated => (Class::Down, None, "answer cut off".to_owned()),
        Failure::Timeout(phase) => {
            let waited_for = match phase {
                Phase::Connect => "the connection",
                Phase::Tls => "the TLS handshake",
                Phase::Send => "the request to be taken",
                Phase::Head => "the answer",
                Phase::FirstContent => "the first content",
                Phase::Body => "the end of the answer",
                Phase::Silence => "more of the stream",
            };
            (Class::Down, None, format!("timed out waiting for {waited_for}"))
        }
        Failure::Garbled(why) => (Class::Down, None, format!("answer not understood: {why}")),
        Failure::Redirect(status) => (Class::Down, Some(*status), "redirects are not followed".to_owned()),
        Failure::TooLong => (Class::Down, None, "answer above our limit".to_owned()),
        Failure::Empty => (Class::Empty, None, "no text, tool call or reasoning".to_owned()),
    };
    let scope = match failure {
        Failure::Empty => Scope::Request,
        // Who cannot be reached cannot be reached for any model or key.
        Failure::Connect(_) | Failure::Tls(_) | Failure::Timeout(Phase::Connect | Phase::Tls) => {
            Scope::Provider
        }
        _ => Scope::Backend,
    };
    // A certificate tells names.
    let quotes = matches!(failure, Failure::Tls(_));
    Verdict { class, scope, status, retry: None, message: short(&message, &[]).into(), quotes }
}

/// Judges an error answer: any status but 2xx, or a 2xx (an event of a stream, too) whose body is an error.
///
/// `provider` is the preset's name, `fields` are those of the head, `body` may be any bytes; the message quotes none of
/// the `secrets` (longest first).
pub fn judge_answer<'h>(
    provider: &str,
    status: u16,
    fields: impl Iterator<Item = (&'h str, &'h [u8])>,
    body: &[u8],
    now: Now,
    secrets: &[Secret],
) -> Judged {
    judge_heard(provider, status, ratelimit::heard(provider, fields, unix_ms(now.wall)), body, now, secrets)
}

fn judge_heard(
    provider: &str,
    status: u16,
    head: Heard,
    body: &[u8],
    now: Now,
    secrets: &[Secret],
) -> Judged {
    if (300..400).contains(&status) {
        return Judged { verdict: judge_failure(&Failure::Redirect(status)), learned: Learned::default() };
    }
    let body = Body::read(body);
    let mut facts = Facts { provider, status, text: body.text(), codes: body.codes(), body: &body };
    facts.status = facts.status_inside();
    let mut class = facts.class();

    if class == Class::Down && matches!(facts.status, 429 | 503 | 529) && head.retry_after.is_some() {
        class = Class::RateLimited;
    }
    let repeated = ratelimit::heard_in_body(provider, body.json().unwrap_or(&Value::Null), head.wall);
    let wait = facts.wait(class, &head, &repeated);
    let retry = wait.and_then(|(wait, source)| Some(Retry { until: now.mono.checked_add(wait)?, source }));
    let verdict = Verdict {
        class,
        scope: facts.scope(class),
        status: Some(facts.status).filter(|status| *status != 0),
        retry,
        message: body.message(secrets).into(),
        quotes: true,
    };
    Judged { verdict, learned: facts.learned(class, head.told, repeated.told) }
}

/// Texts that say the request is too long. The order of tests is that of providers.md §4.
const CONTEXT: [&str; 13] = [
    "context_length_exceeded",
    "exceed_context_size",
    "maximum context length",
    "prompt is too long",
    "input is too long",
    "exceeds the available context size",
    "input token count",
    "exceeds max length",
    "range of input length",
    "too large for model",
    "exceeded model token limit",
    "reduce the length",
    "less than the context length",
];
/// Not the word "billing": Gemini and Groq put it into every rate-limit message.
const NO_CREDIT: [&str; 13] = [
    "exceeded_current_quota_error",
    "arrearage",
    "freetieronly",
    "enforced_spend_limit_reached",
    "insufficient balance",
    "balance is insufficient",
    "insufficient credits",
    "have any credits",
    "credit balance is too low",
    "used all available credits",
    "spend limit",
    "spending limit",
    "specified api usage limits",
];
const MONTH: [&str; 3] = ["/ month", "per month", "monthly"];
const DAY: [&str; 9] = [
    "perday",
    "per day",
    "per-day",
    "daily",
    "(tpd)",
    "(rpd)",
    "today",
    "freeusagelimiterror",
    "usage limit",
];
const CAPACITY: [&str; 3] = ["overloaded", "capacity", "queue_exceeded"];
const GONE: [&str; 5] =
    ["decommissioned", "no endpoints found", "no such model", "end of life", "model_not_supported"];
/// llama.cpp answers 500 to requests that it cannot serve; to bench it for those would punish all the others.
const CLIENTS_FAULT_AS_500: [&str; 2] = ["input is not supported", "failed to parse tools"];
/// Words of a rate limit where the status says something else.
const RATE: [&str; 4] = ["rate limit", "rate_limit", "rate-limit", "too many requests"];
/// Error types of the OpenAI and Anthropic envelopes and the status they come with: an event inside a stream has
/// only the type.
const TYPES: [(&str, u16); 11] = [
    ("authentication_error", 401),
    ("invalid_api_key", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("model_not_found", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("rate_limit_exceeded", 429),
    ("invalid_request_error", 400),
    ("overloaded_error", 529),
];
/// Here every model draws on one balance, so "no credit" holds for the key. Elsewhere free models work beside
/// paid ones that refuse (OpenRouter, Z.ai, SiliconFlow, Qwen, Gemini's "limit: 0"), and benching all of them
/// would cost the client a working backend to save one call an hour.
const ONE_BALANCE: [&str; 9] = [
    "anthropic",
    "openai",
    "deepseek",
    "moonshot",
    "grok",
    "minimax",
    "fireworks",
    "deepinfra",
    "huggingface",
];

struct Facts<'a> {
    provider: &'a str,
    status: u16,
    /// Every string of the body in lower case; empty for a page.
    text: String,
    codes: Vec<String>,
    body: &'a Body,
}

impl Facts<'_> {
    fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.contains(word))
    }

    fn code(&self, wanted: &[&str]) -> bool {
        self.codes.iter().any(|code| wanted.contains(&code.as_str()))
    }

    /// The status that counts: that of a 2xx with an error inside stands in the error. 0 if it does not.
    fn status_inside(&self) -> u16 {
        if !(200..300).contains(&self.status) {
            return self.status;
        }
        let number = self.codes.iter().find_map(|code| code.parse().ok().filter(|n| (400..600).contains(n)));
        let by_type = || TYPES.iter().find(|(name, _)| self.code(&[name])).map(|(_, status)| *status);
        let by_text = || self.has(&RATE).then_some(429);
        number.or_else(by_type).or_else(by_text).unwrap_or(0)
    }

    /// First hit wins, in the order of providers.md §4.
    fn class(&self) -> Class {
        let status = self.status;
        if matches!(self.body, Body::Page(_)) && matches!(status, 400 | 404 | 405) {
            // A web server in between; a provider says in JSON that a model is gone or what is wrong with a request.
            return Class::Down;
        }
        if self.has(&CONTEXT)
            || self.code(&["1261"])
            || status == 413
            || (status == 400 && self.has(&["too many tokens"]))
        {
            return Class::TooLarge;
        }
        let no_credit = status == 402 || self.has(&NO_CREDIT) || self.code(&["1113", "1008", "30001"]);
        // At Qwen this code is a tokens-per-minute limit.
        let no_quota = self.code(&["insufficient_quota"]) && !self.provider.starts_with("qwen");
        if no_credit || no_quota || limit_zero(&self.text) {
            return Class::QuotaDone(Window::Credit);
        }
        if matches!(status, 403 | 429) && self.has(&MONTH) {
            return Class::QuotaDone(Window::Month);
        }
        if matches!(status, 403 | 429) && (self.has(&DAY) || self.code(&["3036", "1304"])) {
            return Class::QuotaDone(Window::Day);
        }
        if status == 401
            || self.has(&["api_key_invalid", "api key not valid", "incorrect api key"])
            || self.code(&["1004"])
            || (status == 403 && self.has(&["authorization failed"]))
        {
            return Class::KeyBad;
        }
        if status == 429 || self.code(&["1002", "1039"]) {
            let capacity = self.has(&CAPACITY) || self.code(&["3040", "1305"]);
            return if capacity { Class::Down } else { Class::RateLimited };
        }
        if status == 403 || self.has(&["location is not supported"]) {
            return if self.has(&["flagged", "moderation"]) { Class::Blocked } else { Class::Forbidden };
        }
        // The model is there, for requests without them.
        if self.has(&["support tool use", "support image input"]) {
            return Class::BadRequest;
        }
        if matches!(status, 404 | 410) || self.has(&GONE) {
            return Class::ModelGone;
        }
        if matches!(status, 400 | 405 | 412 | 415 | 422) {
            return self.class_of_400();
        }
        if self.has(&CLIENTS_FAULT_AS_500) {
            return Class::BadRequest;
        }
        Class::Down
    }

    fn class_of_400(&self) -> Class {
        if self.has(&["degraded"]) {
            Class::Down
        } else if self.has(&["tool_use_failed"]) {
            Class::OutputInvalid
        } else if self.has(&["data_inspection", "flagged"]) {
            Class::Blocked
        } else if self.code(&["rate_limit_exceeded", "rate_limit_error"])
            || self.has(&["rate limit exceeded"])
        {
            // Gateways that pass a 429 on as a 400.
            Class::RateLimited
        } else {
            Class::BadRequest
        }
    }

    fn scope(&self, class: Class) -> Scope {
        // The free models of OpenRouter share their limits over the account, whatever the key.
        let free_pool = self.has(&["free-models-per-", "openrouter_free_tier"]);
        match class {
            Class::RateLimited if free_pool => Scope::Account,
            Class::QuotaDone(Window::Credit) if self.has(&["fewer max_tokens"]) => Scope::Request,
            Class::QuotaDone(Window::Credit) if limit_zero(&self.text) => Scope::Backend,
            Class::QuotaDone(Window::Credit) if ONE_BALANCE.contains(&self.provider) => Scope::Account,
            // One allocation for all models: OpenRouter's free ones, Cloudflare's neurons, Cohere's trial calls.
            Class::QuotaDone(_) if free_pool || self.code(&["3036"]) || self.has(&["using a trial key"]) => {
                Scope::Account
            }
            // A 429 names the model at most providers, and a wrong guess here costs working backends.
            Class::RateLimited | Class::QuotaDone(_) => Scope::Backend,
            Class::KeyBad => Scope::Key,
            // A 5xx or 404 of one model says nothing about its neighbours.
            Class::ModelGone | Class::Down | Class::Forbidden => Scope::Backend,
            Class::Empty | Class::TooLarge | Class::OutputInvalid | Class::Blocked | Class::BadRequest => {
                Scope::Request
            }
        }
    }

    /// The longest wait that is told for the window at hand, else the calendar's. `repeated` is what the body
    /// repeats of the head.
    fn wait(&self, class: Class, head: &Heard, repeated: &Heard) -> Option<(Duration, Source)> {
        let window = match class {
            Class::RateLimited => None,
            Class::QuotaDone(window) => Some(window),
            _ => return None,
        };
        let turn = window.and_then(|window| ratelimit::turn(self.provider, &self.text, window, head.wall));
        let mut told = head.retry_after.max(ratelimit::date_words(&self.text, head.wall));
        if window != Some(Window::Credit) {
            told = told.max(ratelimit::exhausted(&head.told)).max(ratelimit::exhausted(&repeated.told));
            told = told.max(repeated.retry_after);
            // Google sends a RetryInfo of seconds with a day that is spent. And a balance is not refilled by
            // "retry in 11 s", which it sends for a model outside the free tier.
            if turn.is_none() || window == Some(Window::Month) {
                let json = self.body.json().unwrap_or(&Value::Null);
                told = told.max(ratelimit::delay_field(json)).max(ratelimit::delay_words(&self.text));
            }
        }
        told.map(|wait| (wait, Source::Told)).or(turn.map(|wait| (wait, Source::Calendar)))
    }

    /// What holds beyond this request. From the provider's sentence alone: a body may repeat the request, whose
    /// text says anything.
    fn learned(&self, class: Class, mut told: Vec<Told>, repeated: Vec<Told>) -> Learned {
        let sentence = self.body.sentence();
        let in_words = matches!(class, Class::RateLimited | Class::QuotaDone(_) | Class::TooLarge);
        let in_words = in_words.then(|| learn::limit(&sentence)).flatten();
        for fact in repeated.into_iter().chain(in_words) {
            ratelimit::merge(&mut told, fact);
        }
        let field = || learn::context_field(self.body.json()?);
        let window = || learn::context_window(&sentence).or_else(field);
        Learned {
            told,
            context: if class == Class::TooLarge { window() } else { None },
            lacks: if class == Class::BadRequest { learn::lacks(&sentence) } else { None },
        }
    }
}

/// "limit: 0" that is not the start of "limit: 05…": Gemini's way to say that the free tier lacks the model.
fn limit_zero(text: &str) -> bool {
    let zero = "limit: 0";
    text.match_indices(zero).any(|(at, _)| {
        !text.get(at + zero.len()..).unwrap_or_default().starts_with(|c: char| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::provider::ratelimit::{Span, Unit, rfc3339};

    fn at(text: &str) -> Now {
        let ms = u64::try_from(rfc3339(text).unwrap()).unwrap();
        Now { mono: Instant::now(), wall: UNIX_EPOCH + Duration::from_millis(ms) }
    }

    fn judged(provider: &str, status: u16, headers: &[(&str, &str)], body: &str, now: Now) -> Judged {
        let fields = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        judge_answer(provider, status, fields, body.as_bytes(), now, &[])
    }

    fn judge(provider: &str, status: u16, headers: &[(&str, &str)], body: &str) -> Verdict {
        judged(provider, status, headers, body, at("2026-11-23T02:13:20Z")).verdict
    }

    fn class_of(name: &str) -> Class {
        match name {
            "rate_limit" => Class::RateLimited,
            "quota_day" => Class::QuotaDone(Window::Day),
            "quota_month" => Class::QuotaDone(Window::Month),
            "no_credit" => Class::QuotaDone(Window::Credit),
            "bad_key" => Class::KeyBad,
            "forbidden" => Class::Forbidden,
            "model_gone" => Class::ModelGone,
            "context_too_long" => Class::TooLarge,
            "bad_request" => Class::BadRequest,
            "model_output_invalid" => Class::OutputInvalid,
            "content_blocked" => Class::Blocked,
            "server" => Class::Down,
            _ => panic!("{name}"),
        }
    }

    /// The moment a sample's `reset` means, in milliseconds since 1970.
    fn reset_of(reset: &str) -> i64 {
        match reset.split_once(' ') {
            Some(("epoch_ms", ms)) => ms.parse().unwrap(),
            Some(("epoch_s", s)) => s.parse::<i64>().unwrap() * 1000,
            _ => rfc3339(match reset {
                "00:00 UTC" => "2026-11-24T00:00:00Z",
                "next month" | "date in the message" => "2026-12-01T00:00:00Z",
                "midnight America/Los_Angeles" => "2026-11-23T08:00:00Z",
                _ => panic!("{reset}"),
            })
            .unwrap(),
        }
    }

    /// The window, for each sample that tells one.
    fn window_of(name: &str) -> Option<u64> {
        Some(match name {
            "anthropic_400_prompt_too_long" => 200_000,
            "cerebras_400_context" => 65_536,
            "cohere_400_tokens" | "mistral_400_context" => 131_072,
            "gemini_400_context" => 1_048_576,
            "llamacpp_400_context" | "moonshot_400_context" | "openai_400_context" => 8192,
            "qwen_400_context" => 98_304,
            "vllm_400_context" => 4096,
            _ => return None,
        })
    }

    #[test]
    fn every_sample_is_judged_as_expected() {
        let mut found = 0;
        let mut windows = 0;
        for entry in std::fs::read_dir("tests/golden/errors").unwrap() {
            let path = entry.unwrap().path();
            let sample: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let (headers, expect) = (&sample["headers"], &sample["expect"]);
            let body = match &sample["body"] {
                Value::String(text) => text.clone(),
                json => json.to_string(),
            };
            let provider = sample["provider"].as_str().unwrap();
            let status = u16::try_from(sample["status"].as_u64().unwrap()).unwrap();
            // Most were written for 02:13:20 of that day, those with RFC 3339 resets for 13:00.
            let anthropic = provider == "anthropic" && status == 429;
            let now = at(if anthropic { "2026-11-23T13:00:00Z" } else { "2026-11-23T02:13:20Z" });
            let headers = headers.as_object().unwrap().iter();
            let headers: Vec<_> = headers.map(|(name, value)| (&name[..], value.as_str().unwrap())).collect();
            let Judged { verdict, learned } = judged(provider, status, &headers, &body, now);
            let name = path.file_stem().unwrap().to_str().unwrap();

            assert_eq!(verdict.class, class_of(expect["class"].as_str().unwrap()), "{name}");
            let wait = verdict.retry.map(|retry| retry.until - now.mono);
            if let Some(seconds) = expect["retry_after_s"].as_u64() {
                assert_eq!(wait.map(|wait| wait.as_secs()), Some(seconds), "{name}");
                assert_eq!(verdict.retry.unwrap().source, Source::Told, "{name}");
            } else if let Some(reset) = expect["reset"].as_str() {
                let ms = u64::try_from(reset_of(reset) - unix_ms(now.wall)).unwrap();
                assert_eq!(wait, Some(Duration::from_millis(ms)), "{name}");
            } else {
                assert_eq!(wait, None, "{name}");
            }
            if !body.is_empty() {
                assert!(!verdict.message.is_empty(), "{name} has something to say");
            }
            assert_eq!(learned.context, window_of(name), "{name}");
            windows += usize::from(learned.context.is_some());
            let lack = (name == "openrouter_404_tools").then_some(Lack::Tools);
            assert_eq!(learned.lacks, lack, "{name}");
            found += 1;
        }
        assert_eq!((found, windows), (156, 10));
    }

    #[test]
    fn statuses_that_no_sample_has() {
        let check = |status, headers: &[_], body, class, seconds: Option<u64>| {
            let verdict = judge("openai_compat", status, headers, body);
            assert_eq!(verdict.class, class, "{status} {body}");
            assert_eq!(verdict.retry.is_some(), seconds.is_some(), "{status} {body}");
        };
        let wait = [("retry-after", "30")];
        check(503, &wait, "", Class::RateLimited, Some(30));
        check(529, &wait, "", Class::RateLimited, Some(30));
        check(429, &wait, "overloaded", Class::RateLimited, Some(30));
        check(500, &wait, "", Class::Down, None);
        check(401, &wait, "", Class::KeyBad, None);
        check(429, &[("retry-after", "0")], "", Class::RateLimited, None);
        check(400, &[], "", Class::BadRequest, None);
        check(415, &[], "", Class::BadRequest, None);
        check(418, &[], "", Class::Down, None);
        check(302, &[("location", "http://x")], "maximum context length", Class::Down, None);
        check(400, &[], r#"{"error":{"code":"rate_limit_exceeded"}}"#, Class::RateLimited, None);
        check(404, &[], "<html>404 not found</html>", Class::Down, None);
        check(400, &[], "<html>The plain HTTP request was sent to HTTPS port</html>", Class::Down, None);
        check(403, &[], "<html>spend limit, api key not valid</html>", Class::Forbidden, None);
        check(429, &[], "<html></html>", Class::RateLimited, None);
    }

    #[test]
    fn errors_inside_a_200() {
        for (body, class, status) in [
            (r#"{"error":{"code":502,"message":"x"}}"#, Class::Down, Some(502)),
            (r#"{"error":{"code":"429","message":"x"}}"#, Class::RateLimited, Some(429)),
            (r#"{"error":{"message":"Rate limit reached, slow down"}}"#, Class::RateLimited, Some(429)),
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#, Class::Down, Some(529)),
            (
                r#"{"type":"error","error":{"type":"authentication_error","message":"x"}}"#,
                Class::KeyBad,
                Some(401),
            ),
            (
                r#"{"error":{"type":"invalid_request_error","code":"rate_limit_exceeded"}}"#,
                Class::RateLimited,
                Some(429),
            ),
            (r#"{"error":{"type":"server_error","message":"x"}}"#, Class::Down, None),
            ("<html>Welcome to the hotel</html>", Class::Down, None),
            ("", Class::Down, None),
        ] {
            let verdict = judge("openai", 200, &[], body);
            assert_eq!((verdict.class, verdict.status), (class, status), "{body}");
        }
    }

    #[test]
    fn scopes() {
        for (provider, status, body, scope) in [
            ("groq", 429, "slow down", Scope::Backend),
            ("openrouter", 429, "Rate limit exceeded: free-models-per-min.", Scope::Account),
            ("openrouter", 429, "Rate limit exceeded: free-models-per-day", Scope::Account),
            ("openrouter", 402, "Insufficient credits", Scope::Backend),
            ("openrouter", 402, "requires more credits, or fewer max_tokens", Scope::Request),
            ("deepseek", 402, "Insufficient Balance", Scope::Account),
            ("gemini", 429, "limit: 0, model: x", Scope::Backend),
            ("gemini", 429, "limit: 05", Scope::Backend),
            ("cloudflare", 429, r#"{"errors":[{"code":3036,"message":"daily"}]}"#, Scope::Account),
            ("groq", 401, "", Scope::Key),
            ("groq", 500, "", Scope::Backend),
            ("groq", 400, "", Scope::Request),
            ("groq", 413, "", Scope::Request),
        ] {
            assert_eq!(judge(provider, status, &[], body).scope, scope, "{provider} {status} {body}");
        }
    }

    #[test]
    fn dates_are_read_by_the_providers_clock() {
        // Ours is nine hours behind, as on a router without a battery.
        let headers = [
            ("date", "Mon, 23 Nov 2026 11:00:00 GMT"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "2026-11-23T11:01:00Z"),
        ];
        let now = at("2026-11-23T02:13:20Z");
        let verdict = judged("x", 429, &headers, "", now).verdict;
        assert_eq!(verdict.retry.map(|retry| retry.until - now.mono), Some(Duration::from_secs(60)));
    }

    #[test]
    fn refusals_teach_limits() {
        use Span::{Day, Minute, Month, Unnamed};
        use Unit::{Requests, Tokens};
        let fact = |unit, span, limit, remaining, seconds| {
            let reset = Some(Duration::from_secs_f64(seconds)).filter(|reset| !reset.is_zero());
            Told { unit, span, limit: Some(limit), remaining, reset }
        };
        #[rustfmt::skip]
        let samples: [(&str, &[Told]); 16] = [
            ("anthropic_429", &[
                fact(Requests, Minute, 50, Some(0), 14.0), fact(Tokens, Minute, 50_000, Some(50_000), 0.0),
            ]),
            ("cohere_429_trial_minute", &[fact(Requests, Minute, 20, None, 0.0)]),
            ("cohere_429_trial_tokens", &[fact(Tokens, Minute, 100_000, None, 0.0)]),
            ("cohere_429_trial_month", &[
                fact(Requests, Minute, 20, Some(19), 0.0), fact(Requests, Month, 1000, None, 0.0),
            ]),
            ("gemini_429_minute_and_day", &[
                fact(Requests, Minute, 5, Some(0), 0.0), fact(Requests, Day, 20, Some(0), 0.0),
            ]),
            ("gemini_429_tokens_minute", &[fact(Tokens, Minute, 250_000, Some(0), 0.0)]),
            ("groq_413_tpm", &[fact(Tokens, Minute, 8000, None, 0.0)]),
            ("groq_429_rpd", &[fact(Requests, Day, 1000, Some(0), 86.4)]),
            ("groq_429_tpd", &[fact(Tokens, Day, 200_000, Some(500), 0.0)]),
            ("groq_429_tpm", &[fact(Tokens, Minute, 8000, Some(100), 3.75)]),
            ("openai_429_rate_requests", &[
                fact(Requests, Minute, 3, Some(0), 20.0), fact(Tokens, Unnamed, 40_000, Some(39_000), 62.5),
            ]),
            ("openrouter_429_free_day", &[fact(Requests, Day, 50, Some(0), 78_400.0)]),
            ("openrouter_429_free_minute", &[fact(Requests, Minute, 20, Some(0), 60.0)]),
            ("together_429", &[fact(Requests, Unnamed, 1, Some(0), 2.0)]),
            ("openai_400_context", &[]),
            ("xai_429_credits", &[]),
        ];
        for (name, expected) in samples {
            let text = std::fs::read(format!("tests/golden/errors/{name}.json")).unwrap();
            let sample: Value = serde_json::from_slice(&text).unwrap();
            let headers = sample["headers"].as_object().unwrap().iter();
            let headers: Vec<_> = headers.map(|(name, value)| (&name[..], value.as_str().unwrap())).collect();
            let anthropic = name == "anthropic_429";
            let now = at(if anthropic { "2026-11-23T13:00:00Z" } else { "2026-11-23T02:13:20Z" });
            let status = u16::try_from(sample["status"].as_u64().unwrap()).unwrap();
            let provider = sample["provider"].as_str().unwrap();
            let mut told = judged(provider, status, &headers, &sample["body"].to_string(), now).learned.told;
            told.sort_by_key(|fact| fact.limit);
            assert_eq!(told, expected, "{name}");
        }
    }

    #[test]
    fn what_a_body_repeats_of_the_request_teaches_nothing() {
        let learned = |status, body: &str| judged("x", status, &[], body, at("2026-11-23T02:13:20Z")).learned;
        let echo = r#"{"detail":[{"msg":"Extra inputs are not permitted",
            "input":"maximum context length is 4096 tokens. This model does not support tools."}]}"#;
        assert_eq!(learned(422, echo), Learned::default());
        let said = r#"{"detail":[{"msg":"maximum context length is 4096 tokens","input":"x"}]}"#;
        assert_eq!(learned(422, said).context, Some(4096));
        let field = r#"{"error":{"type":"exceed_context_size_error","message":"too long","n_ctx":8192}}"#;
        assert_eq!(learned(400, field).context, Some(8192));
        // Only refusals for that reason.
        let said = r#"{"error":{"message":"This model does not support tools."}}"#;
        assert_eq!(learned(400, said).lacks, Some(Lack::Tools));
        assert_eq!(learned(429, said).lacks, None);
        let hint = r#"{"error":{"code":500,"message":"image input is not supported - hint: see mmproj"}}"#;
        assert_eq!(learned(500, hint).lacks, Some(Lack::Vision));
        let none = r#"{"error":{"message":"No endpoints found that support image input","code":404}}"#;
        let judged = judged("openrouter", 404, &[], none, at("2026-11-23T02:13:20Z"));
        assert_eq!((judged.verdict.class, judged.learned.lacks), (Class::BadRequest, Some(Lack::Vision)));
    }

    #[test]
    fn failures_have_words_and_no_keys() {
        let phases = [
            Phase::Connect,
            Phase::Tls,
            Phase::Send,
            Phase::Head,
            Phase::FirstContent,
            Phase::Body,
            Phase::Silence,
        ];
        for phase in phases {
            let verdict = judge_failure(&Failure::Timeout(phase));
            let unreachable = matches!(phase, Phase::Connect | Phase::Tls);
            let scope = if unreachable { Scope::Provider } else { Scope::Backend };
            assert_eq!((verdict.class, verdict.scope), (Class::Down, scope), "{phase:?}");
            assert!(verdict.message.starts_with("timed out waiting for "));
        }
        let tls = judge_failure(&Failure::Tls("certificate expired for sk-abcdef".to_owned()));
        assert_eq!(tls.to_string(), "failed: no TLS connection: certificate expired for ***");
        let empty = judge_failure(&Failure::Empty);
        assert_eq!((empty.class, empty.scope), (Class::Empty, Scope::Request));
        assert_eq!(judge_failure(&Failure::Redirect(307)).status, Some(307));
        let refused =
            judge("openai", 401, &[], r#"{"error":{"message":"Incorrect API key provided: sk-x1."}}"#);
        assert_eq!(refused.to_string(), "key refused (401): Incorrect API key provided: ***.");
    }
}

//! What refusals say about the model: how long its window is, what it cannot see or call, which limit was too small.
//!
//! Providers have no fields for these, so they are read from sentences, in lower case. Only what a sentence says of
//! the model or the limit counts: the size of the request stands beside it and must never be taken for the window.

use serde_json::Value;

use super::ratelimit::{Span, Told, Unit};

/// What a model was said to lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lack {
    /// It takes no images.
    Vision,
    /// It takes no tools.
    Tools,
}

/// Windows outside this are misread, or say nothing of use.
const WINDOW_TOKENS: std::ops::RangeInclusive<u64> = 256..=100_000_000;

/// What stands before the window, in the words of all providers known.
const WINDOW_LEADS: [&str; 22] = [
    // OpenAI, DeepSeek, OpenRouter, vLLM, SGLang, Fireworks.
    "maximum context length",
    "max context length",
    "model's context length",
    "maximum model length",
    // LM Studio.
    "context length of only",
    // llama.cpp.
    "available context size",
    "maximum context size",
    // Gemini.
    "maximum number of tokens allowed",
    "model only supports up to",
    // xAI.
    "maximum prompt length",
    // Moonshot.
    "exceeded model token limit",
    // Cohere.
    "the limit of this model",
    "the limit for this model",
    // Cerebras.
    "while limit is",
    // Mistral: the number stands between the two.
    "too large for model with",
    // Qwen.
    "range of input length should be [1,",
    // TGI: HuggingFace, Together.
    "`max_new_tokens` must be <=",
    "max_new_tokens must be <=",
    "`inputs` must have less than",
    "inputs must have less than",
    "maximum context window",
    "model's context window",
];
/// Between those and the number.
const LINKS: [&str; 7] = [" ", ":", "(", "is ", "of ", "only ", "for this model "];
/// Before a sum that is more than the window: "210000 tokens > 200000 maximum" (Anthropic).
const SUM_LEADS: [&str; 2] = ["prompt is too long:", "exceed context limit:"];
/// A number of these is not one of tokens.
const OTHER_UNITS: [&str; 8] = ["char", "byte", "kb", "mb", "word", "image", "page", "file"];

/// The window in tokens that a refusal names; `None` if it names none, or two.
pub fn context_window(text: &str) -> Option<u64> {
    let after =
        |lead: &'static str| text.match_indices(lead).filter_map(move |(at, _)| text.get(at + lead.len()..));
    let said = WINDOW_LEADS.into_iter().flat_map(after).filter_map(linked_number);
    let exceeded = SUM_LEADS.into_iter().flat_map(after).filter_map(after_sum);
    let mut found = said.chain(exceeded).filter(|window| WINDOW_TOKENS.contains(window));
    let window = found.next()?;
    found.all(|other| other == window).then_some(window)
}

/// The window as llama.cpp tells it, in a field of its own.
pub fn context_field(body: &Value) -> Option<u64> {
    body.pointer("/error/n_ctx")?.as_u64().filter(|window| WINDOW_TOKENS.contains(window))
}

/// The limit a refusal names, for those that no header tells: "tokens per day (TPD): Limit 200000, Used 199500,
/// Requested 1200" (Groq, OpenAI), "limited to 20 API calls / minute" (Cohere).
pub fn limit(text: &str) -> Option<Told> {
    limit_by_sign(text).or_else(|| limit_by_words(text))
}

fn limit_by_sign(text: &str) -> Option<Told> {
    let signs = [
        ("(tpm): limit ", Unit::Tokens, Span::Minute),
        ("(tpd): limit ", Unit::Tokens, Span::Day),
        ("(rpm): limit ", Unit::Requests, Span::Minute),
        ("(rpd): limit ", Unit::Requests, Span::Day),
    ];
    let (after, unit, span) =
        signs.iter().find_map(|(sign, unit, span)| Some((text.split_once(sign)?.1, *unit, *span)))?;
    let (limit, rest) = number(after)?;
    let used = rest.strip_prefix(", used ").and_then(number).map(|(used, _)| used);
    // Used up and more: nothing is left.
    let remaining = used.map(|used| limit.saturating_sub(used));
    (limit > 0).then_some(Told { unit, span, limit: Some(limit), remaining, reset: None })
}

fn limit_by_words(text: &str) -> Option<Told> {
    ["limit of ", "limit is ", "limited to "].iter().find_map(|lead| {
        let (limit, rest) = number(text.split_once(lead)?.1)?;
        let rest = rest.trim_start();
        let units = [
            ("requests", Unit::Requests),
            ("api calls", Unit::Requests),
            ("tokens", Unit::Tokens),
            ("input tokens", Unit::Tokens),
        ];
        let (rest, unit) = units.iter().find_map(|(word, unit)| Some((rest.strip_prefix(word)?, *unit)))?;
        let rest = rest.strip_prefix(" per ").or_else(|| rest.strip_prefix(" / "))?;
        let spans = [("min", Span::Minute), ("hour", Span::Hour), ("day", Span::Day), ("month", Span::Month)];
        let span = spans.iter().find(|(word, _)| rest.starts_with(word))?.1;
        (limit > 0).then_some(Told { unit, span, limit: Some(limit), remaining: None, reset: None })
    })
}

/// Complete statements: whatever stands around them.
const LACKS: [(&str, Lack); 6] = [
    ("no endpoints found that support image input", Lack::Vision),
    ("image_url is only supported by certain models", Lack::Vision),
    ("image input is not enabled for this model", Lack::Vision),
    ("is not a multimodal model", Lack::Vision),
    ("no endpoints found that support tool use", Lack::Tools),
    ("function calling is not enabled for models/", Lack::Tools),
];
/// What a model "does not support", or what "is not supported". Longer ones first.
const ABILITIES: [(&str, Lack); 14] = [
    ("image inputs", Lack::Vision),
    ("image input", Lack::Vision),
    ("images", Lack::Vision),
    ("image content", Lack::Vision),
    ("vision", Lack::Vision),
    ("multimodal input", Lack::Vision),
    ("tool calling", Lack::Tools),
    ("tool calls", Lack::Tools),
    ("tool use", Lack::Tools),
    ("tools", Lack::Tools),
    ("function calling", Lack::Tools),
    ("function calls", Lack::Tools),
    ("functions", Lack::Tools),
    ("image", Lack::Vision),
];

/// What a refusal says the model cannot do.
///
/// The sentence has to be about the model, and to end there: "JSON mode does not support tools" and "does not support
/// tools with streaming" are about a request.
pub fn lacks(text: &str) -> Option<Lack> {
    if let Some((_, lack)) = LACKS.iter().find(|(words, _)| text.contains(words)) {
        return Some(*lack);
    }
    let verbs = ["does not support ", "doesn't support ", "do not support "];
    let active = verbs.iter().flat_map(|verb| {
        text.match_indices(verb).filter_map(|(at, _)| {
            let (subject, object) = (text.get(..at)?, text.get(at + verb.len()..)?);
            let (lack, rest) = ability(object)?;
            (is_model(subject) && is_end(rest)).then_some(lack)
        })
    });
    let passive =
        [" is not supported", " are not supported", " not supported"].into_iter().flat_map(|verb| {
            text.match_indices(verb).filter_map(move |(at, _)| {
                let (subject, rest) = (text.get(..at)?, text.get(at + verb.len()..)?);
                let subject = subject.trim_end_matches(['`', '"', '\'']);
                let (words, lack) = ABILITIES.iter().find(|(words, _)| subject.ends_with(words))?;
                let before = subject.get(..subject.len() - words.len())?;
                // Not "audio and image input", not "parallel tool calls": the ability begins the sentence.
                let begins = before.trim_end_matches(['`', '"', '\'', ' ']);
                let begins = begins.is_empty() || begins.ends_with([':', '.', '\n']);
                (begins && is_end(rest)).then_some(*lack)
            })
        });
    active.chain(passive).next()
}

fn ability(text: &str) -> Option<(Lack, &str)> {
    let text = text.trim_start_matches(['`', '"', '\'']);
    ABILITIES.iter().find_map(|(words, lack)| Some((*lack, text.strip_prefix(words)?)))
}

/// Whether the last word before a verb is a model: that word itself, or an id, which has digits, `/` or `:`.
fn is_model(subject: &str) -> bool {
    let word = subject.split_whitespace().next_back().unwrap_or_default();
    let word = word.trim_matches(['`', '"', '\'', '(', ')', ',']);
    matches!(word, "model" | "models" | "endpoint")
        || (word.contains(|c: char| c.is_ascii_digit()) && word.contains(|c: char| c.is_ascii_alphabetic()))
        || word.contains(['/', ':']) && !word.ends_with(':')
}

/// Whether a statement ends here, or only adds whom it is about.
fn is_end(rest: &str) -> bool {
    let rest = rest.trim_start_matches(['`', '"', '\'']);
    let rest = ["for", "by", "with", "in", "on"]
        .iter()
        .find_map(|link| rest.strip_prefix(' ')?.strip_prefix(link)?.strip_prefix(" this model"))
        .unwrap_or(rest);
    rest.is_empty() || rest.starts_with(['.', ',', ';', '!', ')', '\n']) || rest.starts_with(" - ")
}

/// The number behind the words that lead to it.
fn linked_number(text: &str) -> Option<u64> {
    let mut rest = text;
    // Bounded by the text: each turn takes at least a byte.
    while let Some(shorter) = LINKS.iter().find_map(|link| rest.strip_prefix(link)) {
        rest = shorter;
    }
    let (window, rest) = number(rest)?;
    let unit = rest.trim_start();
    (!OTHER_UNITS.iter().any(|other| unit.starts_with(other))).then_some(window)
}

/// `210000 tokens > 200000`, `188240 + 21333 > 200000`: the last of them.
fn after_sum(text: &str) -> Option<u64> {
    let (_, mut rest) = number(text.trim_start())?;
    while let Some((_, after)) = rest.strip_prefix(" + ").and_then(number) {
        rest = after;
    }
    let rest = rest.strip_prefix(" tokens").unwrap_or(rest).strip_prefix(" > ")?;
    number(rest).map(|(window, _)| window)
}

/// A whole number, also in groups of three (`128,000`), and what follows. Not the start of `8k` or `3.5`.
fn number(text: &str) -> Option<(u64, &str)> {
    /// Larger ones are no counts.
    const DIGITS_MAX: usize = 12;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut value = 0_u64;
    let mut rest = text;
    let mut groups = 0;
    // Twelve digits and groups of three more fit a u64 as often as they fit twelve digits.
    let mut all = 0;
    loop {
        let here = rest.strip_prefix(',').filter(|_| groups > 0).unwrap_or(rest);
        let count = digits(here);
        let fits = if groups == 0 { count > 0 } else { count == 3 && here.len() < rest.len() };
        if !fits {
            break;
        }
        all += count;
        if all > DIGITS_MAX {
            return None;
        }
        let (group, after) = here.split_at_checked(count)?;
        let scale = 10_u64.checked_pow(u32::try_from(count).ok()?)?;
        value = value.checked_mul(scale)?.checked_add(group.parse().ok()?)?;
        rest = after;
        groups += 1;
    }
    let mut next = rest.chars();
    let goes_on = match next.next() {
        Some('.' | ',') => next.next().is_some_and(|c| c.is_ascii_digit()),
        Some(c) => c.is_alphanumeric() || c == '_',
        None => false,
    };
    (groups > 0 && !goes_on).then_some((value, rest))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_in_every_phrasing() {
        for (text, window) in [
            (
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 10001",
                8192,
            ),
            (
                "This endpoint's maximum context length is 131,072 tokens. However, you requested 200000",
                131_072,
            ),
            ("maximum context length of 32768 tokens, got 40000", 32_768),
            ("The prompt is too long: 140000, model maximum context length: 131071", 131_071),
            ("prompt is too long: 210000 tokens > 200000 maximum", 200_000),
            (
                "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease",
                200_000,
            ),
            (
                "request (13392 tokens) exceeds the available context size (8192 tokens), try increasing it",
                8192,
            ),
            (
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
                1_048_576,
            ),
            ("The input token count is 40000 but model only supports up to 32768.", 32_768),
            ("Please reduce the length. Current length is 70000 while limit is 65536", 65_536),
            ("too many tokens: the prompt has 200000 tokens, the limit of this model is 131072", 131_072),
            ("too many tokens: exceeded by 123 tokens. The limit for this model is 128000 tokens.", 128_000),
            (
                "Prompt contains 140000 tokens, too large for model with 131072 maximum context length",
                131_072,
            ),
            ("Your request exceeded model token limit: 8192 (requested: 9000)", 8192),
            ("Range of input length should be [1, 98304]", 98_304),
            ("`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens", 8193),
            ("`inputs` must have less than 4096 tokens. Given: 5000", 4096),
            ("You passed 5001 input tokens. However, the model's context length is only 4096 tokens", 4096),
            ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", 4096),
            ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096),
            ("This model's maximum prompt length is 131072 but the request contains 200000 tokens.", 131_072),
            ("the model is loaded with context length of only 4096 tokens", 4096),
            ("The maximum context length for this model is 16385 tokens", 16_385),
            // Twice the same.
            ("maximum context length is 4096 tokens: maximum context length is 4096 tokens", 4096),
        ] {
            assert_eq!(context_window(&text.to_ascii_lowercase()), Some(window), "{text}");
        }
        for text in [
            "Request exceeds the maximum size",
            "Prompt exceeds max length",
            "Input token count + max_tokens must be less than the context length of the model being queried.",
            "Your input exceeds the context window of this model.",
            "your messages resulted in 10001 tokens",
            "the context length is 70000",
            "current length is 70000",
            "maximum context length is 8k tokens",
            "maximum context length is 8.5 tokens",
            "maximum context length is 1,23 tokens",
            "maximum context length is -5",
            "maximum context length is 100 tokens",
            "maximum context length is 100000001 tokens",
            "maximum context length is 9999999999999999999999 tokens",
            "maximum context length is 4096 characters",
            "maximum prompt length is 4096 bytes",
            "maximum context length",
            "maximum context length is 8192 tokens, or maximum context length is 4096 tokens",
            "prompt is too long: 210000 tokens",
            "prompt is too long: > 5000",
            "too large for model `x` on tokens per minute (TPM): Limit 8000, Requested 33476",
            "é maximum context length is é",
            "",
        ] {
            assert_eq!(context_window(&text.to_ascii_lowercase()), None, "{text}");
        }
    }

    #[test]
    fn a_window_may_have_a_field() {
        let field = |n_ctx: Value| context_field(&serde_json::json!({"error": {"n_ctx": n_ctx}}));
        assert_eq!(field(8192.into()), Some(8192));
        for nonsense in [Value::Null, (-1).into(), 0.into(), "8192".into(), u64::MAX.into()] {
            assert_eq!(field(nonsense.clone()), None, "{nonsense}");
        }
    }

    #[test]
    fn limits_in_words() {
        use {Span::*, Unit::*};
        for (text, expected) in [
            (
                "on tokens per minute (tpm): limit 8000, requested 33476, please",
                Some((Tokens, Minute, 8000, None)),
            ),
            ("(tpd): limit 200000, used 199500, requested 1200", Some((Tokens, Day, 200_000, Some(500)))),
            ("per min (rpm): limit 3, used 3, requested 1", Some((Requests, Minute, 3, Some(0)))),
            ("(rpd): limit 1000, used 1001, requested 1", Some((Requests, Day, 1000, Some(0)))),
            ("your organization's rate limit of 50 requests per minute.", Some((Requests, Minute, 50, None))),
            ("rate limit of 50,000 input tokens per minute", Some((Tokens, Minute, 50_000, None))),
            ("rate limit of 8000 output tokens per minute", None),
            ("limited to 20 api calls / minute", Some((Requests, Minute, 20, None))),
            ("limited to 1000 api calls / month", Some((Requests, Month, 1000, None))),
            ("limit is 100000 tokens per minute", Some((Tokens, Minute, 100_000, None))),
            ("add 10 credits to unlock 1000 free model requests per day", None),
            ("limit of 5 requests per second", None),
            ("limit of 5 requests", None),
            ("(tpm): limit 0, requested 5", None),
            ("(tpm): limit x", None),
            ("(asph): limit 5", None),
            ("", None),
        ] {
            let expected = expected.map(|(unit, span, limit, remaining)| Told {
                unit,
                span,
                limit: Some(limit),
                remaining,
                reset: None,
            });
            assert_eq!(limit(text), expected, "{text}");
        }
    }

    #[test]
    fn lacks_are_clear_statements_about_the_model() {
        use Lack::*;
        for (text, expected) in [
            ("No endpoints found that support image input", Vision),
            ("No endpoints found that support tool use. Try disabling \"x\".", Tools),
            ("This model does not support images.", Vision),
            ("This model does not support image input", Vision),
            ("Model `gpt-3.5-turbo` does not support image inputs, remove them", Vision),
            ("invalid content type. image_url is only supported by certain models.", Vision),
            ("image input is not supported - hint: you may need to provide the mmproj", Vision),
            ("Image input is not enabled for this model", Vision),
            ("x/llava is not a multimodal model", Vision),
            ("the model doesn't support vision", Vision),
            ("registry.ollama.ai/library/gemma:2b does not support tools", Tools),
            ("gemma2 does not support tools", Tools),
            ("these models do not support function calling", Tools),
            ("`tool calling` is not supported with this model", Tools),
            ("bad request: tools are not supported", Tools),
            ("Function calling is not enabled for models/gemma-3-27b-it", Tools),
        ] {
            assert_eq!(lacks(&text.to_ascii_lowercase()), Some(expected), "{text}");
        }
        for text in [
            "JSON mode does not support tools",
            "This model does not support tools with streaming",
            "This model does not support tool_choice",
            "This model does not support tools in combination with response_format",
            "This model does not support parallel tool calls",
            "parallel tool calls are not supported",
            "This model does not support image URLs, send base64",
            "This model does not support images larger than 5 MB",
            "This model does not support image/webp",
            "image format is not supported",
            "image input is not supported in tool results",
            "audio input is not supported",
            "streaming tools are not supported",
            "Argument not supported on this model: presencePenalty",
            "This model only supports single tool-calls at once!",
            "property 'logprobs' is unsupported",
            "does not support tools",
            "é does not support ",
            "",
        ] {
            assert_eq!(lacks(&text.to_ascii_lowercase()), None, "{text}");
        }
    }
}

//! What a provider's chat endpoint refuses, as data. Knows names of parameters, not how to send or drop them.

use std::borrow::Cow;

/// A word of a protocol: from the table, or from the configuration.
pub type Word = Cow<'static, str>;

/// What may be sent to one backend's OpenAI-compatible endpoint without a refusal.
///
/// From the vendors' documentation where it says so; an undocumented ability counts as absent. The configuration
/// overrides single fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Quirks {
    /// `stream_options.include_usage` is accepted.
    pub stream_options: bool,
    /// `max_completion_tokens` is understood; if not, only `max_tokens` is.
    pub max_completion_tokens: bool,
    /// The role `developer` is understood; if not, `system` says the same.
    pub developer_role: bool,
    /// `n` above 1 is accepted.
    pub n: bool,
    /// Top-level parameters to leave out, because they bring a 400 or 422.
    pub drop_params: Vec<String>,
    /// Whether its models wrap their reasoning in tags inside the text.
    pub think_tags: ThinkTags,
    /// How a request looks that we write.
    pub written: Written,
    /// What of it holds for a chat request that goes through, too.
    pub passing: Passing,
}

/// What is changed in a chat request that goes through as it came, because the provider is known to refuse it
/// otherwise. Beside it, what [`Written`] says of ids, schemas, signatures and the like: that is known as well where it
/// is not what nearly everyone takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passing {
    /// Top-level parameters to leave out.
    pub drop_params: Vec<String>,
    /// The only name of the output limit, `max_tokens` or `max_completion_tokens`; `None`: either will do.
    pub limit: Option<&'static str>,
    /// The role `developer` becomes `system`.
    pub no_developer: bool,
}

/// What a backend does with `<think>` tags in the text of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ThinkTags {
    /// It has none; in its text they mean themselves.
    #[default]
    None,
    /// A `<think>` at the very start begins reasoning.
    Leading,
    /// The same, but the opening tag may be missing: all text up to `</think>` is reasoning.
    Unopened,
}

/// What a request must look like.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Ids of tool calls.
    pub tool_ids: ToolIds,
    /// Values of `tool_choice` that are understood.
    pub tool_choice: ToolChoices,
    /// Several calls in one answer are refused unless `parallel_tool_calls` is false.
    pub single_calls: bool,
    /// `strict` in tools is understood.
    pub strict: bool,
    /// Words to leave out of JSON schemas; `const` becomes an `enum`.
    pub schema_drop: Vec<Word>,
    /// In JSON schemas, arrays must say what their `items` are, and `required` may only name `properties`, each once.
    pub schema_tidy: bool,
    /// `content` beside tool calls may be null; if not, it is `""`.
    pub null_content: bool,
    /// Where reasoning has to come back beside tool calls.
    pub reasoning_echo: Option<&'static str>,
    /// Words that `reasoning_effort` knows, ascending; none: it is not sent.
    pub efforts: Vec<&'static str>,
    /// Gemini's thought signatures have to come back with tool calls.
    pub thought_signatures: bool,
    /// A user message may follow a tool message.
    pub user_after_tool: bool,
    /// `file` parts are understood.
    pub files: bool,
    /// `top_k` is understood.
    pub top_k: bool,
    /// Most stop sequences.
    pub stop_max: usize,
    /// `response_format` knows `json_schema`.
    pub json_schema: bool,
    /// Parameters under another name.
    pub renamed: Vec<(Word, Word)>,
    /// The flag of a last assistant message that is to be continued.
    pub prefill: Option<&'static str>,
    /// Sent if the client gives no output limit.
    pub max_tokens_default: Option<u32>,
    /// Most that is sent.
    pub max_tokens_cap: Option<u32>,
    /// Values of `temperature` that are taken; others become the nearest of them.
    pub temperature: Option<Bounds>,
    /// The same of `top_p`.
    pub top_p: Option<Bounds>,
    /// The same for Anthropic's protocol.
    pub messages: Messages,
}

/// The least and the largest value of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Bounds {
    pub least: f64,
    pub most: f64,
}

/// The words that `reasoning_effort` may know anywhere, ascending.
pub const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// What a model takes in Anthropic's protocol (anthropic-messages §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    /// `thinking.type` is `adaptive` with `output_config.effort`; if not, `enabled` with a budget.
    pub adaptive: bool,
    /// `thinking` is understood at all.
    pub thinking: bool,
    /// `effort` knows `xhigh`.
    pub xhigh: bool,
    /// `temperature`, `top_p` and `top_k` are taken.
    pub sampling: bool,
    /// The last message may be the assistant's.
    pub prefill: bool,
    /// `output_config.format` is understood.
    pub format: bool,
}

/// What ids of tool calls a provider takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolIds {
    /// Any text.
    Any,
    /// `[A-Za-z0-9_-]{1,64}`.
    Plain,
    /// Nine letters or digits (Mistral).
    Nine,
}

/// What values of `tool_choice` a provider takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToolChoices {
    /// `auto` only.
    Auto,
    /// `auto` and `none`.
    AutoNone,
    /// All of them.
    All,
}

/// What nearly everyone takes.
const COMMON: Written = Written {
    tool_ids: ToolIds::Any,
    tool_choice: ToolChoices::All,
    single_calls: false,
    strict: false,
    schema_drop: Vec::new(),
    schema_tidy: false,
    null_content: true,
    reasoning_echo: None,
    efforts: Vec::new(),
    thought_signatures: false,
    user_after_tool: true,
    files: false,
    top_k: false,
    stop_max: 4,
    json_schema: true,
    renamed: Vec::new(),
    prefill: None,
    max_tokens_default: None,
    max_tokens_cap: None,
    temperature: None,
    top_p: None,
    messages: Messages {
        adaptive: false,
        thinking: true,
        xhigh: false,
        sampling: true,
        prefill: true,
        format: false,
    },
};

/// The words that models with open weights were trained on.
const THREE: &[&str] = &["low", "medium", "high"];

/// How requests are written for `name` (a preset without its region; empty: unknown) and `model`.
fn written(name: &str, model: &str) -> Written {
    let family = model.rsplit('/').next().unwrap_or(model);
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| family.starts_with(prefix));
    let common = Written { messages: messages(family), ..COMMON };
    let open_weights = if family.starts_with("gpt-oss") { THREE } else { &[] };
    match name {
        "openai" => Written {
            tool_ids: ToolIds::Plain,
            strict: true,
            files: true,
            // Other models refuse the parameter.
            efforts: if starts(&["gpt-5", "gpt-6"]) {
                vec!["minimal", "low", "medium", "high"]
            } else if starts(&["o1", "o3", "o4"]) {
                THREE.to_vec()
            } else {
                Vec::new()
            },
            ..common
        },
        "gemini" => Written {
            thought_signatures: true,
            schema_drop: words(&[
                "$schema",
                "$id",
                "$comment",
                "additionalProperties",
                "uniqueItems",
                "propertyNames",
            ]),
            schema_tidy: true,
            efforts: if starts(&["gemini-2.5"]) {
                THREE.to_vec()
            } else if starts(&["gemini-3"]) {
                vec!["low", "high"]
            } else {
                Vec::new()
            },
            ..common
        },
        "groq" | "sambanova" | "together" | "fireworks" | "deepinfra" | "ollama" => {
            Written { efforts: open_weights.to_vec(), ..common }
        }
        "cerebras" => Written {
            efforts: open_weights.to_vec(),
            // It reserves the whole value against the minute's quota, 16384 if there is none.
            max_tokens_default: Some(4096),
            max_tokens_cap: Some(16384),
            ..common
        },
        "mistral" | "codestral" => Written {
            tool_ids: ToolIds::Nine,
            user_after_tool: false,
            renamed: vec![("seed".into(), "random_seed".into())],
            prefill: Some("prefix"),
            temperature: Some(Bounds { least: 0.0, most: 1.5 }),
            ..common
        },
        "cohere" => Written { schema_drop: words(&["$schema", "additionalProperties"]), ..common },
        // The default limit of many models is 256.
        "cloudflare" => Written { null_content: false, max_tokens_default: Some(8192), ..common },
        "openrouter" => Written {
            strict: true,
            files: true,
            top_k: true,
            efforts: vec!["none", "minimal", "low", "medium", "high", "xhigh"],
            ..common
        },
        "grok" if starts(&["grok-3-mini"]) => Written { efforts: vec!["low", "high"], ..common },
        "deepseek" => Written {
            reasoning_echo: Some("reasoning_content"),
            json_schema: false,
            efforts: vec!["low", "high", "max"],
            ..common
        },
        "moonshot" => Written {
            reasoning_echo: Some("reasoning_content"),
            prefill: Some("partial"),
            tool_choice: if starts(&["kimi-k2"]) { ToolChoices::AutoNone } else { ToolChoices::All },
            efforts: if starts(&["kimi-k3"]) { vec!["low", "high", "max"] } else { Vec::new() },
            ..common
        },
        "zai" => Written {
            tool_choice: ToolChoices::Auto,
            temperature: Some(Bounds { least: 0.0, most: 1.0 }),
            top_p: Some(Bounds { least: 0.01, most: 1.0 }),
            ..common
        },
        "minimax" => Written {
            tool_choice: ToolChoices::Auto,
            json_schema: false,
            // Zero itself is refused.
            temperature: Some(Bounds { least: 0.01, most: 1.0 }),
            ..common
        },
        "nvidia" => Written { single_calls: true, ..common },
        "llamacpp" | "vllm" | "lmstudio" => Written { top_k: true, ..common },
        _ => common,
    }
}

fn words(words: &[&'static str]) -> Vec<Word> {
    words.iter().copied().map(Cow::Borrowed).collect()
}

/// By the version in a Claude model's name (`claude-3-7-sonnet-…`, `claude-opus-4-8`); one without is the newest.
/// Other models in Anthropic's protocol get what it began with.
fn messages(family: &str) -> Messages {
    let Some((_, claude)) = family.split_once("claude") else { return COMMON.messages };
    let mut numbers = claude
        .split(['-', '.', '@', '_', ':', '['])
        .filter(|word| (1..=2).contains(&word.len()))
        .filter_map(|word| word.parse::<u8>().ok());
    let version = match (numbers.next(), numbers.next()) {
        (Some(major), minor) => (major, minor.unwrap_or(0)),
        _ => (u8::MAX, 0),
    };
    Messages {
        thinking: version >= (3, 7),
        adaptive: version >= (4, 6),
        xhigh: version >= (4, 7),
        sampling: version < (4, 7),
        prefill: version < (4, 6),
        format: version >= (4, 5),
    }
}

/// Parameters of OpenAI's own service, unknown to nearly everyone else.
const OPENAI_ONLY: &[&str] = &[
    "store",
    "metadata",
    "service_tier",
    "verbosity",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "modalities",
    "prediction",
];
/// Those of them that Mistral's description has.
const MISTRAL_KNOWS: &[&str] = &["metadata", "prediction"];
const UNDOCUMENTED: &[&str] = &["reasoning_effort"];
/// Models of xAI that reason refuse these.
const GROK_FIXED: &[&str] = &["stop", "presence_penalty", "frequency_penalty"];
/// Kimi models fix these and refuse any other value.
const KIMI_FIXED: &[&str] = &["temperature", "top_p", "n", "presence_penalty", "frequency_penalty"];

/// Here models of several makers put their reasoning into the text, in tags.
const TAGGED: &[&str] = &["minimax", "cloudflare", "pollinations"];

struct Row {
    names: &'static [&'static str],
    max_completion_tokens: bool,
    stream_options: bool,
    developer_role: bool,
    n: bool,
    drop: &'static [&'static str],
}

#[rustfmt::skip]
static TABLE: &[Row] = &[
    Row { names: &["gemini"], max_completion_tokens: true, stream_options: true, developer_role: true, n: true, drop: &[] },
    Row {
        names: &["groq"], max_completion_tokens: true, stream_options: true, developer_role: true, n: false,
        drop: &["logprobs", "top_logprobs", "logit_bias"],
    },
    // `stream_options` brought 400 and 422 in 2025; usage comes without it.
    // Every name that is not in its description is a 422.
    Row {
        names: &["mistral", "codestral"], max_completion_tokens: false, stream_options: false, developer_role: false, n: true,
        drop: &["logit_bias", "logprobs", "top_logprobs", "user"],
    },
    Row {
        names: &["cohere"], max_completion_tokens: false, stream_options: true, developer_role: true, n: false,
        drop: &["top_k", "logit_bias", "top_logprobs", "parallel_tool_calls", "user"],
    },
    Row { names: &["cloudflare"], max_completion_tokens: true, stream_options: true, developer_role: false, n: false, drop: UNDOCUMENTED },
    Row { names: &["openrouter"], max_completion_tokens: true, stream_options: true, developer_role: true, n: false, drop: &[] },
    Row { names: &["grok"], max_completion_tokens: true, stream_options: true, developer_role: true, n: true, drop: &[] },
    Row { names: &["deepseek"], max_completion_tokens: false, stream_options: true, developer_role: true, n: false, drop: &[] },
    Row { names: &["qwen"], max_completion_tokens: false, stream_options: true, developer_role: false, n: false, drop: UNDOCUMENTED },
    // Usage comes in the last chunk without being asked for.
    Row {
        names: &["zai"], max_completion_tokens: false, stream_options: false, developer_role: false, n: false,
        drop: &["presence_penalty", "frequency_penalty"],
    },
    Row { names: &["moonshot"], max_completion_tokens: true, stream_options: true, developer_role: false, n: false, drop: &[] },
    Row { names: &["siliconflow"], max_completion_tokens: false, stream_options: true, developer_role: false, n: true, drop: UNDOCUMENTED },
    Row {
        names: &["minimax"], max_completion_tokens: true, stream_options: true, developer_role: false, n: false,
        drop: &[
            "tool_choice", "parallel_tool_calls", "response_format", "seed", "presence_penalty", "frequency_penalty",
            "reasoning_effort",
        ],
    },
    Row {
        names: &["cerebras"], max_completion_tokens: true, stream_options: true, developer_role: false, n: false,
        drop: &["presence_penalty", "frequency_penalty", "logit_bias"],
    },
    Row { names: &["sambanova"], max_completion_tokens: true, stream_options: true, developer_role: false, n: false, drop: &[] },
    Row {
        names: &["scaleway"], max_completion_tokens: false, stream_options: true, developer_role: false, n: false,
        drop: &["n", "top_logprobs", "frequency_penalty"],
    },
    Row { names: &["ollama", "nvidia", "together", "fireworks", "deepinfra", "nebius", "novita", "chutes"],
        max_completion_tokens: false, stream_options: true, developer_role: false, n: false, drop: &[] },
    Row { names: &["llamacpp"], max_completion_tokens: true, stream_options: true, developer_role: false, n: false, drop: UNDOCUMENTED },
    Row { names: &["vllm"], max_completion_tokens: true, stream_options: true, developer_role: false, n: true, drop: UNDOCUMENTED },
];

impl Quirks {
    /// What is known about `preset` (its name in the table of presets; `None` or one not listed here: about an
    /// unknown OpenAI-compatible server) when asked for `model`.
    pub fn of(preset: Option<&str>, model: &str) -> Quirks {
        // Regional and hosted variants are called `NAME-REGION` and refuse the same.
        let name = preset.map_or("", |name| name.split('-').next().unwrap_or(name));
        if name == "openai" {
            let written = written(name, model);
            // The models that reason refuse the older name.
            let limit = (!written.efforts.is_empty()).then_some("max_completion_tokens");
            return Quirks {
                stream_options: true,
                max_completion_tokens: true,
                developer_role: true,
                n: true,
                drop_params: Vec::new(),
                think_tags: ThinkTags::None,
                written,
                passing: Passing { limit, ..Passing::default() },
            };
        }
        let row = TABLE.iter().find(|row| row.names.contains(&name));
        // OpenRouter drops what the chosen sub-provider does not know.
        let common: &[&str] = if name == "openrouter" { &[] } else { OPENAI_ONLY };
        let fixed: &[&str] = match name {
            "moonshot" if model.starts_with("kimi-") => KIMI_FIXED,
            "grok" if grok_reasons(model) => GROK_FIXED,
            _ => &[],
        };
        let own = row.map_or(UNDOCUMENTED, |row| row.drop);
        let drop_params = [common, own, fixed].concat();
        let refused: Vec<&str> = match name {
            // They refuse every name that they do not know.
            "gemini" | "cerebras" | "cohere" => drop_params.clone(),
            "mistral" | "codestral" => {
                drop_params.iter().copied().filter(|name| !MISTRAL_KNOWS.contains(name)).collect()
            }
            "groq" | "zai" => own.to_vec(),
            _ => fixed.to_vec(),
        };
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Quirks {
            stream_options: row.is_none_or(|row| row.stream_options),
            max_completion_tokens: row.is_some_and(|row| row.max_completion_tokens),
            developer_role: row.is_some_and(|row| row.developer_role),
            n: row.is_some_and(|row| row.n),
            think_tags: if TAGGED.contains(&name) { ThinkTags::Leading } else { ThinkTags::None },
            drop_params: owned(drop_params),
            written: written(name, model),
            passing: Passing {
                drop_params: owned(refused),
                limit: row.filter(|row| !row.max_completion_tokens).map(|_| "max_tokens"),
                no_developer: row.is_some_and(|row| !row.developer_role),
            },
        }
    }

    /// Whether a chat request that goes through may have to be changed; if not, it need not be looked at.
    pub fn change_passing(&self) -> bool {
        let Passing { drop_params, limit, no_developer } = &self.passing;
        let written = &self.written;
        let top = !drop_params.is_empty()
            || limit.is_some()
            || !written.renamed.is_empty()
            || written.single_calls
            || written.tool_choice != ToolChoices::All
            || !written.json_schema
            || written.temperature.is_some()
            || written.top_p.is_some();
        top || *no_developer || written.change_messages() || written.clean_schemas()
    }
}

impl Written {
    /// Whether messages with tool calls may have to be changed in a chat request that goes through.
    pub fn change_messages(&self) -> bool {
        self.tool_ids == ToolIds::Nine
            || !self.user_after_tool
            || !self.null_content
            || self.reasoning_echo.is_some()
            || self.thought_signatures
    }

    /// Whether JSON schemas may have to be changed.
    pub fn clean_schemas(&self) -> bool {
        self.schema_tidy || !self.schema_drop.is_empty()
    }
}

fn grok_reasons(model: &str) -> bool {
    let reasoning = ["grok-3-mini", "grok-4", "grok-code"].iter().any(|prefix| model.starts_with(prefix));
    reasoning && !model.contains("non-reasoning")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(preset: Option<&str>, model: &str, flags: [bool; 4], dropped: &[&str], kept: &[&str]) {
        let quirks = Quirks::of(preset, model);
        let found = [quirks.stream_options, quirks.max_completion_tokens, quirks.developer_role, quirks.n];
        assert_eq!(found, flags, "{preset:?}: stream_options, max_completion_tokens, developer_role, n");
        for param in dropped {
            assert!(quirks.drop_params.iter().any(|name| name == param), "{preset:?} must not get {param}");
        }
        for param in kept {
            assert!(!quirks.drop_params.iter().any(|name| name == param), "{preset:?} takes {param}");
        }
    }

    #[test]
    fn providers_differ() {
        check(Some("openai"), "", [true; 4], &[], &["store", "reasoning_effort"]);
        check(Some("gemini"), "", [true; 4], &["store"], &["reasoning_effort"]);
        check(Some("mistral"), "", [false, false, false, true], &["metadata"], &["seed"]);
        check(Some("codestral"), "", [false, false, false, true], &[], &[]);
        check(Some("zai"), "", [false; 4], &["presence_penalty"], &["temperature"]);
        check(Some("groq"), "", [true, true, true, false], &["logit_bias"], &["reasoning_effort"]);
        check(Some("minimax-cn"), "", [true, true, false, false], &["tool_choice"], &["tools"]);
        check(Some("moonshot"), "kimi-k3", [true, true, false, false], &["temperature"], &[]);
        check(Some("moonshot"), "moonshot-v1-8k", [true, true, false, false], &[], &["temperature"]);
    }

    #[test]
    fn an_unknown_server_gets_what_nearly_all_accept() {
        for preset in [None, Some("openai_compat"), Some("lmstudio")] {
            check(
                preset,
                "m",
                [true, false, false, false],
                &["store", "reasoning_effort"],
                &["temperature", "tools"],
            );
        }
    }

    #[test]
    fn what_goes_through_is_changed_only_where_it_would_be_refused() {
        for (preset, model, params, limit, no_developer) in [
            (None, "m", &[][..], None, false),
            (Some("openrouter"), "m", &[], None, false),
            (Some("openai"), "gpt-4.1", &[], None, false),
            (Some("openai"), "o3", &[], Some("max_completion_tokens"), false),
            (Some("groq"), "m", &["logprobs", "top_logprobs", "logit_bias"], None, false),
            (Some("together"), "m", &[], Some("max_tokens"), true),
            (Some("grok"), "grok-4-fast-non-reasoning", &[], None, false),
            (Some("grok"), "grok-4", GROK_FIXED, None, false),
            (Some("moonshot"), "kimi-k3", KIMI_FIXED, None, true),
        ] {
            let quirks = Quirks::of(preset, model);
            let drop_params = params.iter().copied().map(str::to_owned).collect();
            assert_eq!(quirks.passing, Passing { drop_params, limit, no_developer }, "{preset:?} {model}");
        }
        for (preset, changes) in [
            (None, false),
            (Some("openrouter"), false),
            (Some("ovh"), false),
            (Some("gemini"), true),
            (Some("nvidia"), true),
            (Some("minimax"), true),
        ] {
            assert_eq!(Quirks::of(preset, "m").change_passing(), changes, "{preset:?}");
        }
    }

    #[test]
    fn requests_are_written_for_the_model() {
        let of = |preset, model| Quirks::of(Some(preset), model).written;
        assert_eq!(of("groq", "openai/gpt-oss-120b").efforts, THREE);
        assert_eq!(of("groq", "llama-3.3-70b-versatile").efforts, [""; 0]);
        assert_eq!(of("openai", "gpt-4.1").efforts, [""; 0]);
        assert_eq!(of("minimax", "m").temperature, Some(Bounds { least: 0.01, most: 1.0 }));
        assert_eq!(of("mistral", "m").tool_ids, ToolIds::Nine);
        assert_eq!(of("moonshot", "kimi-k2-thinking").tool_choice, ToolChoices::AutoNone);
        assert_eq!(Quirks::of(None, "m").written, COMMON);
        // thinking, adaptive, xhigh, sampling, prefill, format
        for (model, expected) in [
            ("claude-3-5-haiku-20241022", [false, false, false, true, true, false]),
            ("claude-3-7-sonnet-20250219", [true, false, false, true, true, false]),
            ("claude-opus-4-20250514", [true, false, false, true, true, false]),
            ("claude-sonnet-4-5-20250929", [true, false, false, true, true, true]),
            ("anthropic/claude-opus-4.6", [true, true, false, true, false, true]),
            ("claude-opus-4-8", [true, true, true, false, false, true]),
            ("us.anthropic.claude-opus-4-6-v1:0", [true, true, false, true, false, true]),
            ("claude-opus-4-8[1m]", [true, true, true, false, false, true]),
            ("claude-opus-5", [true, true, true, false, false, true]),
            ("claude-latest", [true, true, true, false, false, true]),
            ("glm-4.6", [true, false, false, true, true, false]),
        ] {
            let found = of("anthropic", model).messages;
            let found =
                [found.thinking, found.adaptive, found.xhigh, found.sampling, found.prefill, found.format];
            assert_eq!(found, expected, "{model}");
        }
    }

    #[test]
    fn every_row_belongs_to_presets_and_to_one_only_once() {
        for name in TABLE.iter().flat_map(|row| row.names) {
            assert!(crate::provider::preset(name).is_some(), "{name}");
            assert_eq!(TABLE.iter().filter(|row| row.names.contains(name)).count(), 1, "{name}");
        }
    }
}

//! What a provider's chat endpoint refuses, as data. Knows names of parameters, not how to send or drop them.

/// What may be sent to one backend's OpenAI-compatible endpoint without a refusal.
///
/// From the vendors' documentation where it says so; an undocumented ability counts as absent. The configuration
/// overrides single fields.
#[derive(Debug, Clone, PartialEq, Eq)]
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
const UNDOCUMENTED: &[&str] = &["reasoning_effort"];
/// Kimi models fix these and refuse any other value.
const KIMI_FIXED: &[&str] = &["temperature", "top_p", "n", "presence_penalty", "frequency_penalty"];

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
    Row { names: &["mistral", "codestral"], max_completion_tokens: false, stream_options: false, developer_role: false, n: true, drop: &[] },
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
            return Quirks {
                stream_options: true,
                max_completion_tokens: true,
                developer_role: true,
                n: true,
                drop_params: Vec::new(),
            };
        }
        let row = TABLE.iter().find(|row| row.names.contains(&name));
        // OpenRouter drops what the chosen sub-provider does not know.
        let common: &[&str] = if name == "openrouter" { &[] } else { OPENAI_ONLY };
        let fixed = if name == "moonshot" && model.starts_with("kimi-") { KIMI_FIXED } else { &[] };
        let own = row.map_or(UNDOCUMENTED, |row| row.drop);
        Quirks {
            stream_options: row.is_none_or(|row| row.stream_options),
            max_completion_tokens: row.is_some_and(|row| row.max_completion_tokens),
            developer_role: row.is_some_and(|row| row.developer_role),
            n: row.is_some_and(|row| row.n),
            drop_params: [common, own, fixed].concat().into_iter().map(str::to_owned).collect(),
        }
    }
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
    fn every_row_belongs_to_presets_and_to_one_only_once() {
        for name in TABLE.iter().flat_map(|row| row.names) {
            assert!(crate::provider::preset(name).is_some(), "{name}");
            assert_eq!(TABLE.iter().filter(|row| row.names.contains(name)).count(), 1, "{name}");
        }
    }
}

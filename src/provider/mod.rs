//! What is known about the providers: presets, what each refuses, how each tells its limits.
//!
//! Data and lookups only: nothing here opens a connection or decides the order of attempts.

pub mod learn;
pub mod quirks;
pub mod quota;
pub mod ratelimit;

/// The protocol spoken to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `POST {base}/chat/completions`.
    OpenAi,
    /// `POST {base}/v1/messages`.
    Anthropic,
}

/// The header that carries the API key. An empty key sends neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// `x-api-key: KEY`.
    XApiKey,
}

/// Whether a provider answers without an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Every call needs one.
    Required,
    /// Local servers, and providers with a keyless tier.
    Optional,
}

/// Quotas of a backend, each at least 1; `None`: not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub rpm: Option<u64>,
    /// Requests per day.
    pub rpd: Option<u64>,
    /// Tokens per minute.
    pub tpm: Option<u64>,
    /// Tokens per day.
    pub tpd: Option<u64>,
    /// Requests at a time.
    pub concurrency: Option<u64>,
}

/// What a provider's name in the configuration stands for.
#[derive(Debug)]
pub struct Preset {
    /// The value of `provider`, in lower case.
    pub name: &'static str,
    /// OpenAI-compatible base, to which `/chat/completions` is appended. `{ACCOUNT}` is replaced (Cloudflare).
    pub openai_base: Option<&'static str>,
    /// Anthropic-compatible base, to which `/v1/messages` is appended.
    pub anthropic_base: Option<&'static str>,
    /// How `anthropic_base` wants the key; OpenAI-compatible bases all take `Bearer`.
    pub anthropic_auth: Auth,
    /// Whether `api_key` may be left out.
    pub key: Key,
    /// Environment variables that hold a key by convention; the first one that is set counts.
    pub env_vars: &'static [&'static str],
    /// Has a free tier that is not a one-time credit. Others come second when there is no configuration.
    pub free: bool,
    /// The model used when there is no configuration. Free where the provider has such a model.
    pub default_model: &'static str,
    /// Where a key is had; empty for local servers.
    pub signup: &'static str,
}

impl Preset {
    /// The protocol used unless the configuration says otherwise.
    pub fn protocol(&self) -> Protocol {
        if self.openai_base.is_none() && self.anthropic_base.is_some() {
            Protocol::Anthropic
        } else {
            Protocol::OpenAi
        }
    }

    /// The base URL for `protocol`, if the provider has one.
    pub fn base(&self, protocol: Protocol) -> Option<&'static str> {
        match protocol {
            Protocol::OpenAi => self.openai_base,
            Protocol::Anthropic => self.anthropic_base,
        }
    }

    /// How `protocol` carries the key here.
    pub fn auth(&self, protocol: Protocol) -> Auth {
        match protocol {
            Protocol::OpenAi => Auth::Bearer,
            Protocol::Anthropic => self.anthropic_auth,
        }
    }
}

/// The preset called `name`, in any case, or by its second name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    let name = name.to_ascii_lowercase();
    let name = match name.as_str() {
        "xai" => "grok",
        // Keys are bound to a region. `qwen` has always meant the mainland host, and the keys in use belong to it;
        // the international one is `qwen-intl`.
        "qwen-cn" => "qwen",
        other => other,
    };
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Why `name` is no preset any more, if it once was one elsewhere.
pub fn retired(name: &str) -> Option<&'static str> {
    matches!(name.to_ascii_lowercase().as_str(), "github" | "github-models" | "github_models")
        .then_some("GitHub Models was retired on 2026-07-30; use another provider, or give `base_url`")
}

const fn openai(name: &'static str, base: &'static str) -> Preset {
    Preset {
        name,
        openai_base: Some(base),
        anthropic_base: None,
        anthropic_auth: Auth::Bearer,
        key: Key::Required,
        env_vars: &[],
        free: false,
        default_model: "",
        signup: "",
    }
}

/// Every preset. Bases: vendors' documentation as of November 2026. Default models age; they only serve the start
/// without a configuration.
#[rustfmt::skip]
pub static PRESETS: &[Preset] = &[
    Preset {
        env_vars: &["GEMINI_API_KEY", "GOOGLE_API_KEY"], free: true, default_model: "gemini-flash-lite-latest",
        signup: "https://aistudio.google.com/apikey",
        ..openai("gemini", "https://generativelanguage.googleapis.com/v1beta/openai")
    },
    Preset {
        env_vars: &["GROQ_API_KEY"], free: true, default_model: "openai/gpt-oss-120b",
        signup: "https://console.groq.com/keys",
        ..openai("groq", "https://api.groq.com/openai/v1")
    },
    Preset {
        anthropic_base: Some("https://openrouter.ai/api"),
        env_vars: &["OPENROUTER_API_KEY"], free: true, default_model: "openai/gpt-oss-20b:free",
        signup: "https://openrouter.ai/keys",
        ..openai("openrouter", "https://openrouter.ai/api/v1")
    },
    Preset {
        env_vars: &["MISTRAL_API_KEY"], free: true, default_model: "mistral-small-latest",
        signup: "https://admin.mistral.ai/organization/api-keys",
        ..openai("mistral", "https://api.mistral.ai/v1")
    },
    Preset {
        env_vars: &["CODESTRAL_API_KEY"], free: true, default_model: "codestral-latest",
        signup: "https://console.mistral.ai/codestral",
        ..openai("codestral", "https://codestral.mistral.ai/v1")
    },
    Preset {
        env_vars: &["CEREBRAS_API_KEY"], free: true, default_model: "gpt-oss-120b",
        signup: "https://cloud.cerebras.ai",
        ..openai("cerebras", "https://api.cerebras.ai/v1")
    },
    Preset {
        env_vars: &["CLOUDFLARE_API_KEY", "CLOUDFLARE_API_TOKEN"], free: true,
        default_model: "@cf/meta/llama-3.3-70b-instruct-fp8-fast",
        signup: "https://dash.cloudflare.com/?to=/:account/ai/workers-ai",
        ..openai("cloudflare", "https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/ai/v1")
    },
    Preset {
        env_vars: &["HF_TOKEN", "HUGGINGFACE_API_KEY"], free: true, default_model: "openai/gpt-oss-120b",
        signup: "https://huggingface.co/settings/tokens",
        ..openai("huggingface", "https://router.huggingface.co/v1")
    },
    Preset {
        env_vars: &["COHERE_API_KEY", "CO_API_KEY"], free: true, default_model: "command-a-03-2025",
        signup: "https://dashboard.cohere.com/api-keys",
        ..openai("cohere", "https://api.cohere.ai/compatibility/v1")
    },
    Preset {
        env_vars: &["SAMBANOVA_API_KEY"], free: true, default_model: "gpt-oss-120b",
        signup: "https://cloud.sambanova.ai/apis",
        ..openai("sambanova", "https://api.sambanova.ai/v1")
    },
    Preset {
        env_vars: &["NVIDIA_API_KEY"], free: true, default_model: "openai/gpt-oss-120b",
        signup: "https://build.nvidia.com",
        ..openai("nvidia", "https://integrate.api.nvidia.com/v1")
    },
    Preset {
        anthropic_base: Some("https://api.z.ai/api/anthropic"),
        env_vars: &["ZAI_API_KEY"], free: true, default_model: "glm-4.7-flash",
        signup: "https://z.ai/manage-apikey/apikey-list",
        ..openai("zai", "https://api.z.ai/api/paas/v4")
    },
    Preset {
        anthropic_base: Some("https://open.bigmodel.cn/api/anthropic"),
        env_vars: &["ZHIPUAI_API_KEY"], free: true, default_model: "glm-4.7-flash",
        signup: "https://open.bigmodel.cn",
        ..openai("zai-cn", "https://open.bigmodel.cn/api/paas/v4")
    },
    Preset {
        anthropic_base: Some("https://dashscope.aliyuncs.com/apps/anthropic"),
        env_vars: &["DASHSCOPE_API_KEY"], free: true, default_model: "qwen-plus",
        signup: "https://dashscope.console.aliyun.com",
        ..openai("qwen", "https://dashscope.aliyuncs.com/compatible-mode/v1")
    },
    Preset {
        anthropic_base: Some("https://dashscope-intl.aliyuncs.com/apps/anthropic"),
        free: true, default_model: "qwen-plus",
        signup: "https://modelstudio.console.alibabacloud.com",
        ..openai("qwen-intl", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1")
    },
    Preset {
        anthropic_base: Some("https://dashscope-us.aliyuncs.com/apps/anthropic"),
        free: true, default_model: "qwen-plus",
        signup: "https://modelstudio.console.alibabacloud.com",
        ..openai("qwen-us", "https://dashscope-us.aliyuncs.com/compatible-mode/v1")
    },
    Preset {
        anthropic_base: Some("https://api.siliconflow.com"),
        env_vars: &["SILICONFLOW_API_KEY"], free: true, default_model: "Qwen/Qwen3-8B",
        signup: "https://cloud.siliconflow.com/account/ak",
        ..openai("siliconflow", "https://api.siliconflow.com/v1")
    },
    Preset {
        anthropic_base: Some("https://api.siliconflow.cn"),
        free: true, default_model: "Qwen/Qwen3-8B",
        signup: "https://cloud.siliconflow.cn/account/ak",
        ..openai("siliconflow-cn", "https://api.siliconflow.cn/v1")
    },
    Preset {
        env_vars: &["MODELSCOPE_API_KEY"], free: true, default_model: "Qwen/Qwen3-8B",
        signup: "https://modelscope.cn/my/myaccesstoken",
        ..openai("modelscope", "https://api-inference.modelscope.cn/v1")
    },
    Preset {
        anthropic_base: Some("https://ai-gateway.vercel.sh"),
        env_vars: &["AI_GATEWAY_API_KEY"], free: true, default_model: "openai/gpt-oss-120b",
        signup: "https://vercel.com/dashboard/ai-gateway",
        ..openai("vercel", "https://ai-gateway.vercel.sh/v1")
    },
    Preset {
        anthropic_base: Some("https://opencode.ai/zen"), anthropic_auth: Auth::XApiKey,
        env_vars: &["OPENCODE_API_KEY"], free: true, default_model: "big-pickle",
        signup: "https://opencode.ai/auth",
        ..openai("opencode", "https://opencode.ai/zen/v1")
    },
    Preset {
        anthropic_base: Some("https://ollama.com"),
        env_vars: &["OLLAMA_API_KEY"], free: true, default_model: "gpt-oss:120b",
        signup: "https://ollama.com/settings/keys",
        ..openai("ollama-cloud", "https://ollama.com/v1")
    },
    Preset {
        env_vars: &["POLLINATIONS_API_KEY"], free: true, default_model: "openai",
        signup: "https://pollinations.ai",
        ..openai("pollinations", "https://gen.pollinations.ai/v1")
    },
    Preset {
        key: Key::Optional, free: true, default_model: "gpt-oss-120b",
        signup: "https://endpoints.ai.cloud.ovh.net",
        ..openai("ovh", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1")
    },
    Preset { env_vars: &["LLM7_API_KEY"], free: true, default_model: "default", ..openai("llm7", "https://api.llm7.io/v1") },
    Preset { key: Key::Optional, free: true, ..openai("kilo", "https://api.kilo.ai/api/gateway/v1") },
    Preset {
        anthropic_base: Some("https://api.longcat.chat/anthropic"),
        free: true, ..openai("longcat", "https://api.longcat.chat/openai/v1")
    },
    Preset { free: true, ..openai("agnes", "https://apihub.agnes-ai.com/v1") },
    Preset { free: true, ..openai("routeway", "https://api.routeway.ai/v1") },
    // Without a standing free tier.
    Preset {
        env_vars: &["XAI_API_KEY", "GROK_API_KEY"], default_model: "grok-4-fast-non-reasoning",
        signup: "https://console.x.ai",
        ..openai("grok", "https://api.x.ai/v1")
    },
    Preset {
        env_vars: &["OPENAI_API_KEY"], default_model: "gpt-4.1-mini",
        signup: "https://platform.openai.com/api-keys",
        ..openai("openai", "https://api.openai.com/v1")
    },
    Preset {
        openai_base: None,
        anthropic_base: Some("https://api.anthropic.com"), anthropic_auth: Auth::XApiKey,
        env_vars: &["ANTHROPIC_API_KEY"], default_model: "claude-haiku-4-5",
        signup: "https://platform.claude.com/settings/workspaces/default/keys/",
        ..openai("anthropic", "")
    },
    Preset {
        anthropic_base: Some("https://api.deepseek.com/anthropic"), anthropic_auth: Auth::XApiKey,
        env_vars: &["DEEPSEEK_API_KEY"], default_model: "deepseek-flash",
        signup: "https://platform.deepseek.com/api_keys",
        ..openai("deepseek", "https://api.deepseek.com")
    },
    Preset {
        anthropic_base: Some("https://api.moonshot.ai/anthropic"),
        env_vars: &["MOONSHOT_API_KEY"], default_model: "kimi-latest",
        signup: "https://platform.kimi.ai/console/api-keys",
        ..openai("moonshot", "https://api.moonshot.ai/v1")
    },
    Preset {
        anthropic_base: Some("https://api.moonshot.cn/anthropic"), default_model: "kimi-latest",
        signup: "https://platform.moonshot.cn",
        ..openai("moonshot-cn", "https://api.moonshot.cn/v1")
    },
    Preset {
        anthropic_base: Some("https://api.minimax.io/anthropic"),
        env_vars: &["MINIMAX_API_KEY"], default_model: "MiniMax-M2",
        signup: "https://platform.minimax.io/user-center/payment/token-plan",
        ..openai("minimax", "https://api.minimax.io/v1")
    },
    Preset {
        anthropic_base: Some("https://api.minimaxi.com/anthropic"), default_model: "MiniMax-M2",
        signup: "https://platform.minimaxi.com",
        ..openai("minimax-cn", "https://api.minimaxi.com/v1")
    },
    Preset {
        env_vars: &["TOGETHER_API_KEY"], default_model: "openai/gpt-oss-20b",
        signup: "https://api.together.ai",
        ..openai("together", "https://api.together.xyz/v1")
    },
    Preset {
        anthropic_base: Some("https://api.fireworks.ai/inference"),
        env_vars: &["FIREWORKS_API_KEY"], default_model: "accounts/fireworks/models/gpt-oss-20b",
        signup: "https://app.fireworks.ai",
        ..openai("fireworks", "https://api.fireworks.ai/inference/v1")
    },
    Preset {
        anthropic_base: Some("https://api.deepinfra.com/anthropic"),
        env_vars: &["DEEPINFRA_API_KEY"], default_model: "openai/gpt-oss-20b",
        signup: "https://deepinfra.com/dash/api_keys",
        ..openai("deepinfra", "https://api.deepinfra.com/v1/openai")
    },
    Preset {
        env_vars: &["NEBIUS_API_KEY"], default_model: "openai/gpt-oss-20b",
        signup: "https://tokenfactory.nebius.com",
        ..openai("nebius", "https://api.tokenfactory.nebius.com/v1")
    },
    Preset {
        anthropic_base: Some("https://api.novita.ai/anthropic"),
        env_vars: &["NOVITA_API_KEY"], default_model: "openai/gpt-oss-20b",
        signup: "https://novita.ai/settings/key-management",
        ..openai("novita", "https://api.novita.ai/openai")
    },
    Preset {
        env_vars: &["CHUTES_API_KEY"], default_model: "openai/gpt-oss-20b",
        signup: "https://chutes.ai/app/api",
        ..openai("chutes", "https://llm.chutes.ai/v1")
    },
    Preset {
        env_vars: &["SCALEWAY_API_KEY"], default_model: "gpt-oss-120b",
        signup: "https://console.scaleway.com",
        ..openai("scaleway", "https://api.scaleway.ai/v1")
    },
    // Local servers.
    Preset {
        anthropic_base: Some("http://localhost:11434"), key: Key::Optional, free: true,
        ..openai("ollama", "http://localhost:11434/v1")
    },
    Preset {
        anthropic_base: Some("http://localhost:1234"), key: Key::Optional, free: true,
        ..openai("lmstudio", "http://localhost:1234/v1")
    },
    Preset {
        anthropic_base: Some("http://localhost:8080"), key: Key::Optional, free: true,
        ..openai("llamacpp", "http://localhost:8080/v1")
    },
    Preset {
        anthropic_base: Some("http://localhost:8000"), key: Key::Optional, free: true,
        ..openai("vllm", "http://localhost:8000/v1")
    },
    // Anything else that speaks the protocol: `base_url` says where.
    Preset { openai_base: None, ..openai("openai_compat", "") },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, openai_base: Option<&str>, anthropic_base: Option<&str>, protocol: Protocol) {
        let preset = preset(name).unwrap();
        assert_eq!(preset.openai_base, openai_base, "{name}");
        assert_eq!(preset.anthropic_base, anthropic_base, "{name}");
        assert_eq!(preset.protocol(), protocol, "{name}");
    }

    #[test]
    fn names_are_found_in_any_case_and_by_alias() {
        check("Grok", Some("https://api.x.ai/v1"), None, Protocol::OpenAi);
        check("xAI", Some("https://api.x.ai/v1"), None, Protocol::OpenAi);
        check("ANTHROPIC", None, Some("https://api.anthropic.com"), Protocol::Anthropic);
        check("openai_compat", None, None, Protocol::OpenAi);
        assert!(preset("github").is_none() && retired("GitHub").is_some());
        assert!(preset("").is_none() && preset("gemini ").is_none() && retired("gemini").is_none());
    }

    #[test]
    fn qwen_means_the_host_its_keys_belong_to() {
        for name in ["qwen", "qwen-cn"] {
            assert!(
                preset(name).unwrap().openai_base.unwrap().contains("//dashscope.aliyuncs.com/"),
                "{name}"
            );
        }
        assert!(preset("qwen-intl").unwrap().openai_base.unwrap().contains("//dashscope-intl."));
    }

    #[test]
    fn keys_travel_in_the_header_the_base_wants() {
        let deepseek = preset("deepseek").unwrap();
        assert_eq!(deepseek.auth(Protocol::OpenAi), Auth::Bearer);
        assert_eq!(deepseek.auth(Protocol::Anthropic), Auth::XApiKey);
        assert_eq!(preset("ollama-cloud").unwrap().auth(Protocol::Anthropic), Auth::Bearer);
        assert_eq!(preset("fireworks").unwrap().auth(Protocol::Anthropic), Auth::Bearer);
    }

    #[test]
    fn the_table_is_consistent() {
        assert!(PRESETS.len() > 40);
        for (at, preset) in PRESETS.iter().enumerate() {
            let name = preset.name;
            assert_eq!(name, name.to_ascii_lowercase());
            assert!(PRESETS[..at].iter().all(|earlier| earlier.name != name), "{name} is there twice");
            assert!(
                preset.env_vars.is_empty() || !preset.default_model.is_empty(),
                "{name} starts without a model"
            );
            for var in preset.env_vars {
                let users = PRESETS.iter().filter(|other| other.env_vars.contains(var)).count();
                assert_eq!(users, 1, "{var} starts several backends");
            }
            for base in [preset.openai_base, preset.anthropic_base].into_iter().flatten() {
                let url = crate::config::BaseUrl::parse(&base.replace("{ACCOUNT}", "0")).unwrap();
                assert!(url.tls || url.host == "localhost", "{name} would send keys in the clear");
                assert!(!base.ends_with('/'), "{name}");
            }
            assert!(!preset.anthropic_base.is_some_and(|base| base.ends_with("/v1")), "{name}");
        }
    }
}

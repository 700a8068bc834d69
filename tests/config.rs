//! The configuration as users meet it: the example, files that must load, and files that must be refused with the
//! right words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may end itself")]

use ai_free_swap::config::*;
use ai_free_swap::provider::quirks::*;
use ai_free_swap::secret::Secret;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn env(name: &str) -> Option<String> {
    Some(match name {
        "KEY" => "key".to_owned(),
        "ONE" => "1".to_owned(),
        "EMPTY" => String::new(),
        "NESTED" => "${KEY}".to_owned(),
        "PORT" => "9000".to_owned(),
        "SERVER_API_KEY" => "server-key".to_owned(),
        _ => return None,
    })
}

fn files(kind: &str) -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[track_caller]
fn good(name: &str) -> Config {
    let (_, text) = files("good").into_iter().find(|(path, _)| path.file_stem().unwrap() == name).unwrap();
    load(&text, name, &env).unwrap()
}

#[track_caller]
fn http(backend: &Backend) -> &HttpBackend {
    match &backend.kind {
        BackendKind::Http(http) => http,
        BackendKind::Demo(mode) => panic!("{} is a demo: {mode:?}", backend.name),
    }
}

fn url(url: &BaseUrl) -> String {
    format!("{}://{}{}", if url.tls { "https" } else { "http" }, url.host_header(), url.path)
}

#[test]
fn good_files_load() {
    let files = files("good");
    assert!(files.len() >= 8, "only {} files", files.len());
    for (path, text) in files {
        if let Err(error) = load(&text, "config.yaml", &env) {
            panic!("{}: {error}", path.display());
        }
    }
}

#[test]
fn bad_files_are_refused_with_the_right_words() {
    let files = files("bad");
    assert!(files.len() >= 90, "only {} files", files.len());
    let mut wrong = Vec::new();
    for (path, text) in files {
        let path = path.display();
        let expected =
            text.lines().next().unwrap().strip_prefix("# expect: ").unwrap_or_else(|| panic!("{path}"));
        let expected = expected.replace("FILE", "config.yaml");
        let error = load(&text, "config.yaml", &env).expect_err(&format!("{path} must not load"));
        let shown = error.to_string();
        if !shown.contains(&expected) {
            wrong.push(format!("{path}\n expected {expected}\n    found {shown}"));
        }
        assert!(shown.starts_with("config.yaml") && !shown.contains('\n'), "{path}: {shown}");
        for text in [shown, format!("{error:?}")] {
            assert!(!text.contains("MARKER"), "{path} leaks: {text}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_example_loads_and_names_every_preset() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml.example")).unwrap();
    let config = load(&text, "config.yaml.example", &|name| Some(format!("value{}", name.len()))).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    let names: Vec<&str> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
    let expected =
        ["gemini", "groq-large", "openrouter", "cloudflare", "anthropic", "ollama", "openai_compat", "demo"];
    assert_eq!(names, expected);
    for preset in ai_free_swap::provider::PRESETS {
        let name = preset.name;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        assert!(words.into_iter().any(|word| word == name), "{name} is missing in config.yaml.example");
    }
    // What is commented out is understood too.
    let whole: Vec<String> = text
        .lines()
        .map(|line| match line.split_once("# ") {
            Some((indent, rest)) if !indent.is_empty() && indent.trim().is_empty() => {
                format!("{indent}{rest}")
            }
            Some(("", rest))
                if ["max_wait", "request_timeout", "selection", "state_file"]
                    .iter()
                    .any(|k| rest.starts_with(k)) =>
            {
                rest.to_owned()
            }
            _ => line.to_owned(),
        })
        .collect();
    let config = load(&whole.join("\n"), "all keys", &|_| Some("x".to_owned())).unwrap();
    assert_eq!(config.state_file, Some(PathBuf::from("/var/lib/ai-free-swap/state.json")));
    assert_eq!(config.server.max_connections, Some(256));
}

#[test]
fn a_configuration_of_the_original_means_the_same() {
    let config = good("original");
    let order: Vec<(u32, &str)> =
        config.backends.iter().map(|backend| (backend.priority, backend.name.as_str())).collect();
    let expected = [
        (1, "gemini"),
        (1, "anthropic"),
        (1, "my-server"),
        (2, "second"),
        (2, "qwen"),
        (2, "openai_compat"),
        (2, "openai"),
        (2, "openrouter"),
    ];
    assert_eq!(order, expected, "sorted by priority, stable");
    assert_eq!((config.keep_cycles, config.model_routing), (2, ModelRouting::Match));
    assert_eq!(config.server.api_key, Some(Secret::new("server-key")));

    let gemini = http(&config.backends[0]);
    assert_eq!(url(&gemini.url), "https://generativelanguage.googleapis.com/v1beta/openai");
    assert_eq!((gemini.key.expose(), gemini.timeout), ("key", Some(Duration::from_secs(30))));
    let anthropic = http(&config.backends[1]);
    assert_eq!((anthropic.protocol, anthropic.auth), (Protocol::Anthropic, Auth::XApiKey));
    assert_eq!((anthropic.default_max_tokens, anthropic.timeout), (1024, Some(Duration::from_millis(2500))));
    assert_eq!(url(&anthropic.url), "https://api.anthropic.com");
    assert_eq!(url(&http(&config.backends[2]).url), "http://localhost:9000/v1");
    assert_eq!(url(&http(&config.backends[4]).url), "https://dashscope.aliyuncs.com/compatible-mode/v1");
    assert_eq!(
        config.warnings,
        ["providers[1].backends[0].extra.max_retries: is not known and does nothing"]
    );
}

#[test]
fn defaults() {
    let config = good("smallest");
    assert_eq!((config.keep_cycles, config.model_name.as_str(), config.show_provider), (1, "aifree", true));
    assert_eq!(config.model_routing, ModelRouting::Any);
    assert_eq!(
        (config.max_wait, config.request_timeout),
        (Duration::from_secs(20), Duration::from_secs(600))
    );
    let server = &config.server;
    assert_eq!((server.host.as_str(), server.port, server.threads), ("0.0.0.0", 8000, 1));
    assert_eq!((server.max_body, server.body_memory), (34 << 20, 128 << 20));
    assert!(server.api_key.is_none() && server.socket.is_none() && server.cors.is_empty());
    assert!(server.is_open());
    assert!(matches!(config.backends[0].kind, BackendKind::Demo(DemoMode::Answer)));
}

#[test]
fn every_quirk_can_be_set() {
    let config = good("quirks");
    let quirks: Vec<&Quirks> = config.backends.iter().map(|backend| &backend.quirks).collect();
    let drop_params = vec!["logit_bias".to_owned()];
    let expected = Quirks {
        stream_options: false,
        max_completion_tokens: false,
        developer_role: false,
        n: true,
        drop_params: drop_params.clone(),
        think_tags: ThinkTags::Unopened,
        written: Written {
            tool_ids: ToolIds::Nine,
            tool_choice: ToolChoices::AutoNone,
            single_calls: true,
            strict: true,
            schema_drop: vec!["$schema".into(), "const".into()],
            schema_tidy: true,
            null_content: false,
            reasoning_echo: Some("reasoning"),
            efforts: vec!["low", "high"],
            thought_signatures: true,
            user_after_tool: false,
            files: true,
            top_k: true,
            stop_max: 16,
            json_schema: false,
            renamed: vec![("seed".into(), "random_seed".into())],
            prefill: Some("partial"),
            max_tokens_default: Some(1000),
            max_tokens_cap: Some(2000),
            temperature: Some(Bounds { least: 0.0, most: 1.5 }),
            top_p: Some(Bounds { least: 0.01, most: 1.0 }),
            messages: Messages {
                adaptive: true,
                thinking: false,
                xhigh: true,
                sampling: false,
                prefill: false,
                format: true,
            },
        },
        passing: Passing { drop_params, limit: Some("max_tokens"), no_developer: true },
    };
    assert_eq!(quirks[0], &expected);
    let unknown = Quirks::of(None, "m");
    assert!(unknown.drop_params.iter().any(|name| name == "reasoning_effort"));
    assert!(!quirks[1].drop_params.iter().any(|name| name == "reasoning_effort"));
    assert_eq!((&quirks[1].passing, quirks[1].change_passing()), (&Passing::default(), false));
    assert_eq!(quirks[2].passing, Passing::default());
    let written = &quirks[2].written;
    assert_eq!((written.renamed.len(), written.tool_ids, written.user_after_tool), (0, ToolIds::Any, true));
    assert_eq!(written.prefill, Some("prefix"), "what is not said is as in the preset");
    assert_eq!((quirks[3].written.efforts.len(), quirks[3].written.reasoning_echo), (0, None));
}

#[test]
fn scalars_are_taken_as_written() {
    let config = good("numbers_as_text");
    assert_eq!((config.keep_cycles, config.show_provider, config.server.port), (2, false, 9000));
    assert_eq!((config.max_wait, config.request_timeout), (Duration::ZERO, Duration::from_millis(1500)));
    assert_eq!(config.server.api_key, Some(Secret::new("0x1F")));
    let (first, second) = (&config.backends[0], &config.backends[1]);
    assert_eq!((http(first).key.expose(), first.model.as_str()), ("1e5", "4.10"));
    assert_eq!((first.context, first.limits.rpm), (Some(8192), Some(9000)));
    assert_eq!(
        (http(second).key.expose(), second.model.as_str(), second.name.as_str()),
        ("012", "null-model", "groq")
    );
}

#[test]
fn anchors_and_merge_keys() {
    let config = good("anchors");
    let found: Vec<_> =
        config.backends.iter().map(|b| (b.model.as_str(), b.name.as_str(), b.limits.rpm)).collect();
    let expected =
        [("a", "groq", Some(1)), ("b", "groq", Some(1)), ("c", "groq", Some(1)), ("d", "wins", Some(1))];
    assert_eq!(found, expected);
    assert!(config.backends.iter().all(|backend| http(backend).key.expose() == "key"));
}

#[test]
fn only_well_formed_variables_are_replaced_and_only_once() {
    let config = good("dollars");
    assert_eq!(config.model_name, "a$KEY ${ $${x-y} ${}");
    assert_eq!((config.server.host.as_str(), &config.server.api_key), ("127.0.0.1", &None));
    assert!(!config.server.is_open());
    assert_eq!(http(&config.backends[0]).key.expose(), "key1");
    assert_eq!(config.backends[0].model, "${KEY}");
}

#[test]
fn every_key_arrives() {
    let config = good("everything");
    assert_eq!(
        (config.max_wait, config.request_timeout),
        (Duration::from_secs(120), Duration::from_secs(3600))
    );
    let server = &config.server;
    assert_eq!((server.host.as_str(), server.port, server.api_key.is_none()), ("::1", 65535, true));
    assert_eq!((server.max_body, server.body_memory, server.threads), (2 << 20, 16 << 20, 64));
    assert_eq!(server.socket, Some(PathBuf::from("/run/ai-free-swap.sock")));
    assert_eq!(server.cors, ["https://app.example", "http://localhost:3000", "tauri://localhost"]);

    let first = &config.backends[0];
    assert_eq!((first.account.as_deref(), first.context), (Some("me"), Some(65536)));
    let limits = Limits { rpm: Some(1), rpd: Some(2), tpm: Some(3), tpd: Some(4), concurrency: Some(5) };
    assert_eq!(first.limits, limits);
    let quirks = Quirks {
        stream_options: false,
        max_completion_tokens: true,
        developer_role: true,
        n: true,
        think_tags: ThinkTags::None,
        drop_params: vec!["seed".to_owned(), "top_k".to_owned()],
        // Not in the file.
        written: first.quirks.written.clone(),
        passing: Passing { drop_params: vec!["seed".to_owned(), "top_k".to_owned()], ..Passing::default() },
    };
    assert_eq!(first.quirks, quirks);
    let deepseek = http(first);
    assert_eq!(url(&deepseek.url), "https://api.deepseek.com/anthropic");
    assert_eq!((deepseek.protocol, deepseek.auth), (Protocol::Anthropic, Auth::XApiKey));
    let proxy = ProxyUrl {
        host: "proxy.example".to_owned(),
        port: 3128,
        credentials: Some(Secret::new("user:p@ss")),
    };
    assert_eq!(deepseek.proxy, ProxyChoice::Url(proxy));
    assert_eq!(deepseek.headers[0], ("X-Title".to_owned(), Secret::new("a b")));
    assert_eq!(deepseek.tls_ca, Some(PathBuf::from("/etc/ssl/ca.pem")));
    assert_eq!((deepseek.timeout, deepseek.default_max_tokens), (Some(Duration::from_millis(500)), 10));

    let rest: Vec<(String, &str)> =
        config.backends[1..7].iter().map(|b| (url(&http(b).url), http(b).key.expose())).collect();
    let expected = [
        ("https://a.example/x", "k"),
        ("https://api.cloudflare.com/client/v4/accounts/0123abcd/ai/v1", "token"),
        ("https://gateway.example/acc", "token"),
        ("https://oai.endpoints.kepler.ai.cloud.ovh.net/v1", ""),
        ("http://localhost:11434/v1", ""),
        ("http://localhost:11434", ""),
    ];
    assert_eq!(rest, expected.map(|(url, key)| (url.to_owned(), key)));
    assert_eq!(http(&config.backends[1]).proxy, ProxyChoice::Direct);
    let modes: Vec<DemoMode> = config.backends[7..]
        .iter()
        .filter_map(|backend| if let BackendKind::Demo(mode) = backend.kind { Some(mode) } else { None })
        .collect();
    assert_eq!(modes, [DemoMode::Fail429, DemoMode::Fail500, DemoMode::Stall]);
    assert_eq!(url(&http(&config.backends[10]).url), "http://10.0.0.1/v1", "a server that is called demo");
}

#[test]
fn one_body_size_implies_the_other() {
    for (server, sizes) in [
        ("{max_body: 200MiB}", (200 << 20, 200 << 20)),
        ("{body_memory: 16MiB}", (16 << 20, 16 << 20)),
        ("{body_memory: 64MiB}", (34 << 20, 64 << 20)),
    ] {
        let text = format!(
            "server: {server}\nproviders: [{{priority: 1, backends: [{{provider: demo, model: m}}]}}]"
        );
        let config = load(&text, "f", &env).unwrap();
        assert_eq!((config.server.max_body, config.server.body_memory), sizes, "{server}");
    }
}

#[test]
fn a_key_in_the_clear_over_the_internet_is_warned_about() {
    for (base, warned) in [
        ("http://api.example.com/v1", true),
        ("http://8.8.8.8/v1", true),
        ("https://api.example.com/v1", false),
        ("http://192.168.1.5/v1", false),
        ("http://[::1]/v1", false),
        ("http://ollama:11434/v1", false),
        ("http://box.local/v1", false),
    ] {
        let text = format!(
            "providers: [{{priority: 1, backends: [{{provider: x, model: m, api_key: k, base_url: \"{base}\"}}]}}]"
        );
        assert_eq!(load(&text, "f", &env).unwrap().warnings.len(), usize::from(warned), "{base}");
    }
}

#[test]
fn nothing_shows_a_secret() {
    let text = "
server: {api_key: MARKER-1}
providers:
- priority: 1
  backends:
  - {provider: groq, api_key: MARKER-2, model: m, headers: {x-a: MARKER-3}, proxy: 'http://u:MARKER-4@h:1'}
  - {provider: cloudflare, api_key: 'abc:MARKER-5', model: m}
  - {provider: demo, api_key: MARKER-6, model: m}
  - {provider: x, api_key: MARKER-7, model: m, base_url: 'http://a.example/', extra: {MARKER8: MARKER-9}}
";
    let config = load(text, "f", &env).unwrap();
    for shown in [format!("{config:?}"), format!("{config:#?}"), config.warnings.join("\n")] {
        assert!(!shown.contains("MARKER"), "{shown}");
    }
    assert_eq!(config.warnings.len(), 2);

    // Whatever one edit breaks, the message keeps the secrets.
    let mut refused = 0;
    for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
        for edit in [
            "", ":", "- ", "\t", "\"", "'", "{", "]", ",", "*a ", "&a ", "!!int ", "!x ", "<<: ", "\n", "# ",
            "${X}",
        ] {
            let skip = usize::from(edit.is_empty());
            let broken = format!("{}{edit}{}", &text[..at], &text[at + skip..]);
            if let Err(error) = load(&broken, "f", &env) {
                refused += 1;
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("MARKER"), "{edit:?} at {at}: {shown}");
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    assert!(refused > 1000, "only {refused} edits were refused");
}

#[track_caller]
fn refused_soon(text: &str, message: &str) {
    let start = Instant::now();
    let error = load(text, "f", &|_| Some("x".repeat(100_000))).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
    // Far above what it takes, far below what a bomb would.
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}

#[test]
fn bombs_do_not_go_off() {
    let key = "k".repeat(50_000);
    let backends = "*a, ".repeat(1000);
    let laughs = format!(
        "providers: [{{priority: 1, backends: [&a {{provider: groq, model: m, api_key: {key}}}, {backends}]}}]"
    );
    refused_soon(&laughs, "too large once aliases and variables are expanded");

    let mut levels = "providers:\n- &a0 {priority: 1, backends: []}\n".to_owned();
    for level in 1..30 {
        let before = level - 1;
        levels += &format!("- &a{level} {{<<: [*a{before}, *a{before}, *a{before}], priority: 1}}\n");
    }
    refused_soon(&levels, "f");

    let variables = format!("model_name: {}", "${X}".repeat(1000));
    refused_soon(&variables, "too large once aliases and variables are expanded");

    refused_soon(&"[".repeat(250_000), "too many open brackets");
    refused_soon(&format!("server: {}", "[".repeat(500)), "server: must be a map");
    refused_soon(&format!("x: {}", "{a: ".repeat(500)), "f");
    refused_soon(&"- ".repeat(120_000), "f");
    refused_soon(&"? ".repeat(120_000), "f");
    refused_soon(&"!".repeat(250_000), "f");
    refused_soon(&"&a ".repeat(80_000), "f");
    refused_soon(&"a: ".repeat(80_000), "f");
    refused_soon(&"x".repeat(256 * 1024 + 1), "larger than 256 KiB");
    let nested: String = (0..600).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    refused_soon(&nested, "not a known key");
}

#[test]
fn without_a_file_keys_come_from_the_environment() {
    let from = |set: &[(&str, &str)]| {
        let set: Vec<(String, String)> =
            set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_environment(&move |name| set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    };
    let names =
        |config: &Config| config.backends.iter().map(|b| (b.priority, b.name.clone())).collect::<Vec<_>>();

    let config = from(&[]);
    assert!(matches!(config.backends[..], [Backend { kind: BackendKind::Demo(DemoMode::Answer), .. }]));
    assert_eq!((config.server.port, config.warnings.len()), (8000, 0));

    let config = from(&[
        ("OPENAI_API_KEY", "k"),
        ("GEMINI_API_KEY", " MARKER "),
        ("GOOGLE_API_KEY", "other"),
        ("GROQ_API_KEY", "  "),
        ("OPENROUTER_API_KEY", "k"),
        ("PORT", "81"),
        ("SERVER_API_KEY", "s"),
    ]);
    let expected = [(1, "gemini"), (1, "openrouter"), (2, "openai")];
    assert_eq!(names(&config), expected.map(|(priority, name)| (priority, name.to_owned())));
    assert_eq!(http(&config.backends[0]).key.expose(), "MARKER");
    assert_eq!((config.server.port, config.server.api_key.clone()), (81, Some(Secret::new("s"))));
    assert!(!format!("{config:?}").contains("MARKER"));

    let config = from(&[("CLOUDFLARE_API_TOKEN", "t"), ("CLOUDFLARE_ACCOUNT_ID", "abc")]);
    assert_eq!(http(&config.backends[0]).url.path, "/client/v4/accounts/abc/ai/v1");
    let config = from(&[("CLOUDFLARE_API_TOKEN", "t"), ("GROQ_API_KEY", "two MARKERs"), ("PORT", "0")]);
    assert_eq!(names(&config), [(1, "demo".to_owned())]);
    assert_eq!((config.warnings.len(), config.server.port), (3, 8000));
    assert!(!config.warnings.concat().contains("MARKER"), "{:?}", config.warnings);
}

#[test]
fn every_preset_starts_from_its_variables() {
    let mut started = 0;
    for preset in ai_free_swap::provider::PRESETS {
        for variable in preset.env_vars {
            let config = from_environment(&|name| {
                (name == *variable || name == "CLOUDFLARE_ACCOUNT_ID").then(|| "k".to_owned())
            });
            assert_eq!(config.backends[0].name, preset.name, "{variable}: {:?}", config.warnings);
            started += 1;
        }
    }
    assert!(started > 30, "only {started}");
}

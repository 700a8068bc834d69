//! Any file and any environment is a configuration that keeps its promises or one line of error without a secret.
#![no_main]

use ai_free_swap::config::{BackendKind, Config, from_environment, load};
use ai_free_swap::limits::{CONFIG_TIME_MAX, EXTRA_HEADER_BYTES_MAX, THREADS_MAX};
use libfuzzer_sys::fuzz_target;

/// Stands in variables and, in some seeds, in the file itself. With digits, so that it cannot pass for a name.
const SECRET: &str = "hunter2-sk-9Zq";

fn env(name: &str) -> Option<String> {
    Some(match name {
        "KEY" => SECRET.to_owned(),
        "PAIR" => format!("acc{SECRET}:{SECRET}"),
        "URL" => format!("https://{SECRET}@proxy.example/{SECRET}?key={SECRET}"),
        "LINES" => format!("{SECRET}\n{SECRET}\u{2028}"),
        "LONG" => SECRET.repeat(10_000),
        "EMPTY" => String::new(),
        "ONE" => "1".to_owned(),
        "NESTED" => "${KEY}".to_owned(),
        _ => return None,
    })
}

fn check_line(text: &str) {
    assert!(!text.contains(SECRET), "{text}");
    assert!(!text.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}'), "{text:?}");
}

fn check_config(config: &Config) {
    assert!(!config.backends.is_empty());
    assert!(config.backends.is_sorted_by_key(|backend| backend.priority));
    assert!(config.keep_cycles >= 1 && !config.model_name.trim().is_empty());
    assert!(config.max_wait <= CONFIG_TIME_MAX && config.request_timeout <= CONFIG_TIME_MAX);
    let server = &config.server;
    assert!(server.port != 0 && !server.host.is_empty());
    assert!(server.max_body >= 1 && server.max_body <= server.body_memory);
    assert!(server.threads >= 1 && server.threads as u64 <= THREADS_MAX);
    assert!(server.max_connections != Some(0));
    assert!(server.api_key.as_ref().is_none_or(|key| !key.expose().is_empty()));
    config.warnings.iter().for_each(|warning| check_line(warning));
    for backend in &config.backends {
        assert!(backend.priority >= 1 && !backend.name.is_empty() && !backend.provider.is_empty());
        assert!(!backend.model.trim().is_empty() && !backend.model.contains(char::is_control));
        let limits = backend.limits;
        for limit in [limits.rpm, limits.rpd, limits.tpm, limits.tpd, limits.concurrency, backend.context] {
            assert!(limit != Some(0));
        }
        let BackendKind::Http(http) = &backend.kind else { continue };
        assert!(http.url.port != 0 && !http.url.host.is_empty());
        assert!(http.url.host.bytes().chain(http.url.path.bytes()).all(|b| b.is_ascii_graphic()));
        assert!(http.key.expose().bytes().all(|b| b.is_ascii_graphic()));
        assert!(http.timeout.is_none_or(|time| !time.is_zero() && time <= CONFIG_TIME_MAX));
        let mut bytes = 0;
        for (name, value) in &http.headers {
            let value = value.expose();
            bytes += name.len() + value.len();
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
            assert!(value.bytes().all(|b| b == b'\t' || b == b' ' || b.is_ascii_graphic()));
        }
        assert!(bytes <= EXTRA_HEADER_BYTES_MAX);
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match load(text, "config.yaml", &env) {
        Ok(config) => check_config(&config),
        Err(error) => {
            let shown = error.to_string();
            check_line(&shown);
            assert!(shown.starts_with("config.yaml"), "{shown}");
            assert!(shown.len() <= 1000, "{shown}");
            check_line(&format!("{error:?}"));
        }
    }

    // The same text as an environment: NAME=VALUE on each line.
    let variable = |wanted: &str| {
        text.lines().find_map(|line| Some(line.strip_prefix(wanted)?.strip_prefix('=')?.to_owned()))
    };
    check_config(&from_environment(&variable));
});

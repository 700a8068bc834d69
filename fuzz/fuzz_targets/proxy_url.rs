//! URLs of the configuration and of proxy variables: what is accepted can be written down again, what is refused is
//! refused without repeating it, and this machine is never reached through a proxy.
#![no_main]

use ai_free_swap::config::{self, BaseUrl};
use ai_free_swap::net::proxy_env::ProxyEnv;
use ai_free_swap::url::ProxyUrl;
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "hunter2-9Zq";

fn check_host(host: &str, port: u16) {
    assert!(port != 0 && !host.is_empty());
    assert!(host.bytes().all(|b| b.is_ascii_graphic() && !b"@/[]?#%\\".contains(&b)), "{host:?}");
    assert!(!host.bytes().any(|b| b.is_ascii_uppercase()));
}

fn check_urls(text: &str) {
    match BaseUrl::parse(text) {
        Ok(url) => {
            check_host(&url.host, url.port);
            let scheme = if url.tls { "https" } else { "http" };
            let written = format!("{scheme}://{}{}", url.host_header(), url.path);
            assert!(url.path.is_empty() || (url.path.starts_with('/') && !url.path.ends_with('/')));
            // A path may end in `/chat/completions` twice; each reading takes one away.
            if !url.path.ends_with("/chat/completions") {
                assert_eq!(BaseUrl::parse(&written).as_ref(), Ok(&url));
            }
        }
        Err(error) => assert!(!error.to_string().contains(SECRET)),
    }
    let (configured, environment) = (config::ProxyUrl::parse(text), ProxyUrl::parse(text));
    if let Ok(url) = &configured {
        check_host(&url.host, url.port);
    }
    match &environment {
        Ok(url) => check_host(&url.host, url.port),
        Err(error) => assert!(!format!("{error} {error:?}").contains(SECRET)),
    }
    if let (Ok(configured), Ok(environment)) = (configured, environment) {
        assert_eq!(configured.port, environment.port);
        // One writes an IPv6 address anew, one keeps its spelling.
        if !configured.host.contains(':') {
            assert_eq!(configured.host, environment.host.strip_suffix('.').unwrap_or(&environment.host));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    text.lines().take(4).for_each(check_urls);

    // First line: the proxy. Second: its exceptions. Third: the target.
    let mut lines = text.lines();
    let (proxy, exceptions, target) = (lines.next(), lines.next(), lines.next().unwrap_or_default());
    let env = ProxyEnv::from_env(&|name| match name {
        "ALL_PROXY" => proxy.map(str::to_owned),
        "NO_PROXY" => exceptions.map(str::to_owned),
        _ => None,
    });
    let env = match env {
        Ok(env) => env,
        Err(error) => {
            assert!(!format!("{error} {error:?}").contains(SECRET));
            return;
        }
    };
    assert!(!format!("{env:?}").contains(SECRET) || exceptions.is_some_and(|e| e.contains(SECRET)));
    for port in [1, 443, u16::MAX] {
        let plain = env.for_target(false, target, port);
        assert_eq!(plain, env.for_target(true, target, port));
        assert_eq!(plain, env.for_target(true, &target.to_ascii_uppercase(), port));
        for local in ["localhost", "127.0.0.1", "[::1]", "x.localhost."] {
            assert!(env.for_target(true, local, port).is_none());
        }
        if exceptions.is_some_and(|list| list.split(',').any(|entry| entry == "*")) {
            assert!(plain.is_none());
        }
    }
});

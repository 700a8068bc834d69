//! One backend: what its preset, its keys and its key make of it. Knows no other backend.

use super::item::{Item, natural, quoted};
use super::quirks::quirks;
use super::raw::Problem;
use super::*;
use crate::limits::{DEFAULT_MAX_TOKENS, EXTRA_HEADER_BYTES_MAX};
use crate::provider::{self, Key, PRESETS, Preset};
use std::net::IpAddr;

/// Reads one entry of `backends`.
pub(super) fn backend(
    item: &Item<'_>,
    priority: u32,
    warnings: &mut Vec<String>,
) -> Result<Backend, Problem> {
    let required = |key: &str, remedy: &str| {
        let item = item.get(key);
        item.filled()?.ok_or_else(|| item.problem(format!("is missing; {remedy}")))
    };
    let provider =
        required("provider", "give a provider such as `gemini`, or `openai_compat` with `base_url`")?;
    let model = required("model", "give the model as the provider calls it")?;
    let name = item.get("name");
    let name = if name.text() == Some("") { None } else { name.filled()? }.unwrap_or(provider);
    let limits = item.get("limits");
    let limit = |key: &str| limits.get(key).integer(1..=u64::MAX);
    let parts = Backend {
        limits: Limits {
            rpm: limit("rpm")?,
            rpd: limit("rpd")?,
            tpm: limit("tpm")?,
            tpd: limit("tpd")?,
            concurrency: limit("concurrency")?,
        },
        context: item.get("context").integer(1..=u64::MAX)?,
        vision: item.get("vision").boolean()?,
        tools: item.get("tools").boolean()?,
        account: item.get("account").filled()?.map(str::to_owned),
        ..demo(name, provider, model, priority)
    };
    let base_url = item.get("base_url");
    if provider.eq_ignore_ascii_case("demo") && base_url.is_null() {
        return Ok(parts);
    }
    let preset = provider::preset(provider);
    Ok(Backend {
        kind: BackendKind::Http(http(item, provider, preset, warnings)?),
        quirks: quirks(&item.get("quirks"), Quirks::of(preset.map(|preset| preset.name), model))?,
        ..parts
    })
}

/// A backend of the built-in provider.
pub(super) fn demo(name: &str, provider: &str, model: &str, priority: u32) -> Backend {
    let mode = match model {
        "demo-429" => DemoMode::Fail429,
        "demo-500" => DemoMode::Fail500,
        "demo-stall" => DemoMode::Stall,
        _ => DemoMode::Answer,
    };
    Backend {
        name: name.to_owned(),
        provider: provider.to_owned(),
        priority,
        model: model.to_owned(),
        kind: BackendKind::Demo(mode),
        context: None,
        vision: None,
        tools: None,
        account: None,
        limits: Limits::default(),
        quirks: Quirks::of(Some("openai"), model),
    }
}

fn http(
    item: &Item<'_>,
    provider: &str,
    preset: Option<&'static Preset>,
    warnings: &mut Vec<String>,
) -> Result<HttpBackend, Problem> {
    let key = item.get("api_key");
    let text = key.text().unwrap_or_default();
    if text.is_empty() && preset.is_none_or(|preset| preset.key == Key::Required) {
        let signup = preset.map(|preset| preset.signup).filter(|signup| !signup.is_empty());
        return Err(key.problem(match signup {
            Some(signup) => format!("is missing or empty; get a key at {signup}"),
            None => "is missing or empty; give any word if the server wants no key".to_owned(),
        }));
    }
    let protocol =
        item.get("protocol").word(&[("openai", Protocol::OpenAi), ("anthropic", Protocol::Anthropic)])?;
    let protocol = protocol.unwrap_or(preset.map_or(Protocol::OpenAi, Preset::protocol));
    let (url, secret) = base(item, provider, preset, protocol, text)?;
    if let Err(what) = sendable(secret) {
        return Err(key.problem(what));
    }
    let auth = match preset {
        Some(preset) if protocol == Protocol::OpenAi || preset.anthropic_base.is_some() => {
            preset.auth(protocol)
        }
        // Any other server of that protocol will do as Anthropic does.
        _ if protocol == Protocol::Anthropic => Auth::XApiKey,
        _ => Auth::Bearer,
    };
    if !url.tls && !secret.is_empty() && !is_near(&url.host) {
        warnings.push(format!(
            "{}: the key is sent without encryption; use `https://`",
            item.get("base_url").path
        ));
    }
    let extra = item.get("extra");
    for (name, value) in extra.entries() {
        if REFUSED_EXTRAS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(
                value.problem("does not belong into `extra`; `api_key`, `base_url` and `proxy` go beside it")
            );
        }
        if !matches!(name, "timeout" | "default_max_tokens") {
            warnings.push(format!("{}: is not known and does nothing", value.path));
        }
    }
    let proxy = item.get("proxy");
    Ok(HttpBackend {
        url,
        key: Secret::new(secret),
        protocol,
        auth,
        timeout: extra.get("timeout").duration(Duration::from_millis(1))?,
        default_max_tokens: natural(&extra.get("default_max_tokens"))?.unwrap_or(DEFAULT_MAX_TOKENS),
        headers: headers(&item.get("headers"))?,
        proxy: match proxy.filled()? {
            None => ProxyChoice::Environment,
            Some(word) if word.eq_ignore_ascii_case("none") || word.eq_ignore_ascii_case("direct") => {
                ProxyChoice::Direct
            }
            Some(url) => ProxyChoice::Url(ProxyUrl::parse(url).map_err(|e| proxy.problem(e.to_string()))?),
        },
        tls_ca: item.get("tls_ca").filled()?.map(PathBuf::from),
    })
}

/// What the original refused in `extra`, in any case.
const REFUSED_EXTRAS: [&str; 7] =
    ["api_key", "secret", "password", "base_url", "api_base", "proxy", "transport"];

/// Where the backend is, and the part of `key` that is the secret.
fn base<'k>(
    item: &Item<'_>,
    provider: &str,
    preset: Option<&'static Preset>,
    protocol: Protocol,
    key: &'k str,
) -> Result<(BaseUrl, &'k str), Problem> {
    let base_url = item.get("base_url");
    if let Some(text) = base_url.filled()? {
        let url = BaseUrl::parse(text).map_err(|error| base_url.problem(error.to_string()))?;
        return Ok((for_protocol(url, protocol), key));
    }
    let base = match preset {
        None => {
            let what = match provider::retired(provider) {
                Some(what) => what.to_owned(),
                None => {
                    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
                    let (name, names) = (quoted(provider), names.join(", "));
                    format!("{name} is not a known provider; give `base_url` too, or one of demo, {names}")
                }
            };
            return Err(item.get("provider").problem(what));
        }
        Some(preset) => preset.base(protocol).ok_or_else(|| {
            base_url.problem(match protocol {
                Protocol::OpenAi => format!("is missing; {} needs it", quoted(provider)),
                Protocol::Anthropic => format!(
                    "is missing; {} has no known endpoint for `protocol: anthropic`",
                    quoted(provider)
                ),
            })
        })?,
    };
    with_account(base, key).map_err(|what| item.get("api_key").problem(what))
}

/// Fills the account of a key written `ACCOUNT:TOKEN` into `base`, where that has a place for it.
fn with_account<'k>(base: &str, key: &'k str) -> Result<(BaseUrl, &'k str), String> {
    let parse = |text: &str| BaseUrl::parse(text).map_err(|error| format!("leads to a URL that {error}"));
    if !base.contains("{ACCOUNT}") {
        return Ok((parse(base)?, key));
    }
    let (account, token) = key.split_once(':').unwrap_or(("", key));
    let (account, token) = (account.trim(), token.trim());
    if account.is_empty() || token.is_empty() || !account.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(
            "must be written `ACCOUNT_ID:TOKEN`; or give `base_url` with the account in it".to_owned()
        );
    }
    Ok((parse(&base.replace("{ACCOUNT}", account))?, token))
}

/// People paste the base with what we append.
fn for_protocol(mut url: BaseUrl, protocol: Protocol) -> BaseUrl {
    if protocol == Protocol::Anthropic {
        let path = url.path.strip_suffix("/messages").unwrap_or(&url.path);
        url.path = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/').to_owned();
    }
    url
}

/// A backend of `preset` with nothing but a key.
pub(super) fn from_preset(preset: &'static Preset, key: &str) -> Result<Backend, String> {
    let protocol = preset.protocol();
    let base = preset.base(protocol).ok_or("belongs to no endpoint")?;
    let (url, secret) = with_account(base, key)?;
    sendable(secret)?;
    Ok(Backend {
        kind: BackendKind::Http(HttpBackend {
            url,
            key: Secret::new(secret),
            protocol,
            auth: preset.auth(protocol),
            timeout: None,
            default_max_tokens: DEFAULT_MAX_TOKENS,
            headers: Vec::new(),
            proxy: ProxyChoice::Environment,
            tls_ca: None,
        }),
        quirks: Quirks::of(Some(preset.name), preset.default_model),
        ..demo(preset.name, preset.name, preset.default_model, if preset.free { 1 } else { 2 })
    })
}

/// Whether `key` can be a header value as it is.
fn sendable(key: &str) -> Result<(), &'static str> {
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("contains a space, line break or other character that no key has; give the bare key");
    }
    if key.len() > EXTRA_HEADER_BYTES_MAX {
        return Err("is too long for a key");
    }
    Ok(())
}

/// Hosts that are reached without crossing somebody else's network: this machine, private addresses, plain names.
fn is_near(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => {
            !host.contains('.') || [".local", ".lan", ".internal"].iter().any(|end| host.ends_with(end))
        }
    }
}

/// Fields of the connection, of the framing, or that we send ourselves.
const REFUSED_HEADERS: [&str; 19] = [
    "accept",
    "accept-encoding",
    "anthropic-version",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
];

fn headers(item: &Item<'_>) -> Result<Vec<(String, Secret)>, Problem> {
    let mut headers: Vec<(String, Secret)> = Vec::new();
    let mut size = 0_usize;
    for (name, value) in item.entries() {
        // RFC 9110 §5.6.2.
        let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if name.is_empty() || !token {
            return Err(value.problem("is not a valid header name"));
        }
        let lower = name.to_ascii_lowercase();
        if REFUSED_HEADERS.contains(&lower.as_str()) {
            let what = "is set by this program; a key goes into `api_key`, the rest cannot be changed";
            return Err(value.problem(what));
        }
        if headers.iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
            return Err(value.problem("is there twice; remove one"));
        }
        let text = value.text().unwrap_or_default();
        if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t') {
            return Err(value.problem("must be one line of ASCII text"));
        }
        size = size.saturating_add(name.len()).saturating_add(text.len());
        if size > EXTRA_HEADER_BYTES_MAX {
            return Err(
                value.problem(format!("makes the headers larger than {EXTRA_HEADER_BYTES_MAX} bytes"))
            );
        }
        headers.push((name.to_owned(), Secret::new(text)));
    }
    Ok(headers)
}

//! A configured backend, made ready to be called: everything that does not change from request to request.

use crate::config::{Auth, Backend, BackendKind, DemoMode, HttpBackend, Protocol, ProxyChoice, Quirks};
use crate::http::head::push_header;
use crate::net::client::Origin;
use crate::net::dial::Route;
use crate::net::proxy_env::ProxyEnv;
use crate::net::tls::TlsConfig;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// One backend.
pub struct Upstream {
    /// Shown as `provider_name` and in the log.
    pub name: String,
    /// The preset, by which answers are judged.
    pub provider: String,
    /// The provider's name of the model.
    pub model: String,
    /// `model` as JSON text.
    pub model_json: String,
    /// `name` as JSON text.
    pub name_json: String,
    /// What it refuses.
    pub quirks: Quirks,
    /// How it is reached.
    pub via: Via,
}

/// How a backend is reached.
pub enum Via {
    /// Answered by this program, in chat completions.
    Demo(DemoMode),
    /// Over HTTP.
    Http(Box<HttpUpstream>),
}

/// The constant parts of a request to a provider.
pub struct HttpUpstream {
    /// Where to.
    pub origin: Origin,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The output limit in tokens where the protocol demands one and the client gave none.
    pub default_max_tokens: u32,
    /// Time for the first content or the whole answer; `None`: the defaults.
    pub timeout: Option<Duration>,
    /// Method and target up to where the endpoint's path begins.
    ///
    /// Two of them for an OpenAI base URL without a path: some servers want `/v1` there and some do not, and people
    /// write both. The second one has it.
    targets: Vec<String>,
    /// Which of the targets has worked; [`UNKNOWN`] before that.
    root: AtomicUsize,
    /// From behind the target to the last constant field. Holds the key, so it has no `Debug`.
    fields: Vec<u8>,
}

/// TLS settings by their extra roots: backends that trust the same share their session caches.
pub struct Trust {
    ssl_cert_file: Option<PathBuf>,
    made: HashMap<Option<PathBuf>, TlsConfig>,
}

impl Trust {
    /// `ssl_cert_file` is trusted beside Mozilla's roots by all.
    pub fn new(ssl_cert_file: Option<PathBuf>) -> Self {
        Self { ssl_cert_file, made: HashMap::new() }
    }

    fn with(&mut self, tls_ca: Option<&Path>) -> Result<TlsConfig, String> {
        let key = tls_ca.map(Path::to_owned);
        if let Some(made) = self.made.get(&key) {
            return Ok(made.clone());
        }
        let config = TlsConfig::new(tls_ca, self.ssl_cert_file.as_deref()).map_err(|e| match tls_ca {
            Some(_) => format!("tls_ca: {e}"),
            None => format!("SSL_CERT_FILE: {e}"),
        })?;
        self.made.insert(key, config.clone());
        Ok(config)
    }
}

impl Upstream {
    /// Makes a backend ready.
    ///
    /// # Errors
    /// A file with certificates that cannot be read, in words.
    pub fn new(backend: &Backend, trust: &mut Trust, proxies: &ProxyEnv) -> Result<Self, String> {
        let via = match &backend.kind {
            BackendKind::Demo(mode) => Via::Demo(*mode),
            BackendKind::Http(http) => Via::Http(Box::new(HttpUpstream::new(http, trust, proxies)?)),
        };
        Ok(Self {
            name: backend.name.clone(),
            provider: backend.provider.to_ascii_lowercase(),
            model: backend.model.clone(),
            model_json: json_string(&backend.model),
            name_json: json_string(&backend.name),
            quirks: backend.quirks.clone(),
            via,
        })
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        match &self.via {
            Via::Demo(_) => Protocol::OpenAi,
            Via::Http(http) => http.protocol,
        }
    }
}

/// A text as a JSON string, quotes included.
fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl HttpUpstream {
    fn new(http: &HttpBackend, trust: &mut Trust, proxies: &ProxyEnv) -> Result<Self, String> {
        let url = &http.url;
        let tls = if url.tls { Some(trust.with(http.tls_ca.as_deref())?) } else { None };
        let proxy = match &http.proxy {
            ProxyChoice::Environment => proxies.for_target(url.tls, &url.host, url.port).cloned(),
            ProxyChoice::Direct => None,
            ProxyChoice::Url(proxy) => Some(proxy.clone()),
        };
        let mut pool_key = format!("{}://{}:{}", if url.tls { "https" } else { "http" }, url.host, url.port);
        if let Some(proxy) = &proxy {
            pool_key = format!("{pool_key} via {}:{}", proxy.host, proxy.port);
        }
        if let Some(ca) = &http.tls_ca {
            pool_key = format!("{pool_key} trusting {}", ca.display());
        }
        let route = Route { tls, host: url.host.clone(), port: url.port, proxy };
        let roots: &[&str] = match http.protocol {
            Protocol::OpenAi if url.path.is_empty() => &["", "/v1"],
            _ => &[&url.path],
        };
        // A forward proxy wants the target in absolute form (RFC 9112 §3.2.2).
        let host =
            if route.is_forward_proxy() { format!("http://{}", url.host_header()) } else { String::new() };
        let targets = roots.iter().map(|root| format!("POST {host}{root}")).collect();
        let fields = request_fields(http, &route);
        let origin = Origin { route, pool_key: pool_key.into() };
        let root = AtomicUsize::new(UNKNOWN);
        let (protocol, default_max_tokens) = (http.protocol, http.default_max_tokens);
        Ok(Self { origin, protocol, default_max_tokens, timeout: http.timeout, targets, root, fields })
    }

    /// The fields of every request, from the end of its target on.
    pub fn fields(&self) -> &[u8] {
        &self.fields
    }

    /// The target to use, and another one to try if the first meets a 404.
    pub fn targets(&self) -> (&str, Option<&str>) {
        let root = self.root.load(Ordering::Relaxed);
        let target = |root: usize| self.targets.get(root).map(String::as_str);
        match root {
            UNKNOWN => (target(0).unwrap_or_default(), target(1)),
            known => (target(known).unwrap_or_default(), None),
        }
    }

    /// The first (0) or the second (1) of the targets found something at its path.
    pub fn root_found(&self, root: usize) {
        self.root.store(root, Ordering::Relaxed);
    }
}

/// No target has worked yet.
const UNKNOWN: usize = usize::MAX;

fn request_fields(http: &HttpBackend, route: &Route) -> Vec<u8> {
    let url = &http.url;
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b" HTTP/1.1\r\n");
    push_header(&mut head, "Host", &url.host_header());
    if let (true, Some(credentials)) = (route.is_forward_proxy(), route.proxy_authorization()) {
        push_header(&mut head, "Proxy-Authorization", credentials.expose());
    }
    let key = http.key.expose();
    if !key.is_empty() {
        match http.auth {
            Auth::Bearer => push_header(&mut head, "Authorization", &format!("Bearer {key}")),
            Auth::XApiKey => push_header(&mut head, "x-api-key", key),
        }
    }
    if !http.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        // Some edges refuse requests without one, or with that of well-known libraries.
        push_header(&mut head, "User-Agent", concat!("ai-free-swap/", env!("CARGO_PKG_VERSION")));
    }
    push_header(&mut head, "Accept", "application/json, text/event-stream");
    // Compressed answers could not be looked into, nor passed on byte for byte.
    push_header(&mut head, "Accept-Encoding", "identity");
    push_header(&mut head, "Content-Type", "application/json");
    for (name, value) in &http.headers {
        push_header(&mut head, name, value.expose());
    }
    head
}

//! What one configuration becomes: backends ready to be called, and what is known about them.

use super::signatures::Signatures;
use super::stats::Stats;
use super::store::Store;
use super::upstream::{Trust, Upstream, Via};
use crate::config::{Backend, BackendKind, Config, ModelRouting};
use crate::net::pool::Pool;
use crate::net::proxy_env::ProxyEnv;
use crate::route::ledger::{Ledger, Scopes, Standing};
use crate::route::mask;
use crate::route::plan::{self, Candidate, Routing, Walk, candidates};
use crate::secret::Secret;
use std::cmp::Reverse;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One configuration in force. A reload makes another; running requests keep theirs.
pub struct State {
    /// As loaded.
    pub config: Config,
    /// In the order of `config.backends`.
    pub upstreams: Vec<Upstream>,
    /// Idle connections, shared over reloads.
    pub pool: Arc<Pool>,
    /// Responses kept for their clients, shared over reloads.
    pub responses: Arc<Store>,
    /// What clients drop of tool calls, shared over reloads.
    pub signatures: Arc<Signatures>,
    /// What was counted, shared over reloads.
    pub stats: Stats,
    /// Hosts of providers and outbound proxies, longest first: the log may see them, clients may not.
    hosts: Vec<String>,
    /// What no log and no client may see, longest first.
    pub secrets: Vec<Secret>,
    ledger: Mutex<Ledger>,
}

impl State {
    /// Makes the backends of `config` ready. What `previous` knows about the same ones is kept.
    ///
    /// # Errors
    /// What cannot be used, in one line.
    pub fn new(
        config: Config,
        trust: &mut Trust,
        proxies: &ProxyEnv,
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        let upstreams = config.backends.iter().map(|backend| {
            Upstream::new(backend, trust, proxies).map_err(|e| format!("backend {}: {e}", backend.name))
        });
        let upstreams = upstreams.collect::<Result<Vec<_>, _>>()?;
        let mut ledger = Ledger::new(config.backends.iter().map(scopes));
        if let Some(previous) = previous {
            ledger.adopt(&previous.ledger());
        }
        let pool = previous.map(|previous| Arc::clone(&previous.pool)).unwrap_or_default();
        let responses = previous.map(|previous| Arc::clone(&previous.responses)).unwrap_or_default();
        let signatures = previous.map(|previous| Arc::clone(&previous.signatures)).unwrap_or_default();
        let names = config.backends.iter().map(|backend| backend.name.as_str());
        let stats = Stats::new(names, previous.map(|previous| &previous.stats));
        let (hosts, secrets) = (hosts(&upstreams), secrets(&config, &upstreams));
        Ok(Self {
            config,
            upstreams,
            pool,
            responses,
            signatures,
            stats,
            hosts,
            secrets,
            ledger: Mutex::new(ledger),
        })
    }

    /// The ledger. Never held across a wait.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic under the lock leaves at worst one bench half noted.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How each backend stands, in the order of the config.
    pub fn standings(&self, now: Instant) -> Vec<Standing> {
        let ledger = self.ledger();
        (0..self.config.backends.len()).map(|backend| ledger.standing(backend, now)).collect()
    }

    /// The walk for a request that asks for `model`.
    pub fn walk(&self, model: Option<&str>) -> Walk {
        self.walk_in(model, &self.ledger())
    }

    /// The same under the lock of the ledger.
    pub fn walk_in(&self, model: Option<&str>, ledger: &Ledger) -> Walk {
        let config = &self.config;
        let models = config.backends.iter().map(|backend| backend.model.as_str());
        let routing = match config.model_routing {
            ModelRouting::Any => Routing::Any,
            ModelRouting::Match => Routing::Match,
        };
        let chosen = candidates(routing, model, &config.model_name, models);
        let mut order: Vec<Candidate> =
            chosen.into_iter().filter_map(|backend| self.candidate(backend)).collect();
        plan::order(&mut order, &mut fastrand::Rng::new());
        Walk::new(&order, ledger, config.keep_cycles, Instant::now(), config.max_wait)
    }

    fn candidate(&self, backend: usize) -> Option<Candidate> {
        let settings = self.config.backends.get(backend)?;
        Some(Candidate { backend, priority: settings.priority, context: settings.context, unfit: None })
    }

    /// A text of a provider without any key of ours, and without whatever else looks like one.
    pub fn masked(&self, text: &str) -> String {
        mask(text, &self.secrets)
    }

    /// A masked text, fit for clients.
    pub fn without_hosts(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for host in &self.hosts {
            text = text.replace(host.as_str(), "***");
        }
        text
    }

    /// What a failure is called towards clients: the provider's own words only if they may know who it is.
    pub fn told(&self, failure: impl fmt::Display) -> String {
        let text = if self.config.show_provider { failure.to_string() } else { format!("{failure:#}") };
        self.without_hosts(&text)
    }
}

fn hosts(upstreams: &[Upstream]) -> Vec<String> {
    let mut hosts = Vec::new();
    for upstream in upstreams {
        let Via::Http(http) = &upstream.via else { continue };
        let route = &http.origin.route;
        hosts.push(route.host.clone());
        hosts.extend(route.proxy.as_ref().map(|proxy| proxy.host.clone()));
    }
    // Names without a dot (`ollama` in a container network) are words as well.
    hosts.retain(|host| host.contains(['.', ':']) || host == "localhost");
    hosts.sort_by_key(|host| Reverse(host.len()));
    hosts.dedup();
    hosts
}

/// Keys, header values that may be some, and what outbound proxies want. Longest first: one may be the beginning of another.
fn secrets(config: &Config, upstreams: &[Upstream]) -> Vec<Secret> {
    let http = config.backends.iter().filter_map(|backend| match &backend.kind {
        BackendKind::Http(http) => Some(http),
        BackendKind::Demo(_) => None,
    });
    let mut secrets: Vec<Secret> = Vec::new();
    for http in http {
        secrets.push(http.key.clone());
        for (_, value) in http.headers.iter().filter(|(name, _)| is_credential(name)) {
            secrets.push(last_word(value));
        }
    }
    for upstream in upstreams {
        let Via::Http(http) = &upstream.via else { continue };
        let credentials = http.origin.route.proxy.as_ref().and_then(|proxy| proxy.credentials.as_ref());
        let password = credentials.and_then(|pair| pair.expose().split_once(':'));
        secrets.extend(password.map(|(_, password)| Secret::new(password)));
        secrets.extend(http.origin.route.proxy_authorization().as_ref().map(last_word));
    }
    secrets.sort_by_key(|secret| Reverse(secret.expose().len()));
    secrets
}

/// Behind a scheme (`Basic x`) the last word is the secret.
fn last_word(value: &Secret) -> Secret {
    Secret::new(value.expose().split_whitespace().next_back().unwrap_or_default())
}

fn is_credential(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    ["auth", "cookie", "key", "secret", "token"].iter().any(|word| header.contains(word))
}

fn scopes(backend: &Backend) -> Scopes {
    let (base_url, key) = match &backend.kind {
        BackendKind::Demo(_) => (String::new(), 0),
        BackendKind::Http(http) => {
            let mut hasher = DefaultHasher::new();
            http.key.hash(&mut hasher);
            let scheme = if http.url.tls { "https" } else { "http" };
            (format!("{scheme}://{}{}", http.url.host_header(), http.url.path), hasher.finish())
        }
    };
    let provider = backend.provider.to_ascii_lowercase();
    Scopes::new(&provider, &base_url, key, backend.account.as_deref(), &backend.model)
}

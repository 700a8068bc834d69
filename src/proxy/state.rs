//! What one configuration becomes: backends ready to be called, and what is known about them.

use super::affinity::Affinity;
use super::bell::Bell;
use super::demand::{at_least, certainly_fits, rough};
use super::signatures::Signatures;
use super::stats::Stats;
use super::store::Store;
use super::upstream::{Trust, Upstream, Via};
use crate::config::{Backend, BackendKind, Config, ModelRouting, ProxyChoice, Selection};
use crate::limits::OUTPUT_TOKENS_RESERVED;
use crate::net::pool::Pool;
use crate::net::proxy_env::ProxyEnv;
use crate::provider::quota::rules;
use crate::route::fit::{Abilities, Demand, Unfit};
use crate::route::ledger::{Ledger, Member, Report, Salt, Scopes};
use crate::route::plan::{self, Candidate, Routing, Walk, candidates};
use crate::route::saved::Saved;
use crate::route::{Now, mask};
use crate::secret::Secret;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

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
    /// Rings when there may be room for who waits.
    pub bell: Bell,
    /// Who answered which conversation, shared over reloads.
    pub affinity: Arc<Affinity>,
    salt: Salt,
    ledger: Mutex<Ledger>,
}

/// A request as far as its plan goes.
pub struct Plan {
    /// Over the backends.
    pub walk: Walk,
    /// What it is expected to take, in tokens.
    pub tokens: u64,
    /// Which conversation it belongs to, if that counts.
    pub conversation: Option<u64>,
}

/// Both clocks, now.
pub fn now() -> Now {
    Now { mono: Instant::now(), wall: SystemTime::now() }
}

impl State {
    /// Makes the backends of `config` ready. What `previous` knows about the same ones is kept, or what an earlier run
    /// has saved.
    ///
    /// # Errors
    /// What cannot be used, in one line.
    pub fn new(
        config: Config,
        trust: &mut Trust,
        proxies: &ProxyEnv,
        previous: Option<&Self>,
        saved: Option<&Saved>,
    ) -> Result<Self, String> {
        let upstreams = config.backends.iter().map(|backend| {
            Upstream::new(backend, trust, proxies).map_err(|e| format!("backend {}: {e}", backend.name))
        });
        let upstreams = upstreams.collect::<Result<Vec<_>, _>>()?;
        let salt = previous.map(|previous| previous.salt).or(saved.and_then(Saved::salt));
        let salt = salt.unwrap_or_else(|| [fastrand::u64(..), fastrand::u64(..)]);
        let mut ledger = Ledger::new(now(), config.backends.iter().map(|backend| member(salt, backend)));
        if let Some(previous) = previous {
            ledger.adopt(&previous.ledger());
        } else if let Some(saved) = saved {
            ledger.restore(saved, now());
        }
        let pool = previous.map(|previous| Arc::clone(&previous.pool)).unwrap_or_default();
        let responses = previous.map(|previous| Arc::clone(&previous.responses)).unwrap_or_default();
        let signatures = previous.map(|previous| Arc::clone(&previous.signatures)).unwrap_or_default();
        let names = config.backends.iter().map(|backend| backend.name.as_str());
        let stats = Stats::new(names, previous.map(|previous| &previous.stats));
        let affinity = previous.map(|previous| Arc::clone(&previous.affinity)).unwrap_or_default();
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
            bell: Bell::default(),
            affinity,
            salt,
            ledger: Mutex::new(ledger),
        })
    }

    /// The ledger. Never held across a wait.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic under the lock leaves at worst one bench half noted.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each backend, in the order of the config.
    pub fn reports(&self, now: Instant) -> Vec<Report> {
        let ledger = self.ledger();
        (0..self.config.backends.len()).filter_map(|backend| ledger.report(backend, now)).collect()
    }

    /// What the ledger knows, to be kept for the next run.
    pub fn save(&self) -> Saved {
        self.ledger().save(self.salt, now())
    }

    /// Plans a request of so many bytes. `exact` looks closer at what it asks for, where its length is not enough to
    /// tell; `opening` is how its conversation began.
    pub fn plan(
        &self,
        model: Option<&str>,
        bytes: usize,
        exact: impl FnOnce() -> Option<Demand>,
        opening: impl FnOnce() -> Option<String>,
    ) -> Plan {
        let config = &self.config;
        let models = config.backends.iter().map(|backend| backend.model.as_str());
        let routing = match config.model_routing {
            ModelRouting::Any => Routing::Any,
            ModelRouting::Match => Routing::Match,
        };
        let chosen = candidates(routing, model, &config.model_name, models);
        let time = Instant::now();
        let fits = certainly_fits(&self.ledger(), &chosen, bytes, time);
        // Not under the lock of the ledger.
        let demand = if fits { None } else { exact() }.unwrap_or_else(|| rough(bytes));
        let is_sticky = config.selection == Selection::Sticky;
        let conversation = if is_sticky { opening() } else { None }.map(|opening| conversation(&opening));
        let known = conversation.and_then(|conversation| self.affinity.backend(conversation));

        let mut ledger = self.ledger();
        ledger.set_clock(now());
        let candidate = |backend| self.candidate(&ledger, backend, &demand, known, time);
        let mut order: Vec<Candidate> = chosen.into_iter().filter_map(candidate).collect();
        if order.iter().all(|candidate| candidate.unfit.is_some()) {
            // Nobody is left who takes it for sure: the provider's count decides then, where it may be in time.
            for candidate in &mut order {
                let still = ledger.unfit(candidate.backend, &at_least(&demand), time);
                if !matches!(still, Some(Unfit::Window { .. } | Unfit::PerMinute { .. })) {
                    candidate.unfit = still;
                }
            }
        }
        plan::order(&mut order, &mut fastrand::Rng::new());
        let tokens = demand.tokens.saturating_add(OUTPUT_TOKENS_RESERVED);
        let walk = Walk::new(&order, &ledger, tokens, config.keep_cycles, time, config.max_wait);
        Plan { walk, tokens, conversation }
    }

    fn candidate(
        &self,
        ledger: &Ledger,
        backend: usize,
        demand: &Demand,
        known: Option<u64>,
        now: Instant,
    ) -> Option<Candidate> {
        let settings = self.config.backends.get(backend)?;
        let rank = match self.config.selection {
            Selection::Random => 0,
            Selection::LeastUsed => {
                let (left, used) = ledger.share_left(backend, now);
                // `as` saturates. Thousandths first, then the number of requests.
                (((1.0 - left) * 1000.0) as u64) << 32 | used.min(u64::from(u32::MAX))
            }
            Selection::Sticky => {
                let own = ledger.scopes(backend).map(|scopes| scopes.backend);
                u64::from(known.is_none() || own != known)
            }
        };
        let unfit = ledger.unfit(backend, demand, now);
        let context = ledger.context(backend, now);
        Some(Candidate { backend, priority: settings.priority, rank, context, unfit })
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
    let mut hosts: Vec<String> = Vec::new();
    for upstream in upstreams {
        let Via::Http(http) = &upstream.via else { continue };
        let route = &http.origin.route;
        for host in [Some(&route.host), route.proxy.as_ref().map(|proxy| &proxy.host)].into_iter().flatten() {
            // Names without a dot (`ollama` in a container network) are words as well.
            if (host.contains(['.', ':']) || host == "localhost") && !hosts.contains(host) {
                let at = hosts.partition_point(|other| other.len() >= host.len());
                hosts.insert(at, host.clone());
            }
        }
    }
    hosts
}

/// Keys, header values that may be some, and what outbound proxies want. Longest first: one may be the beginning of another.
fn secrets(config: &Config, upstreams: &[Upstream]) -> Vec<Secret> {
    let http = config.backends.iter().filter_map(|backend| match &backend.kind {
        BackendKind::Http(http) => Some(http),
        BackendKind::Demo(_) => None,
    });
    let mut secrets: Vec<Secret> = Vec::new();
    let mut add = |secret: Secret| {
        let at = secrets.partition_point(|other| other.expose().len() >= secret.expose().len());
        secrets.insert(at, secret);
    };
    for http in http {
        add(http.key.clone());
        for (_, value) in http.headers.iter().filter(|(name, _)| is_credential(name)) {
            add(last_word(value));
        }
    }
    for upstream in upstreams {
        let Via::Http(http) = &upstream.via else { continue };
        let credentials = http.origin.route.proxy.as_ref().and_then(|proxy| proxy.credentials.as_ref());
        let password = credentials.and_then(|pair| pair.expose().split_once(':'));
        if let Some((_, password)) = password {
            add(Secret::new(password));
        }
        if let Some(header) = http.origin.route.proxy_authorization() {
            add(last_word(&header));
        }
    }
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

/// The backend as the ledger sees it.
fn member(salt: Salt, backend: &Backend) -> Member {
    let (base_url, key) = match &backend.kind {
        BackendKind::Demo(_) => (String::new(), ""),
        BackendKind::Http(http) => {
            let scheme = if http.url.tls { "https" } else { "http" };
            let by = match &http.proxy {
                ProxyChoice::Environment => String::new(),
                ProxyChoice::Direct => " directly".into(),
                ProxyChoice::Url(proxy) => format!(" by {}:{}", proxy.host, proxy.port),
            };
            (format!("{scheme}://{}{}{by}", http.url.host_header(), http.url.path), http.key.expose())
        }
    };
    let provider = backend.provider.to_ascii_lowercase();
    let account = backend.account.as_deref();
    let mut rules = rules(&provider);
    // Only its free models have limits that are told.
    rules.shared &= provider != "openrouter" || backend.model.ends_with(":free");
    Member {
        scopes: Scopes::new(salt, &provider, &base_url, key, account, &backend.model),
        limits: backend.limits,
        rules,
        grouped: account.is_some(),
        abilities: Abilities { context: backend.context, vision: backend.vision, tools: backend.tools },
    }
}

/// A name for a conversation, good for this process.
fn conversation(opening: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    opening.hash(&mut hasher);
    hasher.finish()
}

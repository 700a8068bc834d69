//! What the program holds after its configuration was read: every value checked, every default filled in, no secret
//! that prints itself. Pure: files and the environment are arguments.
//!
//! `raw` knows what the file may say, `item` reads single values, `resolve` and `backend` turn them into these types,
//! `url` reads URLs.

mod backend;
mod item;
mod quirks;
mod raw;
mod resolve;

pub use crate::provider::quirks::Quirks;
pub use crate::provider::{Auth, Limits, Protocol};
pub use crate::url::{BaseUrl, ProxyUrl, UrlError};
pub use resolve::{from_environment, load};

use crate::secret::Secret;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Passes over all candidates before giving up; at least 1.
    pub keep_cycles: u32,
    /// The id in `/v1/models`, which means "any backend".
    pub model_name: String,
    /// Whether answers say which backend made them.
    pub show_provider: bool,
    /// What the client's `model` decides.
    pub model_routing: ModelRouting,
    /// Who goes first inside a priority.
    pub selection: Selection,
    /// How long a request may be held when all backends rest and the end of that is known; zero: not at all.
    pub max_wait: Duration,
    /// All attempts of one request, until the first content.
    pub request_timeout: Duration,
    /// Where the ledger is kept over restarts.
    pub state_file: Option<PathBuf>,
    /// The side the clients see.
    pub server: Server,
    /// At least one; ascending by priority, and in the order of the file within one.
    pub backends: Vec<Backend>,
    /// What is accepted but probably not meant; for the log, free of secrets.
    pub warnings: Vec<String>,
}

/// What the client's `model` decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelRouting {
    /// Nothing: every backend is a candidate.
    Any,
    /// The candidates: backends of that model, or all if there is none.
    Match,
}

/// The listening side.
#[derive(Debug, Clone)]
pub struct Server {
    /// Name or address to listen on, IPv6 without brackets.
    pub host: String,
    /// TCP port. The file allows 1 to 65535; 0 (any free port) can only come from the command line.
    pub port: u16,
    /// What clients must present; `None` lets everyone in.
    pub api_key: Option<Secret>,
    /// Largest request body, in bytes. Not above `body_memory`.
    pub max_body: usize,
    /// Client connections at a time; `None`: as many as the descriptor limit allows.
    pub max_connections: Option<usize>,
    /// All request bodies in flight, in bytes.
    pub body_memory: usize,
    /// Executor threads, 1 to 64.
    pub threads: usize,
    /// Listen on this unix socket too.
    pub socket: Option<PathBuf>,
    /// Origins whose browser pages may call; `*` for all. Empty: none.
    pub cors: Vec<String>,
}

/// One entry of the configuration: an account at a provider, and a model.
#[derive(Debug, Clone)]
pub struct Backend {
    /// For logs and `provider_name`: the entry's `name`, else its `provider`.
    pub name: String,
    /// The provider as the file spells it.
    pub provider: String,
    /// Lower goes first; at least 1.
    pub priority: u32,
    /// The provider's name of the model.
    pub model: String,
    /// How it is reached.
    pub kind: BackendKind,
    /// Size of the model's window in tokens, if known.
    pub context: Option<u64>,
    /// Whether the model takes pictures, if known.
    pub vision: Option<bool>,
    /// Whether the model takes tools, if known.
    pub tools: Option<bool>,
    /// Backends with the same account share their limits.
    pub account: Option<String>,
    /// What we count against.
    pub limits: Limits,
    /// What must not be sent.
    pub quirks: Quirks,
}

/// Who goes first inside a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// Anybody.
    Random,
    /// Who has most of its limits left.
    LeastUsed,
    /// Who has answered the conversation before.
    Sticky,
}

/// How a backend is reached.
#[derive(Debug, Clone)]
pub enum BackendKind {
    /// Answered by this program, without any network.
    Demo(DemoMode),
    /// Over HTTP.
    Http(HttpBackend),
}

/// What the built-in provider does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemoMode {
    /// Gives a canned answer that says so (any model name but those below).
    Answer,
    /// Refuses with 429 (model `demo-429`).
    Fail429,
    /// Fails with 500 (model `demo-500`).
    Fail500,
    /// Never answers (model `demo-stall`).
    Stall,
}

/// A provider's API and how to call it.
#[derive(Debug, Clone)]
pub struct HttpBackend {
    /// Where the API is.
    pub url: BaseUrl,
    /// The provider's key: visible ASCII. Empty: send none (OVH, local servers).
    pub key: Secret,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The header that carries the key.
    pub auth: Auth,
    /// Time to the first content of a stream, or to the end of a whole answer; `None`: the defaults.
    pub timeout: Option<Duration>,
    /// Sent to Anthropic-protocol backends when the client named no limit; tokens.
    pub default_max_tokens: u32,
    /// Extra request headers. Names are tokens, values visible ASCII, spaces and tabs.
    pub headers: Vec<(String, Secret)>,
    /// Which HTTP proxy is used.
    pub proxy: ProxyChoice,
    /// A PEM file with further roots to trust.
    pub tls_ca: Option<PathBuf>,
}

/// Which HTTP proxy is used towards a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyChoice {
    /// What `HTTPS_PROXY` and its relatives say.
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one.
    Url(ProxyUrl),
}

/// Why the configuration was refused: one line that says file, line, key, what is wrong, and what to do. It never
/// contains a value that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: String,
    line: Option<usize>,
    path: String,
    what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for ConfigError {}

//! From what the file or the environment says to what the program holds: defaults and bounds. Knows no YAML, and
//! leaves what is behind a backend to `backend`.

use super::backend::{backend, demo, from_preset};
use super::item::{Item, natural};
use super::raw::{self, Problem};
use super::*;
use crate::limits::*;
use crate::provider::PRESETS;
use std::net::IpAddr;

/// Reads a configuration file. `file_name` is only for messages; `env` looks up environment variables.
///
/// # Errors
/// Anything that is not understood: the file is refused as a whole, with one message.
pub fn load(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let found = raw::parse(text, env).and_then(|node| {
        config(&Item::root(&node))
            .map_err(|problem| Problem { line: raw::line_of(text, &problem.path), ..problem })
    });
    found.map_err(|problem| ConfigError {
        file: file_name.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        line: problem.line,
        path: problem.path.to_string(),
        what: problem.what,
    })
}

/// The configuration when there is no file: a backend for each well-known variable that holds a key, and the
/// built-in demo provider if there is none. Providers without a free tier come second.
///
/// `PORT`, which hosting platforms set, and `SERVER_API_KEY` are honoured. What cannot be used is skipped with a
/// warning.
pub fn from_environment(env: &dyn Fn(&str) -> Option<String>) -> Config {
    let filled =
        |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let mut warnings = Vec::new();
    let mut backends = Vec::new();
    for preset in PRESETS {
        let Some((variable, mut key)) = preset.env_vars.iter().find_map(|name| Some((*name, filled(name)?)))
        else {
            continue;
        };
        if preset.name == "cloudflare" && !key.contains(':') {
            match filled("CLOUDFLARE_ACCOUNT_ID") {
                Some(account) => key = format!("{account}:{key}"),
                // The variable usually belongs to other tools of that vendor.
                None => {
                    warnings.push(format!("{variable} is not used: CLOUDFLARE_ACCOUNT_ID is not set"));
                    continue;
                }
            }
        }
        match from_preset(preset, &key) {
            Ok(backend) => add(&mut backends, backend),
            Err(what) => warnings.push(format!("{variable} is not used: it {what}")),
        }
    }
    if backends.is_empty() {
        backends.push(demo("demo", "demo", "demo", 1));
    }
    let mut server = Server::default();
    if let Some(port) = filled("PORT") {
        match port.parse::<u16>() {
            Ok(port) if port != 0 => server.port = port,
            _ => warnings.push(format!(
                "PORT is not used: it is no number from 1 to 65535; listening on {}",
                server.port
            )),
        }
    }
    server.api_key = filled("SERVER_API_KEY").map(Secret::new);
    Config { server, backends, warnings, ..Config::default() }
}

impl Default for Config {
    /// The defaults of every key, without a backend.
    fn default() -> Self {
        Config {
            keep_cycles: 1,
            model_name: "aifree".to_owned(),
            show_provider: true,
            model_routing: ModelRouting::Any,
            selection: Selection::Random,
            max_wait: MAX_WAIT_TIME,
            request_timeout: REQUEST_TIME,
            state_file: None,
            server: Server::default(),
            backends: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Server {
            host: "0.0.0.0".to_owned(),
            port: 8000,
            api_key: None,
            max_body: REQUEST_BODY_BYTES_MAX,
            max_connections: None,
            body_memory: BODY_MEMORY_BYTES_MAX,
            threads: 1,
            socket: None,
            cors: Vec::new(),
        }
    }
}

impl Server {
    /// Whether strangers on the network can use the backends: no key, and not only this machine is listened to.
    pub fn is_open(&self) -> bool {
        let local = self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.api_key.is_none() && !local
    }
}

/// Behind those of its priority. Sorting them all at the end would be 4 KB for each such list.
fn add(backends: &mut Vec<Backend>, backend: Backend) {
    let at = backends.partition_point(|other| other.priority <= backend.priority);
    backends.insert(at, backend);
}

fn config(root: &Item<'_>) -> Result<Config, Problem> {
    let default = Config::default();
    let mut warnings = Vec::new();
    let mut backends = Vec::new();
    let groups = root.get("providers");
    for group in groups.items() {
        let priority = group.get("priority");
        let priority = natural(&priority)?
            .ok_or_else(|| priority.problem("is missing; 1 goes first, then 2 and so on"))?;
        let entries = group.get("backends");
        if entries.items().is_empty() {
            return Err(entries.problem("must list at least one backend"));
        }
        for entry in entries.items() {
            add(&mut backends, backend(&entry, priority, &mut warnings)?);
        }
    }
    if backends.is_empty() {
        return Err(groups.problem(
            "must list at least one group with `priority` and `backends`; see config.yaml.example",
        ));
    }
    let routing =
        root.get("model_routing").word(&[("any", ModelRouting::Any), ("match", ModelRouting::Match)])?;
    let selection = root.get("selection").word(&[
        ("random", Selection::Random),
        ("least_used", Selection::LeastUsed),
        ("sticky", Selection::Sticky),
    ])?;
    Ok(Config {
        keep_cycles: natural(&root.get("keep_cycles"))?.unwrap_or(default.keep_cycles),
        model_name: root.get("model_name").filled()?.map_or(default.model_name, str::to_owned),
        show_provider: root.get("show_provider").boolean()?.unwrap_or(default.show_provider),
        model_routing: routing.unwrap_or(default.model_routing),
        selection: selection.unwrap_or(default.selection),
        max_wait: root.get("max_wait").duration(Duration::ZERO)?.unwrap_or(default.max_wait),
        request_timeout: root
            .get("request_timeout")
            .duration(Duration::from_secs(1))?
            .unwrap_or(default.request_timeout),
        state_file: root.get("state_file").filled()?.map(PathBuf::from),
        server: server(&root.get("server"))?,
        backends,
        warnings,
    })
}

fn server(item: &Item<'_>) -> Result<Server, Problem> {
    let default = Server::default();
    let host = item.get("host");
    let host = match host.filled()? {
        None => default.host,
        Some(text) => listen_host(text).ok_or_else(|| {
            host.problem("must be a name or an address without port; `0.0.0.0` is every IPv4 address")
        })?,
    };
    let key = item.get("api_key");
    if key.text().is_some_and(|key| key.contains(char::is_control)) {
        return Err(key.problem("contains a line break or control character, which no client can send"));
    }
    let size = 1024..=1 << 30;
    let (max_body, body_memory) = (item.get("max_body").bytes(size.clone())?, item.get("body_memory"));
    let memory = body_memory.bytes(1024..=(1 << 30) * 3)?;
    // Whoever sets only one of the two means the other to follow.
    let (max_body, memory) = match (max_body, memory) {
        (Some(body), Some(memory)) if body > memory => {
            return Err(body_memory.problem("must not be smaller than `server.max_body`"));
        }
        (Some(body), Some(memory)) => (body, memory),
        (Some(body), None) => (body, default.body_memory.max(body)),
        (None, Some(memory)) => (default.max_body.min(memory), memory),
        (None, None) => (default.max_body, default.body_memory),
    };
    let socket = item.get("socket");
    let path = socket.filled()?;
    // `sun_path` has 108 bytes, with the final zero.
    if path.is_some_and(|path| path.len() > 107) {
        return Err(socket.problem("is too long for a unix socket; the path may have at most 107 bytes"));
    }
    let connections = item.get("max_connections").integer(1..=CONNECTIONS_MAX as u64)?;
    Ok(Server {
        host,
        port: item
            .get("port")
            .integer(1..=65535)?
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(default.port),
        api_key: key.text().filter(|key| !key.is_empty()).map(Secret::new),
        max_body,
        max_connections: connections.and_then(|n| usize::try_from(n).ok()),
        body_memory: memory,
        threads: item
            .get("threads")
            .integer(1..=THREADS_MAX)?
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(1),
        socket: path.map(PathBuf::from),
        cors: item.get("cors").items().iter().map(origin).collect::<Result<_, _>>()?,
    })
}

/// A name or address to listen on, IPv6 without its brackets.
fn listen_host(text: &str) -> Option<String> {
    let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    (host.parse::<IpAddr>().is_ok() || name && !host.is_empty()).then(|| host.to_owned())
}

/// An origin as browsers send it (RFC 6454 §6.2): scheme, host and port, without a path.
fn origin(item: &Item<'_>) -> Result<String, Problem> {
    let text = item.filled()?.unwrap_or_default().to_ascii_lowercase();
    let text = text.strip_suffix('/').unwrap_or(&text);
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty()
            && !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
    });
    if text != "*" && !is_origin {
        return Err(item
            .problem("must be an origin such as `https://app.example` without a path, or `\"*\"` for all"));
    }
    Ok(text.to_owned())
}

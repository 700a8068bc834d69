//! Sockets: deadlines, connections, dialling, TLS, the pool and the HTTP client towards providers.

pub mod client;
pub mod conn;
pub mod deadline;
pub mod dial;
pub mod pool;
pub mod proxy_env;
pub mod tls;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard one; how many there may be.
pub fn raise_descriptor_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused, the old limit stays and is reported.
    let _ = setrlimit(Resource::Nofile, limit);
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}

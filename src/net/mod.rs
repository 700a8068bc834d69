//! Sockets: deadlines, connections, dialling, TLS, the pool and the HTTP client towards providers.

pub mod client;
pub mod conn;
pub mod deadline;
pub mod dial;
pub mod pool;
pub mod proxy_env;
pub mod tls;

//! One endpoint over many free-tier AI accounts.
//!
//! The way of a request: `server` reads it, `proxy` plans and tries backends, `net` talks to them, and the pure
//! cores decide: `http` (framing), `dialect` (JSON), `route` (order and judgement), `provider` (facts).
#![forbid(unsafe_code)]

pub mod check;
pub mod cli;
pub mod config;
pub mod date;
pub mod dialect;
pub mod explain;
pub mod health;
pub mod http;
pub mod limits;
pub mod net;
pub mod notify;
pub mod provider;
pub mod proxy;
pub mod renew;
pub mod respond;
pub mod route;
pub mod secret;
pub mod server;
pub mod state_file;
pub mod stderr;
pub mod url;

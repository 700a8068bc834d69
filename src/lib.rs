//! One endpoint over many free-tier AI accounts.
//!
//! The way of a request: `server` reads it, `proxy` plans and tries backends, `net` talks to them, and the pure
//! cores decide: `http` (framing), `dialect` (JSON), `route` (order and judgement), `provider` (facts).
#![forbid(unsafe_code)]

pub mod limits;

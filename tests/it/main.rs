//! The program through its front door: the real binary on a free port, scripted providers on free ports, raw HTTP in
//! and out. Nothing here uses the library; what the library promises is tested beside its code.
//!
//! Nothing sleeps to synchronise: a test waits for an event, with a deadline, and every read has a timeout.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod harness;

mod bad_requests;
mod base_url;
mod benches;
mod crossing;
mod cuts;
mod failover;
mod fit;
mod health;
mod hostile;
mod keep_alive;
mod learning;
mod leaving;
mod limits;
mod messages;
mod outbound;
mod pass_through;
mod pool;
mod process;
mod quotas;
mod quoting;
mod reload;
mod responses;
mod selection;
#[cfg(target_os = "linux")]
mod service_manager;
mod shapes;
mod signals;
mod signatures;
mod state_file;
mod surface;
mod telling;
mod tls;
mod total_failure;
mod unix_socket;
mod web_page;

//! What is known about the providers: presets, what each refuses, how each tells its limits.

pub mod quirks;
pub mod ratelimit;

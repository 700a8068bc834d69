//! The program: command line in, exit code out.
#![forbid(unsafe_code)]

fn main() {}

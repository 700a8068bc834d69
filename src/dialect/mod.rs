//! The JSON of each protocol. Pure: knows no HTTP and no socket.

pub mod answer;
pub mod chat;
pub mod chat_stream;
pub mod error;
pub mod model;
pub mod skim;
pub mod request;
pub mod splice;

//! The JSON of each protocol. Pure: knows no HTTP and no socket.

pub mod answer;
pub mod ask;
pub mod chat;
pub mod chat_stream;
pub mod error;
pub mod escape;
pub mod messages_stream;
pub mod model;
pub mod opening;
pub mod raw;
pub mod request;
pub mod skim;
pub mod splice;
pub mod text;
mod top;
pub mod unmark;

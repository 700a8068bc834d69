//! Order of attempts and judgement of their outcome. Pure: time and dice are arguments.

pub mod ledger;
pub mod plan;
pub mod verdict;

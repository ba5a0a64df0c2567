//! Corpora of tokens.

pub mod corpus;

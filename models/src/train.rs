//! Training, from raw text on.
//!
//! | item | content |
//! |---|---|
//! | [`data`] | text sources, tokenizers trained on them, token shards, corpora of documents |

pub mod data;

//! Reading checkpoints: safetensors and GGUF files, config.json, tokenizer.json.
//!
//! Imports go one way: `tokenizer`, `weights` -> `config` -> `gguf` -> `files`; `weights` -> `arena`.

pub mod arena;
pub mod config;
pub mod files;
pub mod gguf;
pub mod tokenizer;
pub mod weights;

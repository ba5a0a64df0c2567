//! Reading and writing checkpoints: safetensors and GGUF files, config.json, tokenizer.json.
//!
//! Imports go one way: `tokenizer`, `weights` -> `config` -> `gguf` -> `files`; `weights` -> `arena`;
//! `weights` -> `initial` -> `config`; `save` -> `arena`, `config`.

pub mod arena;
pub mod config;
pub mod files;
pub mod gguf;
pub mod initial;
pub mod save;
pub mod tokenizer;
pub mod weights;

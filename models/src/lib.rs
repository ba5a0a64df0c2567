//! Readable reference transformers on `tilewright-kernels`.
//!
//! | module | what |
//! |---|---|
//! | [`bert`] | BERT: config, weights, forward, heads |
//! | [`llama`] | LLaMA: decoder with rotary positions and grouped heads |
//! | [`model`] | the table of architectures, and what they have in common |
//! | [`generator`] | models that continue sequences, and what they remember of one |
//! | [`generate`] | text generation: sampling, beam search, batches that come and go, chat templates |
//! | [`layers`] | linear, norm, table, attention: weights and the kernels they go to |
//! | [`weights`], [`config`], [`tokenizer`], [`sentence`] | the files of a checkpoint |
//! | [`Arithmetic`] | the backend and the type that a model computes in |
//! | [`accuracy`] | how far one model's outputs are from another's |
//! | [`Batch`] | sequences of ids, packed without padding |
#![forbid(unsafe_code)]

pub mod accuracy;
mod arithmetic;
mod batch;
#[cfg(feature = "bench")]
pub mod bench;
pub mod bert;
pub mod config;
#[cfg(feature = "bench")]
pub mod cpu;
mod error;
pub mod exchange;
pub mod generate;
pub mod generator;
pub mod layers;
pub mod llama;
pub mod model;
#[cfg(feature = "bench")]
pub mod probe;
pub mod random;
pub mod sentence;
pub mod tokenizer;
#[cfg(feature = "verify")]
pub mod verify;
pub mod weights;
pub mod whole_file;

pub use arithmetic::Arithmetic;
pub use batch::Batch;
pub use error::Error;

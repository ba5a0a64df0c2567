//! Readable reference transformers on `tilewright-kernels`.
//!
//! | item | content |
//! |---|---|
//! | [`bert`] | BERT: config, weights, forward, heads |
//! | [`bart`] | BART and Marian: encoder and decoder with post-norm layers |
//! | [`gpt2`] | GPT-2: decoder with learned positions |
//! | [`llama`] | LLaMA: decoder with rotary positions and grouped-query attention |
//! | [`t5`] | T5: encoder and decoder with relative position biases |
//! | [`roberta`], [`albert`], [`electra`] | differences from BERT |
//! | [`heads`] | heads of these encoders |
//! | [`labels`] | labels of a batch, losses |
//! | [`architectures`] | table: for each class of transformers, a model of this crate |
//! | [`model`], [`output`] | the interface of every model; outputs under Hugging Face's names |
//! | [`causal_lm`] | causal language models and their caches |
//! | [`generate`] | text generation: sampling, beam search, continuous batching, chat templates |
//! | [`layers`] | linear, norm, embedding table, attention: weights and calls of kernels |
//! | [`checkpoint`] | safetensors, GGUF, config.json, tokenizer.json |
//! | [`sentence`] | sentence embeddings, as sentence-transformers pools them |
//! | [`train`] | training: corpora of token shards |
//! | [`encoder`] | encoder of BERT, RoBERTa, ALBERT and ELECTRA |
//! | [`train`] | training |
//! | [`Arithmetic`] | backend and types of a model |
//! | [`accuracy`] | distance between the outputs of two runs |
//! | [`ActivationQuantization`] | rounding of the inputs of linear layers |
//! | [`Batch`] | sequences of ids, packed without padding |
//! | [`exchange`] | inputs and outputs as safetensors files, for comparison with other frameworks |
//! | [`train`] | training: data, pre-training recipes |
//! | [`whole_file`] | atomic writes of files |
//! | [`Error`] | errors, each with its file and tensor, field or input |
#![forbid(unsafe_code)]

pub mod accuracy;
pub mod albert;
pub mod architectures;
mod arithmetic;
pub mod bart;
mod batch;
pub mod bert;
pub mod causal_lm;
pub mod checkpoint;
pub mod electra;
pub mod encoder;
mod error;
pub mod exchange;
pub mod generate;
pub mod gpt2;
pub mod heads;
pub mod labels;
pub mod layers;
pub mod llama;
pub mod model;
pub mod output;
pub mod roberta;
pub mod sentence;
pub mod t5;
pub mod train;
pub mod whole_file;

pub use arithmetic::{ActivationQuantization, Arithmetic, bytes_per_weight};
pub use batch::Batch;
pub use error::Error;

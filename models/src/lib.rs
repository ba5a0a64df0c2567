//! Readable reference transformers on `tilewright-kernels`.
//!
//! | module | what |
//! |---|---|
//! | [`bert`] | BERT: config, weights, forward, heads |
//! | [`bart`] | BART and Marian: encoder and decoder that normalise sums |
//! | [`gpt2`] | GPT-2: decoder with learned positions |
//! | [`llama`] | LLaMA: decoder with rotary positions and grouped heads |
//! | [`t5`] | T5: encoder and decoder with biases for distances |
//! | [`roberta`], [`albert`], [`electra`] | what they have different from BERT |
//! | [`heads`] | what stands on these encoders |
//! | [`architectures`] | the table of architectures |
//! | [`model`], [`output`] | the interface of every model; outputs under Hugging Face's names |
//! | [`causal_lm`] | models that continue sequences |
//! | [`generate`] | text generation: sampling, beam search, batches that come and go, chat templates |
//! | [`layers`] | linear, norm, table, attention: weights and the kernels they go to |
//! | [`checkpoint`] | safetensors, GGUF, config.json, tokenizer.json |
//! | [`sentence`] | sentence embeddings, as sentence-transformers pools them |
//! | [`encoder`] | the encoder of BERT and of the models that differ from it |
//! | [`Arithmetic`] | the backend and the type that a model computes in |
//! | [`accuracy`] | how far one model's outputs are from another's |
//! | [`ActivationQuantization`] | whether inputs of linear layers are rounded as their weights are |
//! | [`Batch`] | sequences of ids, packed without padding |
//! | [`exchange`] | inputs and outputs as files, for comparison with other frameworks |
//! | [`whole_file`] | files that are written as a whole or not at all |
//! | [`Error`] | what was wrong, and where |
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
pub mod layers;
pub mod llama;
pub mod model;
pub mod output;
pub mod roberta;
pub mod sentence;
pub mod t5;
pub mod whole_file;

pub use arithmetic::{ActivationQuantization, Arithmetic, bytes_per_weight};
pub use batch::Batch;
pub use error::Error;

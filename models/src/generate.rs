//! Text generation: next tokens for many sequences at once, until each one ends.
//!
//! ```text
//! GenerationConfig   options of generation_config.json
//!    |
//! Sampler    logits -> next token                    beam_search   the most probable continuations
//!    |
//! Engine     sequences come and go, one `extend` a step for all of them
//!    |       (Speculation: several tokens of a sequence in one step)
//! TextStream tokens -> text, character by character, until a stop string
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`settings`] | generation_config.json |
//! | [`sampling`] | logits processors and the choice of a token |
//! | [`sequence`] | requests, running sequences, results |
//! | [`engine`] | continuous batching |
//! | [`speculation`] | speculative decoding |
//! | [`beam`] | beam search |
//! | [`stream`] | streaming detokenization |
//! | [`chat`] | chat templates |
//!
//! A sequence has the same tokens alone and in a batch, with and without speculation: a model computes the same bits for
//! it (see [`causal_lm`](crate::causal_lm)), and its random numbers depend on its seed alone.

pub mod beam;
pub mod chat;
pub mod engine;
pub mod sampling;
pub mod sequence;
pub mod settings;
pub mod speculation;
pub mod stream;

pub use beam::{Hypothesis, beam_search};
pub use chat::Chat;
pub use engine::{Engine, Statistics};
pub use sampling::Sampler;
pub use sequence::{FinishReason, Finished, Request};
pub use settings::{EarlyStopping, GenerationConfig};
pub use speculation::Speculation;
pub use stream::TextStream;

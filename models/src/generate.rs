//! Text generation: which token follows, for many sequences at once, until each has its end.
//!
//! ```text
//! GenerationConfig   what generation_config.json asks for
//!    |
//! Sampler    logits -> next token                    beam_search   the most probable of several texts
//!    |                                                  |
//! Engine     sequences come and go, one `extend` a step for all of them
//!    |       (Speculation: several tokens of a sequence in one step)
//! TextStream tokens -> text, character by character, until a stop string
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | generation_config.json |
//! | [`sampling`] | what changes the scores, and the choice |
//! | [`sequence`] | a text from when it is asked for to its end |
//! | [`engine`] | continuous batching |
//! | [`speculation`] | tokens guessed ahead |
//! | [`beam`] | beam search |
//! | [`stream`] | text while it is generated |
//! | [`chat`] | chat templates |
//!
//! A sequence has the same tokens alone and in a batch, with and without speculation: a model
//! computes the same bits for it (see [`generator`](crate::causal_lm)), and its random numbers are its own.

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

//! Training: data, pre-training recipes, steps.
//!
//! | item | content |
//! |---|---|
//! | [`Trainer`] | steps of a model in training |
//! | [`Optimizer`] | AdamW, LAMB, gradient descent |
//! | [`Schedule`] | learning rates |
//! | [`operations`] | estimate of a step's operations |
//! | [`Pretraining`] | a run: a trainer, a corpus, an objective; saved and resumed |
//! | [`ElectraPretraining`] | ELECTRA's generator and discriminator |
//! | [`Family`], [`Preset`] | class and objective of a family's recipe; configs |
//! | [`data`] | corpora of tokens |
//! | [`objectives`] | pre-training recipes: from documents to examples |
//! | [`tasks`] | fine-tuning and evaluation on labelled examples |
//! | [`metrics`] | metrics of evaluations |
//! | [`random`] | random numbers as a function of seed, epoch and index |

mod checkpoints;
mod cost;
pub mod data;
mod directory;
mod electra;
pub mod metrics;
mod micro_batch;
pub mod objectives;
mod optimizer;
mod pretraining;
pub mod random;
mod recipe;
mod schedule;
pub mod tasks;
mod trainer;

pub use cost::operations;
pub use data::tokenizer_training::Family;
pub use electra::{ElectraPretraining, GENERATOR};
pub use micro_batch::MicroBatch;
pub use optimizer::{AdamSettings, Optimizer, OptimizerKind};
pub use pretraining::{Pretraining, PretrainingSettings};
pub use recipe::{Preset, generator_config};
pub use schedule::{Decay, Schedule};
pub use trainer::{StepReport, Trainer, TrainerSettings};

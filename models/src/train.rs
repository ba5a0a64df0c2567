//! Training: steps, optimizers, schedules.
//!
//! | item | content |
//! |---|---|
//! | [`Trainer`] | steps of a model in training |
//! | [`Optimizer`] | AdamW, LAMB, gradient descent |
//! | [`Schedule`] | learning rates |
//! | [`tasks`] | fine-tuning and evaluation on labelled examples |
//! | [`metrics`] | metrics of evaluations |

pub mod metrics;
mod optimizer;
mod schedule;
pub mod tasks;
mod trainer;

pub use optimizer::{AdamSettings, Optimizer, OptimizerKind};
pub use schedule::{Decay, Schedule};
pub use trainer::{MicroBatch, StepReport, Trainer, TrainerSettings};

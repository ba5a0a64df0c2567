//! Training: steps, optimizers, schedules.
//!
//! | item | content |
//! |---|---|
//! | [`Trainer`] | steps of a model in training |
//! | [`Optimizer`] | AdamW, LAMB, gradient descent |
//! | [`Schedule`] | learning rates |

mod optimizer;
mod schedule;
mod trainer;

pub use optimizer::{AdamSettings, Optimizer, OptimizerKind};
pub use schedule::{Decay, Schedule};
pub use trainer::{MicroBatch, StepReport, Trainer, TrainerSettings};

//! Steps of `pretrain` and `finetune`: their options, and the progress of a run.

mod events;
mod log;
mod monitor;

use super::training_type::TrainingType;
use clap::{Args, ValueEnum};
pub use monitor::{Monitor, means};
use tilewright::train::{AdamSettings, Decay, OptimizerKind, Schedule, TrainerSettings};

/// Options of a run's steps, which a subcommand flattens into its arguments. Subcommands change defaults
/// by `mut_arg`.
#[derive(Debug, Args)]
pub struct StepOptions {
    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    /// Sequences that are computed at once; less takes less memory [default: --batch]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,

    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-4, value_parser = from_zero)]
    lr: f64,

    /// Learning rate after the warm-up; wsd is constant, and linear to 0 in the last tenth of the steps
    #[arg(long, value_enum, default_value_t = ScheduleKind::Linear)]
    schedule: ScheduleKind,

    /// Learning rate at the end of --schedule cosine, as a share of --lr
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = from_zero)]
    cosine_floor: f64,

    /// Steps of the warm-up [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,

    /// Norm to which gradients are clipped; 0 for none
    #[arg(long, value_name = "NORM", default_value_t = 1.0, value_parser = from_zero)]
    clip: f64,

    /// Optimizer; adam is BERT's, without correction of the bias
    #[arg(long, value_enum, default_value_t = OptimizerName::Adamw)]
    optimizer: OptimizerName,

    /// Weight decay, which spares biases and norms
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = from_zero)]
    weight_decay: f64,

    /// Steps in sequence that are skipped if their loss or a gradient is not finite; a step beyond it ends the run
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_nan: u32,

    /// Drop nothing, whatever the config says
    #[arg(long)]
    no_dropout: bool,

    #[command(flatten)]
    pub dtype: TrainingType,

    /// Compute the inside of each layer again in the backward pass: less memory, a third more time, the same results
    #[arg(long)]
    recompute: bool,

    /// Write TensorBoard's event files to the directory tensorboard in --out
    #[arg(long)]
    pub tensorboard: bool,

    /// Seed of new parameters, order, masks and dropout
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Learning rate after the warm-up.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScheduleKind {
    Linear,
    Cosine,
    Constant,
    Wsd,
}

/// Optimizers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OptimizerName {
    Adamw,
    Adam,
    Lamb,
    Adafactor,
    Sgd,
}

impl StepOptions {
    /// Sequences of a step.
    pub fn batch(&self) -> usize {
        self.batch as usize
    }

    /// Sequences that are computed at once.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch) as usize
    }

    /// Settings of a trainer for a run of `steps` steps.
    pub fn trainer(&self, steps: u64) -> TrainerSettings {
        let decay = match self.schedule {
            ScheduleKind::Linear => Decay::Linear,
            ScheduleKind::Cosine => Decay::Cosine(self.cosine_floor),
            ScheduleKind::Constant => Decay::Constant,
            ScheduleKind::Wsd => Decay::WarmupStableDecay(steps.div_ceil(10)),
        };
        let weight_decay = self.weight_decay;
        let [adam, bert] = [AdamSettings::default(), AdamSettings::BERT]
            .map(|settings| AdamSettings { weight_decay, ..settings });
        TrainerSettings {
            optimizer: match self.optimizer {
                OptimizerName::Adamw => OptimizerKind::AdamW(adam),
                OptimizerName::Adam => OptimizerKind::AdamW(bert),
                OptimizerName::Lamb => OptimizerKind::Lamb(bert),
                OptimizerName::Adafactor => OptimizerKind::Adafactor { weight_decay },
                OptimizerName::Sgd => OptimizerKind::Sgd { momentum: 0.9, weight_decay },
            },
            schedule: Schedule { peak: self.lr, warmup: self.warmup.unwrap_or(steps / 10), steps, decay },
            clip: (self.clip > 0.0).then_some(self.clip),
            dropout: !self.no_dropout,
            recompute: self.recompute,
            seed: self.seed,
            skip_not_finite: self.skip_nan,
        }
    }
}

/// Parses a finite number from 0 up.
fn from_zero(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number >= 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number from 0 up".to_owned())
}

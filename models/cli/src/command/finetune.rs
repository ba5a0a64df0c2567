//! `tilewright finetune`: a checkpoint learns a task from labelled examples.

use super::checkpoint::Checkpoint;
use super::task::{TaskOptions, evaluation_json, evaluation_table};
use super::{Common, Session, style};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;
use tilewright::train::tasks::{
    Dataset, EpochReport, Examples, Finetuning, FinetuningSettings, Task, TaskModel,
};
use tilewright::train::{AdamSettings, Decay, OptimizerKind, Schedule, TrainerSettings};
use tilewright::whole_file;

/// Trains a checkpoint on labelled examples, and keeps the parameters of the best epoch
///
/// Files are tables with column names (.csv, .tsv without quotes, .jsonl), CoNLL for tag (a word and its tag on each
/// line, an empty line after each sentence), and SQuAD's JSON for answer. Labels are those of config.json if they include
/// all labels of --train; else they are inferred from --train, sorted. A head that the checkpoint lacks, or has for other
/// labels, takes initial values of the seed.
///
/// After each epoch the model is evaluated on --eval. The task's metric decides which parameters are written to --out:
/// accuracy (classify, pairs), Pearson's correlation (regress), F1 of entities if tags are IOB2, else accuracy (tag), F1
/// (answer), perplexity (causal, seq2seq). --out has Hugging Face's layout: config.json with the labels,
/// model.safetensors, the tokenizer's files, and trainer_state.json with the losses and metrics.
///
/// The parameters have the same bits on any number of threads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright finetune --task classify --model all-MiniLM-L6-v2 --train train.csv --eval dev.csv --out sentiment
  tilewright finetune --task regress --model bert-base-uncased --text-column sentence1 --second-column sentence2 \\
      --label-column score --train sts-train.tsv --eval sts-dev.tsv --out sts
  tilewright finetune --task tag --model bert-base-cased --train eng.train --eval eng.testa --out ner --patience 2")]
pub struct Finetune {
    #[command(flatten)]
    options: TaskOptions,

    #[command(flatten)]
    checkpoint: Checkpoint,

    /// File of labelled examples to train on
    #[arg(long, value_name = "FILE")]
    train: PathBuf,

    /// File of labelled examples to evaluate on after each epoch
    #[arg(long, value_name = "FILE")]
    eval: PathBuf,

    /// Directory for the model
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Upper bound of the passes over --train
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,

    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    /// Sequences that are computed at once; less takes less memory [default: --batch]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,

    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-5)]
    lr: f64,

    /// Steps of the warm-up [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,

    /// Learning rate after the warm-up; wsd is constant, and linear to 0 in the last tenth of the steps
    #[arg(long, value_enum, default_value_t = ScheduleKind::Linear)]
    schedule: ScheduleKind,

    /// Weight decay, which spares biases and norms
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    weight_decay: f64,

    /// Norm to which gradients are clipped; 0 for none
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip: f64,

    /// Drop nothing, whatever the config says
    #[arg(long)]
    no_dropout: bool,

    /// End after N epochs in a row without a better evaluation [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,

    /// Seed of the new head, the order and dropout
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    #[command(flatten)]
    common: Common,
}

/// Learning rate after the warm-up.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScheduleKind {
    Linear,
    Cosine,
    Constant,
    Wsd,
}

impl Finetune {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        for name in ["config.json", "model.safetensors"] {
            if self.out.join(name).exists() {
                bail!("--out: {} already holds {name}", self.out.display());
            }
        }
        for (name, value) in [("--lr", self.lr), ("--weight-decay", self.weight_decay), ("--clip", self.clip)]
        {
            if !(value >= 0.0 && value.is_finite()) {
                bail!("{name}: expected a number from 0 up, found {value}");
            }
        }
        let (task, columns) = (self.options.task, self.options.columns());
        let train = Dataset::read(task, &self.train, &columns).context("--train")?;
        let eval = Dataset::read(task, &self.eval, &columns).context("--eval")?;
        let dir = self.checkpoint.locate()?;
        let model =
            TaskModel::for_training(&dir, &train, self.options.max_length(), self.seed, session.backend)?;
        let examples = [
            Examples::encode(&train, &model.setup).context("--train")?,
            Examples::encode(&eval, &model.setup).context("--eval")?,
        ];
        self.describe(&session, &model, &examples)?;

        let steps_of_epoch = examples[0].len().div_ceil(self.batch as usize) as u64;
        let steps = steps_of_epoch * u64::from(self.epochs);
        let settings = FinetuningSettings {
            epochs: self.epochs,
            batch: self.batch as usize,
            micro_batch: self.micro_batch.unwrap_or(self.batch) as usize,
            patience: self.patience,
        };
        let mut run =
            Finetuning::new(model, examples, session.backend, self.trainer_settings(steps), settings)?;
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr())
            .with_style(style::progress());
        let (start, mut tokens, mut log) = (Instant::now(), 0, Vec::new());
        while !run.is_finished() {
            let mut last_rate = 0.0;
            let report = run.epoch(|step, of_step| {
                tokens += of_step;
                last_rate = step.learning_rate;
                let speed = tokens as f64 / start.elapsed().as_secs_f64();
                bar.set_message(format!(
                    "loss {:.4}, lr {:.2e}, {speed:.0} tokens/s",
                    step.loss, step.learning_rate
                ));
                bar.set_position(step.step);
            })?;
            log.push(epoch_json(&report, last_rate));
            if report.is_best {
                run.setup().save(&self.out, run.arena())?;
            }
            self.write_state(&run, &log, steps)?;
            let (metric, value) = report.evaluation.metrics[0];
            let line = format!(
                "epoch {}: loss {:.4}, eval loss {:.4}, {} {value:.4}{}",
                report.epoch,
                report.loss,
                report.evaluation.loss,
                metric.replace('_', " "),
                if report.is_best { ", best" } else { "" },
            );
            bar.suspend(|| session.say(&line))?;
        }
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let (epoch, best) = run.best().context("no epoch has an evaluation")?;
        if session.json {
            return session.print_json(json!({
                "task": task.name(),
                "architecture": run.setup().architecture.class,
                "labels": run.setup().labels,
                "epochs": log,
                "best_epoch": epoch,
                "best": evaluation_json(best),
                "tokens": tokens,
                "seconds": seconds,
                "out": self.out,
            }));
        }
        session.say(&format!(
            "\n{}: epoch {epoch}, {:.0} tokens/s\n\n{}",
            self.out.display(),
            tokens as f64 / seconds,
            evaluation_table(best)
        ))
    }

    /// Says which model learns from which examples.
    fn describe(&self, session: &Session, model: &TaskModel, examples: &[Examples; 2]) -> Result<()> {
        let TaskModel { setup, arena, initialized, unread, .. } = model;
        session.say(&format!(
            "{}: {} parameters, {} sequences to train on, {} to evaluate on",
            setup.architecture.class,
            arena.values().len(),
            examples[0].len(),
            examples[1].len()
        ))?;
        if !setup.labels.is_empty() && setup.task != Task::Regress {
            session.say(&format!("labels: {}", setup.labels.join(", ")))?;
        }
        let notes = [
            ("new in the head", initialized),
            ("tensors of the checkpoint that the class does not read", unread),
        ];
        for (what, names) in notes.iter().filter(|(_, names)| !names.is_empty()) {
            eprintln!("note: {what}: {}", names.join(", "));
        }
        let unscored = examples.iter().map(|examples| examples.unscored_words).sum::<usize>();
        if unscored > 0 {
            eprintln!("note: {unscored} words lie beyond {} tokens, or have none", setup.max_length);
        }
        Ok(())
    }

    /// Writes trainer_state.json, with the fields of transformers' Trainer.
    fn write_state(&self, run: &Finetuning, log: &[Value], steps: u64) -> Result<()> {
        let best = run.best();
        let state = json!({
            "best_metric": best.map(|(_, evaluation)| evaluation.score()),
            "best_global_step": best.map(|(epoch, _)| u64::from(epoch) * run.steps_of_epoch()),
            "epoch": log.len(),
            "global_step": log.len() as u64 * run.steps_of_epoch(),
            "max_steps": steps,
            "num_train_epochs": self.epochs,
            "train_batch_size": self.batch,
            "log_history": log,
        });
        let text = format!("{state:#}\n");
        Ok(whole_file::write(&self.out.join("trainer_state.json"), text.as_bytes())?)
    }

    fn trainer_settings(&self, steps: u64) -> TrainerSettings {
        let decay = match self.schedule {
            ScheduleKind::Linear => Decay::Linear,
            ScheduleKind::Cosine => Decay::Cosine(0.0),
            ScheduleKind::Constant => Decay::Constant,
            ScheduleKind::Wsd => Decay::WarmupStableDecay(steps.div_ceil(10)),
        };
        let warmup = self.warmup.unwrap_or(steps / 10);
        let weight_decay = self.weight_decay;
        TrainerSettings {
            optimizer: OptimizerKind::AdamW(AdamSettings { weight_decay, ..AdamSettings::default() }),
            schedule: Schedule { peak: self.lr, warmup, steps, decay },
            clip: (self.clip > 0.0).then_some(self.clip),
            dropout: !self.no_dropout,
            recompute: false,
            seed: self.seed,
        }
    }
}

/// An epoch, with names of transformers' Trainer.
fn epoch_json(report: &EpochReport, learning_rate: f64) -> Value {
    json!({
        "epoch": report.epoch,
        "step": report.step,
        "loss": report.loss,
        "learning_rate": learning_rate,
        "eval": evaluation_json(&report.evaluation),
        "is_best": report.is_best,
    })
}

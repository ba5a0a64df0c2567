//! `tilewright finetune`: a checkpoint learns a task from labelled examples.

use super::checkpoint::Checkpoint;
use super::settings::SettingsFile;
use super::task::{TaskOptions, add_exact_match, evaluation_json, evaluation_table};
use super::training::{Monitor, StepOptions};
use super::{Common, Session, plot};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use tilewright::checkpoint::config;
use tilewright::train::tasks::{
    Dataset, EpochReport, Examples, Finetuning, FinetuningSettings, Task, TaskModel,
};
use tilewright::whole_file;

/// Trains a checkpoint on labelled examples, and keeps the parameters of the best epoch
///
/// Files are tables with column names (.csv, .tsv without quotes, .jsonl), CoNLL for tag (a word and its tag on each
/// line, an empty line after each sentence), and SQuAD's JSON for answer. Labels are those of config.json if they include
/// all labels of --train; else they are inferred from --train, sorted. A head that the checkpoint lacks, or has for other
/// labels, takes initial values of the seed.
///
/// With --label-column, a causal LM learns to answer the text: the tokens of the answer alone are targets.
///
/// After each epoch the model is evaluated on --eval. The task's metric decides which parameters are written to --out:
/// accuracy (classify, pairs), Pearson's correlation (regress), F1 of entities if tags are IOB2, else accuracy (tag), F1
/// (answer), perplexity (causal, seq2seq). At the end, texts for the examples of --eval are generated greedily, and the
/// share of exact matches stands beside perplexity.
///
/// --out has Hugging Face's layout: config.json with the labels, model.safetensors, the tokenizer's files, and
/// trainer_state.json with the losses and metrics. log.jsonl and speed.jsonl have a line for each step, report.html their
/// curves.
///
/// The parameters have the same bits on any number of threads, and after an interruption and --resume: a checkpoint is
/// written after each epoch.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
#[command(mut_arg("lr", |lr| lr.default_value("5e-5")))]
#[command(after_help = "Examples:
  tilewright finetune --task classify --model all-MiniLM-L6-v2 --train train.csv --eval dev.csv --out sentiment
  tilewright finetune --task regress --model bert-base-uncased --text-column sentence1 --second-column sentence2 \\
      --label-column score --train sts-train.tsv --eval sts-dev.tsv --out sts
  tilewright finetune --task tag --model bert-base-cased --train eng.train --eval eng.testa --out ner --patience 2
  tilewright finetune --settings run.toml --seed 2        # run.toml: task = \"tag\", epochs = 5, ..
  tilewright finetune --task causal --model gpt2 --text-column sum --label-column result --train sums.csv \\
      --eval more.csv --out adder")]
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

    /// Directory for the model, the log and the checkpoints
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Upper bound of the passes over --train
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,

    #[command(flatten)]
    of_step: StepOptions,

    /// End after N epochs in a row without a better evaluation [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,

    /// Go on from the newest checkpoint in --out; the other options are those of the first run
    #[arg(long)]
    resume: bool,

    #[command(flatten)]
    settings: SettingsFile,

    #[command(flatten)]
    common: Common,
}

impl Finetune {
    pub fn run(self) -> Result<()> {
        let session = self.of_step.dtype.start(&self.common)?;
        for name in ["config.json", "model.safetensors"] {
            if self.out.join(name).exists() && !self.resume {
                bail!("--out: {} already holds {name}; --resume goes on with a run", self.out.display());
            }
        }
        let (task, columns) = (self.options.task, self.options.columns());
        let train = Dataset::read(task, &self.train, &columns).context("--train")?;
        let eval = Dataset::read(task, &self.eval, &columns).context("--eval")?;
        let dir = self.checkpoint.locate()?;
        let mut model = TaskModel::for_training(
            &dir,
            &train,
            self.options.max_length(),
            self.of_step.seed,
            session.backend,
        )?;
        model.arena = self.of_step.dtype.of(model.arena);
        let examples = [
            Examples::encode(&train, &model.setup).context("--train")?,
            Examples::encode(&eval, &model.setup).context("--eval")?,
        ];
        self.describe(&session, &model, &examples)?;

        let steps_of_epoch = examples[0].len().div_ceil(self.of_step.batch()) as u64;
        let steps = steps_of_epoch * u64::from(self.epochs);
        let settings = FinetuningSettings {
            epochs: self.epochs,
            batch: self.of_step.batch(),
            micro_batch: self.of_step.micro_batch(),
            patience: self.patience,
        };
        let mut run =
            Finetuning::new(model, examples, session.backend, self.of_step.trainer(steps), settings)?;
        std::fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        let mut log = Vec::new();
        if self.resume && run.resume(&self.out)? {
            log = self.history(run.epochs())?;
            session.say(&format!("resumed after epoch {}", run.epochs()))?;
        }
        let first = u64::from(run.epochs()) * steps_of_epoch;
        let mut monitor = Monitor::open(session, &self.out, first, steps, self.of_step.tensorboard)?;
        while !run.is_finished() {
            let mut last_rate = 0.0;
            monitor.start();
            let report = run.epoch(|step| {
                last_rate = step.learning_rate;
                let line = monitor.step(step)?;
                monitor.log(&line)
            })?;
            let evaluation = evaluation_json(&report.evaluation);
            let fields = json!({ "eval_loss": evaluation["loss"], "eval_metrics": evaluation["metrics"] });
            monitor.evaluated(report.step, &fields)?;
            let mut line = fields;
            (line["step"], line["epoch"]) = (report.step.into(), report.epoch.into());
            monitor.log(&line)?;
            log.push(epoch_json(&report, last_rate));
            if report.is_best {
                run.setup().save(&self.out, run.arena())?;
            }
            self.write_state(&run, &log, steps)?;
            monitor.sync()?;
            let saved = run.save(&self.out);
            saved.with_context(|| format!("epoch {} is not saved; --resume goes on", report.epoch))?;
            plot::write_report(&self.out)?;
            let (metric, value) = report.evaluation.metrics[0];
            let line = format!(
                "epoch {}: loss {:.4}, eval loss {:.4}, {} {value:.4}{}",
                report.epoch,
                report.loss,
                report.evaluation.loss,
                metric.replace('_', " "),
                if report.is_best { ", best" } else { "" },
            );
            monitor.say(&line)?;
        }
        monitor.finish();
        let (epoch, best) = run.best().context("no epoch has an evaluation")?;
        let mut best = best.clone();
        add_exact_match(&mut best, &self.out, run.eval(), run.setup(), &session)?;
        if session.json {
            return session.print_json(json!({
                "task": task.name(),
                "architecture": run.setup().architecture.class,
                "labels": run.setup().labels,
                "epochs": log,
                "best_epoch": epoch,
                "best": evaluation_json(&best),
                "tokens": monitor.tokens,
                "seconds": monitor.seconds,
                "tokens_per_second": monitor.tokens_per_second(),
                "share_of_peak": monitor.share_of_peak(),
                "out": self.out,
            }));
        }
        session.say(&format!(
            "\n{}: epoch {epoch}, {:.0} tokens/s\n\n{}",
            self.out.display(),
            monitor.tokens_per_second(),
            evaluation_table(&best)
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

    /// Reports of the first `epochs` epochs in trainer_state.json. It is written before the checkpoint of an epoch, and so
    /// may have one more.
    fn history(&self, epochs: u32) -> Result<Vec<Value>> {
        let path = self.out.join("trainer_state.json");
        let state: Value = config::read(&path)?;
        let history = state["log_history"].as_array().into_iter().flatten().take(epochs as usize);
        let history: Vec<Value> = history.cloned().collect();
        if history.len() < epochs as usize {
            let (path, found) = (path.display(), history.len());
            bail!("{path}: log_history: expected {epochs} epochs, found {found}");
        }
        Ok(history)
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
            "train_batch_size": self.of_step.batch(),
            "log_history": log,
        });
        let text = format!("{state:#}\n");
        Ok(whole_file::write(&self.out.join("trainer_state.json"), text.as_bytes())?)
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

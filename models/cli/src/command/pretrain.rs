//! `tilewright pretrain`: a model from random parameters and token shards.

use super::settings::SettingsFile;
use super::tokenizer::family;
use super::training::{Monitor, StepOptions, means};
use super::{Common, plot};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tilewright::architectures::Architecture;
use tilewright::checkpoint::config::{self, Fields};
use tilewright::checkpoint::initial::Initialization;
use tilewright::checkpoint::save::{copy_files, write_parameters};
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::checkpoint::weights::Weights;
use tilewright::model::Model;
use tilewright::train::data::shards::ShardedCorpus;
use tilewright::train::data::{Corpus as _, TextTokenizer};
use tilewright::train::objectives::Masking;
use tilewright::train::{
    ElectraPretraining, Family, GENERATOR, Preset, Pretraining, PretrainingSettings, Trainer,
    generator_config,
};
use tilewright::{Arithmetic, electra, whole_file};
use tilewright_kernels::LossSum;

/// Pre-trains a model from random parameters, by the recipe of its paper
///
/// --data holds the shards that `tilewright tokenize` made with the tokenizer of --tokenizer. --out receives
/// config.json, the tokenizer and model.safetensors, which transformers loads, log.jsonl and speed.jsonl with a line for
/// each step, report.html with their curves, and checkpoints. A run that was interrupted at any moment goes on with
/// --resume; its parameters and its log.jsonl have the bits of a run that was not. They do not depend on the number of
/// threads either. Ctrl-C saves a checkpoint.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
#[command(mut_arg("cosine_floor", |floor| floor.default_value("0.1")))]
#[command(after_help = "Examples:
  tilewright tokenizer train --family bert --vocab-size 8000 --out tokenizer corpus/
  tilewright tokenize --tokenizer tokenizer --out shards corpus/
  tilewright pretrain --recipe bert --config tiny --tokenizer tokenizer --data shards --out model --steps 2000
  tilewright pretrain --recipe gpt2 --config gpt2.json --tokenizer gpt2 --data shards --out model --schedule cosine
  tilewright pretrain --recipe bert --config tiny --tokenizer tokenizer --data shards --out model --steps 2000 --resume
  tilewright pretrain --settings run.toml --lr 1e-3        # run.toml: recipe = \"bert\", steps = 2000, ..
  tilewright pretrain --settings run.toml --out b --tensorboard --skip-nan 3; tensorboard --logdir b")]
pub struct Pretrain {
    /// Recipe of a family
    #[arg(long, value_parser = family())]
    recipe: Family,

    /// config.json of the model, or a size: tiny, mini, small, base
    #[arg(long, value_name = "FILE|PRESET", default_value = "tiny")]
    config: PathBuf,

    /// Directory of the tokenizer
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,

    /// Directory of the token shards
    #[arg(long, value_name = "SHARDS")]
    data: PathBuf,

    /// Token shards that are not trained on, for the loss and the accuracy of evaluations
    #[arg(long, value_name = "SHARDS")]
    eval: Option<PathBuf>,

    /// Directory for the model, the log and the checkpoints
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Steps of the run
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,

    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 128)]
    seq: usize,

    /// Masks of successive epochs, where tokens are masked: static, copies=N or dynamic [default: the paper's]
    #[arg(long, value_name = "HOW")]
    masking: Option<Masking>,

    #[command(flatten)]
    of_step: StepOptions,

    /// Steps between evaluations [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,

    /// Batches of an evaluation
    #[arg(long, value_name = "N", default_value_t = 20)]
    eval_batches: usize,

    /// Steps between checkpoints [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,

    /// Go on from the newest checkpoint in --out
    #[arg(long)]
    resume: bool,

    #[command(flatten)]
    settings: SettingsFile,

    #[command(flatten)]
    common: Common,
}

impl Pretrain {
    pub fn run(self) -> Result<()> {
        let session = self.of_step.dtype.start(&self.common)?;
        let tokenizer = Tokenizer::open(&self.tokenizer).context("--tokenizer")?;
        let hash = TextTokenizer::open(&self.tokenizer).context("--tokenizer")?.hash();
        let open = |path: &Path| -> Result<ShardedCorpus> {
            let corpus = ShardedCorpus::open(path)?;
            corpus.check_tokenizer(&self.tokenizer, hash)?;
            Ok(corpus)
        };
        let corpus = open(&self.data).context("--data")?;
        let held_out = self.eval.as_deref().map(open).transpose().context("--eval")?;
        self.prepare(&tokenizer)?;

        let architecture = Architecture::of(&self.out)?;
        if architecture.class != self.recipe.class() {
            bail!("--config is of {}; the recipe trains {}", architecture.class, self.recipe.class());
        }
        let fields = Fields::open(&self.out)?;
        let weights = Weights::initial(Initialization::new(self.recipe.name(), &fields, self.of_step.seed)?)
            .trainable();
        let on = Arithmetic::f32(session.backend);
        let generator = self.out.join("generator");
        let model: Box<dyn Model> = match self.recipe {
            Family::Electra => {
                let of_generator = electra::Config::read(&Fields::open(&generator)?)?;
                let of_discriminator = electra::Config::read(&fields)?;
                Box::new(ElectraPretraining::open(of_generator, of_discriminator, &weights, on)?)
            }
            _ => architecture.open(&self.out, weights.clone(), on)?,
        };
        if self.seq > model.max_length() {
            bail!("--seq: the model has positions for {} tokens, found {}", model.max_length(), self.seq);
        }
        let objective = self.recipe.objective(&tokenizer, self.seq, self.masking)?;
        let trainer = Trainer::new(
            model,
            self.of_step.dtype.of(weights.into_arena()),
            session.backend,
            self.of_step.trainer(self.steps),
        );
        let parameters = trainer.arena().values().len();
        let settings = PretrainingSettings {
            batch: self.of_step.batch(),
            micro_batch: self.of_step.micro_batch(),
            seed: self.of_step.seed,
        };
        let mut run = Pretraining::new(trainer, &*objective, &corpus, settings)?;
        let resumed = self.resume && run.resume(&self.out)?;
        let first = run.trainer().steps();
        session.say(&format!(
            "{}: {} parameters, {} documents, {} steps of an epoch{}",
            architecture.class,
            parameters,
            corpus.documents(),
            run.steps_of_epoch(),
            if resumed { format!(", resumed after step {first}") } else { String::new() },
        ))?;

        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot catch Ctrl-C")?;
        let mut monitor = Monitor::open(session, &self.out, first, self.steps, self.of_step.tensorboard)?;
        let [eval_every, save_every] =
            [self.eval_every, self.save_every].map(|every| every.unwrap_or(self.steps.div_ceil(10)).max(1));
        let mut last = None;
        while run.trainer().steps() < self.steps {
            monitor.start();
            let report = run.step()?;
            let mut line = monitor.step(&report)?;
            let ends = report.step == self.steps || interrupted.load(Ordering::Relaxed);
            if let Some(held_out) = &held_out
                && (report.step.is_multiple_of(eval_every) || report.step == self.steps)
            {
                let loss = run.evaluate(held_out, self.eval_batches)?;
                let of = |sums: &[(&'static str, LossSum)]| -> Vec<_> {
                    sums.iter().map(|(name, sum)| (*name, sum.mean())).collect()
                };
                let evaluation = json!({
                    "eval_loss": loss.total,
                    "eval_parts": means(&of(&loss.parts)),
                    "eval_accuracy": means(&of(&loss.right)),
                });
                monitor.evaluated(report.step, &evaluation)?;
                let fields = evaluation.as_object().into_iter().flatten();
                fields.for_each(|(name, value)| line[name] = value.clone());
                monitor.say(&format!("step {}: eval loss {:.4}", report.step, loss.total))?;
            }
            monitor.log(&line)?;
            if report.step.is_multiple_of(save_every) || ends {
                monitor.sync()?;
                let saved = run.save(&self.out, &self.out);
                saved.with_context(|| format!("step {} is not saved; --resume goes on", report.step))?;
                plot::write_report(&self.out)?;
            }
            last = Some(line);
            if ends && report.step < self.steps {
                monitor.finish();
                bail!("interrupted after step {}; --resume goes on", report.step);
            }
        }
        monitor.finish();
        let (arena, file) = (run.trainer().arena(), "model.safetensors");
        write_parameters(&self.out.join(file), arena, |name| (!name.starts_with(GENERATOR)).then_some(name))?;
        if self.recipe == Family::Electra {
            copy_files(&self.out, &generator)?;
            write_parameters(&generator.join(file), arena, |name| {
                let shared = name.starts_with("electra.embeddings.").then_some(name);
                name.strip_prefix(GENERATOR).or(shared)
            })?;
        }
        let Monitor { seconds, tokens, .. } = monitor;
        let (speed, share) = (monitor.tokens_per_second(), monitor.share_of_peak());
        if session.json {
            return session.print_json(json!({
                "architecture": architecture.class, "parameters": parameters, "steps": self.steps,
                "tokens": tokens, "seconds": seconds, "tokens_per_second": speed, "share_of_peak": share,
                "last": last, "out": self.out,
            }));
        }
        let loss = last.as_ref().map_or(Value::Null, |line| line["loss"].clone());
        session.say(&format!("{}: loss {loss}, {tokens} tokens, {speed:.0} tokens/s", self.out.display()))
    }

    /// Makes --out with config.json and the tokenizer's files, or checks that it is that of a run to resume.
    fn prepare(&self, tokenizer: &Tokenizer) -> Result<()> {
        let preset = Preset::ALL.into_iter().find(|preset| Path::new(preset.name()) == self.config);
        let json = match preset {
            Some(preset) => self.recipe.preset_config(preset, tokenizer, self.seq),
            None => config::read(&self.config).context("--config")?,
        };
        let path = self.out.join("config.json");
        if path.exists() {
            if !self.resume {
                bail!("{}: already holds a run: --resume goes on with it", self.out.display());
            }
            let found: Value = config::read(&path)?;
            if found != json {
                bail!("{}: is of another config than --config says", path.display());
            }
            return Ok(());
        }
        std::fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            let source = self.tokenizer.join(name);
            if source.is_file() {
                let bytes = std::fs::read(&source).with_context(|| source.display().to_string())?;
                whole_file::write(&self.out.join(name), &bytes)?;
            }
        }
        if self.recipe == Family::Electra {
            let generator = self.out.join("generator");
            std::fs::create_dir_all(&generator).with_context(|| generator.display().to_string())?;
            let json = serde_json::to_string_pretty(&generator_config(&json))? + "\n";
            whole_file::write(&generator.join("config.json"), json.as_bytes())?;
        }
        // The last file: a directory with a config holds a run.
        Ok(whole_file::write(&path, (serde_json::to_string_pretty(&json)? + "\n").as_bytes())?)
    }
}

//! `tilewright pretrain`: a model from random parameters and token shards.

mod log;

use super::tokenizer::family;
use super::{Common, style};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::Log;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
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
    AdamSettings, Decay, ElectraPretraining, Family, GENERATOR, OptimizerKind, Preset, Pretraining,
    PretrainingSettings, Schedule, Trainer, TrainerSettings, generator_config,
};
use tilewright::{Arithmetic, electra, whole_file};
use tilewright_kernels::LossSum;

/// Pre-trains a model from random parameters, by the recipe of its paper
///
/// --data holds the shards that `tilewright tokenize` made with the tokenizer of --tokenizer. --out receives
/// config.json, the tokenizer and model.safetensors, which transformers loads, log.jsonl with a line for each step, and
/// checkpoints. A run that was interrupted at any moment goes on with --resume; its parameters and its log have the bits
/// of a run that was not. They do not depend on the number of threads either. Ctrl-C saves a checkpoint.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright tokenizer train --family bert --vocab-size 8000 --out tokenizer corpus/
  tilewright tokenize --tokenizer tokenizer --out shards corpus/
  tilewright pretrain --recipe bert --config tiny --tokenizer tokenizer --data shards --out model --steps 2000
  tilewright pretrain --recipe gpt2 --config gpt2.json --tokenizer gpt2 --data shards --out model --schedule cosine
  tilewright pretrain --recipe bert --config tiny --tokenizer tokenizer --data shards --out model --steps 2000 --resume")]
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

    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,

    /// Sequences that are computed at once; less takes less memory [default: --batch]
    #[arg(long, value_name = "N")]
    micro_batch: Option<usize>,

    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 128)]
    seq: usize,

    /// Masks of successive epochs, where tokens are masked: static, copies=N or dynamic [default: the paper's]
    #[arg(long, value_name = "HOW")]
    masking: Option<Masking>,

    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-4)]
    lr: f64,

    /// Learning rate after the warm-up; wsd is constant, and linear to 0 in the last tenth of the steps
    #[arg(long, value_enum, default_value_t = ScheduleKind::Linear)]
    schedule: ScheduleKind,

    /// Steps of the warm-up [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,

    /// Norm to which gradients are clipped; 0 for none
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip: f64,

    /// Optimizer; adam is BERT's, without correction of the bias
    #[arg(long, value_enum, default_value_t = OptimizerName::Adamw)]
    optimizer: OptimizerName,

    /// Weight decay, which spares biases and norms
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    weight_decay: f64,

    /// Drop nothing, whatever the config says
    #[arg(long)]
    no_dropout: bool,

    /// Seed of parameters, order, masks and dropout
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

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

/// Optimizers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OptimizerName {
    Adamw,
    Adam,
    Lamb,
    Adafactor,
    Sgd,
}

impl Pretrain {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
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
        let weights =
            Weights::initial(Initialization::new(self.recipe.name(), &fields, self.seed)?).trainable();
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
        let trainer = Trainer::new(model, weights.into_arena(), session.backend, self.trainer_settings());
        let parameters = trainer.arena().values().len();
        let settings = PretrainingSettings {
            batch: self.batch,
            micro_batch: self.micro_batch.unwrap_or(self.batch),
            seed: self.seed,
        };
        let mut run = Pretraining::new(trainer, &*objective, &corpus, settings)?;
        let resumed = self.resume && run.resume(&self.out)?;
        let first = run.trainer().steps();
        let mut log = Log::open(&self.out.join("log.jsonl"), first)?;
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
        let bar = bar(self.steps, first);
        let [eval_every, save_every] =
            [self.eval_every, self.save_every].map(|every| every.unwrap_or(self.steps.div_ceil(10)).max(1));
        // Time of the steps, without evaluations and checkpoints.
        let (mut seconds, mut tokens, mut last) = (0.0, 0, None);
        while run.trainer().steps() < self.steps {
            let start = Instant::now();
            let report = run.step()?;
            seconds += start.elapsed().as_secs_f64();
            tokens += report.tokens;
            let mut line = json!(report);
            line["parts"] =
                report.parts.iter().map(|(name, mean)| ((*name).to_owned(), json!(mean))).collect();
            let ends = report.step == self.steps || interrupted.load(Ordering::Relaxed);
            if let Some(held_out) = &held_out
                && (report.step.is_multiple_of(eval_every) || report.step == self.steps)
            {
                let loss = run.evaluate(held_out, self.eval_batches)?;
                line["eval_loss"] = loss.total.into();
                let means = |of: &[(&str, LossSum)]| -> Value {
                    of.iter().map(|(name, sum)| ((*name).to_owned(), json!(sum.mean()))).collect()
                };
                line["eval_parts"] = means(&loss.parts);
                line["eval_accuracy"] = means(&loss.right);
                bar.suspend(|| session.say(&format!("step {}: eval loss {:.4}", report.step, loss.total)))?;
            }
            log.push(&line)?;
            let speed = tokens as f64 / seconds;
            bar.set_message(format!(
                "loss {:.4}, lr {:.2e}, {speed:.0} tokens/s",
                report.loss, report.learning_rate
            ));
            bar.set_position(report.step);
            if report.step.is_multiple_of(save_every) || ends {
                log.sync()?;
                run.save(&self.out, &self.out)?;
            }
            last = Some(line);
            if ends && report.step < self.steps {
                bar.finish_and_clear();
                bail!("interrupted after step {}; --resume goes on", report.step);
            }
        }
        bar.finish_and_clear();
        let (arena, file) = (run.trainer().arena(), "model.safetensors");
        write_parameters(&self.out.join(file), arena, |name| (!name.starts_with(GENERATOR)).then_some(name))?;
        if self.recipe == Family::Electra {
            copy_files(&self.out, &generator)?;
            write_parameters(&generator.join(file), arena, |name| {
                let shared = name.starts_with("electra.embeddings.").then_some(name);
                name.strip_prefix(GENERATOR).or(shared)
            })?;
        }
        // A run that resumes after its last step has none.
        let speed = tokens as f64 / f64::max(seconds, 1e-9);
        if session.json {
            return session.print_json(json!({
                "architecture": architecture.class, "parameters": parameters, "steps": self.steps,
                "tokens": tokens, "seconds": seconds, "tokens_per_second": speed, "last": last, "out": self.out,
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

    fn trainer_settings(&self) -> TrainerSettings {
        let decay = match self.schedule {
            ScheduleKind::Linear => Decay::Linear,
            ScheduleKind::Cosine => Decay::Cosine(0.1),
            ScheduleKind::Constant => Decay::Constant,
            ScheduleKind::Wsd => Decay::WarmupStableDecay(self.steps.div_ceil(10)),
        };
        let warmup = self.warmup.unwrap_or(self.steps / 10);
        let adam = AdamSettings { weight_decay: self.weight_decay, ..AdamSettings::default() };
        let bert = AdamSettings { weight_decay: self.weight_decay, ..AdamSettings::BERT };
        TrainerSettings {
            optimizer: match self.optimizer {
                OptimizerName::Adamw => OptimizerKind::AdamW(adam),
                OptimizerName::Adam => OptimizerKind::AdamW(bert),
                OptimizerName::Lamb => OptimizerKind::Lamb(bert),
                OptimizerName::Adafactor => OptimizerKind::Adafactor { weight_decay: self.weight_decay },
                OptimizerName::Sgd => OptimizerKind::Sgd { momentum: 0.9, weight_decay: self.weight_decay },
            },
            schedule: Schedule { peak: self.lr, warmup, steps: self.steps, decay },
            clip: (self.clip > 0.0).then_some(self.clip),
            dropout: !self.no_dropout,
            seed: self.seed,
        }
    }
}

/// Progress bar of steps.
fn bar(steps: u64, first: u64) -> ProgressBar {
    let style: ProgressStyle = style::progress();
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr()).with_style(style);
    bar.set_position(first);
    bar.reset_eta();
    bar
}

//! Checkpoints of a subcommand: `--model`, `--dtype`, `--layer-inputs`, and loading behind a progress bar.

use super::{Common, MainThread, Session, hub, style};
use anyhow::{Context as _, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tilewright::architectures::Architecture;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::checkpoint::weights::Weights;
use tilewright::model::Model;
use tilewright::output::Output;
use tilewright::{ActivationQuantization, Arithmetic, Batch, Error};
use tilewright_kernels::gemm::Format;

/// Option `--model`, which a subcommand flattens into its arguments.
#[derive(Debug, clap::Args)]
pub struct Checkpoint {
    /// Directory with config.json, tokenizer.json and model.safetensors, or a GGUF file. If no such file exists and
    /// this build has the feature `hub`: a repository of the Hugging Face Hub, ORG/NAME or ORG/NAME@REVISION,
    /// downloaded to the Hub's cache; HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are respected
    #[arg(long, value_name = "DIR|FILE|ORG/NAME")]
    model: PathBuf,
}

impl Checkpoint {
    /// Path of the checkpoint, downloaded if need be.
    pub fn locate(&self) -> Result<PathBuf> {
        locate(&self.model)
    }
}

/// Path of the checkpoint `model`, a path or a name on the Hub, downloaded if need be.
pub fn locate(model: &Path) -> Result<PathBuf> {
    match hub::Name::parse(model) {
        Some(name) if !model.exists() => hub::download(&name),
        _ => Ok(model.to_owned()),
    }
}

/// Options `--dtype` and `--layer-inputs`, which a subcommand flattens into its arguments.
#[derive(Debug, clap::Args)]
pub struct LayerPrecision {
    /// Type of the linear layers; loading rounds the weights to it. With bf16 and int8, the products of attention are
    /// bf16. Everything else stays f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = format())]
    pub dtype: Format,
    /// Inputs of the linear layers: exact (f32), or rounded to --dtype (to int8 with q8_0, q4_0 and q4_1), which is
    /// faster [default: exact with q8_0, q4_0 and q4_1, else rounded]
    #[arg(long, value_name = "HOW", value_parser = layer_inputs())]
    layer_inputs: Option<ActivationQuantization>,
}

impl LayerPrecision {
    /// Starts a subcommand that computes in `--dtype`.
    pub fn start(&self, common: &Common) -> Result<Session> {
        common.start_in(MainThread::Computes, Some(self.dtype.name()))
    }

    /// Loads the checkpoint in `dir` as a model of the class `as_a`.
    pub fn load(&self, as_a: Architecture, dir: &Path, session: &Session) -> Result<Box<dyn Model>, Error> {
        open(as_a, dir, self.arithmetic(session))
    }

    /// Arithmetic of the backend in effect with these options.
    pub fn arithmetic(&self, session: &Session) -> Arithmetic {
        let on = Arithmetic::new(session.backend, self.dtype);
        Arithmetic { inputs: self.layer_inputs.unwrap_or(on.inputs), ..on }
    }
}

/// A loaded model of a required class, and its tokenizer.
#[derive(Debug)]
pub struct Loaded {
    /// Class that config.json names.
    pub class: &'static str,
    pub model: Box<dyn Model>,
    /// Tokenizer that truncates texts to the model's length.
    pub tokenizer: Tokenizer,
}

impl LayerPrecision {
    /// Loads the checkpoint in `dir` and its tokenizer; its class must end in one of `kinds`.
    pub fn load_for(&self, kinds: &[&str], dir: &Path, session: &Session) -> Result<Loaded> {
        let architecture = Architecture::of(dir)?;
        let class = architecture.class;
        if !kinds.iter().any(|kind| class.ends_with(kind)) {
            bail!("{class} in {} is of another kind; expected .. {}", dir.display(), kinds.join(", .. "));
        }
        let mut tokenizer = Tokenizer::open(dir)?;
        let model = self.load(architecture, dir, session)?;
        let most = tokenizer.max_length().unwrap_or(usize::MAX).min(model.max_length());
        tokenizer.truncate(most)?;
        Ok(Loaded { class, model, tokenizer })
    }
}

impl Loaded {
    /// Computes the output `name` for `batch`.
    pub fn output(&mut self, batch: &Batch, name: &str) -> Result<Output> {
        let outputs = self.model.forward(batch)?;
        outputs.into_iter().find(|o| o.name == name).with_context(|| format!("{} has no {name}", self.class))
    }
}

/// softmax(scores).
pub fn softmax(scores: &[f32]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = scores.iter().map(|&score| f64::from(score - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// 1 / (1 + e^-score).
pub fn sigmoid(score: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(score)).exp())
}

/// The `n` largest of softmax(scores) with their places, largest first.
pub fn most_probable(scores: &[f32], n: usize) -> Vec<(u32, f64)> {
    let probabilities = softmax(scores);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.into_iter().take(n).map(|i| (i as u32, probabilities[i])).collect()
}

/// Converts a range of bytes of `text` to a range of characters.
pub fn characters(text: &str, bytes: &Range<usize>) -> [usize; 2] {
    [bytes.start, bytes.end].map(|end| text.char_indices().take_while(|(at, _)| *at < end).count())
}

/// Parses the name of a format.
pub fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).map(|name| {
        Format::ALL.into_iter().find(|format| format.name() == name).expect("one of the possible values")
    })
}

/// Parses `exact` or `rounded`.
pub fn layer_inputs() -> impl TypedValueParser<Value = ActivationQuantization> {
    PossibleValuesParser::new(ActivationQuantization::ALL.map(ActivationQuantization::name)).map(|name| {
        ActivationQuantization::ALL
            .into_iter()
            .find(|inputs| inputs.name() == name)
            .expect("one of the possible values")
    })
}

/// Number of unread tensors that a note names.
const NAMED: usize = 8;

/// Time after which loading shows a progress bar.
const PATIENCE: Duration = Duration::from_millis(500);

impl Session {
    /// Arithmetic of the backend in effect for linear layers of `dtype`.
    pub fn arithmetic(&self, dtype: Format) -> Arithmetic {
        Arithmetic::new(self.backend, dtype)
    }
}

/// Loads the checkpoint in `dir`, and notes on stderr the tensors that the class does not read.
pub fn open(as_a: Architecture, dir: &Path, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
    let weights = weights(dir, on.dtype)?;
    let model = as_a.open(dir, weights.clone(), on)?;
    let unread: Vec<String> = weights.unread().map(str::to_owned).collect();
    drop(weights); // removes the progress bar before the note
    if !unread.is_empty() {
        let (dir, class, n) = (dir.display(), as_a.class, unread.len());
        let names = unread[..n.min(NAMED)].join(", ");
        let more = if n > NAMED { format!(" .. {n} in all") } else { String::new() };
        eprintln!("note: {dir}: tensors that {class} does not read: {names}{more}");
    }
    Ok(model)
}

/// Opens the weights in `dir`. A long conversion to `dtype` shows a progress bar.
pub fn weights(dir: &Path, dtype: Format) -> Result<Weights, Error> {
    let start = Instant::now();
    let bar = ProgressBar::hidden().with_style(style::progress());
    bar.set_message(format!("loading {} as {}", dir.display(), dtype.name()));
    Ok(Weights::open(dir)?.watched(move |done, all| {
        if bar.is_hidden() && start.elapsed() > PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_length(all);
        bar.set_position(done);
    }))
}

//! Options and loading of a checkpoint: `--model`, `--dtype`, a progress bar.

use super::{Common, Session, hub, style};
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

/// `--model`; flatten it into a subcommand's arguments.
#[derive(Debug, clap::Args)]
pub struct Checkpoint {
    /// Directory with config.json, tokenizer.json and model.safetensors, or a GGUF file; where there is none of this
    /// name, a repository of the Hugging Face Hub, ORG/NAME or ORG/NAME@REVISION, which is downloaded to its cache
    /// (HF_HOME, HF_ENDPOINT and HF_TOKEN are respected), if this was built with `--features hub`
    #[arg(long, value_name = "DIR|FILE|ORG/NAME")]
    model: PathBuf,
}

impl Checkpoint {
    /// The directory or file.
    pub fn locate(&self) -> Result<PathBuf> {
        locate(&self.model)
    }
}

/// The directory or file that `model` says: its path, or that of what it names on the Hub.
pub fn locate(model: &Path) -> Result<PathBuf> {
    match hub::Name::parse(model) {
        Some(name) if !model.exists() => hub::download(&name),
        _ => Ok(model.to_owned()),
    }
}

/// `--dtype`; flatten it into a subcommand's arguments.
#[derive(Debug, clap::Args)]
pub struct Dtype {
    /// Type of the linear layers: f32, or one that weights are rounded to while they are loaded; all that is
    /// not a linear layer is f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = format())]
    pub dtype: Format,
    /// True if what linear layers multiply their weights with is f32, or rounded as well, to the same type
    /// (with q8_0, q4_0 and q4_1 to int8), which is faster [default: exact with q8_0, q4_0 and q4_1, else
    /// rounded]
    #[arg(long, value_name = "HOW", value_parser = layer_inputs())]
    layer_inputs: Option<ActivationQuantization>,
}

impl Dtype {
    /// Starts a subcommand in this type.
    pub fn start(&self, common: &Common) -> Result<Session> {
        common.start_in(Some(self.dtype.name()))
    }

    /// Loads the checkpoint in `dir`.
    pub fn load(&self, as_a: Architecture, dir: &Path, session: &Session) -> Result<Box<dyn Model>, Error> {
        open(as_a, dir, self.arithmetic(session))
    }

    /// The backend in effect with this type.
    pub fn arithmetic(&self, session: &Session) -> Arithmetic {
        let on = Arithmetic::new(session.backend, self.dtype);
        Arithmetic { inputs: self.layer_inputs.unwrap_or(on.inputs), ..on }
    }
}

/// A checkpoint that is asked about texts.
#[derive(Debug)]
pub struct Loaded {
    /// Its class.
    pub class: &'static str,
    pub model: Box<dyn Model>,
    /// Cuts texts to what the model takes.
    pub tokenizer: Tokenizer,
}

impl Dtype {
    /// Loads the checkpoint in `dir`, whose class must end in one of `kinds`, and its tokenizer.
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
    /// The output `name` for `batch`.
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

/// Where `bytes` of `text` stand, counted in characters.
pub fn characters(text: &str, bytes: &Range<usize>) -> [usize; 2] {
    [bytes.start, bytes.end].map(|end| text.char_indices().take_while(|(at, _)| *at < end).count())
}

/// Parses the name of a format.
pub fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).map(|name| {
        Format::ALL.into_iter().find(|format| format.name() == name).expect("one of the possible values")
    })
}

/// Parses what is done to inputs.
pub fn layer_inputs() -> impl TypedValueParser<Value = ActivationQuantization> {
    PossibleValuesParser::new(ActivationQuantization::ALL.map(ActivationQuantization::name)).map(|name| {
        ActivationQuantization::ALL
            .into_iter()
            .find(|inputs| inputs.name() == name)
            .expect("one of the possible values")
    })
}

/// Tensors that a note names.
const NAMED: usize = 8;

/// Loading that takes less is not worth a progress bar.
const PATIENCE: Duration = Duration::from_millis(500);

impl Session {
    /// The backend in effect with this type.
    pub fn arithmetic(&self, dtype: Format) -> Arithmetic {
        Arithmetic::new(self.backend, dtype)
    }
}

/// Loads the checkpoint in `dir`, and notes on stderr which tensors of it the class does not have.
pub fn open(as_a: Architecture, dir: &Path, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
    let weights = weights(dir, on.dtype)?;
    let model = as_a.open(dir, weights.clone(), on)?;
    let unread: Vec<String> = weights.unread().map(str::to_owned).collect();
    drop(weights); // and its progress bar with it
    if !unread.is_empty() {
        let (dir, class, n) = (dir.display(), as_a.class, unread.len());
        let names = unread[..n.min(NAMED)].join(", ");
        let more = if n > NAMED { format!(" .. {n} in all") } else { String::new() };
        eprintln!("note: {dir}: tensors that {class} does not read: {names}{more}");
    }
    Ok(model)
}

/// Opens the weights in `dir`. Their conversion to `dtype` shows a progress bar where it takes long.
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

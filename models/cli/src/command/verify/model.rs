//! `tilewright verify --model`: outputs of a checkpoint in each type against its outputs in f32.

use super::Verify;
use crate::command::style::{self, TABLE};
use crate::command::{Session, checkpoint};
use anyhow::{Context as _, Result, bail};
use comfy_table::{CellAlignment, Table};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::Path;
use tilewright::accuracy::{OutputComparison, least_cosine};
use tilewright::architectures::Architecture;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::exchange::{ModelInputs, Padded};
use tilewright::model::Model;
use tilewright::output::Output;
use tilewright::{Arithmetic, Error};
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;

/// 200 English sentences of 1 to about 40 words, on many subjects.
const SENTENCES: &str = include_str!("sentences.txt");

/// Texts of a batch.
const TEXTS: usize = 8;

/// Multiply-adds up to which the definitions compute the expected outputs, in about 20 seconds. Above, the portable
/// backend computes them; its error in f32 is about 1e-6 of an output's scale.
const MOST: f64 = 2e10;

/// Multiply-adds in each type up to which all sentences are used; above, some are left out.
const MOST_IN_A_TYPE: f64 = 6e10;

/// The class that config.json names and, unless it is the bare model, the bare model beside it.
struct ModelAndBare {
    models: Vec<Box<dyn Model>>,
}

impl ModelAndBare {
    fn load(dir: &Path, on: Arithmetic) -> Result<Self, Error> {
        let (class, bare) = (Architecture::of(dir)?, Architecture::bare(dir)?);
        let weights = checkpoint::weights(dir, on.dtype)?;
        let mut models = vec![class.open(dir, weights.clone(), on)?];
        if class.class != bare.class {
            models.push(bare.open(dir, weights, on)?);
        }
        Ok(Self { models })
    }

    /// Multiply-adds of a token, without attention.
    fn cost(&self) -> f64 {
        let layers = self.models.iter().flat_map(|model| model.linear_layers());
        layers.map(|layer| (layer.times * layer.linear.multiply_adds()) as f64).sum()
    }

    fn run(&mut self, inputs: &ModelInputs) -> Result<Vec<Output>, Error> {
        // Without decoder inputs, the decoder reads the inputs of the encoder.
        let texts = &inputs.tokens.batch;
        let run = |model: &mut Box<dyn Model>| match inputs.run(&mut **model) {
            Err(Error::Input { name: "decoder_input_ids", .. }) => model.forward_pair(texts, texts),
            found => found,
        };
        let mut outputs = run(&mut self.models[0])?;
        if let Some(bare) = self.models.get_mut(1) {
            outputs.extend(run(bare)?.into_iter().filter(|o| o.name == "last_hidden_state"));
        }
        Ok(outputs)
    }
}

/// Errors of one type.
struct DtypeErrors {
    dtype: Format,
    seen: OutputComparison,
}

pub fn run(args: &Verify, dir: &Path, session: &Session) -> Result<()> {
    let architecture = Architecture::of(dir)?;
    let mut subject = ModelAndBare::load(dir, Arithmetic::f32(Backend::PORTABLE))?;
    let (inputs, step) = inputs(args, dir, &subject)?;
    let batches = inputs.iter().map(|inputs| &inputs.tokens.batch);
    let (sequences, tokens) = batches.fold((0, 0), |(s, t), batch| (s + batch.len(), t + batch.tokens()));
    let mut reference = Backend::PORTABLE;
    if subject.cost() * tokens as f64 <= MOST {
        reference = Backend::REFERENCE;
        subject = ModelAndBare::load(dir, Arithmetic::f32(reference))?;
    }
    let dtypes = if args.dtypes.is_empty() { Format::ALL.to_vec() } else { args.dtypes.clone() };
    let (class, name) = (architecture.class, reference.name());
    session.say(&format!("{class}: {sequences} texts, {tokens} tokens, against f32 on {name}"))?;
    if step > 1 {
        session.say(&format!("one sentence of every {step}: this model would take long for all"))?;
    }

    let bar = ProgressBar::new(((1 + dtypes.len()) * inputs.len()) as u64).with_style(style::progress());
    let outputs_of =
        |subject: &mut ModelAndBare, on: Arithmetic, use_them: &mut dyn FnMut(usize, Vec<Output>)| {
            bar.set_message(format!("{} on {}", on.dtype.name(), on.backend.name()));
            for (i, inputs) in inputs.iter().enumerate() {
                use_them(i, subject.run(inputs)?);
                bar.inc(1);
            }
            Ok::<_, Error>(())
        };
    let mut expected = Vec::new();
    outputs_of(&mut subject, Arithmetic::f32(reference), &mut |_, outputs| expected.push(outputs))?;
    drop(subject);
    let mut rows = Vec::new();
    for dtype in dtypes {
        let (on, mut seen) = (session.arithmetic(dtype), OutputComparison::default());
        let add =
            &mut |i: usize, outputs: Vec<Output>| seen.add(&inputs[i].tokens.batch, &outputs, &expected[i]);
        outputs_of(&mut ModelAndBare::load(dir, on)?, on, add)?;
        rows.push(DtypeErrors { dtype, seen });
    }
    bar.finish_and_clear();

    if session.json {
        let results: Vec<_> = rows.iter().map(DtypeErrors::json).collect();
        session.print_json(json!({
            "architecture": architecture.class,
            "reference": reference.name(),
            "texts": sequences,
            "tokens": tokens,
            "one_text_of": step,
            "results": results,
        }))?;
    } else {
        session.say("errors as shares of the output's largest value, cosines of mean states\n")?;
        session.say(&table(&rows).to_string())?;
    }
    let failed: Vec<_> = rows.iter().filter(|row| !row.passed()).map(|row| row.dtype.name()).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("outputs not finite, or a cosine below its floor: {}", failed.join(", ")),
    }
}

/// Inputs from a file, or from texts cut to the model's length; and the step between the sentences that are used,
/// above 1 if all would take long.
fn inputs(args: &Verify, dir: &Path, subject: &ModelAndBare) -> Result<(Vec<ModelInputs>, usize)> {
    if let Some(path) = &args.inputs {
        return Ok((vec![ModelInputs::open(path)?], 1));
    }
    let read;
    let texts: &str = match &args.texts {
        Some(path) => {
            read = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            &read
        }
        None => SENTENCES,
    };
    let texts: Vec<&str> = texts.lines().filter(|line| !line.trim().is_empty()).collect();
    if texts.is_empty() {
        bail!("no texts to run the model on");
    }
    let mut tokenizer = Tokenizer::open(dir).context("texts need a tokenizer; --inputs takes ids instead")?;
    let longest = subject.models[0].max_length();
    tokenizer.truncate(tokenizer.max_length().unwrap_or(longest).min(longest))?;
    let step = match args.texts {
        None => subject.cost() * tokenizer.encode(&texts)?.tokens() as f64 / MOST_IN_A_TYPE,
        Some(_) => 1.0,
    };
    let step = step.ceil().max(1.0) as usize;
    let texts: Vec<&str> = texts.into_iter().step_by(step).collect();
    let encode = |texts: &[&str]| {
        let batch = tokenizer.encode(texts)?;
        Ok(ModelInputs { tokens: Padded { shape: Vec::new(), batch }, decoder: None })
    };
    Ok((texts.chunks(TEXTS).map(encode).collect::<Result<_, Error>>()?, step))
}

fn table(rows: &[DtypeErrors]) -> Table {
    let mut table = Table::new();
    let head = ["dtype", "output", "worst", "mean", "top-1", "worst cosine", "mean cosine", "at least"];
    table.load_style(TABLE).set_header(head);
    for row in rows {
        let (mut name, mut cosine) = (row.dtype.name(), row.seen.cosine());
        for of in row.seen.deviations() {
            let errors = match of.finite {
                true => [of.worst, of.mean].map(|error| format!("{error:.1e}")),
                false => ["NOT FINITE", ""].map(str::to_owned),
            };
            let top_1 = of.top_1.map_or(String::new(), |share| format!("{:.1}%", 100.0 * share));
            let shown = (of.name == "last_hidden_state").then(|| cosine.take()).flatten();
            let cosines = match shown {
                Some((worst, mean)) => {
                    [format!("{worst:.6}"), format!("{mean:.6}"), least_cosine(row.dtype).to_string()]
                }
                None => Default::default(),
            };
            let cells = [name.to_owned(), of.name.to_owned()].into_iter().chain(errors);
            table.add_row(cells.chain([top_1]).chain(cosines));
            name = "";
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

impl DtypeErrors {
    /// True if all outputs are finite and the worst cosine reaches its floor; a NaN fails.
    fn passed(&self) -> bool {
        let near = self.seen.cosine().is_none_or(|(worst, _)| worst >= least_cosine(self.dtype));
        near && self.seen.deviations().all(|of| of.finite)
    }

    fn json(&self) -> Value {
        let outputs: Vec<_> = self.seen.deviations().map(|of| {
            json!({ "name": of.name, "worst": of.worst, "mean": of.mean, "top_1": of.top_1, "finite": of.finite })
        }).collect();
        let cosine = self.seen.cosine().map(
            |(worst, mean)| json!({ "worst": worst, "mean": mean, "at_least": least_cosine(self.dtype) }),
        );
        json!({ "dtype": self.dtype.name(), "outputs": outputs, "cosine": cosine, "passed": self.passed() })
    }
}

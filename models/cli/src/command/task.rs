//! Options of labelled examples, which `finetune` and `evaluate` share, and the table of an evaluation.

use super::style::TABLE;
use super::{Session, checkpoint};
use anyhow::{Context as _, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use comfy_table::{CellAlignment, Table};
use serde_json::{Map, Value, json};
use std::path::Path;
use tilewright::architectures::Architecture;
use tilewright::generate::GenerationConfig;
use tilewright::train::tasks::{
    Columns, Evaluation, Examples, Target, Task, TaskSetup, generated_exact_match,
};
use tilewright_kernels::gemm::Format;

/// Options that name the columns of a table, and the length of texts.
#[derive(Debug, clap::Args)]
pub struct TaskOptions {
    /// Task
    #[arg(long, value_parser = task())]
    pub task: Task,

    /// Column of the text, or of the first text of a pair; for CoNLL, the number of the words' column [default: text;
    /// for CoNLL the first]
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,

    /// Column of the second text of a pair [default: text_pair for pairs, none for regress]
    #[arg(long, value_name = "NAME")]
    second_column: Option<String>,

    /// Column of the label; for causal, of a text that answers the first one and alone is learnt; for CoNLL, the number of
    /// the tags' column [default: label; target for seq2seq; none for causal; for CoNLL the last]
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,

    /// Largest number of tokens of a sequence; longer texts are cut [default: the model's, or the tokenizer's if that
    /// is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_length: Option<u32>,
}

impl TaskOptions {
    /// Columns that the task reads.
    pub fn columns(&self) -> Columns {
        let defaults = self.task.columns();
        let label = match self.task {
            Task::Causal => self.label_column.clone(),
            _ => defaults.label.map(|default| self.label_column.clone().unwrap_or(default)),
        };
        let has_pairs = matches!(self.task, Task::Pairs | Task::Regress);
        Columns {
            text: self.text_column.clone().unwrap_or(defaults.text),
            second: self.second_column.clone().filter(|_| has_pairs).or(defaults.second),
            label,
        }
    }

    /// Largest number of tokens of a sequence.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length.map(|n| n as usize)
    }
}

fn task() -> impl TypedValueParser<Value = Task> {
    PossibleValuesParser::new(Task::ALL.map(Task::name)).map(|name| {
        Task::ALL.into_iter().find(|task| task.name() == name).expect("one of the possible values")
    })
}

/// Adds the exact match of generated texts, of tasks whose examples have target texts, to an evaluation of the model in
/// `dir`.
pub fn add_exact_match(
    evaluation: &mut Evaluation,
    dir: &Path,
    examples: &Examples,
    setup: &TaskSetup,
    session: &Session,
) -> Result<()> {
    let has_texts = examples.list().iter().any(|example| matches!(example.target, Target::Tokens(_)));
    if has_texts {
        let mut model = checkpoint::open(Architecture::of(dir)?, dir, session.arithmetic(Format::F32))?;
        let generator = model.causal_lm().context("the model cannot generate text")?;
        let settings = GenerationConfig::open(dir)?;
        let share = generated_exact_match(generator, &settings, &setup.tokenizer, examples)?;
        evaluation.metrics.extend(share.map(|share| ("exact_match", share)));
    }
    Ok(())
}

/// An evaluation as JSON. NaN is null.
pub fn evaluation_json(evaluation: &Evaluation) -> Value {
    let metrics: Map<String, Value> =
        evaluation.metrics.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({ "loss": evaluation.loss, "count": evaluation.count, "metrics": metrics })
}

/// An evaluation as a table.
pub fn evaluation_table(evaluation: &Evaluation) -> String {
    let mut table = Table::new();
    table.load_style(TABLE).set_header(["metric", "value"]);
    let of_loss = [("loss", evaluation.loss)];
    for (name, value) in evaluation.metrics.iter().copied().chain(of_loss) {
        table.add_row([name.replace('_', " "), format!("{value:.4}")]);
    }
    table.add_row(["predictions".to_owned(), evaluation.count.to_string()]);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}

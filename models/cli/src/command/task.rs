//! Options of labelled examples, which `finetune` and `evaluate` share, and the table of an evaluation.

use super::style::TABLE;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use comfy_table::{CellAlignment, Table};
use serde_json::{Map, Value, json};
use tilewright::train::tasks::{Columns, Evaluation, Task};

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

    /// Column of the label; for CoNLL, the number of the tags' column [default: label; target for seq2seq; for CoNLL
    /// the last]
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
        let label = defaults.label.map(|default| self.label_column.clone().unwrap_or(default));
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

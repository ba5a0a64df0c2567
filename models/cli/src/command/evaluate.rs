//! `tilewright evaluate`: metrics of a checkpoint on labelled examples.

use super::Common;
use super::checkpoint::Checkpoint;
use super::task::{TaskOptions, add_exact_match, evaluation_json, evaluation_table};
use anyhow::{Context as _, Result};
use clap::Args;
use std::path::PathBuf;
use tilewright::train::tasks::{Dataset, Examples, TaskModel, evaluate};

/// Computes metrics of a checkpoint on labelled examples
///
/// Metrics are those of scikit-learn, scipy, seqeval and SQuAD 2.0's script: accuracy, F1 and Matthews' correlation for
/// classify and pairs; Pearson's and Spearman's correlation for regress; F1 of entities and accuracy for tag; F1 and
/// exact match for answer; perplexity for causal and seq2seq, and the exact match of greedily generated texts for seq2seq
/// and for causal with --label-column. Shares are from 0 to 1. Files are as for
/// `tilewright finetune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright evaluate --task classify --model distilled-sst2 --data dev.tsv --text-column sentence
  tilewright evaluate --task tag --model bert-ner --data test.conll --json")]
pub struct Evaluate {
    #[command(flatten)]
    options: TaskOptions,

    #[command(flatten)]
    checkpoint: Checkpoint,

    /// File of labelled examples
    #[arg(long, value_name = "FILE")]
    data: PathBuf,

    #[command(flatten)]
    common: Common,
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        let task = self.options.task;
        let dataset = Dataset::read(task, &self.data, &self.options.columns()).context("--data")?;
        let dir = self.checkpoint.locate()?;
        let model = TaskModel::for_evaluation(&dir, task, self.options.max_length(), session.backend)?;
        let examples = Examples::encode(&dataset, &model.setup).context("--data")?;
        let mut evaluation = evaluate(&*model.model, &model.arena, &examples, &model.setup)?;
        add_exact_match(&mut evaluation, &dir, &examples, &model.setup, &session)?;
        if session.json {
            let mut result = evaluation_json(&evaluation);
            result["task"] = task.name().into();
            result["architecture"] = model.setup.architecture.class.into();
            result["examples"] = dataset.len().into();
            result["unscored_words"] = examples.unscored_words.into();
            return session.print_json(result);
        }
        session.say(&format!(
            "{}: {} examples in {} sequences\n",
            model.setup.architecture.class,
            dataset.len(),
            examples.len()
        ))?;
        if examples.unscored_words > 0 {
            session.say(&format!(
                "note: {} words are not scored: they lie beyond {} tokens, or have none\n",
                examples.unscored_words, model.setup.max_length
            ))?;
        }
        session.say(&evaluation_table(&evaluation))
    }
}

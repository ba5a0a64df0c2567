//! Tasks: fine-tuning and evaluation of a checkpoint on labelled examples.
//!
//! ```text
//! file -> Dataset -> Examples -> MicroBatch -> Trainer         Finetuning: epochs, evaluations, the best parameters
//!            |                                                 evaluate: metrics of a model
//!         labels -> TaskSetup, TaskModel (a class with a head for the labels)
//! ```
//!
//! | task | file | class | metrics; the first one decides which parameters are best |
//! |---|---|---|---|
//! | classify | CSV, TSV, JSON lines | `..ForSequenceClassification` | accuracy, F1, Matthews |
//! | pairs | CSV, TSV, JSON lines | `..ForSequenceClassification` | accuracy, F1, Matthews |
//! | regress | CSV, TSV, JSON lines | `..ForSequenceClassification` | Pearson, Spearman |
//! | tag | CoNLL | `..ForTokenClassification` | F1 of entities if tags are IOB2; accuracy |
//! | answer | SQuAD's JSON | `..ForQuestionAnswering` | F1 of words, exact match |
//! | causal | CSV, TSV, JSON lines | `..LMHeadModel`, `..ForCausalLM` | perplexity; of answers also exact match |
//! | seq2seq | CSV, TSV, JSON lines | `..ForConditionalGeneration`, `..MTModel` | perplexity, exact match |
//!
//! [`evaluate`] computes all metrics but the exact match of generated texts: see [`generated_exact_match`].
//!
//! The order of the examples is a function of the seed and the epoch. Texts of a batch are packed without padding.

mod answers;
mod conll;
mod dataset;
mod evaluation;
mod example;
mod examples;
mod finetuning;
mod generation;
mod setup;
mod squad;
mod table;

pub use conll::TaggedSentence;
pub use dataset::Dataset;
pub use evaluation::{Evaluation, evaluate};
pub use example::{Example, Target};
pub use examples::Examples;
pub use finetuning::{EpochReport, Finetuning, FinetuningSettings};
pub use generation::generated_exact_match;
pub use setup::{TaskModel, TaskSetup};
pub use squad::{GoldAnswer, Question};
pub use table::{Columns, TextRow};

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Class of a text.
    Classify,
    /// Class of a pair of texts.
    Pairs,
    /// Number for a text, or for a pair of texts.
    Regress,
    /// Class of each word.
    Tag,
    /// Span of a text that answers a question.
    Answer,
    /// Next token of a text.
    Causal,
    /// Text for a text.
    Seq2Seq,
}

impl Task {
    /// All tasks.
    pub const ALL: [Self; 7] =
        [Self::Classify, Self::Pairs, Self::Regress, Self::Tag, Self::Answer, Self::Causal, Self::Seq2Seq];

    /// Name in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Pairs => "pairs",
            Self::Regress => "regress",
            Self::Tag => "tag",
            Self::Answer => "answer",
            Self::Causal => "causal",
            Self::Seq2Seq => "seq2seq",
        }
    }

    /// Ends of the names of transformers' classes for the task.
    pub fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Classify | Self::Pairs | Self::Regress => &["ForSequenceClassification"],
            Self::Tag => &["ForTokenClassification"],
            Self::Answer => &["ForQuestionAnswering"],
            Self::Causal => &["LMHeadModel", "ForCausalLM"],
            Self::Seq2Seq => &["ForConditionalGeneration", "MTModel"],
        }
    }

    /// True if labels are names of classes.
    pub fn has_classes(self) -> bool {
        matches!(self, Self::Classify | Self::Pairs | Self::Tag)
    }

    /// True if a smaller value of the task's metric is better.
    pub fn minimizes(self) -> bool {
        matches!(self, Self::Causal | Self::Seq2Seq)
    }

    /// Columns of a table, if the caller names none.
    pub fn columns(self) -> Columns {
        let text = |name: &str| Some(name.to_owned());
        Columns {
            text: "text".to_owned(),
            second: if self == Self::Pairs { text("text_pair") } else { None },
            label: match self {
                Self::Causal => None,
                Self::Seq2Seq => text("target"),
                _ => text("label"),
            },
        }
    }
}

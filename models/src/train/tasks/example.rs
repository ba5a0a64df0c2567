//! An example: its tokens and its target.

use std::ops::Range;

/// Tokens and target of an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Ids of the tokens.
    pub ids: Vec<u32>,
    /// Types of the tokens: 0 for the first text, 1 for the second.
    pub types: Vec<u32>,
    /// Target.
    pub target: Target,
}

/// Target of an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Class of the text.
    Class(usize),
    /// Value of the text.
    Value(f32),
    /// Class of each token; -100 for tokens that do not begin a word.
    Tags(Vec<i64>),
    /// A window of a question's context.
    Answer {
        /// Number of the question.
        question: usize,
        /// Columns of the answer's first and last token; 0 if the window does not have the whole answer.
        columns: [i64; 2],
        /// Range of bytes in the context, for tokens of the context.
        places: Vec<Option<Range<usize>>>,
    },
    /// Tokens of the text itself.
    NextTokens,
    /// Tokens of another text.
    Tokens(Vec<i64>),
}

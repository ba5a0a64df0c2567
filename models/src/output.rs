//! Outputs of models, under Hugging Face's names.

/// One result of a model, under the name that Hugging Face's class gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// `last_hidden_state`, `logits` ..
    pub name: &'static str,
    /// Item that each row describes.
    pub each: Each,
    /// Length of a row.
    pub width: usize,
    /// True if a row is a scalar, not a vector of length 1. Then `width` is no dimension of the shape.
    pub scalar: bool,
    /// \[tokens or sequences, width\].
    pub values: Vec<f32>,
}

impl Output {
    /// An output of `rows` rows.
    pub(crate) fn new(name: &'static str, each: Each, rows: usize, values: Vec<f32>) -> Self {
        Self { name, each, width: values.len() / rows.max(1), scalar: false, values }
    }

    /// An output of one number for each token or sequence.
    pub(crate) fn scalars(name: &'static str, each: Each, values: Vec<f32>) -> Self {
        Self { name, each, width: 1, scalar: true, values }
    }
}

/// Item that a row of an output describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    /// Every token of the batch.
    Token,
    /// Every sequence of the batch.
    Sequence,
    /// Every token given to the decoder of an encoder-decoder.
    DecoderToken,
}

//! Linear layers in a model's list, for counts of parameters and operations.

use super::Linear;

/// A linear layer of a model, and how a token uses it.
#[derive(Clone, Copy, Debug)]
pub struct ModelLinear<'a> {
    /// Part of the model, as `Model::parts` names it.
    pub part: &'static str,
    /// The layer.
    pub linear: &'a Linear,
    /// Number of times that a token passes the layer: above 1 for shared layers.
    pub times: usize,
    /// True if the layer shares its weights with the word table.
    pub tied: bool,
}

impl<'a> ModelLinear<'a> {
    /// Layers of a part with weights of their own.
    pub(crate) fn of(
        part: &'static str,
        linear: impl IntoIterator<Item = &'a Linear>,
        times: usize,
    ) -> impl Iterator<Item = Self> {
        linear.into_iter().map(move |linear| Self { part, linear, times, tied: false })
    }
}

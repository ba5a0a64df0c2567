//! Arena: all parameters of a model in training, in one array.
//!
//! ```text
//! values      [tensor 0 | tensor 1 | .. ]        gradients and states of an optimizer have the same layout
//! ```
//!
//! A second array may hold the values rounded to bf16, for linear layers that multiply bf16. The optimizer keeps it in
//! step.
//!
//! Counting, clipping, the optimizer and saving walk the same list of tensors. A tensor with several uses (a word table
//! that is also the head, a layer that ALBERT shares) is stored once, so its gradients add up.

use std::collections::HashMap;
use std::ops::Range;
use tilewright_kernels::half::bf16;

/// Parameters of a model in training.
///
/// ```
/// # use std::path::Path;
/// use tilewright::{Arithmetic, bert, heads::HeadKind};
/// use tilewright::checkpoint::weights::Weights;
/// let config = bert::Config { num_hidden_layers: 1, hidden_size: 8, num_attention_heads: 2, ..bert::Config::default() };
/// let weights = Weights::random(0).trainable();
/// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
/// bert::open(config, weights.clone(), on, HeadKind::Bare)?;
/// let arena = weights.into_arena().with_bf16();
/// let words = arena.tensors().iter().find(|tensor| tensor.shape == [30522, 8]).unwrap();
/// assert_eq!(words.range.len(), 30522 * 8);
/// assert_eq!(arena.rounded().unwrap().len(), arena.values().len());
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Arena {
    tensors: Vec<ArenaTensor>,
    /// Index of each tensor, by name.
    index: HashMap<String, usize>,
    values: Vec<f32>,
    /// The values in bf16.
    rounded: Option<Vec<bf16>>,
    constants: Vec<NamedConstant>,
}

/// A tensor of the checkpoint that does not learn: its name, shape and values.
pub type NamedConstant = (String, Vec<usize>, Vec<f32>);

/// A tensor of an [`Arena`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Place of the values, row-major.
    pub range: Range<usize>,
}

impl Arena {
    /// Appends a tensor and returns the place of its values. Tensors follow each other without gaps, so that the
    /// tensors of a fused layer are one matrix.
    pub(crate) fn push(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Range<usize> {
        let range = self.values.len()..self.values.len() + values.len();
        self.index.insert(name.to_owned(), self.tensors.len());
        self.tensors.push(ArenaTensor { name: name.to_owned(), shape: shape.to_vec(), range: range.clone() });
        self.values.extend_from_slice(values);
        range
    }

    /// Keeps a tensor that does not learn, for saving.
    pub(crate) fn push_constant(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.constants.push((name.to_owned(), shape.to_vec(), values.to_vec()));
    }

    /// Tensors of the checkpoint that do not learn.
    pub fn constants(&self) -> &[NamedConstant] {
        &self.constants
    }

    /// The tensor `name`.
    pub fn find(&self, name: &str) -> Option<&ArenaTensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// All tensors, in the order of their values.
    pub fn tensors(&self) -> &[ArenaTensor] {
        &self.tensors
    }

    /// All values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Replaces all values.
    ///
    /// # Panics
    /// If there are fewer or more.
    pub fn set_values(&mut self, values: &[f32]) {
        self.values.copy_from_slice(values);
        if self.rounded.is_some() {
            self.round();
        }
    }

    /// This arena with its values in bf16 beside them: linear layers then multiply bf16, and sum in f32.
    #[must_use]
    pub fn with_bf16(mut self) -> Self {
        self.round();
        self
    }

    fn round(&mut self) {
        let rounded = self.rounded.get_or_insert_default();
        rounded.clear();
        rounded.extend(self.values.iter().copied().map(bf16::from_f32));
    }

    /// All values in bf16, if linear layers multiply these.
    pub fn rounded(&self) -> Option<&[bf16]> {
        self.rounded.as_deref()
    }

    /// All values, and those in bf16, for an optimizer, which keeps both in step.
    pub(crate) fn arrays_mut(&mut self) -> (&mut [f32], Option<&mut [bf16]>) {
        (&mut self.values, self.rounded.as_deref_mut())
    }
}

/// Values of a tensor: a layer's own, or a place in the arena of a model in training.
#[derive(Clone, Debug)]
pub enum Values {
    /// Row-major.
    Own(Vec<f32>),
    /// Place in the arena.
    Arena(Range<usize>),
}

impl Values {
    /// The values; `arena` holds those of a model in training.
    ///
    /// # Panics
    /// If `arena` is not of the model that the values belong to, and too short.
    pub fn get<'v>(&'v self, arena: &'v [f32]) -> &'v [f32] {
        match self {
            Self::Own(values) => values,
            Self::Arena(range) => &arena[range.clone()],
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Own(values) => values.len(),
            Self::Arena(range) => range.len(),
        }
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Place in the arena of a model in training.
    pub fn place(&self) -> Option<Range<usize>> {
        match self {
            Self::Own(_) => None,
            Self::Arena(range) => Some(range.clone()),
        }
    }

    /// These values and the `next` ones, which must follow them in the arena.
    pub(crate) fn join(self, next: Self) -> Result<Self, String> {
        match (self, next) {
            (Self::Own(mut values), Self::Own(next)) => {
                values.extend(next);
                Ok(Self::Own(values))
            }
            (Self::Arena(range), Self::Arena(next)) if range.end == next.start => {
                Ok(Self::Arena(range.start..next.end))
            }
            _ => Err("is part of two layers, which cannot both fuse it".to_owned()),
        }
    }
}

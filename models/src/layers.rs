//! Layers: weights in the form that a backend's kernels take, and the calls of those kernels.
//!
//! States of all sequences of a batch stand packed, \[tokens, width\], one row for each token.

use crate::arithmetic::{ActivationQuantization, Arithmetic};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use std::borrow::Cow;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
use tilewright_kernels::{Activation, Backend, Embedding, LayerNorm, Lookup, RmsNorm, Rows, View, ViewMut};

mod attention;
mod cache;
mod model_linear;

pub use attention::Heads;
pub use cache::{Cache, Past};
pub use model_linear::ModelLinear;
pub use tilewright_kernels::KvCache;

/// Tensors in groups of a format, as a file stores them.
type StoredGroups<'w> = (Format, Vec<Cow<'w, [u8]>>);

/// y = x W^T + b.
#[derive(Clone, Debug)]
pub struct Linear {
    backend: Backend,
    inputs: ActivationQuantization,
    /// W^T, packed in its type: \[in, out\].
    weight: PackedB,
    /// \[out\].
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads `{name}.weight`, \[out, in\], and `{name}.bias`, \[out\].
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open(
        weights: &Weights,
        name: &str,
        [out, inp]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        Self::open_as(weights, &format!("{name}.weight"), Some(&format!("{name}.bias")), [out, inp], on)
    }

    /// Reads the tensors `weight`, \[out, in\], and `bias`, \[out\], if the layer has one.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open_as(
        weights: &Weights,
        weight: &str,
        bias: Option<&str>,
        [out, inp]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let bias = bias.map(|bias| weights.get(bias, &[out])).transpose()?;
        Self::stack(weights, &[(weight, out)], inp, bias, on)
    }

    /// Reads several layers with one input as one layer; `parts` are names and widths, and outputs follow each
    /// other; with `{name}.bias` if they are `biased`.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open_fused(
        weights: &Weights,
        parts: &[(String, usize)],
        inp: usize,
        biased: bool,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let names: Vec<_> = parts.iter().map(|(name, out)| (format!("{name}.weight"), *out)).collect();
        let mut bias = biased.then(Vec::new);
        if let Some(bias) = &mut bias {
            for (name, out) in parts {
                bias.extend(weights.get(&format!("{name}.bias"), &[*out])?);
            }
        }
        Self::stack(weights, &names, inp, bias, on)
    }

    /// Reads `{name}.weight`, \[in, out\] as the `Conv1D` of transformers stores it, and `{name}.bias`.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open_transposed(
        weights: &Weights,
        name: &str,
        [inp, out]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let weight = weights.get(&format!("{name}.weight"), &[inp, out])?;
        let bias = weights.get(&format!("{name}.bias"), &[out])?;
        Self::pack(View::new(&weight, [inp, out])?, Some(bias), on)
    }

    /// Reads the tensors `gate` and `up`, both \[out, in\], as one layer without bias, whose
    /// [`activated`](Self::activated) is activation(x gate^T) * (x up^T).
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open_gated(
        weights: &Weights,
        [gate, up]: [&str; 2],
        shape: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let stored = Self::stored(weights, &[(gate, shape[0]), (up, shape[0])], shape[1], on)?;
        let weight = if let Some((format, groups)) = stored {
            PackedB::gated_from_groups(on.backend, format, &groups[0], &groups[1], shape)?
        } else {
            let [gate, up] = [weights.get(gate, &shape)?, weights.get(up, &shape)?];
            let [gate, up] = [View::new(&gate, shape)?.transpose(), View::new(&up, shape)?.transpose()];
            match on.dtype {
                Format::F32 => PackedB::gated(on.backend, gate, up)?,
                dtype => PackedB::gated_in_format(on.backend, dtype, gate, up)?,
            }
        };
        Ok(Self { backend: on.backend, inputs: on.inputs, weight, bias: None })
    }

    /// Tensors of names and heights as a file stores them, if that is in groups of the type that `on` asks for,
    /// or of int8 where it asks for int4. These are packed as they are: rounding them once more could only lose,
    /// and such files keep in int8 what suffers most, the head.
    fn stored<'w>(
        weights: &'w Weights,
        parts: &[(impl AsRef<str>, usize)],
        inp: usize,
        on: Arithmetic,
    ) -> Result<Option<StoredGroups<'w>>, Error> {
        let finer = matches!(on.dtype, Format::Q4_0 | Format::Q4_1).then_some(Format::Q8_0);
        for format in core::iter::once(on.dtype).chain(finer) {
            let groups = parts.iter().map(|(name, out)| weights.groups(name.as_ref(), [*out, inp], format));
            let groups: Option<Vec<_>> = groups.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
            if let Some(groups) = groups {
                return Ok(Some((format, groups)));
            }
        }
        Ok(None)
    }

    /// Tensors of names and heights, one below the other.
    fn stack(
        weights: &Weights,
        parts: &[(impl AsRef<str>, usize)],
        inp: usize,
        bias: Option<Vec<f32>>,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let height = parts.iter().map(|(_, out)| out).sum();
        if let Some((format, groups)) = Self::stored(weights, parts, inp, on)? {
            let weight = PackedB::from_groups(on.backend, format, &groups.concat(), [height, inp])?;
            return Ok(Self { backend: on.backend, inputs: on.inputs, weight, bias });
        }
        let mut weight = Vec::new();
        for (name, out) in parts {
            weight.extend(weights.get(name.as_ref(), &[*out, inp])?);
        }
        Self::new(&weight, bias, [height, inp], on)
    }

    /// Packs `weight`, \[out, in\], in the type that `on` asks for.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the weight is shorter than its shape, or too long to be summed in int8.
    pub fn new(
        weight: &[f32],
        bias: Option<Vec<f32>>,
        shape: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        Self::pack(View::new(weight, shape)?.transpose(), bias, on)
    }

    /// Packs W^T, \[in, out\].
    fn pack(weight: View<'_, 2>, bias: Option<Vec<f32>>, on: Arithmetic) -> Result<Self, Error> {
        let weight = match on.dtype {
            Format::F32 => PackedB::new(on.backend, weight),
            dtype => PackedB::in_format(on.backend, dtype, weight)?,
        };
        Ok(Self { backend: on.backend, inputs: on.inputs, weight, bias })
    }

    /// Width of the output.
    pub fn width(&self) -> usize {
        self.weight.n()
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        let weights = self.weight.k() * self.weight.n() * if self.weight.is_gated() { 2 } else { 1 };
        weights + self.bias.as_ref().map_or(0, Vec::len)
    }

    /// Multiply-adds for a token.
    pub fn multiply_adds(&self) -> usize {
        self.parameters() - self.bias.as_ref().map_or(0, Vec::len)
    }

    /// out = x W^T + b, for x of \[tokens, in\] and out of \[tokens, out\]: as many rows as out holds; x may
    /// be longer.
    ///
    /// # Errors
    /// [`Error::Kernel`] if x is too short for the rows of out; here and below.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) -> Result<(), Error> {
        self.run(x, Epilogue::default(), out)
    }

    /// out = activation(x W^T + b).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn activated(&self, x: &[f32], activation: Activation, out: &mut [f32]) -> Result<(), Error> {
        self.run(x, Epilogue { activation: Some(activation), ..Epilogue::default() }, out)
    }

    /// out = x W^T + b + residual, with a residual of out's shape.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn added(&self, x: &[f32], residual: &[f32], out: &mut [f32]) -> Result<(), Error> {
        let residual = View::new(residual, [out.len() / self.weight.n(), self.weight.n()])?;
        self.run(x, Epilogue { residual: Some(residual.into()), ..Epilogue::default() }, out)
    }

    fn run(&self, x: &[f32], epilogue: Epilogue<'_>, out: &mut [f32]) -> Result<(), Error> {
        let tokens = out.len() / self.weight.n();
        let x: View<'_, 3> = View::<2>::new(x, [tokens, self.weight.k()])?.into();
        Ok(self.backend.run(Gemm {
            alpha: 1.0,
            a: match (self.inputs, self.weight.format()) {
                (ActivationQuantization::Exact, _) => x.into(),
                // A zero point doubles the resolution of inputs that mostly have one sign, as after GELU, at no cost.
                (ActivationQuantization::Rounded, Format::Int8) => Lhs::ZeroPoint(x),
                (ActivationQuantization::Rounded, _) => Lhs::Rounded(x),
            },
            b: Rhs::Packed(&self.weight),
            beta: 0.0,
            c: ViewMut::new(out, [tokens, self.weight.n()])?.into(),
            epilogue: Epilogue { column_bias: self.bias.as_deref(), ..epilogue },
        })?)
    }
}

/// Normalises the state of each token:
///
/// ```text
/// layer norm    (x - mean) / sqrt(var + eps) * weight + bias
/// RMS norm      x / sqrt(mean of x^2 + eps) * weight
/// ```
#[derive(Clone, Debug)]
pub struct Norm {
    backend: Backend,
    /// \[width\].
    weight: Vec<f32>,
    /// \[width\]; none of an RMS norm.
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    /// Reads `{name}.weight` and `{name}.bias`, both \[width\], of a layer norm.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open(
        weights: &Weights,
        name: &str,
        width: usize,
        eps: f32,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let bias = weights.get(&format!("{name}.bias"), &[width])?;
        Ok(Self { bias: Some(bias), ..Self::open_rms(weights, name, width, eps, on)? })
    }

    /// Reads `{name}.weight`, \[width\], of an RMS norm.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open_rms(
        weights: &Weights,
        name: &str,
        width: usize,
        eps: f32,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let weight = weights.get(&format!("{name}.weight"), &[width])?;
        Ok(Self { backend: on.backend, weight, bias: None, eps })
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        self.weight.len() + self.bias.as_ref().map_or(0, Vec::len)
    }

    /// Normalises the rows of x, \[tokens, width\], into out: as many as that holds; x may be longer.
    ///
    /// # Errors
    /// [`Error::Kernel`] if x is too short for the rows of out.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) -> Result<(), Error> {
        let shape = self.shape(out);
        self.run(Rows::Into(View::new(x, shape)?, ViewMut::new(out, shape)?), None)
    }

    /// Normalises the rows of x, \[tokens, width\], in place.
    ///
    /// # Errors
    /// None, in this form.
    pub fn in_place(&self, x: &mut [f32]) -> Result<(), Error> {
        let shape = self.shape(x);
        self.run(Rows::InPlace(ViewMut::new(x, shape)?), None)
    }

    /// x += y, and y becomes the rows of that, normalised: the step between two blocks that normalise what
    /// they read. Both are \[tokens, width\].
    ///
    /// # Errors
    /// [`Error::Kernel`] if x is too short for the rows of y.
    pub fn after_adding(&self, y: &mut [f32], x: &mut [f32]) -> Result<(), Error> {
        let shape = self.shape(y);
        self.run(Rows::InPlace(ViewMut::new(y, shape)?), Some(ViewMut::new(x, shape)?))
    }

    fn shape(&self, rows: &[f32]) -> [usize; 2] {
        [rows.len() / self.weight.len(), self.weight.len()]
    }

    fn run(&self, rows: Rows<'_>, residual: Option<ViewMut<'_, 2>>) -> Result<(), Error> {
        let (weight, eps) = (Some(&*self.weight), self.eps);
        match &self.bias {
            Some(bias) => self.backend.run(LayerNorm { rows, residual, weight, bias: Some(bias), eps })?,
            None => self.backend.run(RmsNorm { rows, residual, weight, eps })?,
        }
        Ok(())
    }
}

/// Rows that ids choose.
#[derive(Clone, Debug)]
pub struct Table {
    /// \[entries, width\].
    pub weight: Vec<f32>,
    entries: usize,
    width: usize,
}

impl Table {
    /// The rows in `weight`, \[entries, width\].
    pub(crate) fn new(weight: Vec<f32>, [entries, width]: [usize; 2]) -> Self {
        debug_assert_eq!(weight.len(), entries * width);
        Self { weight, entries, width }
    }

    /// Reads `{name}.weight`, \[entries, width\].
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open(weights: &Weights, name: &str, [entries, width]: [usize; 2]) -> Result<Self, Error> {
        let weight = weights.get(&format!("{name}.weight"), &[entries, width])?;
        Ok(Self { weight, entries, width })
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.weight.len()
    }

    /// The rows of `ids`, \[ids, width\], in `out`.
    ///
    /// # Errors
    /// [`Error::Kernel`] if an id is not in the table, or `out` is too short.
    pub fn get(&self, on: Arithmetic, ids: &[u32], out: &mut [f32]) -> Result<(), Error> {
        let lookups = &[Lookup { table: self.view(), ids }];
        Ok(on.backend.run(Embedding { lookups, out: ViewMut::new(out, [ids.len(), self.width])? })?)
    }

    /// The table, \[entries, width\].
    pub fn view(&self) -> View<'_, 2> {
        View::new(&self.weight, [self.entries, self.width]).expect("read with this shape")
    }
}

/// Working memory that grows to the largest length asked for, and stays. It begins at a cache line, so
/// that the vectors of kernels do not straddle two: normalising misaligned rows takes half as long again.
#[derive(Debug, Default)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` floats of unspecified content.
    pub fn get(&mut self, len: usize) -> &mut [f32] {
        const LINE: usize = 64;
        let padded = len + LINE / size_of::<f32>();
        if self.0.len() < padded {
            self.0.resize(padded, 0.0);
        }
        let skip = self.0.as_ptr().align_offset(LINE);
        &mut self.0[skip..skip + len]
    }
}

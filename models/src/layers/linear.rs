//! Linear layers.
//!
//! ```text
//! y = x W^T + b                  W^T packed once; several tensors with one input fuse into one W^T
//!
//! W^T      [q columns | k columns | v columns]        b [q | k | v]
//! gated    [gate columns], [up columns]               activation(x gate^T) * (x up^T)
//! ```

use super::parameter::{MatrixOrder, Parameter, Parameters, Source};
use super::table::EmbeddingTable;
use crate::arithmetic::{ActivationQuantization, Arithmetic};
use crate::checkpoint::weights::{NamedTensor, Weights};
use crate::error::Error;
use std::borrow::Cow;
use std::ops::Range;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
use tilewright_kernels::{Activation, Backend, View, ViewMut};

/// Tensors as a file stores them, in groups of a format.
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
    /// Tensors of the weight, then of the bias.
    tensors: Vec<LinearTensor>,
}

/// A tensor of the checkpoint, and its place in a linear layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Role in the layer.
    pub role: LinearRole,
    /// Outputs that the tensor computes: columns of W^T, or elements of the bias. Gate and up matrix of a gated pair
    /// have the same outputs.
    pub outputs: Range<usize>,
}

/// Role of a tensor in a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearRole {
    /// Columns of W^T.
    Weight(MatrixOrder),
    /// Gate of a gated pair, \[out, in\].
    Gate,
    /// Up matrix of a gated pair, \[out, in\].
    Up,
    /// Elements of the bias.
    Bias,
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
        let biases: Vec<_> = bias.into_iter().map(|bias| (bias, out)).collect();
        Self::fuse(weights, &[(weight, out)], &biases, inp, on)
    }

    /// Reads several layers with one input as one layer. `parts` are names and widths, in the order of the outputs;
    /// `biased` layers have `{name}.bias`.
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
        let named =
            |kind: &str| parts.iter().map(|(name, out)| (format!("{name}.{kind}"), *out)).collect::<Vec<_>>();
        let biases = if biased { named("bias") } else { Vec::new() };
        Self::fuse(weights, &named("weight"), &biases, inp, on)
    }

    /// Reads `{name}.weight`, \[in, out\] as `Conv1D` of transformers stores it, and `{name}.bias`.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open_transposed(
        weights: &Weights,
        name: &str,
        [inp, out]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let weight = weights.tensor(&format!("{name}.weight"), &[inp, out])?;
        let bias = weights.tensor(&format!("{name}.bias"), &[out])?;
        let packed = Self::pack(View::new(&weight.values, [inp, out])?, on)?;
        let role = LinearRole::Weight(MatrixOrder::InOut);
        Ok(Self::without_bias(packed, vec![LinearTensor::new(weight.name, weight.shape, role, 0..out)], on)
            .with_bias(bias))
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
        let tensors = [(gate, LinearRole::Gate), (up, LinearRole::Up)]
            .map(|(name, role)| {
                LinearTensor::new(weights.stored_name(name).to_owned(), shape.to_vec(), role, 0..shape[0])
            })
            .to_vec();
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
        Ok(Self::without_bias(weight, tensors, on))
    }

    /// A layer whose weight is the embedding table `table`, \[out, in\], and whose bias has `out` values.
    ///
    /// # Errors
    /// [`Error::Kernel`] if rows of the table are too long for sums in int8.
    pub(crate) fn from_table(
        table: &EmbeddingTable,
        bias: Option<NamedTensor>,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let NamedTensor { name, shape, .. } = &table.weight;
        let role = LinearRole::Weight(MatrixOrder::OutIn);
        let tensors = vec![LinearTensor::new(name.clone(), shape.clone(), role, 0..shape[0])];
        let linear = Self::without_bias(Self::pack(table.view().transpose(), on)?, tensors, on);
        Ok(match bias {
            Some(bias) => linear.with_bias(bias),
            None => linear,
        })
    }

    /// Tensors in the file's own groups, if the format of these groups is the type of `on`, or q8_0 where `on` asks
    /// for int4. Names and heights are `parts`.
    ///
    /// Such tensors are packed unchanged: another rounding could only lose. Files in int4 keep sensitive layers,
    /// such as the head, in q8_0.
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

    /// Reads weights, \[out, in\] each, and biases, \[out\] each, as one layer; outputs follow each other.
    fn fuse(
        weights: &Weights,
        parts: &[(impl AsRef<str>, usize)],
        biases: &[(impl AsRef<str>, usize)],
        inp: usize,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let (mut tensors, mut start) = (Vec::new(), 0);
        for (name, out) in parts {
            let name = weights.stored_name(name.as_ref()).to_owned();
            let role = LinearRole::Weight(MatrixOrder::OutIn);
            tensors.push(LinearTensor::new(name, vec![*out, inp], role, start..start + out));
            start += out;
        }
        let shape = [start, inp];
        let weight = if let Some((format, groups)) = Self::stored(weights, parts, inp, on)? {
            PackedB::from_groups(on.backend, format, &groups.concat(), shape)?
        } else {
            let mut values = Vec::new();
            for (name, out) in parts {
                values.extend(weights.get(name.as_ref(), &[*out, inp])?);
            }
            Self::pack(View::new(&values, shape)?.transpose(), on)?
        };
        let mut linear = Self::without_bias(weight, tensors, on);
        for (name, out) in biases {
            linear = linear.with_bias(weights.tensor(name.as_ref(), &[*out])?);
        }
        Ok(linear)
    }

    /// Packs W^T, \[in, out\].
    fn pack(weight: View<'_, 2>, on: Arithmetic) -> Result<PackedB, Error> {
        Ok(match on.dtype {
            Format::F32 => PackedB::new(on.backend, weight),
            dtype => PackedB::in_format(on.backend, dtype, weight)?,
        })
    }

    fn without_bias(weight: PackedB, tensors: Vec<LinearTensor>, on: Arithmetic) -> Self {
        Self { backend: on.backend, inputs: on.inputs, weight, bias: None, tensors }
    }

    /// Appends the values of `tensor` to the bias.
    fn with_bias(mut self, tensor: NamedTensor) -> Self {
        let NamedTensor { name, shape, values } = tensor;
        let bias = self.bias.get_or_insert_default();
        let outputs = bias.len()..bias.len() + values.len();
        bias.extend(values);
        self.tensors.push(LinearTensor::new(name, shape, LinearRole::Bias, outputs));
        self
    }

    /// Width of the output.
    pub fn width(&self) -> usize {
        self.weight.n()
    }

    /// Tensors of the checkpoint that the layer fuses, and their places: weights, then biases.
    pub fn tensors(&self) -> &[LinearTensor] {
        &self.tensors
    }

    /// Multiply-adds for a token.
    pub fn multiply_adds(&self) -> usize {
        self.weight.k() * self.weight.n() * if self.weight.is_gated() { 2 } else { 1 }
    }

    /// out = x W^T + b for x, \[tokens, in\], and out, \[tokens, out\]. `out` determines the number of tokens; `x` may
    /// be longer.
    ///
    /// # Errors
    /// [`Error::Kernel`] if x is too short for the rows of out.
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

impl LinearTensor {
    fn new(name: String, shape: Vec<usize>, role: LinearRole, outputs: Range<usize>) -> Self {
        Self { name, shape, role, outputs }
    }
}

impl Parameters for Linear {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let bias = self.bias.as_deref().unwrap_or_default();
        let packed = |up, first, stored| Source::Packed { weight: &self.weight, up, first, stored };
        let source = |LinearTensor { role, outputs, .. }: &LinearTensor| match *role {
            LinearRole::Weight(stored) => packed(false, outputs.start, stored),
            LinearRole::Gate => packed(false, outputs.start, MatrixOrder::OutIn),
            LinearRole::Up => packed(true, outputs.start, MatrixOrder::OutIn),
            LinearRole::Bias => Source::Plain(&bias[outputs.clone()]),
        };
        let tensors = self.tensors.iter();
        tensors.map(|t| Parameter { name: &t.name, shape: &t.shape, source: source(t) }).collect()
    }
}

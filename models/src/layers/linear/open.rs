//! Reading linear layers from a checkpoint.

use super::{Linear, LinearRole, LinearTensor, StoredWeight, Weight};
use crate::arithmetic::Arithmetic;
use crate::checkpoint::arena::Values;
use crate::checkpoint::weights::{NamedTensor, Weights};
use crate::error::Error;
use crate::layers::parameter::MatrixOrder;
use crate::layers::table::EmbeddingTable;
use std::borrow::Cow;
use tilewright_kernels::View;
use tilewright_kernels::gemm::{Format, PackedB};

/// Tensors as a file stores them, in groups of a format.
type StoredGroups<'w> = (Format, Vec<Cow<'w, [u8]>>);

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
        let (order, shape) = (MatrixOrder::InOut, weight.shape.clone());
        let tensors = vec![LinearTensor::new(weight.name, shape, LinearRole::Weight(order), 0..out)];
        let weight = match weight.values {
            Values::Own(values) => Self::pack(View::new(&values, [inp, out])?, on)?,
            Values::Arena(place) => {
                Weight::Stored(StoredWeight { place, shape: [out, inp], order, gated: false })
            }
        };
        Self::without_bias(weight, tensors, on).with_bias(bias)
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
            Weight::Packed(PackedB::gated_from_groups(on.backend, format, &groups[0], &groups[1], shape)?)
        } else {
            let [out, inp] = shape;
            match [weights.tensor(gate, &shape)?.values, weights.tensor(up, &shape)?.values] {
                [Values::Own(gate), Values::Own(up)] => {
                    let [gate, up] = [View::new(&gate, shape)?, View::new(&up, shape)?].map(View::transpose);
                    Weight::Packed(match on.dtype {
                        Format::F32 => PackedB::gated(on.backend, gate, up)?,
                        dtype => PackedB::gated_in_format(on.backend, dtype, gate, up)?,
                    })
                }
                [gate_values, up_values] => {
                    let both = gate_values.join(up_values).map_err(|why| unfit(gate, why))?;
                    Self::stored_weight(&both, [2 * out, inp], true)
                }
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
        let NamedTensor { name, shape, values } = &table.weight;
        let role = LinearRole::Weight(MatrixOrder::OutIn);
        let tensors = vec![LinearTensor::new(name.clone(), shape.clone(), role, 0..shape[0])];
        let weight = match values {
            Values::Own(values) => Self::pack(View::new(values, [shape[0], shape[1]])?.transpose(), on)?,
            Values::Arena(_) => Self::stored_weight(values, [shape[0], shape[1]], false),
        };
        let linear = Self::without_bias(weight, tensors, on);
        match bias {
            Some(bias) => linear.with_bias(bias),
            None => Ok(linear),
        }
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
            Weight::Packed(PackedB::from_groups(on.backend, format, &groups.concat(), shape)?)
        } else {
            let mut all: Option<Values> = None;
            for (name, out) in parts {
                let next = weights.tensor(name.as_ref(), &[*out, inp])?.values;
                all = Some(match all {
                    None => next,
                    Some(before) => before.join(next).map_err(|why| unfit(name.as_ref(), why))?,
                });
            }
            match all.unwrap_or(Values::Own(Vec::new())) {
                Values::Own(values) => Self::pack(View::new(&values, shape)?.transpose(), on)?,
                place @ Values::Arena(_) => Self::stored_weight(&place, shape, false),
            }
        };
        let mut linear = Self::without_bias(weight, tensors, on);
        for (name, out) in biases {
            linear = linear.with_bias(weights.tensor(name.as_ref(), &[*out])?)?;
        }
        Ok(linear)
    }

    /// Packs W^T, \[in, out\].
    fn pack(weight: View<'_, 2>, on: Arithmetic) -> Result<Weight, Error> {
        Ok(Weight::Packed(match on.dtype {
            Format::F32 => PackedB::new(on.backend, weight),
            dtype => PackedB::in_format(on.backend, dtype, weight)?,
        }))
    }

    /// Weight in the arena, \[out, in\].
    fn stored_weight(values: &Values, shape: [usize; 2], gated: bool) -> Weight {
        let place = values.place().unwrap_or_default();
        Weight::Stored(StoredWeight { place, shape, order: MatrixOrder::OutIn, gated })
    }

    /// A layer without bias. The places of stored tensors follow from their outputs.
    fn without_bias(weight: Weight, mut tensors: Vec<LinearTensor>, on: Arithmetic) -> Self {
        if let Weight::Stored(stored) = &weight {
            let mut start = stored.place.start;
            for tensor in &mut tensors {
                let count: usize = tensor.shape.iter().product();
                tensor.place = Some(start..start + count);
                start += count;
            }
        }
        Self { backend: on.backend, inputs: on.inputs, weight, bias: None, tensors }
    }

    /// Appends the values of `tensor` to the bias.
    fn with_bias(mut self, tensor: NamedTensor) -> Result<Self, Error> {
        let NamedTensor { name, shape, values } = tensor;
        let (start, count) = (self.bias.as_ref().map_or(0, Values::len), values.len());
        let place = values.place();
        let bias = LinearTensor::new(name, shape, LinearRole::Bias, start..start + count);
        self.bias = Some(match self.bias {
            None => values,
            Some(before) => before.join(values).map_err(|why| unfit(&bias.name, why))?,
        });
        self.tensors.push(LinearTensor { place, ..bias });
        Ok(self)
    }
}

fn unfit(name: &str, why: String) -> Error {
    Error::Input { name: "weights", why: format!("{name} {why}") }
}

//! Layers: weights in the form that a backend's kernels take, and the calls of those kernels.
//!
//! States of all sequences of a batch stand packed, \[tokens, width\], one row for each token.

use crate::arithmetic::Arithmetic;
use crate::error::Error;
use crate::weights::Weights;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
use tilewright_kernels::{
    Activation, Attention, Backend, LayerNorm, Precision, Rows, Sequences, View, ViewMut,
};

/// y = x W^T + b.
#[derive(Clone, Debug)]
pub struct Linear {
    backend: Backend,
    /// W^T, packed in its type: \[in, out\].
    weight: PackedB,
    /// \[out\].
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads `{name}.weight`, \[out, in\], and `{name}.bias`, \[out\].
    ///
    /// # Errors
    /// Those of [`Weights::get`].
    pub fn open(
        weights: &Weights,
        name: &str,
        [out, inp]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        Self::open_as(weights, &format!("{name}.weight"), &format!("{name}.bias"), [out, inp], on)
    }

    /// Reads the tensors `weight`, \[out, in\], and `bias`, \[out\].
    ///
    /// # Errors
    /// Those of [`Weights::get`].
    pub fn open_as(
        weights: &Weights,
        weight: &str,
        bias: &str,
        [out, inp]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let bias = Some(weights.get(bias, &[out])?);
        match Self::as_stored(weights, &[weight], [out, inp], on)? {
            Some(weight) => Ok(Self { backend: on.backend, weight, bias }),
            None => Self::new(&weights.get(weight, &[out, inp])?, bias, [out, inp], on),
        }
    }

    /// Reads several layers of the same input as one, whose outputs follow each other.
    ///
    /// # Errors
    /// Those of [`Weights::get`].
    pub fn open_fused(
        weights: &Weights,
        names: &[String],
        [out, inp]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            bias.extend(weights.get(&format!("{name}.bias"), &[out])?);
        }
        let of_weights: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        if let Some(weight) = Self::as_stored(weights, &of_weights, [out, inp], on)? {
            return Ok(Self { backend: on.backend, weight, bias: Some(bias) });
        }
        for name in &of_weights {
            weight.extend(weights.get(name, &[out, inp])?);
        }
        Self::new(&weight, Some(bias), [names.len() * out, inp], on)
    }

    /// The tensors `names`, \[out, in\] each, one below the other, packed as they are stored, if that is in
    /// groups of the type that `on` asks for: rounding them once more could only lose.
    fn as_stored(
        weights: &Weights,
        names: &[impl AsRef<str>],
        [out, inp]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Option<PackedB>, Error> {
        let mut groups = Vec::new();
        for name in names {
            match weights.groups(name.as_ref(), [out, inp], on.dtype)? {
                Some(bytes) => groups.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
        Ok(Some(PackedB::from_groups(on.backend, on.dtype, &groups, [names.len() * out, inp])?))
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
        let weight = View::new(weight, shape)?.transpose();
        let weight = match on.dtype {
            Format::F32 => PackedB::new(on.backend, weight),
            dtype => PackedB::in_format(on.backend, dtype, weight)?,
        };
        Ok(Self { backend: on.backend, weight, bias })
    }

    /// Width of the output.
    pub fn width(&self) -> usize {
        self.weight.n()
    }

    /// out = x W^T + b, for x of \[tokens, in\] and out of \[tokens, out\].
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
        let x = View::<2>::new(x, [tokens, self.weight.k()])?.into();
        Ok(self.backend.run(Gemm {
            alpha: 1.0,
            a: match self.weight.format() {
                // Twice as many steps for what is mostly of one sign, as after GELU, for the same time.
                Format::Int8 => Lhs::ZeroPoint(x),
                _ => Lhs::Rounded(x),
            },
            b: Rhs::Packed(&self.weight),
            beta: 0.0,
            c: ViewMut::new(out, [tokens, self.weight.n()])?.into(),
            epilogue: Epilogue { column_bias: self.bias.as_deref(), ..epilogue },
        })?)
    }
}

/// y = (x - mean) / sqrt(var + eps) * weight + bias, for each token.
#[derive(Clone, Debug)]
pub struct Norm {
    backend: Backend,
    /// \[width\].
    weight: Vec<f32>,
    /// \[width\].
    bias: Vec<f32>,
    eps: f32,
}

impl Norm {
    /// Reads `{name}.weight` and `{name}.bias`, both \[width\].
    ///
    /// # Errors
    /// Those of [`Weights::get`].
    pub fn open(
        weights: &Weights,
        name: &str,
        width: usize,
        eps: f32,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let weight = weights.get(&format!("{name}.weight"), &[width])?;
        let bias = weights.get(&format!("{name}.bias"), &[width])?;
        Ok(Self { backend: on.backend, weight, bias, eps })
    }

    /// Normalises the rows of x, \[tokens, width\], into out.
    ///
    /// # Errors
    /// [`Error::Kernel`] if x is too short for the rows of out.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) -> Result<(), Error> {
        let shape = [out.len() / self.weight.len(), self.weight.len()];
        self.run(Rows::Into(View::new(x, shape)?, ViewMut::new(out, shape)?))
    }

    /// Normalises the rows of x, \[tokens, width\], in place.
    ///
    /// # Errors
    /// None, in this form.
    pub fn in_place(&self, x: &mut [f32]) -> Result<(), Error> {
        let shape = [x.len() / self.weight.len(), self.weight.len()];
        self.run(Rows::InPlace(ViewMut::new(x, shape)?))
    }

    fn run(&self, rows: Rows<'_>) -> Result<(), Error> {
        let (weight, bias) = (Some(&*self.weight), Some(&*self.bias));
        Ok(self.backend.run(LayerNorm { rows, residual: None, weight, bias, eps: self.eps })?)
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
    /// Reads `{name}.weight`, \[entries, width\].
    ///
    /// # Errors
    /// Those of [`Weights::get`].
    pub fn open(weights: &Weights, name: &str, [entries, width]: [usize; 2]) -> Result<Self, Error> {
        let weight = weights.get(&format!("{name}.weight"), &[entries, width])?;
        Ok(Self { weight, entries, width })
    }

    /// The table, \[entries, width\].
    pub fn view(&self) -> View<'_, 2> {
        View::new(&self.weight, [self.entries, self.width]).expect("read with this shape")
    }
}

/// Attention of every sequence's tokens to each other.
///
/// `qkv` is \[tokens, 3 heads dim\]: all heads of the queries, of the keys, of the values; `out` is
/// \[tokens, heads dim\].
///
/// Where linear layers are of bf16 or int8, its products are of bf16, and the softmax between them is of f32;
/// elsewhere all of it is.
///
/// # Errors
/// [`Error::Kernel`] if shapes do not fit.
pub fn self_attention(
    on: Arithmetic,
    heads: usize,
    starts: &[usize],
    qkv: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    let tokens = starts.last().copied().unwrap_or(0);
    let width = out.len() / tokens.max(1);
    let shape = [1, heads, tokens, width / heads];
    // Heads are `dim` apart within a token, tokens 3 `width` apart.
    let part = |i: usize| {
        let skip = (i * width).min(qkv.len());
        View::with_strides(&qkv[skip..], shape, [0, shape[3], 3 * width, 1])
    };
    let out = ViewMut::with_strides(out, shape, [0, shape[3], width, 1])?;
    Ok(on.backend.run(Attention {
        sequences: Sequences::Packed { q: starts, k: starts },
        precision: match on.dtype {
            Format::Bf16 | Format::Int8 => Precision::Bf16,
            _ => Precision::F32,
        },
        ..Attention::new(part(0)?, part(1)?, part(2)?, out)
    })?)
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

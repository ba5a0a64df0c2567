//! The row kernels.

mod elementwise;
mod gradients;

use super::Prepared;
use super::inputs::{Aligned, Inputs, ROPE_DIM};
use crate::work::Compute;
use core::fmt;
use half::{bf16, f16};
use tilewright_kernels::{
    Activate, Activation, Backend, ColumnMask, CrossEntropy, CrossEntropyBackward, Element, Embedding, Error,
    Gated, L2Normalize, LayerNorm, Lookup, Pool, RmsNorm, Rope, RopeTable, Rows, Softmax, Targets, View,
    ViewMut,
};
use tilewright_peers::{Dtype, PeerOperation};

/// Computes an output of \[rows, columns\].
type RunRow<T> = fn(Backend, [usize; 2], &RowOperands<'_, T>, &mut [T]) -> Result<(), Error>;

/// [`Inputs`] with `x` and `y` converted to the type `T`.
struct RowOperands<'a, T> {
    x: &'a [T],
    y: &'a [T],
    inputs: &'a Inputs,
}

/// A row kernel, out of place.
pub struct RowKernel {
    /// Name of the kernel in rows and filters.
    pub name: &'static str,
    /// Numbers of the case's type read and written for each element of a row.
    pub streams: f64,
    /// f32 numbers read and written for each element of a row, in every type.
    pub f32_streams: f64,
    f32: RunRow<f32>,
    bf16: RunRow<bf16>,
    f16: RunRow<f16>,
    /// The f32 operation in the interface of other libraries.
    pub(super) peer: Option<for<'a> fn([usize; 2], &'a Inputs) -> PeerOperation<'a>>,
}

impl<T> RowOperands<'_, T> {
    /// The table of rotations.
    fn rope_table(&self, shape: [usize; 2]) -> Result<&RopeTable, Error> {
        self.inputs.rope.as_ref().ok_or_else(|| {
            let why = format!("{} columns are no multiple of {ROPE_DIM}", shape[1]);
            Error::Invalid { what: "Rope.rows", why }
        })
    }
}

impl fmt::Debug for RowKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl RowKernel {
    /// Computes the definition in f32.
    pub(super) fn define(&self, shape: [usize; 2], inputs: &Inputs, out: &mut [f32]) -> Result<(), Error> {
        (self.f32)(Backend::REFERENCE, shape, &RowOperands { x: &inputs.x, y: &inputs.y, inputs }, out)
    }

    /// Prepares the kernel in `dtype`. Returns `None` if it does not support the type.
    pub(super) fn prepare<'a>(
        &self,
        backend: Backend,
        shape: [usize; 2],
        inputs: &'a Inputs,
        dtype: Dtype,
    ) -> Option<Prepared<'a>> {
        let n = shape[0] * shape[1];
        let (run, narrow): (Compute<'a>, bool) = match dtype {
            Dtype::F32 => {
                let run = self.f32;
                let operands = RowOperands { x: &inputs.x, y: &inputs.y, inputs };
                (Box::new(move |out| Ok(run(backend, shape, &operands, out)?)), false)
            }
            Dtype::Bf16 => (narrow(self.bf16, backend, shape, inputs), true),
            Dtype::F16 => (narrow(self.f16, backend, shape, inputs), true),
            _ => return None,
        };
        Some(Prepared { run, out: Aligned::new(n, |_| 0.0), narrow })
    }
}

/// A call that computes into its own output of type `T` and widens the output on request.
fn narrow<'a, T: Element>(
    run: RunRow<T>,
    backend: Backend,
    shape: [usize; 2],
    inputs: &'a Inputs,
) -> Compute<'a> {
    let of = |x: &[f32]| Aligned::new(x.len(), |i| T::from_f32(x[i]));
    let (x, y) = (of(&inputs.x), of(&inputs.y));
    let mut out = Aligned::new(shape[0] * shape[1], |_| T::default());
    Box::new(move |wide| {
        run(backend, shape, &RowOperands { x: &x, y: &y, inputs }, &mut out)?;
        wide.iter_mut().zip(&*out).for_each(|(wide, x)| *wide = x.to_f32());
        Ok(())
    })
}

/// Added to variances, as in the models.
const EPS: f32 = 1e-5;

/// Defines a kernel that other libraries lack, by one generic function for all types.
macro_rules! alone {
    ($name:literal, $streams:literal, $run:expr) => {
        RowKernel {
            name: $name,
            streams: $streams,
            f32_streams: 0.0,
            f32: $run,
            bf16: $run,
            f16: $run,
            peer: None,
        }
    };
}

use alone;

/// All row kernels. The copy comes first: its rate is the limit of memory bandwidth.
pub static ROW_KERNELS: &[RowKernel] = &[
    alone!("copy", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Identity)),
    RowKernel {
        peer: Some(|shape, i| PeerOperation::LayerNorm {
            shape,
            x: &i.x,
            weight: &i.weight,
            bias: &i.bias,
            eps: EPS,
        }),
        ..alone!("layernorm", 2.0, |backend, shape, i, out| {
            let (weight, bias) = (Some(&i.inputs.weight[..]), Some(&i.inputs.bias[..]));
            backend.run(LayerNorm { weight, bias, ..LayerNorm::new(rows(shape, i, out)?, EPS) })
        })
    },
    alone!("rmsnorm", 2.0, |backend, shape, i, out| {
        let weight = Some(&i.inputs.weight[..]);
        backend.run(RmsNorm { weight, ..RmsNorm::new(rows(shape, i, out)?, EPS) })
    }),
    alone!("l2norm", 2.0, |backend, shape, i, out| {
        backend.run(L2Normalize::new(rows(shape, i, out)?, EPS))
    }),
    RowKernel {
        peer: Some(|shape, i| PeerOperation::Softmax { shape, x: &i.x }),
        ..alone!("softmax", 2.0, |backend, shape, i, out| softmax(
            backend,
            shape,
            i,
            out,
            ColumnMask::None,
            false
        ))
    },
    RowKernel {
        f32_streams: 1.0,
        ..alone!("softmax-bias", 2.0, |backend, shape, i, out| {
            softmax(backend, shape, i, out, ColumnMask::Bias(View::new(&i.inputs.y, shape)?), false)
        })
    },
    alone!("log-softmax", 2.0, |backend, shape, i, out| softmax(
        backend,
        shape,
        i,
        out,
        ColumnMask::None,
        true
    )),
    alone!("cross-entropy", 1.0, |backend, shape, i, out| {
        let (mut losses, targets) = (vec![0.0; shape[0]], Targets::new(&i.inputs.labels));
        let logits = View::new(i.x, shape)?;
        backend.run(CrossEntropy { logits, targets, losses: Some(&mut losses) })?;
        out.iter_mut().zip(losses).for_each(|(out, loss)| *out = Element::from_f32(loss));
        Ok(())
    }),
    alone!("cross-entropy-backward", 2.0, |backend, shape, i, out| {
        let (rows, targets) = (rows(shape, i, out)?, Targets::new(&i.inputs.labels));
        backend.run(CrossEntropyBackward { rows, targets, scale: 1.0, losses: None })?;
        Ok(())
    }),
    RowKernel {
        peer: Some(|shape, i| PeerOperation::Gelu { shape, x: &i.x, tanh: false }),
        ..alone!("gelu-erf", 2.0, |backend, shape, i, out| {
            activate(backend, shape, i, out, Activation::GeluErf)
        })
    },
    RowKernel {
        peer: Some(|shape, i| PeerOperation::Gelu { shape, x: &i.x, tanh: true }),
        ..alone!("gelu-tanh", 2.0, |backend, shape, i, out| {
            activate(backend, shape, i, out, Activation::GeluTanh)
        })
    },
    alone!("silu", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Silu)),
    alone!("relu", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Relu)),
    alone!("tanh", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Tanh)),
    alone!("swiglu", 3.0, |backend, shape, i, out| gated(backend, shape, i, out, Activation::Silu)),
    alone!("geglu", 3.0, |backend, shape, i, out| gated(backend, shape, i, out, Activation::GeluTanh)),
    alone!("rope", 2.0, |backend, shape, i, out| {
        backend.run(Rope::new(rows(shape, i, out)?, ROPE_DIM, &i.inputs.ids, i.rope_table(shape)?))
    }),
    gradients::LAYER_NORM,
    gradients::RMS_NORM,
    gradients::L2_NORMALIZE,
    gradients::SOFTMAX,
    gradients::LOG_SOFTMAX,
    gradients::MEAN_POOL,
    elementwise::GELU_ERF,
    elementwise::GELU_TANH,
    elementwise::SILU,
    elementwise::SWIGLU,
    elementwise::GEGLU,
    elementwise::DROPOUT,
    elementwise::ROPE,
    alone!("embedding", 3.0, |backend, shape, i, out| {
        let [words, positions] = [i.x, i.y].map(|table| View::new(table, shape));
        let lookups = [words?, positions?].map(|table| Lookup { table, ids: &i.inputs.ids });
        backend.run(Embedding::new(&lookups, ViewMut::new(out, shape)?))
    }),
    alone!("mean-pool", 1.0, |backend, shape, i, out| {
        let offsets = [0, shape[0]];
        let (x, out) = (View::new(i.x, shape)?, ViewMut::new(out, shape)?.slice(0, 0..1));
        backend.run(Pool::new(x, &offsets, out))
    }),
];

fn rows<'a, T>(shape: [usize; 2], i: &RowOperands<'a, T>, out: &'a mut [T]) -> Result<Rows<'a, T>, Error> {
    Ok(Rows::Into(View::new(i.x, shape)?, ViewMut::new(out, shape)?))
}

fn activate<T: Element>(
    backend: Backend,
    shape: [usize; 2],
    i: &RowOperands<'_, T>,
    out: &mut [T],
    activation: Activation,
) -> Result<(), Error> {
    backend.run(Activate { rows: rows(shape, i, out)?, activation })
}

fn gated<T: Element>(
    backend: Backend,
    shape: [usize; 2],
    i: &RowOperands<'_, T>,
    out: &mut [T],
    activation: Activation,
) -> Result<(), Error> {
    let up = View::new(i.y, shape)?;
    backend.run(Gated { gate: rows(shape, i, out)?, up, activation })
}

fn softmax<T: Element>(
    backend: Backend,
    shape: [usize; 2],
    i: &RowOperands<'_, T>,
    out: &mut [T],
    mask: ColumnMask<'_>,
    log: bool,
) -> Result<(), Error> {
    backend.run(Softmax { mask, log, ..Softmax::new(rows(shape, i, out)?) })
}

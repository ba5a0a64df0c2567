//! The kernels over rows.

use super::inputs::{Inputs, ROPE_DIM};
use core::fmt;
use tilewright_kernels::{
    Activate, Activation, Backend, Embedding, Error, Gated, L2Normalize, LayerNorm, Lookup, Mask, Pool,
    Pooling, RmsNorm, Rope, Rows, Softmax, View, ViewMut,
};
use tilewright_peers::Operation;

/// Computes \[rows, columns\] of the output.
type Run = fn(Backend, [usize; 2], &Inputs, &mut [f32]) -> Result<(), Error>;

/// A kernel over rows, out of place.
pub struct RowKernel {
    /// Its name in rows and filters.
    pub name: &'static str,
    /// Numbers read and written for each element of a row.
    pub streams: f64,
    pub(super) run: Run,
    /// The same in the terms of other libraries.
    pub(super) peer: Option<for<'a> fn([usize; 2], &'a Inputs) -> Operation<'a>>,
}

impl fmt::Debug for RowKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Variances are of this scale's order.
const EPS: f32 = 1e-5;

/// A kernel that other libraries lack.
const fn alone(name: &'static str, streams: f64, run: Run) -> RowKernel {
    RowKernel { name, streams, run, peer: None }
}

/// All of them. A copy, which is what memory allows, comes first.
pub static ROW_KERNELS: &[RowKernel] = &[
    alone("copy", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Identity)),
    RowKernel {
        peer: Some(|shape, i| Operation::LayerNorm {
            shape,
            x: &i.x,
            weight: &i.weight,
            bias: &i.bias,
            eps: EPS,
        }),
        ..alone("layernorm", 2.0, |backend, shape, i, out| {
            let (weight, bias) = (Some(&i.weight[..]), Some(&i.bias[..]));
            backend.run(LayerNorm { rows: rows(shape, i, out)?, residual: None, weight, bias, eps: EPS })
        })
    },
    alone("rmsnorm", 2.0, |backend, shape, i, out| {
        let weight = Some(&i.weight[..]);
        backend.run(RmsNorm { rows: rows(shape, i, out)?, residual: None, weight, eps: EPS })
    }),
    alone("l2norm", 2.0, |backend, shape, i, out| {
        backend.run(L2Normalize { rows: rows(shape, i, out)?, eps: EPS })
    }),
    RowKernel {
        peer: Some(|shape, i| Operation::Softmax { shape, x: &i.x }),
        ..alone("softmax", 2.0, |backend, shape, i, out| softmax(backend, shape, i, out, Mask::None, false))
    },
    alone("softmax-bias", 3.0, |backend, shape, i, out| {
        softmax(backend, shape, i, out, Mask::Bias(View::new(&i.y, shape)?), false)
    }),
    alone("log-softmax", 2.0, |backend, shape, i, out| softmax(backend, shape, i, out, Mask::None, true)),
    RowKernel {
        peer: Some(|shape, i| Operation::Gelu { shape, x: &i.x, tanh: false }),
        ..alone("gelu-erf", 2.0, |backend, shape, i, out| {
            activate(backend, shape, i, out, Activation::GeluErf)
        })
    },
    RowKernel {
        peer: Some(|shape, i| Operation::Gelu { shape, x: &i.x, tanh: true }),
        ..alone("gelu-tanh", 2.0, |backend, shape, i, out| {
            activate(backend, shape, i, out, Activation::GeluTanh)
        })
    },
    alone("silu", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Silu)),
    alone("relu", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Relu)),
    alone("tanh", 2.0, |backend, shape, i, out| activate(backend, shape, i, out, Activation::Tanh)),
    alone("swiglu", 3.0, |backend, shape, i, out| gated(backend, shape, i, out, Activation::Silu)),
    alone("geglu", 3.0, |backend, shape, i, out| gated(backend, shape, i, out, Activation::GeluTanh)),
    alone("rope", 2.0, |backend, shape, i, out| {
        let Some(table) = &i.rope else {
            let why = format!("{} columns are no multiple of {ROPE_DIM}", shape[1]);
            return Err(Error::Invalid { what: "Rope.rows", why });
        };
        backend.run(Rope { rows: rows(shape, i, out)?, head_dim: ROPE_DIM, positions: &i.ids, table })
    }),
    alone("embedding", 3.0, |backend, shape, i, out| {
        let [words, positions] = [&i.x, &i.y].map(|table| View::new(&table[..], shape));
        let lookups = [words?, positions?].map(|table| Lookup { table, ids: &i.ids });
        backend.run(Embedding { lookups: &lookups, out: ViewMut::new(out, shape)? })
    }),
    alone("mean-pool", 1.0, |backend, shape, i, out| {
        let offsets = [0, shape[0]];
        let (x, out) = (View::new(&i.x[..], shape)?, ViewMut::new(out, shape)?.slice(0, 0..1));
        backend.run(Pool { x, offsets: &offsets, pooling: Pooling::Mean, out })
    }),
];

fn rows<'a>(shape: [usize; 2], inputs: &'a Inputs, out: &'a mut [f32]) -> Result<Rows<'a>, Error> {
    Ok(Rows::Into(View::new(&inputs.x, shape)?, ViewMut::new(out, shape)?))
}

fn activate(
    backend: Backend,
    shape: [usize; 2],
    inputs: &Inputs,
    out: &mut [f32],
    activation: Activation,
) -> Result<(), Error> {
    backend.run(Activate { rows: rows(shape, inputs, out)?, activation })
}

fn gated(
    backend: Backend,
    shape: [usize; 2],
    inputs: &Inputs,
    out: &mut [f32],
    activation: Activation,
) -> Result<(), Error> {
    let up = View::new(&inputs.y[..], shape)?;
    backend.run(Gated { gate: rows(shape, inputs, out)?, up, activation })
}

fn softmax(
    backend: Backend,
    shape: [usize; 2],
    inputs: &Inputs,
    out: &mut [f32],
    mask: Mask<'_>,
    log: bool,
) -> Result<(), Error> {
    backend.run(Softmax { rows: rows(shape, inputs, out)?, scale: 1.0, mask, log })
}

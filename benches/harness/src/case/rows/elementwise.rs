//! Dropout, and the gradients of activations, gated products and RoPE.

use super::{ROPE_DIM, RowKernel, RowOperands, alone, rows};
use tilewright_kernels::{
    ActivateBackward, Activation, Backend, Dropout, DropoutMask, Element, Error, GatedBackward, RandomBits,
    Rope, Rows, View, ViewMut,
};

pub(super) const GELU_ERF: RowKernel = alone!("gelu-erf-backward", 3.0, |backend, shape, i, out| {
    activate(backend, shape, i, out, Activation::GeluErf)
});

pub(super) const GELU_TANH: RowKernel = alone!("gelu-tanh-backward", 3.0, |backend, shape, i, out| {
    activate(backend, shape, i, out, Activation::GeluTanh)
});

pub(super) const SILU: RowKernel = alone!("silu-backward", 3.0, |backend, shape, i, out| {
    activate(backend, shape, i, out, Activation::Silu)
});

/// Rows are \[gate | up\], as a layer with one product for both makes them: dy has half as many columns.
pub(super) const SWIGLU: RowKernel = alone!("swiglu-backward", 2.5, |backend, shape, i, out| {
    gated(backend, shape, i, out, Activation::Silu)
});

/// As [`SWIGLU`].
pub(super) const GEGLU: RowKernel = alone!("geglu-backward", 2.5, |backend, shape, i, out| {
    gated(backend, shape, i, out, Activation::GeluTanh)
});

/// With a residual.
pub(super) const DROPOUT: RowKernel = alone!("dropout", 3.0, |backend, shape, i, out| {
    let random = RandomBits { seed: 1, step: 2, site: 3 };
    let mask = DropoutMask { probability: 0.1, random, first_row: 0 };
    backend.run(Dropout { rows: rows(shape, i, out)?, residual: Some(View::new(i.y, shape)?), mask })
});

pub(super) const ROPE: RowKernel = alone!("rope-backward", 2.0, |backend, shape, i, out| {
    let forward = Rope::new(rows(shape, i, out)?, ROPE_DIM, &i.inputs.ids, i.rope_table(shape)?);
    backend.run(Rope { backward: true, ..forward })
});

/// x holds dy, y the arguments.
fn activate<T: Element>(
    backend: Backend,
    shape: [usize; 2],
    i: &RowOperands<'_, T>,
    out: &mut [T],
    activation: Activation,
) -> Result<(), Error> {
    backend.run(ActivateBackward { rows: rows(shape, i, out)?, x: View::new(i.y, shape)?, activation })
}

/// x holds the gates and the up rows, y the gradients.
fn gated<T: Element>(
    backend: Backend,
    shape: [usize; 2],
    i: &RowOperands<'_, T>,
    out: &mut [T],
    activation: Activation,
) -> Result<(), Error> {
    let [tokens, columns] = shape;
    // An odd column is left out.
    let n = columns / 2;
    let halves =
        Rows::Into(View::new(i.x, shape)?.slice(1, 0..2 * n), ViewMut::new(out, shape)?.slice(1, 0..2 * n));
    let dy = View::new(&i.y[..tokens * n], [tokens, n])?;
    backend.run(GatedBackward::halves(halves, dy, activation)?)
}

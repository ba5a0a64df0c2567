//! Gradients of norms, softmax and pooling. x holds dy, y the rows that the forward read or wrote.

use super::{RowKernel, RowOperands, alone, rows};
use tilewright_kernels::{
    Backend, Element, Error, L2NormalizeBackward, LayerNormBackward, PoolBackward, RmsNormBackward,
    SoftmaxBackward, View, ViewMut,
};

/// Of x, weight and bias.
pub(super) const LAYER_NORM: RowKernel = alone!("layernorm-backward", 3.0, |backend, shape, i, out| {
    let (mut dweight, mut dbias) = (vec![0.0; shape[1]], vec![0.0; shape[1]]);
    let (x, mean, inverse_deviation) = (View::new(i.y, shape)?, &i.inputs.mean, &i.inputs.inverse_deviation);
    backend.run(LayerNormBackward {
        weight: Some(&i.inputs.weight[..]),
        dweight: Some(&mut dweight),
        dbias: Some(&mut dbias),
        ..LayerNormBackward::new(rows(shape, i, out)?, x, mean, inverse_deviation)
    })
});

/// Of x and weight.
pub(super) const RMS_NORM: RowKernel = alone!("rmsnorm-backward", 3.0, |backend, shape, i, out| {
    let mut dweight = vec![0.0; shape[1]];
    backend.run(RmsNormBackward {
        weight: Some(&i.inputs.weight[..]),
        dweight: Some(&mut dweight),
        ..RmsNormBackward::new(rows(shape, i, out)?, View::new(i.y, shape)?, &i.inputs.inverse_deviation)
    })
});

pub(super) const L2_NORMALIZE: RowKernel = alone!("l2norm-backward", 3.0, |backend, shape, i, out| {
    backend.run(L2NormalizeBackward { rows: rows(shape, i, out)?, x: View::new(i.y, shape)?, eps: 1e-12 })
});

pub(super) const SOFTMAX: RowKernel =
    alone!("softmax-backward", 3.0, |backend, shape, i, out| softmax(backend, shape, i, out, false));

pub(super) const LOG_SOFTMAX: RowKernel =
    alone!("log-softmax-backward", 3.0, |backend, shape, i, out| softmax(backend, shape, i, out, true));

/// Of one sequence.
pub(super) const MEAN_POOL: RowKernel = alone!("mean-pool-backward", 1.0, |backend, shape, i, out| {
    let dy = View::new(i.x, shape)?.slice(0, 0..1);
    backend.run(PoolBackward::new(dy, &[0, shape[0]], ViewMut::new(out, shape)?))
});

fn softmax<T: Element>(
    backend: Backend,
    shape: [usize; 2],
    i: &RowOperands<'_, T>,
    out: &mut [T],
    log: bool,
) -> Result<(), Error> {
    let y = View::new(i.y, shape)?;
    backend.run(SoftmaxBackward { log, ..SoftmaxBackward::new(rows(shape, i, out)?, y) })
}

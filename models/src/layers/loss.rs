//! Losses, the ends of a training run.
//!
//! A loss computes its gradient with its value, because both need the same pass over the logits. In a run that records,
//! the gradient is the start of the backward pass.
//!
//! ```text
//! loss = weight / total * sum of the terms       total: number of terms, of this batch or of all batches of a step
//! ```

use crate::error::Error;
use crate::layers::linear::Linear;
use crate::layers::run::gradients::round;
use crate::layers::run::{Run, Slot};
use std::sync::Arc;
use tilewright_kernels::half::{bf16, slice::HalfFloatSliceExt};
use tilewright_kernels::{
    Backend, BceWithLogits, BceWithLogitsBackward, CrossEntropy, CrossEntropyBackward, Element,
    LinearCrossEntropy, LossSum, Rows, Targets, View, ViewMut,
};

/// Labels of no class: `ignore_index` of PyTorch.
pub const IGNORED: i64 = -100;

/// Cross-entropy of `logits`, \[rows, classes\], or of a matrix that has as many elements.
///
/// # Errors
/// [`Error::Kernel`] if a label is not that of a class, or there are not as many labels as rows.
pub(crate) fn cross_entropy(
    run: &mut Run<'_>,
    backend: Backend,
    logits: Slot,
    labels: &[i64],
    scale: f32,
) -> Result<LossSum, Error> {
    let (version, matrix) = (run.version(logits), run.matrix(logits));
    let shape = [labels.len(), matrix.values().len() / labels.len().max(1)];
    let (full, targets) = (matrix.shape(), Targets::new(labels));
    if !run.records() {
        let logits = View::new(matrix.values(), shape)?;
        return Ok(backend.run(CrossEntropy { logits, targets, losses: None })?);
    }
    let mut dx = run.gradients().map(|gradients| gradients.matrix(full)).unwrap_or_default();
    let rows =
        Rows::Into(View::new(run.matrix(logits).values(), shape)?, ViewMut::new(dx.values_mut(), shape)?);
    let loss = backend.run(CrossEntropyBackward { rows, targets, scale, losses: None })?;
    run.gradients()
        .into_iter()
        .for_each(|gradients| gradients.add(version, Arc::new(core::mem::take(&mut dx))));
    Ok(loss)
}

/// Cross-entropy of the logits x W^T + b for x, \[rows, in\], which are never computed as a whole.
///
/// # Errors
/// As [`cross_entropy`]; [`Error::Input`] if the layer is not of a model in training.
pub(crate) fn linear_cross_entropy(
    run: &mut Run<'_>,
    linear: &Linear,
    x: Slot,
    labels: &[i64],
    scale: f32,
) -> Result<LossSum, Error> {
    let (version, shape, values) = (run.version(x), run.matrix(x).shape(), run.values());
    let (of_weight, of_bias) = linear.places();
    let mut dx = run.gradients().map(|gradients| gradients.matrix(shape));
    // The layer's gradients leave their array for the call, so that x can be read beside them.
    let mut taken = run.gradients().map(|gradients| gradients.take_parameters());
    let [mut dweight, mut dbias] = [None, None];
    if let Some(parameters) = &mut taken {
        match of_bias {
            Some(of_bias) => {
                let found = parameters.get_disjoint_mut([of_weight, of_bias]);
                [dweight, dbias] = found.expect("tensors of one layer lie apart").map(Some);
            }
            None => dweight = Some(&mut parameters[of_weight]),
        }
    }
    let sums = ProjectionGradients { dweight, dbias };
    let loss = match values.bf16 {
        Some(weights) => {
            let (mut rounded, mut dx_rounded) = (Vec::new(), Vec::new());
            round(run.matrix(x).values(), &mut rounded);
            if dx.is_some() {
                dx_rounded.resize(rounded.len(), bf16::ZERO);
            }
            let of_x = dx.is_some().then(|| ViewMut::new(&mut dx_rounded, shape)).transpose()?;
            let x = View::new(&rounded, shape)?;
            let loss = project(linear, values.f32, weights, x, labels, scale, of_x, sums);
            if let Some(dx) = &mut dx {
                dx_rounded.convert_to_f32_slice(dx.values_mut());
            }
            loss
        }
        None => {
            let of_x = dx.as_mut().map(|dx| dx.view_mut()).transpose()?;
            project(linear, values.f32, values.f32, run.matrix(x).view()?, labels, scale, of_x, sums)
        }
    };
    if let Some(gradients) = run.gradients() {
        gradients.put_parameters(taken);
        if let Some(dx) = dx.filter(|_| loss.is_ok()) {
            gradients.add(version, Arc::new(dx));
        }
    }
    loss
}

/// Gradients of a projection's parameters, which are added to.
struct ProjectionGradients<'g> {
    dweight: Option<&'g mut [f32]>,
    dbias: Option<&'g mut [f32]>,
}

/// Loss and gradients of a projection of x to words, in the type of x and of the weights.
#[allow(clippy::too_many_arguments, reason = "the kernel's own, in two types")]
fn project<T: Element>(
    linear: &Linear,
    arena: &[f32],
    weights: &[T],
    x: View<'_, 2, T>,
    labels: &[i64],
    scale: f32,
    dx: Option<ViewMut<'_, 2, T>>,
    sums: ProjectionGradients<'_>,
) -> Result<LossSum, Error> {
    let (weight, bias) = linear.weight_and_bias(weights, arena)?;
    let ProjectionGradients { dweight, dbias } = sums;
    let dweight = dweight.map(|dweight| ViewMut::new(dweight, weight.shape())).transpose()?;
    let kernel = LinearCrossEntropy::new(x, weight, Targets::new(labels));
    Ok(linear.backend().run(LinearCrossEntropy { bias, scale, dx, dweight, dbias, ..kernel })?)
}

/// Binary cross-entropy of the logits, \[rows, 1\], whose targets are 0 or 1.
///
/// # Errors
/// [`Error::Kernel`] if there are not as many targets as logits.
pub(crate) fn binary_cross_entropy(
    run: &mut Run<'_>,
    backend: Backend,
    logits: Slot,
    targets: &[f32],
    scale: f32,
) -> Result<LossSum, Error> {
    let (version, shape) = (run.version(logits), run.matrix(logits).shape());
    let targets = View::new(targets, shape)?;
    let x = run.matrix(logits).view()?;
    let sum = backend.run(BceWithLogits { logits: x, targets, positive_weight: None })?;
    if let Some(mut dx) = run.gradients().map(|gradients| gradients.matrix(shape)) {
        let rows = Rows::Into(run.matrix(logits).view()?, dx.view_mut()?);
        backend.run(BceWithLogitsBackward { rows, targets, positive_weight: None, scale })?;
        run.gradients()
            .into_iter()
            .for_each(|gradients| gradients.add(version, Arc::new(core::mem::take(&mut dx))));
    }
    Ok(sum)
}

/// Squared error of the outputs, \[rows, 1\].
///
/// # Errors
/// [`Error::Input`] if there are not as many values as outputs.
pub(crate) fn squared_error(
    run: &mut Run<'_>,
    outputs: Slot,
    values: &[f32],
    scale: f32,
) -> Result<LossSum, Error> {
    let (version, shape) = (run.version(outputs), run.matrix(outputs).shape());
    let found = run.matrix(outputs).values();
    if found.len() != values.len() {
        let why = format!("expected {} values, found {}", found.len(), values.len());
        return Err(Error::Input { name: "labels", why });
    }
    let errors: Vec<f32> = found.iter().zip(values).map(|(found, value)| found - value).collect();
    let sum = errors.iter().map(|&e| f64::from(e) * f64::from(e)).sum();
    if let Some(gradients) = run.gradients() {
        let mut dx = gradients.matrix(shape);
        dx.values_mut().iter_mut().zip(&errors).for_each(|(dx, error)| *dx = 2.0 * scale * error);
        gradients.add(version, Arc::new(dx));
    }
    Ok(LossSum { sum, weight: values.len() as f64 })
}

/// Cross-entropy of the tokens of each sequence, whose logits are in column `column` of `logits`, \[tokens, 2\]. `answers`
/// are places in the sequences; a sequence without one has no loss.
///
/// # Errors
/// [`Error::Kernel`] if the kernel refuses its arguments.
pub(crate) fn answer_loss(
    run: &mut Run<'_>,
    backend: Backend,
    starts: &[usize],
    column: usize,
    answers: &[Option<usize>],
    scale: f32,
) -> Result<LossSum, Error> {
    let (version, matrix) = (run.version(Slot::LOGITS), run.matrix(Slot::LOGITS));
    let scores: Vec<f32> = matrix.values().iter().skip(column).step_by(2).copied().collect();
    let (shape, mut sum, mut derivatives) = (matrix.shape(), LossSum::default(), vec![0.0; scores.len()]);
    for (ends, answer) in starts.windows(2).zip(answers) {
        let Some(answer) = *answer else { continue };
        let (labels, row) = ([answer as i64], [1, ends[1] - ends[0]]);
        let logits = View::new(&scores[ends[0]..ends[1]], row)?;
        let rows = Rows::Into(logits, ViewMut::new(&mut derivatives[ends[0]..ends[1]], row)?);
        let targets = Targets::new(&labels);
        sum = sum + backend.run(CrossEntropyBackward { rows, targets, scale, losses: None })?;
    }
    if let Some(gradients) = run.gradients() {
        let mut dx = gradients.matrix(shape);
        for (dx, derivative) in dx.values_mut().chunks_exact_mut(2).zip(derivatives) {
            dx[column] = derivative;
            dx[1 - column] = 0.0;
        }
        gradients.add(version, Arc::new(dx));
    }
    Ok(sum)
}

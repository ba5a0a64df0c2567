//! Definitions of the cross-entropies and their gradients, in f64.

use super::Targets;

/// Loss of each row of `logits` \[rows, classes\]; 0 without a label.
///
/// # Panics
/// If the logits are not whole rows, or a label is outside of the classes.
pub fn cross_entropy(logits: &[f64], targets: &Targets<'_>) -> Vec<f64> {
    let classes = classes(logits, targets);
    let loss = |i: usize| {
        let Some(y) = targets.class(i) else { return 0.0 };
        let l = log_softmax(&logits[i * classes..][..classes]);
        let [own, each] = targets.factors(y, classes);
        let others = || l.iter().enumerate().map(|(j, l)| targets.weight(j) * l).sum::<f64>();
        -own * l[y] - if each == 0.0 { 0.0 } else { each * others() }
    };
    (0..targets.labels.len()).map(loss).collect()
}

/// Gradient of `sum(dlosses * cross_entropy(logits, targets))` by the logits.
///
/// # Panics
/// If the logits are not whole rows, or a label is outside of the classes.
pub fn cross_entropy_backward(logits: &[f64], targets: &Targets<'_>, dlosses: &[f64]) -> Vec<f64> {
    let classes = classes(logits, targets);
    let mut dlogits = vec![0.0; logits.len()];
    for (i, &dloss) in dlosses.iter().enumerate() {
        let Some(y) = targets.class(i) else { continue };
        let [own, each] = targets.factors(y, classes);
        let target = |j: usize| each * targets.weight(j) + if j == y { own } else { 0.0 };
        let total: f64 = (0..classes).map(target).sum();
        for (j, l) in log_softmax(&logits[i * classes..][..classes]).into_iter().enumerate() {
            dlogits[i * classes + j] = dloss * (l.exp() * total - target(j));
        }
    }
    dlogits
}

fn classes(logits: &[f64], targets: &Targets<'_>) -> usize {
    let rows = targets.labels.len();
    assert!(logits.len().is_multiple_of(rows.max(1)), "{} logits of {rows} rows", logits.len());
    logits.len() / rows.max(1)
}

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let m = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let sum: f64 = x.iter().map(|x| (x - m).exp()).sum();
    x.iter().map(|x| x - m - sum.ln()).collect()
}

/// Definition of the logits: x W^T + bias, \[tokens, vocabulary\].
fn project(x: &[f64], weight: &[f64], bias: Option<&[f64]>, [tokens, d]: [usize; 2]) -> Vec<f64> {
    let vocabulary = weight.len() / d.max(1);
    let logit = |t: usize, j: usize| {
        let dot: f64 = (0..d).map(|k| x[t * d + k] * weight[j * d + k]).sum();
        dot + bias.map_or(0.0, |bias| bias[j])
    };
    (0..tokens).flat_map(|t| (0..vocabulary).map(move |j| logit(t, j))).collect()
}

/// Loss of each token of the projection of x \[tokens, d\] by the weight \[vocabulary, d\], for d > 0.
pub fn linear_cross_entropy(
    x: &[f64],
    weight: &[f64],
    bias: Option<&[f64]>,
    targets: &Targets<'_>,
) -> Vec<f64> {
    let tokens = targets.labels.len();
    cross_entropy(&project(x, weight, bias, [tokens, x.len() / tokens.max(1)]), targets)
}

/// Gradients of `sum(dlosses * linear_cross_entropy(..))` by x, weight and bias.
pub fn linear_cross_entropy_backward(
    x: &[f64],
    weight: &[f64],
    bias: Option<&[f64]>,
    targets: &Targets<'_>,
    dlosses: &[f64],
) -> [Vec<f64>; 3] {
    let tokens = targets.labels.len();
    let d = x.len() / tokens.max(1);
    let vocabulary = weight.len() / d.max(1);
    let dlogits = cross_entropy_backward(&project(x, weight, bias, [tokens, d]), targets, dlosses);
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    let mut dbias = vec![0.0; vocabulary];
    // Rows without a label are not read: 0 * NaN would be NaN.
    for t in (0..tokens).filter(|&t| targets.class(t).is_some()) {
        for (j, dbias) in dbias.iter_mut().enumerate() {
            let dlogit = dlogits[t * vocabulary + j];
            *dbias += dlogit;
            for k in 0..d {
                dx[t * d + k] += dlogit * weight[j * d + k];
                dweight[j * d + k] += dlogit * x[t * d + k];
            }
        }
    }
    [dx, dweight, dbias]
}

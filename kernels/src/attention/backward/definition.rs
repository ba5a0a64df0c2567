//! Attention of one head and its gradients in f64, as plain loops.

/// Arguments of one head of attention that have no gradient of their own.
///
/// ```text
/// s_ij = cap(scale q_i . k_j) + bias(i, j),  cap(x) = softcap tanh(x / softcap)
/// ```
#[derive(Clone, Copy)]
pub struct AttentionScores<'a> {
    /// Queries, keys, elements of a key, elements of a value.
    pub shape: [usize; 4],
    /// Factor of the dot products.
    pub scale: f64,
    /// Bound of the scaled dot products.
    pub softcap: Option<f64>,
    /// Bias of a query and a key; `None` if the query does not see the key.
    pub bias: &'a dyn Fn(usize, usize) -> Option<f64>,
    /// Factor m of the weight of a query and a key: 1 without dropout; else 0 for a dropped weight, 1 / (1 - p) for a
    /// kept one.
    pub kept: &'a dyn Fn(usize, usize) -> f64,
}

/// Gradients of one head of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradients {
    /// \[queries, dk\].
    pub q: Vec<f64>,
    /// \[keys, dk\].
    pub k: Vec<f64>,
    /// \[keys, dv\].
    pub v: Vec<f64>,
    /// \[queries, keys\]; 0 where the query does not see the key.
    pub bias: Vec<f64>,
}

impl AttentionScores<'_> {
    /// Score of a query and a key, and its derivative by scale q . k; `None` if the query does not see the key.
    fn score(&self, q: &[f64], k: &[f64], [i, j]: [usize; 2]) -> Option<(f64, f64)> {
        let dk = self.shape[2];
        let bias = (self.bias)(i, j)?;
        let dot: f64 = q[i * dk..][..dk].iter().zip(&k[j * dk..][..dk]).map(|(q, k)| q * k).sum();
        let product = self.scale * dot;
        let (capped, slope) = match self.softcap {
            Some(cap) => {
                let tanh = (product / cap).tanh();
                (cap * tanh, 1.0 - tanh * tanh)
            }
            None => (product, 1.0),
        };
        Some((capped + bias, slope))
    }
}

/// Outputs \[queries, dv\] and log-sum-exps \[queries\] of one head of [`Attention`](crate::Attention), from
/// q \[queries, dk\], k \[keys, dk\] and v \[keys, dv\].
///
/// A query that sees no key has an output of 0 and a log-sum-exp of -inf.
pub fn attention(scores: &AttentionScores<'_>, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let [queries, keys, _, dv] = scores.shape;
    let (mut out, mut lse) = (vec![0.0; queries * dv], vec![f64::NEG_INFINITY; queries]);
    for i in 0..queries {
        let seen: Vec<(usize, f64)> =
            (0..keys).filter_map(|j| Some((j, scores.score(q, k, [i, j])?.0))).collect();
        if seen.is_empty() {
            continue;
        }
        let max = seen.iter().fold(f64::NEG_INFINITY, |max, (_, score)| max.max(*score));
        let sum: f64 = seen.iter().map(|(_, score)| (score - max).exp()).sum();
        lse[i] = max + sum.ln();
        for (d, out) in out[i * dv..][..dv].iter_mut().enumerate() {
            let terms =
                seen.iter().map(|(j, score)| (scores.kept)(i, *j) * (score - max).exp() * v[j * dv + d]);
            *out = terms.sum::<f64>() / sum;
        }
    }
    (out, lse)
}

/// Gradients of `sum(dout * out)` for the outputs of [`attention`].
///
/// ```text
/// P_ij  = exp(s_ij - lse_i)         dV = (m P)^T dO
/// D_i   = dO_i . O_i                dS = P (m (dO V^T) - D)   the gradient of the bias
/// dX    = dS cap'(scale Q K^T)      dQ = scale dX K,  dK = scale dX^T Q
/// ```
pub fn attention_backward(
    scores: &AttentionScores<'_>,
    [q, k, v]: [&[f64]; 3],
    (out, lse): (&[f64], &[f64]),
    dout: &[f64],
) -> AttentionGradients {
    let [queries, keys, dk, dv] = scores.shape;
    let mut gradients = AttentionGradients {
        q: vec![0.0; queries * dk],
        k: vec![0.0; keys * dk],
        v: vec![0.0; keys * dv],
        bias: vec![0.0; queries * keys],
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for i in 0..queries {
        let (out, dout) = (&out[i * dv..][..dv], &dout[i * dv..][..dv]);
        let delta = dot(dout, out);
        for j in 0..keys {
            let Some((score, slope)) = scores.score(q, k, [i, j]) else { continue };
            let weight = (score - lse[i]).exp();
            let kept = (scores.kept)(i, j);
            let dscore = weight * (kept * dot(dout, &v[j * dv..][..dv]) - delta);
            gradients.bias[i * keys + j] = dscore;
            let dproduct = scores.scale * dscore * slope;
            for (gradient, dout) in gradients.v[j * dv..].iter_mut().zip(dout) {
                *gradient += kept * weight * dout;
            }
            for d in 0..dk {
                gradients.q[i * dk + d] += dproduct * k[j * dk + d];
                gradients.k[j * dk + d] += dproduct * q[i * dk + d];
            }
        }
    }
    gradients
}

impl core::fmt::Debug for AttentionScores<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { shape, scale, softcap, .. } = self;
        write!(f, "AttentionScores {{ shape: {shape:?}, scale: {scale}, softcap: {softcap:?}, .. }}")
    }
}

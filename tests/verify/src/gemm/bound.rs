//! Error bounds of matrix products.

use super::super::Failure;
use super::super::bound::{ETA, gamma};
use super::super::stored::Stored;
use super::super::tensor::{Layout, Tensor, indices};
use super::{GemmData, Left, Params, Types};
use tilewright_kernels::gemm::{Epilogue, Format, Gemm as Kernel, Quantized, Rhs};
use tilewright_kernels::{Activation, Backend};

/// Bounds of an activation f.
struct ActivationBound {
    /// Largest |f'|: the factor by which f can magnify the error of its argument.
    slope: f64,
    /// f's own error in units of u times `offset` + |x|: a division, a product, two sums and an exponential or an error
    /// function of less than 1 ULP (2 u), for example.
    roundings: f64,
    /// Largest |f(x)| - |x|.
    offset: f64,
}

impl ActivationBound {
    fn of(activation: Activation) -> Self {
        let (slope, roundings, offset) = match activation {
            Activation::GeluErf | Activation::GeluTanh => (1.13, 6.0, 0.0),
            Activation::HardSwish => (1.5, 6.0, 0.0),
            // 4 ULP are at most 8 u.
            Activation::Mish => (1.1, 8.0, 0.0),
            Activation::QuickGelu | Activation::Silu => (1.1, 6.0, 0.0),
            Activation::Sigmoid | Activation::Softplus => (1.0, 8.0, 1.0),
            Activation::Elu | Activation::Identity | Activation::Relu | Activation::Tanh => (1.0, 6.0, 0.0),
        };
        Self { slope, roundings, offset }
    }
}

/// Largest finite magnitude.
fn largest(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(x.abs())).filter(|x| x.is_finite()).fold(0.0, f64::max)
}

/// Loss of a multiply-add below the normal range, where the operands have these elements: of pairs of bf16, denormals
/// that count as zeros, else half of the smallest denormal.
pub fn lost<const N: usize>(pairs: bool, operands: [Vec<f32>; N]) -> f64 {
    if pairs {
        return f64::from(f32::MIN_POSITIVE) * (2.0 + operands.iter().map(|x| largest(x)).sum::<f64>());
    }
    ETA
}

impl GemmData {
    /// |A| after rounding or quantization.
    fn left_magnitudes(&self, p: &Params) -> Tensor<3> {
        let shape = self.a.shape();
        let row = |batch: usize, i: usize| -> Vec<f32> {
            (0..shape[2]).map(|q| self.a.view().get([batch, i, q])).collect()
        };
        let quantized = |batch: usize, i: usize| match p.types.a {
            Left::ZeroPoint => Quantized::zero_point(row(batch, i)),
            _ => Quantized::symmetric(row(batch, i)),
        };
        match (p.types.a, p.types.b) {
            (Left::Rounded, Format::Bf16) => self.a.map(|x| Stored::Bf16.round(x).abs()),
            (Left::Rounded, Format::F16) => self.a.map(|x| Stored::F16.round(x).abs()),
            (Left::Rounded, format) if format.is_grouped() => {
                const GROUP: usize = 32;
                Tensor::new(shape, &Layout::row_major(), |[batch, i, q]| {
                    let first = q / GROUP * GROUP;
                    let group = first..shape[2].min(first + GROUP);
                    let quantized = Quantized::symmetric(group.map(|q| self.a.view().get([batch, i, q])));
                    quantized.dequantize(quantized.quantize(self.a.view().get([batch, i, q]))).abs()
                })
            }
            (Left::Rounded | Left::ZeroPoint, Format::Int8) => {
                let mut of_row = ([usize::MAX; 2], Quantized::symmetric([]));
                Tensor::new(shape, &Layout::row_major(), |[batch, i, q]| {
                    if of_row.0 != [batch, i] {
                        of_row = ([batch, i], quantized(batch, i));
                    }
                    let x = self.a.view().get([batch, i, q]);
                    of_row.1.dequantize(of_row.1.quantize(x)).abs()
                })
            }
            _ => self.a.map(f32::abs),
        }
    }

    /// Magnitudes of B, or of the up matrix if `up`, as stored.
    fn right_magnitudes(&self, p: &Params, up: bool) -> Result<Tensor<3>, Failure> {
        let b = if up { &self.up } else { &self.b };
        if p.types.is_stored() || (up && !p.gated) {
            return Ok(b.map(f32::abs));
        }
        let packed = self.packed(p, Backend::REFERENCE)?;
        let number = |q: usize, j: usize| packed.get(up, q, j).abs() as f32;
        let k = packed.k();
        Ok(Tensor::new(b.shape(), &Layout::row_major(), |[_, q, j]| {
            // The products with d q and with m have separate sums. Both magnitudes count, because q = 0 encodes
            // the weight m.
            let group = q / 32 * 32..k.min(q / 32 * 32 + 32);
            let of_group =
                if p.types.b == Format::Q4_1 { group.map(|q| number(q, j)).fold(0.0, f32::max) } else { 0.0 };
            number(q, j) + 2.0 * of_group
        }))
    }

    /// The bound of each element of C.
    ///
    /// With s = |alpha| sum |a||b| + |beta c| + |biases|, the biased sum has at most k + 5 roundings and an error of
    /// gamma_{k+5} s. Sums of bf16 pairs have 2k + 5 roundings and lose denormals. The activation multiplies this error
    /// by |f'| and adds its own error. The error of a gate is multiplied by the up product, and the error of the up
    /// product by the gate.
    pub fn bound(&self, p: &Params) -> Result<Vec<f64>, Failure> {
        let k = p.extents[3];
        let (a, b, up) =
            (self.left_magnitudes(p), self.right_magnitudes(p, false)?, self.right_magnitudes(p, true)?);
        let gate = self.magnitudes(p, &a, &b, 0)?;
        let up_sums = self.magnitudes(p, &a, &up, p.extents[2])?;
        let [largest_b, largest_up] = [&b, &up].map(|t| largest(&t.elements()));
        // Losses below the normal range: roundings, denormals that count as zeros, and the successive scalings of a
        // sum of integers.
        let lost = match p.types {
            types if types.are_pairs() => lost(true, [a.elements(), b.elements(), up.elements()]),
            Types { b: Format::Int8, .. } => ETA * (1.0 + largest_b + largest_up),
            _ => ETA,
        };
        let tiny = (k + 8) as f64 * lost * f64::from(p.alpha.abs().max(1.0));
        let k = if p.types.are_pairs() { 2 * k } else { k };
        let up = up_sums;
        let shape = self.c.shape();
        Ok(indices(shape)
            .enumerate()
            .map(|(i, [batch, row, column])| {
                // An infinite or NaN sum has no error: it is infinite or NaN on every backend. An activation that makes
                // it finite (tanh) has a magnitude of at most 1.
                let sum = f64::from(gate[i]);
                let (mut error, mut magnitude) =
                    if sum.is_finite() { (gamma(k + 5) * sum + tiny, sum) } else { (0.0, 1.0) };
                if let Some(activation) = p.activation {
                    let ActivationBound { slope, roundings, offset } = ActivationBound::of(activation);
                    magnitude += offset;
                    error = slope * error + roundings * gamma(1) * magnitude;
                }
                if p.gated {
                    let up = if up[i].is_finite() { f64::from(up[i]) } else { 0.0 };
                    error = error * up + magnitude * (gamma(k + 5) * up + tiny) + ETA;
                    magnitude *= up;
                }
                if let Some(residual) = &self.residual {
                    let residual = residual.view();
                    let batch = if residual.shape()[0] == 1 { 0 } else { batch };
                    magnitude += f64::from(residual.get([batch, row, column]).abs());
                }
                // The first factor is for products of errors.
                error * (1.0 + gamma(k + 5)) + gamma(2) * magnitude
            })
            .collect())
    }

    /// |alpha| |A| |B| + |beta| |C| + |biases|, computed by the reference.
    fn magnitudes(
        &self,
        p: &Params,
        a: &Tensor<3>,
        b: &Tensor<3>,
        first_bias: usize,
    ) -> Result<Vec<f32>, Failure> {
        let abs = |v: &[f32]| v.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let mut c = self.c.map(f32::abs);
        let row_bias = self.row_bias.as_deref().map(abs);
        let column_bias = self.column_bias.as_deref().map(abs);
        let n = p.extents[2];
        Backend::REFERENCE.run(Kernel {
            alpha: p.alpha.abs(),
            a: a.view().into(),
            b: Rhs::Matrix(b.view().into()),
            beta: p.beta.abs(),
            c: c.view_mut().into(),
            epilogue: Epilogue {
                row_bias: row_bias.as_deref(),
                column_bias: column_bias.as_deref().map(|bias| &bias[first_bias.min(bias.len() - n)..][..n]),
                ..Epilogue::default()
            },
        })?;
        Ok(c.elements())
    }
}

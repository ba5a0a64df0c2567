//! The matrix product against its definition.

use super::bound::{ETA, compare, gamma};
use super::tensor::{Layout, Random, Tensor, Values, extent, indices, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::gemm::{Epilogue, Gemm as Kernel, PackedB, Rhs};
use tilewright_kernels::{Activation, Backend, View};

/// Any product: strides, batches, packed and gated weights, epilogues.
pub struct Gemm;

/// One product.
#[derive(Clone, Debug)]
pub struct Params {
    /// batch, m, n, k.
    extents: [usize; 4],
    /// Whether A, B and the residual serve the whole batch.
    shared: [bool; 3],
    packed: bool,
    gated: bool,
    a: Layout<3>,
    b: Layout<3>,
    up: Layout<3>,
    c: Layout<3>,
    residual: Option<Layout<3>>,
    row_bias: bool,
    column_bias: bool,
    activation: Option<Activation>,
    alpha: f32,
    beta: f32,
    values: Values,
    seed: u64,
}

/// Multiply-adds of a case: a few milliseconds of the reference.
const MOST_WORK: usize = 1 << 19;

/// An activation's own error in units of u |x|: a division, a product, two sums and an exponential or
/// an error function of less than 1 ULP (2 u).
const ACTIVATION_ROUNDINGS: f64 = 6.0;

/// How much an activation can magnify the error of its argument: GELU's slope is at most 1.13,
/// SiLU's 1.10, the others' 1.
const ACTIVATION_SLOPE: f64 = 1.13;

impl Check for Gemm {
    const KERNEL: &'static str = "gemm";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        // One row has paths of its own, one of them for a weight as it is stored.
        let rows = prop_oneof![3 => extent(150), 1 => Just(1)];
        let extents = (prop_oneof![5 => Just(1), 1 => 0..4usize], rows, extent(150), extent(800))
            .prop_map(|(batch, m, n, k)| [batch, m, n, k])
            .prop_filter("takes too long", |e| e.iter().product::<usize>() <= MOST_WORK);
        let activation = prop_oneof![1 => Just(None), 1 => select(Activation::ALL.to_vec()).prop_map(Some)];
        let weights = prop_oneof![
            2 => (Layout::any(), Layout::any()),
            1 => (Layout::columns(), Layout::columns()),
        ];
        let layouts = (Layout::any(), weights, Layout::distinct());
        let epilogue = (prop::option::weighted(0.3, Layout::any()), any::<bool>(), any::<bool>(), activation);
        let factors = (select(vec![1.0, 1.0, -1.5, 0.37, 0.0]), select(vec![0.0, 0.0, 1.0, -0.5]));
        // Nothing behind the product, every other time: sums then go straight to C.
        let plain = any::<bool>();
        let kind = (any::<[bool; 3]>(), any::<bool>(), prop::bool::weighted(0.25), plain);
        (extents, kind, layouts, epilogue, factors, Values::any(), seed())
            .prop_map(|(extents, kind, layouts, epilogue, factors, values, seed)| {
                let (shared, packed, gated, plain) = kind;
                let (a, (b, up), c) = layouts;
                let (residual, row_bias, column_bias, activation) = epilogue;
                let (alpha, beta) = if plain { (1.0, 0.0) } else { factors };
                Params {
                    extents,
                    shared: [shared[0], shared[1] || packed, shared[2]],
                    packed,
                    gated,
                    a,
                    b,
                    up,
                    c,
                    residual: residual.filter(|_| !plain),
                    row_bias: row_bias && !plain,
                    column_bias: column_bias && !plain,
                    activation: activation.filter(|_| !plain),
                    alpha,
                    beta: if gated { 0.0 } else { beta },
                    // Products of three factors would overflow.
                    values: if gated && values == Values::Large { Values::Wide } else { values },
                    seed,
                }
            })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = Data::new(p);
        let found = data.run(p, backend)?;
        let expected = data.run(p, Backend::REFERENCE)?;
        let bound = data.bound(p)?;
        compare(&found, &expected, |i| bound[i])
    }
}

/// The arguments of one product.
struct Data {
    a: Tensor<3>,
    b: Tensor<3>,
    up: Tensor<3>,
    c: Tensor<3>,
    residual: Option<Tensor<3>>,
    row_bias: Option<Vec<f32>>,
    column_bias: Option<Vec<f32>>,
}

impl Data {
    fn new(p: &Params) -> Self {
        let [batch, m, n, k] = p.extents;
        let random = &mut Random::new(p.seed);
        let batch_of = |shared: bool| if shared { 1 } else { batch };
        let bias = |len: usize, random: &mut Random| (0..len).map(|_| p.values.draw(random)).collect();
        let c = match p.beta {
            // Never read: a NaN would show.
            0.0 => Tensor::new([batch, m, n], &p.c, |_| f32::NAN),
            _ => Tensor::random([batch, m, n], &p.c, p.values, random),
        };
        Self {
            a: Tensor::random([batch_of(p.shared[0]), m, k], &p.a, p.values, random),
            b: Tensor::random([batch_of(p.shared[1]), k, n], &p.b, p.values, random),
            up: Tensor::random([batch_of(p.shared[1]), k, n], &p.up, p.values, random),
            c,
            residual: (p.residual.as_ref())
                .map(|layout| Tensor::random([batch_of(p.shared[2]), m, n], layout, p.values, random)),
            row_bias: p.row_bias.then(|| bias(m, random)),
            column_bias: p.column_bias.then(|| bias(if p.gated { 2 * n } else { n }, random)),
        }
    }

    /// C after the product, in row-major order.
    fn run(&self, p: &Params, backend: Backend) -> Result<Vec<f32>, Failure> {
        let packed = if p.packed {
            let (b, up) = (self.b.view().at(0), self.up.view().at(0));
            Some(if p.gated { PackedB::gated(backend, b, up)? } else { PackedB::new(backend, b) })
        } else {
            None
        };
        let mut c = self.c.clone();
        backend.run(Kernel {
            alpha: p.alpha,
            a: self.a.view(),
            b: match &packed {
                Some(packed) => Rhs::Packed(packed),
                None if p.gated => Rhs::Gated { gate: self.b.view(), up: self.up.view() },
                None => Rhs::Matrix(self.b.view()),
            },
            beta: p.beta,
            c: c.view_mut(),
            epilogue: Epilogue {
                row_bias: self.row_bias.as_deref(),
                column_bias: self.column_bias.as_deref(),
                activation: p.activation,
                residual: self.residual.as_ref().map(Tensor::view),
            },
        })?;
        c.gaps_intact()?;
        Ok(c.elements())
    }

    /// The bound of each element of C.
    ///
    /// With s = |alpha| sum |a||b| + |beta c| + |biases|, the biased sum v has k + 5 roundings at
    /// most: gamma_{k+5} s. Then |f'| of it goes through the activation, which adds its own error;
    /// a gate's error is magnified by the up product and the other way around.
    fn bound(&self, p: &Params) -> Result<Vec<f64>, Failure> {
        let k = p.extents[3];
        let gate = self.magnitudes(p, &self.b, 0)?;
        let up = self.magnitudes(p, &self.up, p.extents[2])?;
        let tiny = (k + 8) as f64 * ETA * f64::from(p.alpha.abs().max(1.0));
        let shape = self.c.shape();
        Ok(indices(shape)
            .enumerate()
            .map(|(i, [batch, row, column])| {
                // What is infinite or NaN already is so on every backend: such a sum has no error, and
                // if the activation makes it finite (tanh), its magnitude is at most 1.
                let sum = f64::from(gate[i]);
                let (mut error, mut magnitude) =
                    if sum.is_finite() { (gamma(k + 5) * sum + tiny, sum) } else { (0.0, 1.0) };
                if p.activation.is_some() {
                    error = ACTIVATION_SLOPE * error + ACTIVATION_ROUNDINGS * gamma(1) * magnitude;
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

    /// |alpha| |A| |B| + |beta| |C| + |biases|, by the reference.
    fn magnitudes(&self, p: &Params, b: &Tensor<3>, first_bias: usize) -> Result<Vec<f32>, Failure> {
        let abs = |v: &[f32]| v.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (a, b) = (self.a.map(f32::abs), b.map(f32::abs));
        let mut c = self.c.map(f32::abs);
        let row_bias = self.row_bias.as_deref().map(abs);
        let column_bias = self.column_bias.as_deref().map(abs);
        let n = p.extents[2];
        Backend::REFERENCE.run(Kernel {
            alpha: p.alpha.abs(),
            a: a.view(),
            b: Rhs::Matrix(b.view()),
            beta: p.beta.abs(),
            c: c.view_mut(),
            epilogue: Epilogue {
                row_bias: row_bias.as_deref(),
                column_bias: column_bias.as_deref().map(|bias| &bias[first_bias.min(bias.len() - n)..][..n]),
                ..Epilogue::default()
            },
        })?;
        Ok(c.elements())
    }
}

/// Runs `c = a b` on `backend`: what tests of single properties need.
///
/// # Errors
/// As the kernel.
pub fn product(backend: Backend, a: View<'_, 2>, b: Rhs<'_>, n: usize) -> Result<Vec<f32>, Failure> {
    let m = a.shape()[0];
    let mut c = vec![f32::NAN; m * n];
    backend.run(Kernel {
        alpha: 1.0,
        a: a.into(),
        b,
        beta: 0.0,
        c: tilewright_kernels::ViewMut::new(&mut c, [1, m, n])?,
        epilogue: Epilogue::default(),
    })?;
    Ok(c)
}

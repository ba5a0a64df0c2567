//! The matrix product against its definition, in every type of A, of weights and of C.
//!
//! What is rounded or quantised on the way is part of the definition, and the same to the bit on every
//! backend: what errs is sums. Those of integers are exact; those of pairs of bf16 round at most twice for
//! each product, and take denormals for zeros.

use super::bound::{ETA, compare, gamma};
use super::stored::{Stored, written};
use super::tensor::{Layout, Random, Tensor, Values, extent, indices, seed};
use super::{Check, Failure, Worst};
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm as Kernel, Lhs, PackedB, Quantized, Rhs};
use tilewright_kernels::{Activation, Backend, View, ViewMut};

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
    types: Types,
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

/// Types of A, of packed weights and of C.
#[derive(Clone, Copy, Debug)]
struct Types {
    a: Left,
    b: Format,
    c: Stored,
}

/// What A is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Exact(Stored),
    Rounded,
    ZeroPoint,
}

impl Types {
    const F32: Self = Self { a: Left::Exact(Stored::F32), b: Format::F32, c: Stored::F32 };

    fn any() -> BoxedStrategy<Self> {
        let lefts =
            Stored::ALL.map(Left::Exact).into_iter().chain([Left::Rounded; 3]).chain([Left::ZeroPoint]);
        let drawn =
            (select(lefts.collect::<Vec<_>>()), select(Format::ALL.to_vec()), select(Stored::ALL.to_vec()))
                .prop_map(|(a, b, c)| Self {
                    a: if b == Format::Int8 || a != Left::ZeroPoint { a } else { Left::Rounded },
                    b,
                    c,
                });
        prop_oneof![2 => Just(Self::F32), 3 => drawn].boxed()
    }

    /// Numbers that stay finite where they are stored.
    fn in_range(self, values: Values) -> Values {
        let halves = [self.a == Left::Exact(Stored::F16), self.b == Format::F16, self.b.is_grouped()];
        if values == Values::Large && (halves.contains(&true) || self.c == Stored::F16) {
            Values::Wide
        } else {
            values
        }
    }

    /// Whether sums may be of pairs of bf16.
    fn are_pairs(self) -> bool {
        self.b == Format::Bf16 && matches!(self.a, Left::Rounded | Left::Exact(Stored::Bf16))
    }
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
        let kind = (any::<[bool; 3]>(), any::<bool>(), prop::bool::weighted(0.25), plain, Types::any());
        (extents, kind, layouts, epilogue, factors, Values::any(), seed())
            .prop_map(|(extents, kind, layouts, epilogue, factors, values, seed)| {
                let (shared, packed, gated, plain, types) = kind;
                let packed = packed || types.b != Format::F32;
                let (a, (b, up), c) = layouts;
                let (residual, row_bias, column_bias, activation) = epilogue;
                let (alpha, beta) = if plain { (1.0, 0.0) } else { factors };
                Params {
                    extents,
                    shared: [shared[0], shared[1] || packed, shared[2]],
                    packed,
                    gated,
                    types,
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
                    values: types.in_range(if gated && values == Values::Large {
                        Values::Wide
                    } else {
                        values
                    }),
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
        // What is out of the range of f16 may be infinite, or the largest number.
        let within = |v: Vec<f32>| -> Vec<f32> {
            let out = |i: usize| p.types.c == Stored::F16 && expected[i].abs() > 6e4;
            v.into_iter().enumerate().map(|(i, x)| if out(i) { 0.0 } else { x }).collect()
        };
        compare(&within(found), &within(expected.clone()), |i| {
            let magnitude = f64::from(expected[i].abs()) + bound[i];
            bound[i] + 2.0 * p.types.c.half_ulp(if magnitude.is_finite() { magnitude } else { 0.0 })
        })
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
        let stored = if let Left::Exact(stored) = p.types.a { stored } else { Stored::F32 };
        let c = c.map(|x| p.types.c.round(x));
        Self {
            a: Tensor::random([batch_of(p.shared[0]), m, k], &p.a, p.values, random).map(|x| stored.round(x)),
            b: Tensor::random([batch_of(p.shared[1]), k, n], &p.b, p.values, random),
            up: Tensor::random([batch_of(p.shared[1]), k, n], &p.up, p.values, random),
            c,
            residual: (p.residual.as_ref())
                .map(|layout| Tensor::random([batch_of(p.shared[2]), m, n], layout, p.values, random)),
            row_bias: p.row_bias.then(|| bias(m, random)),
            column_bias: p.column_bias.then(|| bias(if p.gated { 2 * n } else { n }, random)),
        }
    }

    /// The weights as they are packed for `backend`.
    fn packed(&self, p: &Params, backend: Backend) -> Result<PackedB, Failure> {
        let (b, up, format) = (self.b.view().at(0), self.up.view().at(0), p.types.b);
        Ok(match (p.gated, format) {
            (false, Format::F32) => PackedB::new(backend, b),
            (true, Format::F32) => PackedB::gated(backend, b, up)?,
            (false, _) => PackedB::in_format(backend, format, b)?,
            (true, _) => PackedB::gated_in_format(backend, format, b, up)?,
        })
    }

    /// C after the product, in row-major order.
    fn run(&self, p: &Params, backend: Backend) -> Result<Vec<f32>, Failure> {
        let packed = if p.packed { Some(self.packed(p, backend)?) } else { None };
        let (bf16_a, f16_a) = (self.a.cast::<bf16>(), self.a.cast::<f16>());
        let (mut c, mut bf16_c, mut f16_c) = (self.c.clone(), self.c.cast::<bf16>(), self.c.cast::<f16>());
        backend.run(Kernel {
            alpha: p.alpha,
            a: match p.types.a {
                Left::Exact(Stored::F32) => self.a.view().into(),
                Left::Exact(Stored::Bf16) => bf16_a.view().into(),
                Left::Exact(Stored::F16) => f16_a.view().into(),
                Left::Rounded => Lhs::Rounded(self.a.view()),
                Left::ZeroPoint => Lhs::ZeroPoint(self.a.view()),
            },
            b: match &packed {
                Some(packed) => Rhs::Packed(packed),
                None if p.gated => Rhs::Gated { gate: self.b.view(), up: self.up.view() },
                None => Rhs::Matrix(self.b.view()),
            },
            beta: p.beta,
            c: match p.types.c {
                Stored::F32 => c.view_mut().into(),
                Stored::Bf16 => bf16_c.view_mut().into(),
                Stored::F16 => f16_c.view_mut().into(),
            },
            epilogue: Epilogue {
                row_bias: self.row_bias.as_deref(),
                column_bias: self.column_bias.as_deref(),
                activation: p.activation,
                residual: self.residual.as_ref().map(Tensor::view),
            },
        })?;
        match p.types.c {
            Stored::F32 => written(&c),
            Stored::Bf16 => written(&bf16_c),
            Stored::F16 => written(&f16_c),
        }
    }

    /// |A| as the products take it.
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

    /// |B|, of the up matrix if `up`, as it is stored.
    fn right_magnitudes(&self, p: &Params, up: bool) -> Result<Tensor<3>, Failure> {
        let b = if up { &self.up } else { &self.b };
        if p.types.b == Format::F32 || (up && !p.gated) {
            return Ok(b.map(f32::abs));
        }
        let packed = self.packed(p, Backend::REFERENCE)?;
        let number = |q: usize, j: usize| packed.get(up, q, j).abs() as f32;
        let k = packed.k();
        Ok(Tensor::new(b.shape(), &Layout::row_major(), |[_, q, j]| {
            // d q and m are added up apart: the magnitude of both, for the number of q = 0 is m.
            let group = q / 32 * 32..k.min(q / 32 * 32 + 32);
            let of_group =
                if p.types.b == Format::Q4_1 { group.map(|q| number(q, j)).fold(0.0, f32::max) } else { 0.0 };
            number(q, j) + 2.0 * of_group
        }))
    }

    /// The bound of each element of C.
    ///
    /// With s = |alpha| sum |a||b| + |beta c| + |biases|, the biased sum v has k + 5 roundings at
    /// most: gamma_{k+5} s (of pairs of bf16, 2k + 5, and what denormals may have been). Then |f'| of it goes through the activation, which adds its own error;
    /// a gate's error is magnified by the up product and the other way around.
    fn bound(&self, p: &Params) -> Result<Vec<f64>, Failure> {
        let k = p.extents[3];
        let (a, b, up) =
            (self.left_magnitudes(p), self.right_magnitudes(p, false)?, self.right_magnitudes(p, true)?);
        let gate = self.magnitudes(p, &a, &b, 0)?;
        let up_sums = self.magnitudes(p, &a, &up, p.extents[2])?;
        let largest =
            [&a, &b, &up].map(|t| t.elements().into_iter().filter(|x| x.is_finite()).fold(0.0, f32::max));
        let [a, b, up] = largest.map(f64::from);
        // What is lost below the normal range: by roundings, by denormals that count as zeros, and by a
        // sum of integers that is scaled by one factor after the other.
        let lost = match p.types {
            types if types.are_pairs() => f64::from(f32::MIN_POSITIVE) * (2.0 + a + b + up),
            Types { b: Format::Int8, .. } => ETA * (1.0 + b + up),
            _ => ETA,
        };
        let tiny = (k + 8) as f64 * lost * f64::from(p.alpha.abs().max(1.0));
        let k = if p.types.are_pairs() { 2 * k } else { k };
        let up = up_sums;
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
            b: Rhs::Matrix(b.view()),
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
        c: ViewMut::new(&mut c, [m, n])?.into(),
        epilogue: Epilogue::default(),
    })?;
    Ok(c)
}

//! The matrix product against its definition, in every type of A, of weights and of C.
//!
//! The definition includes the roundings and quantizations of operands, and every backend computes them to the same
//! bit: only sums err. Sums of integers are exact. Sums of bf16 pairs round at most twice for each product and count
//! denormals as zeros.

mod backward;
mod bound;

pub use backward::GemmBackward;
pub(super) use bound::lost;

use super::bound::compare;
use super::stored::{Stored, written};
use super::tensor::{Layout, Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm as Kernel, Lhs, PackedB, Rhs};
use tilewright_kernels::{Activation, AnyView, Backend, View, ViewMut};

/// Matrix products with strides, batches, packed and gated weights, epilogues.
pub struct Gemm;

/// Arguments of one product.
#[derive(Clone, Debug)]
pub struct Params {
    /// batch, m, n, k.
    extents: [usize; 4],
    /// True if the whole batch shares A, B, and the residual.
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

/// Types of A, of weights and of C.
#[derive(Clone, Copy, Debug)]
struct Types {
    a: Left,
    b: Format,
    c: Stored,
}

/// Type of A, and its rounding.
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

    /// Replaces distributions whose numbers are not finite in the types.
    fn in_range(self, values: Values) -> Values {
        let halves = [self.a == Left::Exact(Stored::F16), self.b == Format::F16, self.b.is_grouped()];
        if values == Values::Large && (halves.contains(&true) || self.c == Stored::F16) {
            Values::Wide
        } else {
            values
        }
    }

    /// True if matrices that are not packed may have the type of B.
    fn is_stored(self) -> bool {
        matches!(self.b, Format::F32 | Format::Bf16 | Format::F16)
    }

    /// Rounds a number of B to its type, if matrices that are not packed may have it.
    fn round_b(self, x: f32) -> f32 {
        match self.b {
            Format::Bf16 => Stored::Bf16.round(x),
            Format::F16 => Stored::F16.round(x),
            _ => x,
        }
    }

    /// True if a backend may sum pairs of bf16.
    fn are_pairs(self) -> bool {
        self.b == Format::Bf16 && matches!(self.a, Left::Rounded | Left::Exact(Stored::Bf16))
    }
}

/// Upper bound of the multiply-adds of a case: the reference takes a few milliseconds.
const MOST_WORK: usize = 1 << 19;

impl Check for Gemm {
    const KERNEL: &'static str = "gemm";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        // One row has separate code paths, among them one for unpacked weights.
        let rows = prop_oneof![3 => extent(150), 1 => Just(1)];
        let extents = (prop_oneof![5 => Just(1), 1 => 0..4usize], rows, extent(150), extent(800))
            .prop_map(|(batch, m, n, k)| [batch, m, n, k])
            .prop_filter("takes too long", |e| e.iter().product::<usize>() <= MOST_WORK);
        let activation = prop_oneof![1 => Just(None), 1 => select(Activation::ALL.to_vec()).prop_map(Some)];
        let weights = prop_oneof![
            2 => (Layout::any(), Layout::any()),
            1 => (Layout::columns(), Layout::columns()),
        ];
        let layouts = (prop_oneof![3 => Layout::any(), 1 => Layout::columns()], weights, Layout::distinct());
        let epilogue = (prop::option::weighted(0.3, Layout::any()), any::<bool>(), any::<bool>(), activation);
        let factors = (select(vec![1.0, 1.0, -1.5, 0.37, 0.0]), select(vec![0.0, 0.0, 1.0, -0.5]));
        // Half of the cases have no epilogue: their sums go directly to C.
        let plain = any::<bool>();
        let kind = (any::<[bool; 3]>(), any::<bool>(), prop::bool::weighted(0.25), plain, Types::any());
        (extents, kind, layouts, epilogue, factors, Values::any(), seed())
            .prop_map(|(extents, kind, layouts, epilogue, factors, values, seed)| {
                let (shared, packed, gated, plain, types) = kind;
                let packed = packed || !types.is_stored();
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
        let data = GemmData::new(p);
        let found = data.run(p, backend)?;
        let expected = data.run(p, Backend::REFERENCE)?;
        let bound = data.bound(p)?;
        // A result beyond the range of f16 may be infinite or the largest f16.
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

/// The data of one product.
struct GemmData {
    a: Tensor<3>,
    b: Tensor<3>,
    up: Tensor<3>,
    c: Tensor<3>,
    residual: Option<Tensor<3>>,
    row_bias: Option<Vec<f32>>,
    column_bias: Option<Vec<f32>>,
}

impl GemmData {
    fn new(p: &Params) -> Self {
        let [batch, m, n, k] = p.extents;
        let random = &mut Random::new(p.seed);
        let batch_of = |shared: bool| if shared { 1 } else { batch };
        let bias = |len: usize, random: &mut Random| (0..len).map(|_| p.values.draw(random)).collect();
        let c = match p.beta {
            // The kernel must not read C if beta is 0: a NaN would show.
            0.0 => Tensor::new([batch, m, n], &p.c, |_| f32::NAN),
            _ => Tensor::random([batch, m, n], &p.c, p.values, random),
        };
        let stored = if let Left::Exact(stored) = p.types.a { stored } else { Stored::F32 };
        let c = c.map(|x| p.types.c.round(x));
        Self {
            a: Tensor::random([batch_of(p.shared[0]), m, k], &p.a, p.values, random).map(|x| stored.round(x)),
            b: Tensor::random([batch_of(p.shared[1]), k, n], &p.b, p.values, random)
                .map(|x| p.types.round_b(x)),
            up: Tensor::random([batch_of(p.shared[1]), k, n], &p.up, p.values, random)
                .map(|x| p.types.round_b(x)),
            c,
            residual: (p.residual.as_ref())
                .map(|layout| Tensor::random([batch_of(p.shared[2]), m, n], layout, p.values, random)),
            row_bias: p.row_bias.then(|| bias(m, random)),
            column_bias: p.column_bias.then(|| bias(if p.gated { 2 * n } else { n }, random)),
        }
    }

    /// The weights, packed for `backend`.
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
        let [bf16_b, bf16_up] = [&self.b, &self.up].map(Tensor::cast::<bf16>);
        let [f16_b, f16_up] = [&self.b, &self.up].map(Tensor::cast::<f16>);
        let [b, up]: [AnyView<'_, 3>; 2] = match p.types.b {
            Format::Bf16 => [bf16_b.view().into(), bf16_up.view().into()],
            Format::F16 => [f16_b.view().into(), f16_up.view().into()],
            _ => [self.b.view().into(), self.up.view().into()],
        };
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
                None if p.gated => Rhs::Gated { gate: b, up },
                None => Rhs::Matrix(b),
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
                ..Epilogue::default()
            },
        })?;
        match p.types.c {
            Stored::F32 => written(&c),
            Stored::Bf16 => written(&bf16_c),
            Stored::F16 => written(&f16_c),
        }
    }
}

/// Runs `c = a b` on `backend`, for tests of single properties.
///
/// # Errors
/// The error of the kernel.
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

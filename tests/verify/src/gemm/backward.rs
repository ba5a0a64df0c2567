//! Products of a feed-forward block: the pre-activations that the forward product keeps, and the backward product with
//! the derivative of the activation.
//!
//! Each fused product is compared with the product alone, on the same backend. Pre-activations are its sums, to the bit.
//! Gradients are within the error of the derivative, and of two roundings, of the definition for these sums.

use super::super::activate::allowed;
use super::super::bound::{ETA, compare, gamma, identical};
use super::super::stored::{AnyTensor, Stored};
use super::super::tensor::{Layout, Random, Tensor, Values, extent, seed};
use super::super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::gemm::{Derivative, Epilogue, Format, Gemm as Kernel, PackedB, Rhs};
use tilewright_kernels::{Activation, AnyViewMut, Backend, Function};

/// Products that keep pre-activations, and products that end with a derivative.
pub struct GemmBackward;

/// Arguments of one pair of products.
#[derive(Clone, Debug)]
pub struct Params {
    /// batch, m, n, k.
    extents: [usize; 4],
    packed: bool,
    gated: bool,
    column_bias: bool,
    activation: Activation,
    /// Types of A and B, of aux, of C, and of the gradient of up.
    stored: [Stored; 4],
    a: Layout<3>,
    aux: Layout<3>,
    c: Layout<3>,
    dup: Layout<3>,
    values: Values,
    seed: u64,
}

/// Upper bound of the multiply-adds of a case.
const MOST_WORK: usize = 1 << 17;

impl Check for GemmBackward {
    const KERNEL: &'static str = "gemm_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        let extents = (prop_oneof![4 => Just(1), 1 => 0..3usize], extent(100), extent(150), extent(400))
            .prop_map(|(batch, m, n, k)| [batch, m, n, k])
            .prop_filter("takes too long", |e| e.iter().product::<usize>() <= MOST_WORK);
        let stored = [Stored::any(), Stored::any(), Stored::any(), Stored::any()];
        let layouts = (Layout::any(), Layout::distinct(), Layout::distinct(), Layout::distinct());
        let values = prop_oneof![3 => Just(Values::Unit), 1 => Just(Values::Wide), 1 => Just(Values::Tiny)];
        (extents, any::<[bool; 3]>(), select(Activation::ALL.to_vec()), stored, layouts, values, seed())
            .prop_map(|(extents, [packed, gated, column_bias], activation, stored, layouts, values, seed)| {
                let (a, aux, c, dup) = layouts;
                // The products of wide numbers are beyond the range of f16.
                let values = if stored.contains(&Stored::F16) { Values::Unit } else { values };
                Params {
                    extents,
                    packed,
                    gated,
                    column_bias,
                    activation,
                    stored,
                    a,
                    aux,
                    c,
                    dup,
                    values,
                    seed,
                }
            })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = Data::new(p);
        let reference = data.check(p, Backend::REFERENCE)?;
        Ok(data.check(p, backend)?.max(reference))
    }
}

/// The data of one pair of products.
struct Data {
    a: AnyTensor<3>,
    /// Two matrices \[1, k, n\].
    b: [Tensor<3>; 2],
    bias: Option<Vec<f32>>,
}

impl Data {
    fn new(p: &Params) -> Self {
        let [batch, m, n, k] = p.extents;
        let random = &mut Random::new(p.seed);
        let mut number = || p.stored[0].round(p.values.draw(random));
        let a = Tensor::new([batch, m, k], &p.a, |_| number());
        let b = [(); 2].map(|()| Tensor::new([1, k, n], &Layout::row_major(), |_| number()));
        Self { a: AnyTensor::of(&a), b, bias: p.column_bias.then(|| (0..2 * n).map(|_| number()).collect()) }
    }

    /// Runs a product with an epilogue.
    fn product(
        &self,
        p: &Params,
        backend: Backend,
        b: Rhs<'_>,
        c: AnyViewMut<'_, 3>,
        epilogue: Epilogue<'_>,
    ) -> Result<(), Failure> {
        let a = self.a.view(p.stored[0]).into();
        Ok(backend.run(Kernel { alpha: 1.0, a, b, beta: 0.0, c, epilogue })?)
    }

    /// Checks both products on a backend.
    fn check(&self, p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let [batch, m, n, _] = p.extents;
        let [of_operands, of_aux, of_c, of_dup] = p.stored;
        let format = match of_operands {
            Stored::F32 => Format::F32,
            Stored::Bf16 => Format::Bf16,
            Stored::F16 => Format::F16,
        };
        let matrices = [&self.b[0], &self.b[1]].map(AnyTensor::of);
        let [gate, up] = [0, 1].map(|i| matrices[i].view(of_operands));
        let views = [&self.b[0], &self.b[1]].map(|b| b.view().at(0));
        let alone =
            [PackedB::in_format(backend, format, views[0])?, PackedB::in_format(backend, format, views[1])?];
        let pair = PackedB::gated_in_format(backend, format, views[0], views[1])?;
        let b = match (p.gated, p.packed) {
            (false, false) => Rhs::Matrix(gate),
            (false, true) => Rhs::Packed(&alone[0]),
            (true, false) => Rhs::Gated { gate, up },
            (true, true) => Rhs::Packed(&pair),
        };
        let bias = |range| self.bias.as_ref().map(|bias: &Vec<f32>| &bias[range]);
        // The sums of each matrix alone.
        let mut sums = Vec::new();
        for (i, matrix) in [gate, up].into_iter().enumerate() {
            let b = if p.packed { Rhs::Packed(&alone[i]) } else { Rhs::Matrix(matrix) };
            let mut c = Tensor::new([batch, m, n], &Layout::row_major(), |_| f32::NAN);
            let epilogue = Epilogue { column_bias: bias(i * n..(i + 1) * n), ..Epilogue::default() };
            self.product(p, backend, b, c.view_mut().into(), epilogue)?;
            sums.push(c.elements());
        }

        // Forward: aux is the sums, and C does not change.
        let columns = if p.gated { 2 * n } else { n };
        let mut aux = AnyTensor::of(&Tensor::new([batch, m, columns], &p.aux, |_| 0.0));
        let mut results = Vec::new();
        for keep in [false, true] {
            let mut c = Tensor::new([batch, m, n], &p.c, |_| f32::NAN);
            let epilogue = Epilogue {
                column_bias: bias(0..columns),
                activation: Some(p.activation),
                aux: keep.then(|| aux.view_mut(of_aux)),
                ..Epilogue::default()
            };
            self.product(p, backend, b, c.view_mut().into(), epilogue)?;
            results.push(c.elements());
        }
        identical(&results[1], &results[0])?;
        let kept = aux.written(of_aux)?;
        let of = |i: usize| sums[i % columns / n][i / columns * n + i % columns % n];
        let expected: Vec<f32> = (0..kept.len()).map(|i| of_aux.round(of(i))).collect();
        identical(&kept, &expected)?;

        // Backward, with the sums of the first matrix for dH, and those of both as pre-activations.
        let [gate, up] = [0, 1].map(|i| {
            let rounded = |[s, row, j]: [usize; 3]| of_aux.round(sums[i][(s * m + row) * n + j]);
            Tensor::new([batch, m, n], &p.aux, rounded)
        });
        let (at, up_at) = (gate.elements(), up.elements());
        let [gate, up] = [&gate, &up].map(AnyTensor::of);
        let mut c = AnyTensor::of(&Tensor::new([batch, m, n], &p.c, |_| 0.0));
        let mut dup = AnyTensor::of(&Tensor::new([batch, m, n], &p.dup, |_| 0.0));
        let (activation, aux) = (p.activation, gate.view(of_aux));
        let derivative = match p.gated {
            false => Derivative::Of { activation, aux },
            true => {
                Derivative::OfGated { activation, gate: aux, up: up.view(of_aux), dup: dup.view_mut(of_dup) }
            }
        };
        let b = if p.packed { Rhs::Packed(&alone[0]) } else { Rhs::Matrix(matrices[0].view(of_operands)) };
        let epilogue =
            Epilogue { column_bias: bias(0..n), derivative: Some(derivative), ..Epilogue::default() };
        self.product(p, backend, b, c.view_mut(of_c), epilogue)?;
        let v = |i: usize| f64::from(sums[0][i]);
        let factor = |i: usize| if p.gated { f64::from(up_at[i]) } else { 1.0 };
        let near = |found: Vec<f32>, stored: Stored, function: Function, factor: &dyn Fn(usize) -> f64| {
            let exact = |i: usize| v(i) * factor(i) * function.definition(f64::from(at[i]));
            let expected: Vec<f32> = (0..found.len()).map(|i| stored.round(exact(i) as f32)).collect();
            compare(&found, &expected, |i| {
                let error = (v(i) * factor(i)).abs() * allowed(function, f64::from(at[i]));
                // Two products, of which the first may lose digits below the normal range.
                let bound = 2.0 * error + gamma(3) * exact(i).abs() + 4.0 * ETA;
                bound + 2.0 * stored.half_ulp(exact(i).abs() + bound)
            })
        };
        let mut worst = near(c.written(of_c)?, of_c, Function::Derivative(p.activation), &factor)?;
        if p.gated {
            let value = Function::Activation(p.activation);
            worst = worst.max(near(dup.written(of_dup)?, of_dup, value, &|_| 1.0)?);
        }
        Ok(worst)
    }
}

//! Activation functions, lane by lane.
//!
//! ```text
//! GELU (erf)   x Phi(x) = x/2 erfc(-x / sqrt 2)
//! GELU (tanh)  x/2 (1 + tanh u) = x / (1 + e^-2u),  u = sqrt(2/pi) (x + 0.044715 x^3)
//! quick GELU   x / (1 + e^-1.702x)
//! SiLU         x / (1 + e^-x)
//! mish         x tanh(ln(1 + e^x))
//! ```
//! GELU: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415. ELU: Clevert, Unterthiner and
//! Hochreiter, 2015, arXiv:1511.07289. Hard swish: Howard et al., "Searching for MobileNetV3", 2019, arXiv:1905.02244.
//! Mish: Misra, 2019, arXiv:1908.08681. Both forms of GELU and their derivatives are table lookups (`gate.rs`). SiLU,
//! mish and their relatives are made of one exponential (`logistic.rs`).

mod definition;
mod gate;
mod logistic;

use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::math;

/// Function of each element. NaN stays NaN, also in derivatives, except that of the identity. At infinities, functions
/// and derivatives take their limits. At a corner, the derivative is 0 (ReLU at 0, hard swish at -3) or 1 (hard swish at
/// 3), as in PyTorch.
///
/// # Numerics
/// Identity and ReLU are exact, and so are their derivatives. The others err by at most:
///
/// |            | function       | derivative    |
/// |------------|----------------|---------------|
/// | ELU        | 2 ULP          | 1 ULP         |
/// | both GELU  | 2 ULP + 2^-27  | 1 ULP + 2^-24 |
/// | hard swish | 3 ULP          | 1 ULP + 2^-24 |
/// | mish       | 4 ULP + 2^-142 | 2 ULP + 2^-24 |
/// | quick GELU | 4 ULP + 2^-25  | 1 ULP + 2^-23 |
/// | sigmoid    | 4 ULP          | 5 ULP         |
/// | SiLU       | 4 ULP + 2^-121 | 1 ULP + 2^-24 |
/// | softplus   | 4 ULP          | 4 ULP         |
/// | tanh       | 1 ULP          | 5 ULP         |
///
/// Absolute errors of derivatives are those near their zeros. SiLU is 0 below -88.7. Both forms of GELU and their
/// derivatives are 0 below -7.625 with AVX-512, and below -6 elsewhere. If [`Activate`](crate::Activate),
/// [`Gated`](crate::Gated) or [`GatedBackward`](crate::GatedBackward) rounds a GELU to bf16, it errs by at most 2^-20 |x|
/// more.
///
/// Worst errors over all 2^32 arguments, in ULP: SiLU 2.39, not counting 2^-121. The first column of GELU does not
/// count 2^-27; the others count every error. NEON has not been walked. The kernel has changed since the rows of avx512
/// were measured, so they may be slightly off.
///
/// |                | beyond 2^-27 | x > 0 | -1 to 0 | -3 to -1 | -4 to -3 | -5 to -4 |
/// |----------------|--------------|-------|---------|----------|----------|----------|
/// | erf, avx512    | 0.90         | 1.20  | 1.64    | 2.26     | 6.50     | 26.4     |
/// | erf, avx2      | 1.27         | 1.23  | 1.76    | 3.65     | 12.7     | 349      |
/// | erf, portable  | 1.77         | 1.54  | 2.10    | 5.30     | 15.1     | 350      |
/// | tanh, avx512   | 1.22         | 1.35  | 1.93    | 1.90     | 7.62     | 135      |
/// | tanh, avx2     | 1.06         | 1.23  | 1.80    | 5.16     | 22.2     | 2120     |
/// | tanh, portable | 1.37         | 1.53  | 2.11    | 6.35     | 25.4     | 2123     |
///
/// The usual formula x/2 (1 + erf(x / sqrt 2)) rounds 1 + erf: an error of 2^-26 |x|, which leaves no correct digit
/// below -5.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x.
    Identity,
    /// x for x > 0, else e^x - 1. (ELU with alpha = 1.)
    Elu,
    /// x Phi(x), with the normal distribution Phi: the exact GELU, defined by erf.
    GeluErf,
    /// Tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// x min(max(x + 3, 0), 6) / 6.
    HardSwish,
    /// x tanh(ln(1 + e^x)).
    Mish,
    /// x / (1 + e^-1.702x), an approximation of GELU (`quick_gelu`).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x / (1 + e^-x), also called swish.
    Silu,
    /// ln(1 + e^x).
    Softplus,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// All activations, for tests and tables.
    pub const ALL: [Self; 12] = [
        Self::Identity,
        Self::Elu,
        Self::GeluErf,
        Self::GeluTanh,
        Self::HardSwish,
        Self::Mish,
        Self::QuickGelu,
        Self::Relu,
        Self::Sigmoid,
        Self::Silu,
        Self::Softplus,
        Self::Tanh,
    ];

    /// Applies the function to each lane.
    ///
    /// The `match` is on a loop invariant: the branch is predicted, or the compiler hoists it.
    #[inline(always)]
    pub fn apply<I: Isa>(self, isa: I, x: I::V) -> I::V {
        let c = |v: f32| I::V::splat(isa, v);
        match self {
            Self::Identity => x,
            Self::Elu => x.select(c(0.0).lt(x), math::exp_m1_down(isa, x)),
            Self::GeluErf => gate::NORMAL.apply(isa, x),
            Self::GeluTanh => gate::LOGISTIC.apply(isa, x),
            // Bounds as first operands let NaN pass. -inf times 0 would be NaN.
            Self::HardSwish => c(-f32::MAX).max(x) * (c(6.0).min(c(0.0).max(x + c(3.0))) * c(1.0 / 6.0)),
            Self::Mish => logistic::mish_with_derivative(isa, x).0,
            Self::QuickGelu => logistic::swish(isa, x, QUICK),
            // `max` returns its argument if either is NaN.
            Self::Relu => c(0.0).max(x),
            Self::Sigmoid => logistic::sigmoid(isa, x),
            Self::Silu => logistic::swish(isa, x, 1.0),
            Self::Softplus => logistic::softplus(isa, x),
            Self::Tanh => math::tanh(isa, x),
        }
    }

    /// Computes the derivative at each lane, with the errors that [`Activation`] states.
    #[inline(always)]
    pub fn derivative<I: Isa>(self, isa: I, x: I::V) -> I::V {
        let c = |v: f32| I::V::splat(isa, v);
        match self {
            Self::Identity => c(1.0),
            // A bound as first operand lets NaN pass.
            Self::Elu => math::exp_down(isa, c(0.0).min(x)),
            Self::GeluErf => gate::NORMAL.derivative(isa, x),
            Self::GeluTanh => gate::LOGISTIC.derivative(isa, x),
            Self::HardSwish => {
                let inside = x.mul_add(c(1.0 / 3.0), c(0.5));
                let above = c(1.0).select(c(3.0).le(x), inside);
                c(0.0).select(x.le(c(-3.0)), above)
            }
            Self::Mish => logistic::mish_with_derivative(isa, x).1,
            Self::Relu => c(1.0).select(c(0.0).lt(x), c(0.0).select(x.le(c(0.0)), x)),
            Self::QuickGelu => logistic::swish_with_derivative(isa, x, QUICK).1,
            Self::Sigmoid => logistic::sigmoid_derivative(isa, x),
            Self::Silu => logistic::swish_with_derivative(isa, x, 1.0).1,
            Self::Softplus => logistic::sigmoid(isa, x),
            Self::Tanh => logistic::tanh_derivative(isa, x),
        }
    }

    /// Applies the function to each lane, as exactly as a result needs that is rounded to `T`.
    #[inline(always)]
    pub(crate) fn apply_for<I: Isa, T: Element>(self, isa: I, x: I::V) -> I::V {
        match self {
            Self::GeluErf if T::IS_BF16 => gate::NORMAL.apply_coarse(isa, x),
            Self::GeluTanh if T::IS_BF16 => gate::LOGISTIC.apply_coarse(isa, x),
            _ => self.apply(isa, x),
        }
    }

    /// The function as [`apply_for`](Self::apply_for), and its derivative: two results for little more than the price of
    /// one where both are made of the same exponential.
    #[inline(always)]
    pub(crate) fn apply_with_derivative<I: Isa, T: Element>(self, isa: I, x: I::V) -> (I::V, I::V) {
        match self {
            Self::Mish => logistic::mish_with_derivative(isa, x),
            Self::QuickGelu => logistic::swish_with_derivative(isa, x, QUICK),
            Self::Silu => logistic::swish_with_derivative(isa, x, 1.0),
            _ => (self.apply_for::<I, T>(isa, x), self.derivative(isa, x)),
        }
    }
}

/// [`definition::QUICK`] in f32.
const QUICK: f32 = definition::QUICK as f32;

/// Runs `$body` with `$f` a constant, so that the choice of function is outside of the loops.
macro_rules! for_activation {
    ($activation:expr, $f:ident => $body:expr) => {
        $crate::activation::for_activation!(@arms $activation, $f => $body,
            Identity Elu GeluErf GeluTanh HardSwish Mish QuickGelu Relu Sigmoid Silu Softplus Tanh)
    };
    (@arms $activation:expr, $f:ident => $body:expr, $($name:ident)*) => {
        match $activation {
            $($crate::activation::Activation::$name => {
                const $f: $crate::activation::Activation = $crate::activation::Activation::$name;
                $body
            })*
        }
    };
}
pub(crate) use for_activation;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::portable::Portable;

    #[test]
    fn near_the_definition() {
        for activation in Activation::ALL {
            for i in -60..=60 {
                let x = i as f32 / 8.0;
                type V = <Portable as Isa>::V;
                let v = V::splat(Portable, x);
                let (y, dy) = activation.apply_with_derivative::<_, f32>(Portable, v);
                let first = |v: V| {
                    let mut lanes = [0.0; V::LANES];
                    v.store(&mut lanes);
                    lanes[0]
                };
                let value = (activation.definition(f64::from(x)), [activation.apply(Portable, v), y]);
                let derivative = (
                    activation.definition_derivative(f64::from(x)),
                    [activation.derivative(Portable, v), dy],
                );
                for (expected, found) in [value, derivative] {
                    for found in found.map(first) {
                        assert!(
                            (f64::from(found) - expected).abs() < 1e-5,
                            "{activation:?} at {x}: {found}, expected {expected}"
                        );
                    }
                }
            }
        }
    }
}

//! Activation functions, lane by lane.
//!
//! ```text
//! GELU (erf)   x Phi(x) = x/2 erfc(-x / sqrt 2)
//! GELU (tanh)  x/2 (1 + tanh u) = x / (1 + e^-2u),  u = sqrt(2/pi) (x + 0.044715 x^3)
//! SiLU         x / (1 + e^-x)
//! ```
//! Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415. Both forms of GELU are table lookups
//! (`gate.rs`); SiLU and tanh come from [`math`].

mod gate;

use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::math;

/// Function of each element. NaN stays NaN; at -inf a function takes its limit.
///
/// # Numerics
/// - Identity and ReLU are exact.
/// - tanh is [`math::tanh`], within 1 ULP.
/// - SiLU is within 4 ULP down to -88.7, and 0 below.
/// - Both forms of GELU are within 2 ULP plus 2^-27. They are 0 below -7.625 with AVX-512, and below -6 elsewhere.
///   If [`Activate`](crate::Activate) or [`Gated`](crate::Gated) rounds the result to bf16, they err by at most
///   2^-20 |x| more.
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
    /// x Phi(x), with the normal distribution Phi: the exact GELU, defined by erf.
    GeluErf,
    /// Tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x / (1 + e^-x), also called swish.
    Silu,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// All activations, for tests and tables.
    pub const ALL: [Self; 6] =
        [Self::Identity, Self::GeluErf, Self::GeluTanh, Self::Relu, Self::Silu, Self::Tanh];

    /// The definition, to f64 accuracy.
    pub fn definition(self, x: f64) -> f64 {
        // x p. At -inf, p is 0 and the product would be NaN; its limit is -0.
        let gate = |p: f64| if x == f64::NEG_INFINITY { -0.0 } else { x * p };
        match self {
            Self::Identity => x,
            Self::GeluErf => gate(0.5 * libm::erfc(-x * core::f64::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                let two_u = (8.0 / core::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                gate(1.0 / (1.0 + (-two_u).exp()))
            }
            Self::Relu if x <= 0.0 => 0.0,
            Self::Relu => x,
            Self::Silu => gate(1.0 / (1.0 + (-x).exp())),
            Self::Tanh => x.tanh(),
        }
    }

    /// Applies the function to each lane.
    ///
    /// The `match` is on a loop invariant: the branch is predicted, or the compiler hoists it.
    #[inline(always)]
    pub fn apply<I: Isa>(self, isa: I, x: I::V) -> I::V {
        let c = |v: f32| I::V::splat(isa, v);
        match self {
            Self::Identity => x,
            Self::GeluErf => gate::NORMAL.apply(isa, x),
            Self::GeluTanh => gate::LOGISTIC.apply(isa, x),
            // `max` returns its argument if either is NaN.
            Self::Relu => c(0.0).max(x),
            Self::Silu => {
                // -inf over infinity would be NaN.
                let x = c(-f32::MAX).max(x);
                x / (c(1.0) + math::exp(isa, -x))
            }
            Self::Tanh => math::tanh(isa, x),
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
}

/// Runs `$body` with `$f` a constant, so that the choice of function is outside of the loops.
macro_rules! for_activation {
    ($activation:expr, $f:ident => $body:expr) => {
        $crate::activation::for_activation!(@arms $activation, $f => $body, Identity GeluErf GeluTanh Relu Silu Tanh)
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
                let mut y = [0.0; V::LANES];
                activation.apply(Portable, V::splat(Portable, x)).store(&mut y);
                let expected = activation.definition(f64::from(x));
                assert!(
                    (f64::from(y[0]) - expected).abs() < 1e-5,
                    "{activation:?}({x}) = {}, expected {expected}",
                    y[0]
                );
            }
        }
    }
}

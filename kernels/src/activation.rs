//! Activation functions, lane by lane.
//!
//! ```text
//! GELU (erf)   x Phi(x) = x/2 erfc(-x / sqrt 2)
//! GELU (tanh)  x/2 (1 + tanh u) = x / (1 + e^-2u),  u = sqrt(2/pi) (x + 0.044715 x^3)
//! SiLU         x / (1 + e^-x)
//! ```
//! Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415.

mod gate;

use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::math;

/// A function applied to every element. NaN stays NaN; at -inf a function takes its limit.
///
/// # Numerics
/// Identity and ReLU are exact, tanh is [`math::tanh`] and within 1 ULP, SiLU within 4 ULP down to -88.7,
/// where it becomes 0. Both forms of GELU are within 2 ULP plus 2^-27; of x below -7.625 with AVX-512,
/// below -6 elsewhere, they are 0. Where the result is rounded to bf16 by [`Activate`](crate::Activate) and
/// [`Gated`](crate::Gated), they are off by at most 2^-20 |x| more.
///
/// Worst errors over all 2^32 arguments, in ULP: of SiLU 2.39 beyond 2^-121, of GELU as follows, beyond
/// 2^-27 and, by ranges, with nothing taken off. NEON has not been walked; the
/// rows of avx512 are of a kernel that has changed since, and may be slightly off.
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
/// A single rounding of erf(x / sqrt 2), as in 1 + erf, is worth 2^-26 |x|, so that the usual formula has
/// no correct digit left below -5.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x.
    Identity,
    /// x Phi(x), Phi the normal distribution: the exact GELU, written with erf.
    GeluErf,
    /// GELU by its tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x / (1 + e^-x), also called swish.
    Silu,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// All of them, for tests and tables.
    pub const ALL: [Self; 6] =
        [Self::Identity, Self::GeluErf, Self::GeluTanh, Self::Relu, Self::Silu, Self::Tanh];

    /// The definition, to f64 accuracy.
    pub fn definition(self, x: f64) -> f64 {
        // x times a probability p that underflows no later than the product should.
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

    /// The function of each lane.
    ///
    /// The `match` is on a loop invariant: its branch is predicted, or hoisted by the compiler.
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

    /// The function of each lane, as exactly as a result wants it that is rounded to `T`.
    #[inline(always)]
    pub(crate) fn apply_for<I: Isa, T: Element>(self, isa: I, x: I::V) -> I::V {
        match self {
            Self::GeluErf if T::IS_BF16 => gate::NORMAL.apply_coarse(isa, x),
            Self::GeluTanh if T::IS_BF16 => gate::LOGISTIC.apply_coarse(isa, x),
            _ => self.apply(isa, x),
        }
    }
}

/// Runs `$body` with `$f` a constant: the choice of function is made outside of the loops.
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

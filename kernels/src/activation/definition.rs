//! Definitions of the activations and of their derivatives, in f64.

use super::Activation;
use core::f64::consts::{FRAC_1_SQRT_2, PI};

/// Factor of `QuickGelu`.
pub(super) const QUICK: f64 = 1.702;

/// 1 / (1 + e^-x).
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + e^x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 2u and its derivative, u = sqrt(2/pi) (x + 0.044715 x^3).
fn twice_u(x: f64) -> (f64, f64) {
    let factor = (8.0 / PI).sqrt();
    (factor * (x + 0.044715 * x * x * x), factor * (1.0 + 3.0 * 0.044715 * x * x))
}

impl Activation {
    /// The definition, to f64 accuracy.
    pub fn definition(self, x: f64) -> f64 {
        // x p. At -inf, p is 0 and the product would be NaN; its limit is -0.
        let gate = |p: f64| if x == f64::NEG_INFINITY { -0.0 } else { x * p };
        match self {
            Self::Identity => x,
            Self::Elu if x > 0.0 => x,
            Self::Elu => x.exp_m1(),
            Self::GeluErf => gate(0.5 * libm::erfc(-x * FRAC_1_SQRT_2)),
            Self::GeluTanh => gate(sigmoid(twice_u(x).0)),
            Self::HardSwish => gate((x + 3.0).clamp(0.0, 6.0) / 6.0),
            Self::Mish => gate(softplus(x).tanh()),
            Self::QuickGelu => gate(sigmoid(QUICK * x)),
            Self::Relu if x <= 0.0 => 0.0,
            Self::Relu => x,
            Self::Sigmoid => sigmoid(x),
            Self::Silu => gate(sigmoid(x)),
            Self::Softplus if x.is_nan() => x,
            Self::Softplus => softplus(x),
            Self::Tanh => x.tanh(),
        }
    }

    /// Definition of the derivative, to f64 accuracy.
    pub fn definition_derivative(self, x: f64) -> f64 {
        // s + x d. At infinities d is 0 and the product would be NaN; its limit is 0.
        let gated = |s: f64, d: f64| if x.is_infinite() { s } else { s + x * d };
        // (x s(a x))'
        let swish = |a: f64| {
            let s = sigmoid(a * x);
            gated(s, a * s * (1.0 - s))
        };
        match self {
            Self::Identity => 1.0,
            Self::Elu if x > 0.0 => 1.0,
            Self::Elu => x.exp(),
            Self::GeluErf => {
                let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
                gated(0.5 * libm::erfc(-x * FRAC_1_SQRT_2), density)
            }
            Self::GeluTanh => {
                let (u, du) = twice_u(x);
                let p = sigmoid(u);
                gated(p, p * (1.0 - p) * du)
            }
            Self::HardSwish if x <= -3.0 => 0.0,
            Self::HardSwish if x < 3.0 => x / 3.0 + 0.5,
            Self::Relu if x <= 0.0 => 0.0,
            Self::HardSwish | Self::Relu if x > 0.0 => 1.0,
            Self::HardSwish | Self::Relu => x,
            Self::Mish => {
                let w = softplus(x).tanh();
                gated(w, (1.0 - w * w) * sigmoid(x))
            }
            Self::QuickGelu => swish(QUICK),
            Self::Sigmoid => {
                let e = (-x.abs()).exp();
                e / ((1.0 + e) * (1.0 + e))
            }
            Self::Silu => swish(1.0),
            Self::Softplus => sigmoid(x),
            Self::Tanh => x.cosh().powi(-2),
        }
    }
}

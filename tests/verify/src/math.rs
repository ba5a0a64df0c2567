//! The elementary functions and activations against their definitions, at random arguments or at all 2^32 floats.

use super::tensor::{Random, extent, seed};
use super::{Check, Failure, Worst, bound};
use core::cmp::Reverse;
use proptest::prelude::*;
use proptest::sample::select;
use rayon::prelude::*;
use tilewright_kernels::{Activation, Backend, Function, Map};

/// Claimed accuracy of a function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Claim {
    /// Largest magnitude of an argument that the claim covers.
    pub up_to: f32,
    /// Largest error beyond `absolute`, in units in the last place of the exact result.
    pub ulp: f64,
    /// Absolute error that is always allowed.
    pub absolute: f64,
}

impl Claim {
    /// The claim for `function`.
    pub fn of(function: Function) -> Self {
        let all = f32::INFINITY;
        match function {
            Function::Exp | Function::Log | Function::Erf | Function::Tanh => {
                Self { up_to: all, ulp: 1.0, absolute: 0.0 }
            }
            // Results below the normal range are flushed to zero.
            Function::ExpFast => Self { up_to: 88.0, ulp: 6.0, absolute: f64::from(f32::MIN_POSITIVE) },
            // 52 ULP are 3.1e-6 of the smallest number with a given exponent.
            Function::Exp2Coarse => Self { up_to: 0.5, ulp: 52.0, absolute: f64::from(f32::MIN_POSITIVE) },
            Function::Activation(activation) => Self::of_activation(activation),
            Function::Derivative(activation) => Self::of_derivative(activation),
        }
    }

    fn of_activation(activation: Activation) -> Self {
        let (ulp, absolute) = match activation {
            Activation::Identity | Activation::Relu => (0.0, 0.0),
            Activation::Elu => (2.0, 0.0),
            // Below -6, where |x| Phi(x) = 5.9e-9, the result may be 0.
            Activation::GeluErf | Activation::GeluTanh => (2.0, 2.0f64.powi(-27)),
            // x + 3 is exact near -3, where it is small.
            Activation::HardSwish => (3.0, 0.0),
            // Below -87.3, |x| multiplies the error of a denormal e^x.
            Activation::Mish => (4.0, 2.0f64.powi(-142)),
            Activation::Sigmoid | Activation::Softplus => (4.0, 0.0),
            // 1.702 x is rounded before the exponential.
            Activation::QuickGelu => (4.0, 2.0f64.powi(-25)),
            // Below -88.7, where e^-x overflows, the result is 0.
            Activation::Silu => (4.0, 2.0f64.powi(-121)),
            Activation::Tanh => (1.0, 0.0),
        };
        Self { up_to: f32::INFINITY, ulp, absolute }
    }

    fn of_derivative(activation: Activation) -> Self {
        let (ulp, absolute) = match activation {
            Activation::Identity | Activation::Relu => (0.0, 0.0),
            Activation::Elu => (1.0, 0.0),
            Activation::Softplus => (4.0, 0.0),
            Activation::Sigmoid | Activation::Tanh => (5.0, 0.0),
            // Derivatives that cross 0.
            // Below -6, where it is -3.7e-8, the derivative of GELU may be 0.
            Activation::GeluErf | Activation::GeluTanh | Activation::HardSwish | Activation::Silu => {
                (1.0, 2.0f64.powi(-24))
            }
            Activation::Mish => (2.0, 2.0f64.powi(-24)),
            Activation::QuickGelu => (1.0, 2.0f64.powi(-23)),
        };
        Self { up_to: f32::INFINITY, ulp, absolute }
    }

    /// Allowed error of a finite result.
    pub fn error(self, exact: f64) -> f64 {
        self.ulp * bound::spacing(exact) + self.absolute
    }

    /// Error of `found` in ULP, less the allowed absolute error. Infinite if a NaN or an infinity is missing or
    /// misplaced.
    fn ulps(self, found: f32, exact: f64) -> f64 {
        if exact.is_nan() || found.is_nan() || exact.is_infinite() {
            let same = f64::from(found) == exact || (exact.is_nan() && found.is_nan());
            return if same { 0.0 } else { f64::INFINITY };
        }
        // An infinity in place of a finite result counts as 2^128, the first power of two beyond f32.
        let overflow = 2.0f64.powi(128);
        let value = if found.is_infinite() { overflow.copysign(f64::from(found)) } else { f64::from(found) };
        if exact.abs() >= overflow && value.abs() == overflow && (value < 0.0) == (exact < 0.0) {
            return 0.0;
        }
        let beyond = ((value - exact).abs() - self.absolute).max(0.0);
        beyond / bound::spacing(exact)
    }
}

/// The largest error of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extreme {
    /// Error in units of the last place, beyond the absolute error of the [`Claim`].
    pub ulp: f64,
    /// Argument of the error.
    pub x: f32,
}

impl Extreme {
    /// Returns the larger error. Of equal errors, it returns the one whose argument has the smaller bits, so that the
    /// result does not depend on threads.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let key = |e: &Self| (e.ulp, Reverse(e.x.to_bits()));
        if key(&other) > key(&self) { other } else { self }
    }
}

/// Number of arguments in a task, small enough for the caches and for a smooth progress bar.
const CHUNK: u64 = 1 << 12;

/// Largest error of `function` on each of `backends` over every `stride`-th of the 2^32 floats, and over all floats
/// next to a power of two, where formulas change. Runs on the threads of the current pool. Calls `progress` with the
/// number of finished arguments, out of [`arguments`].
///
/// # Panics
/// If `stride` is 0.
pub fn walk(
    function: Function,
    backends: &[Backend],
    stride: u32,
    progress: impl Fn(u64) + Sync,
) -> Vec<Extreme> {
    let strided = arguments(stride);
    let none = || vec![Extreme::default(); backends.len()];
    let near_powers = if stride == 1 { none() } else { edges(function, backends) };
    let chunks = (0..strided.div_ceil(CHUNK)).into_par_iter().map(|chunk| {
        let numbers = chunk * CHUNK..((chunk + 1) * CHUNK).min(strided);
        let count = numbers.end - numbers.start;
        let worst = worst_of(function, backends, numbers.map(|i| (i * u64::from(stride)) as u32));
        progress(count);
        worst
    });
    let max = |a: Vec<Extreme>, b: Vec<Extreme>| a.into_iter().zip(b).map(|(a, b)| a.max(b)).collect();
    max(chunks.reduce(none, max), near_powers)
}

/// Number of arguments that [`walk`] takes at this stride, without the floats next to powers of two.
pub fn arguments(stride: u32) -> u64 {
    (1u64 << 32).div_ceil(u64::from(stride))
}

/// The largest error on each backend next to powers of two, zeros, infinities and NaNs.
fn edges(function: Function, backends: &[Backend]) -> Vec<Extreme> {
    let near = |power: u32| (0..128u32).map(move |i| (power << 23).wrapping_add(i).wrapping_sub(64));
    worst_of(function, backends, (0..512u32).flat_map(near))
}

/// The largest error on each backend at the floats with these bits. The definition takes most of the time, so it is
/// computed once for all backends.
fn worst_of(function: Function, backends: &[Backend], bits: impl Iterator<Item = u32>) -> Vec<Extreme> {
    let claim = Claim::of(function);
    let x: Vec<f32> = bits.map(f32::from_bits).filter(|x| x.is_nan() || *x <= claim.up_to).collect();
    let exact: Vec<f64> = x.iter().map(|&x| function.definition(f64::from(x))).collect();
    let mut out = vec![0.0; x.len()];
    let on = |&backend: &Backend| {
        backend.run(Map { function, x: &x, out: &mut out }).expect("x and out have one length");
        let errors = x.iter().zip(&out).zip(&exact);
        errors
            .map(|((&x, &found), &exact)| Extreme { ulp: claim.ulps(found, exact), x })
            .fold(Extreme::default(), Extreme::max)
    };
    backends.iter().map(on).collect()
}

/// Functions at random arguments: within their [`Claim`]s, and with identical bits at every place in a vector.
pub struct Math;

/// Arguments of one call.
#[derive(Clone, Debug)]
pub struct Params {
    function: Function,
    n: usize,
    /// Number of leading elements that the second call omits.
    skip: usize,
    seed: u64,
}

impl Check for Math {
    const KERNEL: &'static str = "math";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        (select(&Function::ALL[..]), extent(300), 0..20usize, seed())
            .prop_map(|(function, n, skip, seed)| Params { function, n, skip, seed })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let claim = Claim::of(p.function);
        let mut random = Random::new(p.seed);
        let x: Vec<f32> = (0..p.n)
            .map(|i| match i % 3 {
                0 => random.unit(),
                1 => 20.0 * random.unit(),
                _ => f32::from_bits(random.bits() as u32),
            })
            .map(|x| if x > claim.up_to { -x } else { x })
            .collect();
        let run = |x: &[f32]| -> Result<Vec<f32>, Failure> {
            let mut out = vec![0.0; x.len()];
            backend.run(Map { function: p.function, x, out: &mut out })?;
            Ok(out)
        };
        let out = run(&x)?;
        let mut worst = Worst::default();
        for (&x, &found) in x.iter().zip(&out) {
            let exact = p.function.definition(f64::from(x));
            let ulp = claim.ulps(found, exact);
            if ulp > claim.ulp {
                return Err(Failure::new(format!(
                    "{:?}({x:e}): found {found:e}, expected {exact:e}: {ulp:.2} ULP off, {} allowed",
                    p.function, claim.ulp
                )));
            }
            worst = worst.max(Worst { share: ulp / claim.ulp.max(f64::MIN_POSITIVE), ulp: Some(ulp) });
        }
        let skip = p.skip.min(p.n);
        bound::identical(&run(&x[skip..])?, &out[skip..])?;
        Ok(worst)
    }
}

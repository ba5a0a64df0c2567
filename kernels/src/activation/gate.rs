//! x g(x) for a gate g with g(-x) = 1 - g(x), and its derivative, by table lookup: both forms of GELU.
//!
//! ```text
//! x g(x)    = max(x, 0) - |x| g(-|x|)
//! (x g(x))' = 1 - s(|x|) for x >= 0, s(|x|) for x < 0,  with the slope s(t) = (t g(-t))'
//!
//! |x|   0     1 step    2 steps         (N - 1) steps
//!       |--|-----|-----|-----|--  ...  --|-----|-----|
//!     i = 0      i = 1       i = 2             i = N - 1
//!
//! g(-|x|) ~ c0 + d (c1 + d (c2 + ..)),  d = distance from the nearest whole step i, in steps,
//!                                       c = column i of a table; 0 behind the last column
//! ```
//! Only the small side of the gate is approximated. Nothing cancels on either side of 0, so the relative error of the
//! result is that of the polynomial. Tables of the slope s take the place of those of g. s crosses 0 near 0.75, so its
//! error is absolute.
//!
//! A permute instruction looks up one coefficient for all lanes. All lookups together cost less than an exponential and
//! a division: P. T. P. Tang, "Table lookup algorithms for elementary functions and their error analysis", ARITH 1991.
//! The compiler computes the coefficients of the two gates below by interpolation at Chebyshev points (N. Trefethen,
//! *Approximation Theory and Approximation Practice*, chapter 2).

use crate::isa::{Isa, Vector};

/// Phi(-t) of the normal distribution: the gate of the exact GELU.
pub(super) static NORMAL: Gate = Gate::new(GateFunction::Normal);

/// 1 / (1 + e^2u) with u = sqrt(2/pi) (t + 0.044715 t^3): the gate of GELU's tanh approximation.
pub(super) static LOGISTIC: Gate = Gate::new(GateFunction::Logistic);

/// Tables of one gate, for the two sizes of [`Vector::TABLE`].
///
/// Steps and degrees keep the interpolation error below a rounding of f32 up to |x| = 3. Further out the gate falls
/// ever more steeply: the relative error grows, the absolute error does not.
///
/// Coarse tables, for results that are rounded to bf16, err by at most 2^-20. With steps of h and D coefficients,
/// interpolation at Chebyshev points errs by |g^(D)| (h/4)^D / (D! / 2). For either gate, |g^(4)| is at most 0.56 and
/// |g^(6)| at most 2.41.
///
/// The slope bends more: its narrow table has one more coefficient.
pub(super) struct Gate {
    wide: GateTable<32, 6>,
    wide_coarse: GateTable<32, 4>,
    narrow: GateTable<8, 8>,
    narrow_coarse: GateTable<8, 6>,
    wide_slope: GateTable<32, 6>,
    narrow_slope: GateTable<8, 9>,
}

impl Gate {
    const fn new(shape: GateFunction) -> Self {
        Self {
            wide: GateTable::wide(shape, Tabulated::Gate),
            wide_coarse: GateTable::wide(shape, Tabulated::Gate),
            narrow: GateTable::new(shape, Tabulated::Gate, 1.25, 1.0),
            narrow_coarse: GateTable::new(shape, Tabulated::Gate, 1.25, 1.0),
            wide_slope: GateTable::wide(shape, Tabulated::Slope),
            narrow_slope: GateTable::new(shape, Tabulated::Slope, 1.25, 1.0),
        }
    }

    /// x g(x).
    #[inline(always)]
    pub(super) fn apply<I: Isa>(&self, isa: I, x: I::V) -> I::V {
        if I::V::TABLE == 32 { self.wide.apply_wide(isa, x) } else { self.narrow.apply_narrow(isa, x) }
    }

    /// x g(x), with an error of at most 2^-20 |x| and a few roundings.
    #[inline(always)]
    pub(super) fn apply_coarse<I: Isa>(&self, isa: I, x: I::V) -> I::V {
        if I::V::TABLE == 32 {
            self.wide_coarse.apply_wide(isa, x)
        } else {
            self.narrow_coarse.apply_narrow(isa, x)
        }
    }

    /// Derivative of x g(x).
    #[inline(always)]
    pub(super) fn derivative<I: Isa>(&self, isa: I, x: I::V) -> I::V {
        let c = |v: f32| I::V::splat(isa, v);
        let negative_slope = if I::V::TABLE == 32 {
            self.wide_slope.at_wide(isa, x)
        } else {
            self.narrow_slope.at_narrow(isa, x)
        };
        // NaN compares as below 0, and stays NaN.
        (c(1.0) + negative_slope).select(c(0.0).le(x), -negative_slope)
    }
}

/// Polynomials of `D` coefficients around `N` whole steps.
struct GateTable<const N: usize, const D: usize> {
    steps_per_unit: f32,
    /// `coefficients[k][i]` is the coefficient of d^k around step i, of -g or -s: both are subtracted where x > 0.
    coefficients: [[f32; N]; D],
}

/// Adding a float of moderate size to this constant rounds it to an integer, in the low bits of the sum.
const INTEGER: f32 = 1.5 * (1 << 23) as f32;

impl<const D: usize> GateTable<32, D> {
    /// A table with 4 steps per unit, for which one instruction computes d, in units of 1. The last column is zeros.
    const fn wide(shape: GateFunction, tabulated: Tabulated) -> Self {
        let mut table = Self::new(shape, tabulated, 4.0, 4.0);
        let mut k = 0;
        while k < D {
            table.coefficients[k][31] = 0.0;
            k += 1;
        }
        table
    }

    #[inline(always)]
    fn apply_wide<I: Isa>(&self, isa: I, x: I::V) -> I::V {
        let c = |v: f32| I::V::splat(isa, v);
        // Arguments behind the last step, and NaN, become the last step. max(x, 0) brings NaN back.
        let t = x.abs_up_to(c(31.0 / 4.0));
        let i = t.mul_add(c(4.0), c(INTEGER));
        self.gate(isa, x, t, i, t.residue::<2>(isa))
    }

    /// The interpolated function at |x|, negated. NaN stays NaN.
    #[inline(always)]
    fn at_wide<I: Isa>(&self, isa: I, x: I::V) -> I::V {
        let c = |v: f32| I::V::splat(isa, v);
        let t = c(31.0 / 4.0).min(x.abs());
        self.interpolate(isa, t.mul_add(c(4.0), c(INTEGER)), t.residue::<2>(isa))
    }
}

impl<const N: usize, const D: usize> GateTable<N, D> {
    /// First argument behind the table.
    const fn end(&self) -> f32 {
        (N as f32 - 0.5) / self.steps_per_unit
    }

    #[inline(always)]
    fn apply_narrow<I: Isa>(&self, isa: I, x: I::V) -> I::V {
        // Arguments behind the table, and NaN, become 0. max(x, 0) brings NaN back.
        let t = x.abs();
        let t = t.keep(t.lt(I::V::splat(isa, self.end())));
        let (i, d) = self.step(isa, t);
        self.gate(isa, x, t, i, d)
    }

    /// The interpolated function at |x|, negated: 0 behind the table. NaN stays NaN.
    #[inline(always)]
    fn at_narrow<I: Isa>(&self, isa: I, x: I::V) -> I::V {
        let c = |v: f32| I::V::splat(isa, v);
        let t = x.abs();
        let (i, d) = self.step(isa, t);
        c(0.0).select(c(self.end()).le(t), self.interpolate(isa, i, d))
    }

    /// The nearest step in the low bits of a lane, and the distance from it in steps.
    #[inline(always)]
    fn step<I: Isa>(&self, isa: I, t: I::V) -> (I::V, I::V) {
        let c = |v: f32| I::V::splat(isa, v);
        let steps = c(self.steps_per_unit);
        // The sum rounds to whole steps; its low bits are the column.
        let integer = c(INTEGER);
        let i = t.mul_add(steps, integer);
        // Without fused multiply-adds, rounding the product would cost up to 3 ULP. With the 1.25 steps per unit of
        // the narrow table, t/4 is exact, and t - i nearly so.
        let d = if I::V::FUSED {
            t.mul_add(steps, integer - i)
        } else {
            t.mul_add(steps - c(1.0), t + (integer - i))
        };
        (i, d)
    }

    /// max(x, 0) - t g(-t), with t at d from step i.
    #[inline(always)]
    fn gate<I: Isa>(&self, isa: I, x: I::V, t: I::V, i: I::V, d: I::V) -> I::V {
        t.mul_add(self.interpolate(isa, i, d), I::V::splat(isa, 0.0).max(x))
    }

    /// The interpolated function at d from step i, negated.
    #[inline(always)]
    fn interpolate<I: Isa>(&self, isa: I, i: I::V, d: I::V) -> I::V {
        let mut p = i.lookup(isa, &self.coefficients[D - 1]);
        for k in (0..D - 1).rev() {
            p = p.mul_add(d, i.lookup(isa, &self.coefficients[k]));
        }
        p
    }

    /// Interpolates the gate or the slope in each step. A unit of d is `steps_per_d` steps.
    const fn new(shape: GateFunction, tabulated: Tabulated, steps_per_unit: f64, steps_per_d: f64) -> Self {
        let mut coefficients = [[0.0; N]; D];
        let mut i = 0;
        while i < N {
            // Newton's divided differences over d = cos(pi (j + 1/2) / D) / 2.
            let (mut node, mut p) = ([0.0; D], [0.0; D]);
            let mut j = 0;
            while j < D {
                node[j] = cos(core::f64::consts::PI * (j as f64 + 0.5) / D as f64) / 2.0;
                let t = (i as f64 + node[j]) / steps_per_unit;
                p[j] = match tabulated {
                    Tabulated::Gate => shape.gate(t),
                    Tabulated::Slope => shape.slope(t),
                };
                j += 1;
            }
            let mut order = 1;
            while order < D {
                let mut j = D - 1;
                while j >= order {
                    p[j] = (p[j] - p[j - 1]) / (node[j] - node[j - order]);
                    j -= 1;
                }
                order += 1;
            }
            // From the Newton basis to powers of d: Horner's scheme, from inside out.
            let mut j = D - 1;
            while j > 0 {
                j -= 1;
                let mut k = j;
                while k < D - 1 {
                    p[k] -= node[j] * p[k + 1];
                    k += 1;
                }
            }
            let (mut k, mut scale) = (0, 1.0);
            while k < D {
                coefficients[k][i] = (-p[k] * scale) as f32;
                scale *= steps_per_d;
                k += 1;
            }
            i += 1;
        }
        Self { steps_per_unit: steps_per_unit as f32, coefficients }
    }
}

/// Function of a gate that a table interpolates.
#[derive(Clone, Copy)]
enum Tabulated {
    /// g(-t).
    Gate,
    /// (t g(-t))'.
    Slope,
}

/// Gate whose functions a table interpolates, computed to a relative error of about 1e-12.
#[derive(Clone, Copy)]
enum GateFunction {
    Normal,
    Logistic,
}

/// sqrt(2/pi) = 2/sqrt(pi) / sqrt(2): std has no constant for it.
const SQRT_2_OVER_PI: f64 = core::f64::consts::FRAC_2_SQRT_PI / core::f64::consts::SQRT_2;

/// Density of the normal distribution.
const fn normal_density(t: f64) -> f64 {
    0.5 * SQRT_2_OVER_PI * exp(-0.5 * t * t)
}

impl GateFunction {
    /// (t g(-t))' = g(-t) - t g'(-t), where g' is even.
    const fn slope(self, t: f64) -> f64 {
        let gate = self.gate(t);
        let density = match self {
            Self::Logistic => 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * t * t) * gate * (1.0 - gate),
            Self::Normal => normal_density(t),
        };
        gate - t * density
    }

    /// g(-t).
    const fn gate(self, t: f64) -> f64 {
        match self {
            Self::Logistic => 1.0 / (1.0 + exp(2.0 * SQRT_2_OVER_PI * (t + 0.044715 * t * t * t))),
            Self::Normal => {
                let density = normal_density(t);
                if t < 2.0 {
                    // 1/2 - density (t + t^3/3 + t^5/15 + ..)
                    let (mut term, mut sum, mut k) = (t, t, 3.0);
                    while k < 80.0 {
                        term *= t * t / k;
                        sum += term;
                        k += 2.0;
                    }
                    0.5 - density * sum
                } else {
                    // density / (t + 1/(t + 2/(t + 3/(t + ..))))
                    let (mut tail, mut k) = (t, 80.0);
                    while k > 0.0 {
                        tail = t + k / tail;
                        k -= 1.0;
                    }
                    density / tail
                }
            }
        }
    }
}

/// e^x: the Taylor series at x/1024, squared ten times.
const fn exp(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (1.0, 1.0, 1.0);
    while k < 12.0 {
        term *= x / 1024.0 / k;
        sum += term;
        k += 1.0;
    }
    let mut squarings = 0;
    while squarings < 10 {
        sum *= sum;
        squarings += 1;
    }
    sum
}

/// cos x by its Taylor series, for x in [0, pi].
const fn cos(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (1.0, 1.0, 1.0);
    while k < 40.0 {
        term *= -x * x / (k * (k + 1.0));
        sum += term;
        k += 2.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::isa::portable::Portable;

    /// Over every bf16, the only arguments of coarse tables, on the portable instruction set and on AVX-512.
    #[test]
    fn coarse_gates_err_by_less_than_they_say() {
        fn check<I: Isa>(isa: I) {
            for (gate, activation) in [(&NORMAL, Activation::GeluErf), (&LOGISTIC, Activation::GeluTanh)] {
                for bits in 0..=u16::MAX {
                    let x = f32::from_bits(u32::from(bits) << 16);
                    let mut y = [0.0; 16];
                    isa.run(|| gate.apply_coarse(isa, I::V::splat(isa, x)).store(&mut y));
                    let exact = activation.definition(f64::from(x));
                    if !exact.is_finite() {
                        assert!(f64::from(y[0]) == exact || exact.is_nan() && y[0].is_nan(), "{x:e}");
                        continue;
                    }
                    let error = (f64::from(y[0]) - exact).abs();
                    let x = f64::from(x.abs());
                    assert!(
                        error <= x * (2f64.powi(-20) + 6.0 * 2f64.powi(-24)),
                        "{activation:?}({x:e}): {error:e}"
                    );
                }
            }
        }
        check(Portable);
        #[cfg(target_arch = "x86_64")]
        if let Some(isa) = crate::isa::avx512::Avx512::detect() {
            check(isa);
        }
    }

    #[test]
    fn gates_are_what_libm_says() {
        for i in -10..800 {
            let t = f64::from(i) / 100.0;
            let normal = 0.5 * libm::erfc(t * core::f64::consts::FRAC_1_SQRT_2);
            assert!((GateFunction::Normal.gate(t) / normal - 1.0).abs() < 1e-11, "normal at {t}");
            let u = (2.0 / core::f64::consts::PI).sqrt() * (t + 0.044715 * t.powi(3));
            let logistic = 1.0 / (1.0 + (2.0 * u).exp());
            assert!((GateFunction::Logistic.gate(t) / logistic - 1.0).abs() < 1e-11, "logistic at {t}");
        }
    }
}

//! Error bounds, and the comparison at the end of every check.
//!
//! Each rounding multiplies a result by 1 + d, |d| <= u. k roundings in a row multiply it by 1 + t,
//! |t| <= gamma_k = k u / (1 - k u) (N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., lemma 3.1).
//! A sum of n products, in any order and fused or not, therefore errs by at most gamma_n sum|a||b| (ibid., section
//! 3.1). Below the normal range, a rounding adds at most [`ETA`] instead.

use super::Failure;

/// Unit roundoff of f32: a rounding to nearest errs by at most `U` relatively.
pub const U: f64 = 0.5 * f32::EPSILON as f64;

/// Largest error of a denormal that becomes 0.
pub const FLUSHED: f64 = f32::MIN_POSITIVE as f64;

/// Largest error of a rounding to a denormal: half of the smallest denormal, 2^-150.
pub const ETA: f64 = 0.5 * 1.401_298_464_324_817e-45;

/// Bound of the relative error of `k` roundings.
pub fn gamma(k: usize) -> f64 {
    let ku = k as f64 * U;
    ku / (1.0 - ku)
}

/// Distance of `found` from `exact` in units of the last place of f32 at `exact`.
pub fn ulps(found: f32, exact: f64) -> f64 {
    let error = (f64::from(found) - exact).abs();
    if error == 0.0 {
        return 0.0;
    }
    error / spacing(exact)
}

/// The unit of the last place of f32 at `exact`: 2^(e-23) for 2^e <= |exact| < 2^(e+1). Denormals share
/// the spacing of the smallest normal numbers.
pub fn spacing(exact: f64) -> f64 {
    let power = f64::from_bits(exact.abs().max(f64::from(f32::MIN_POSITIVE)).to_bits() & (0x7ff << 52));
    power * f64::from(f32::EPSILON)
}

/// The largest errors among the compared elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Worst {
    /// Largest error as a share of its bound; values up to 1 pass.
    pub share: f64,
    /// Largest error in units of the last place, for kernels with a bound in these units. In other kernels terms may
    /// cancel: an error of many ULP of a tiny result can be within its bound.
    pub ulp: Option<f64>,
}

impl Worst {
    /// The larger of each figure.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let ulp = match (self.ulp, other.ulp) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        Self { share: self.share.max(other.share), ulp }
    }
}

/// Checks that every element of `found` is within `bound(i)` of `expected`. The reference rounded `expected` from f64;
/// `compare` adds this rounding to the bound.
///
/// NaN must meet NaN, and an infinity the same infinity. An infinite bound makes no claim: it is for elements whose
/// finite result may overflow in an intermediate step.
///
/// # Errors
/// A [`Failure`] that names the worst element.
///
/// # Panics
/// If the lengths differ.
pub fn compare(found: &[f32], expected: &[f32], bound: impl Fn(usize) -> f64) -> Result<Worst, Failure> {
    assert_eq!(found.len(), expected.len(), "results of different sizes");
    let mut worst = Worst::default();
    let mut failure = None;
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let allowed = bound(i) + U * f64::from(e.abs()) + ETA;
        let same = f == e || (f.is_nan() && e.is_nan());
        let no_claim = e.is_finite() && allowed == f64::INFINITY;
        let (share, ulp) = if same || no_claim {
            (0.0, 0.0)
        } else if f.is_finite() && e.is_finite() && !allowed.is_nan() {
            ((f64::from(f) - f64::from(e)).abs() / allowed, ulps(f, f64::from(e)))
        } else {
            (f64::INFINITY, f64::INFINITY)
        };
        if share > 1.0 && share > worst.share {
            failure = Some(Failure::new(format!(
                "element {i}: found {f:e}, expected {e:e} within {allowed:.2e}: {share:.2} of the bound, {ulp:.1} ULP"
            )));
        }
        worst = worst.max(Worst { share, ulp: None });
    }
    failure.map_or(Ok(worst), Err)
}

/// Checks that both slices hold identical bits.
///
/// # Errors
/// A [`Failure`] that names the first differing element.
///
/// # Panics
/// If the lengths differ.
pub fn identical(found: &[f32], expected: &[f32]) -> Result<(), Failure> {
    assert_eq!(found.len(), expected.len(), "results of different sizes");
    match found.iter().zip(expected).position(|(f, e)| f.to_bits() != e.to_bits()) {
        None => Ok(()),
        Some(i) => Err(Failure::new(format!(
            "element {i}: found {:e} ({:#010x}), expected exactly {:e} ({:#010x})",
            found[i],
            found[i].to_bits(),
            expected[i],
            expected[i].to_bits()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulps_count_spacings() {
        assert_eq!(ulps(1.0 + f32::EPSILON, 1.0), 1.0);
        assert_eq!(ulps(1.0 - f32::EPSILON / 2.0, 1.0), 0.5);
        assert_eq!(ulps(f32::from_bits(3), f64::from(f32::from_bits(1))), 2.0);
        assert_eq!(ulps(0.0, 0.0), 0.0);
    }

    #[test]
    fn comparison_keeps_its_rules() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let next = 1.0 + f32::EPSILON;
        assert!(compare(&[nan, inf, -0.0], &[nan, inf, 0.0], |_| 0.0).is_ok());
        assert!(compare(&[0.0], &[nan], |_| f64::INFINITY).is_err());
        assert!(compare(&[-inf], &[inf], |_| f64::INFINITY).is_err());
        assert!(compare(&[inf], &[1.0], |_| 1.0).is_err());
        assert!(compare(&[inf], &[1.0], |_| f64::INFINITY).is_ok());
        assert!(compare(&[next], &[1.0], |_| 0.0).is_err());
        assert_eq!(compare(&[next], &[1.0], |_| 3.0 * U), Ok(Worst { share: 0.5, ulp: None }));
        assert!(identical(&[0.0], &[-0.0]).is_err());
        assert!(identical(&[nan], &[nan]).is_ok());
    }
}

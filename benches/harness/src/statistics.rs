//! Statistics of a noisy machine's samples: fastest, median, confidence intervals, tests.

use tilewright_kernels::random::Random;

/// Resamples of a bootstrap: the ends of a 95% interval then vary by about a percent of its width.
const RESAMPLES: usize = 2000;

/// The quantile of the samples at `share`, interpolated between neighbours; NaN without samples.
///
/// ```
/// use tilewright_bench::statistics::quantile;
/// assert_eq!(quantile(&[3., 1., 2.], 0.25), 1.5);
/// ```
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[at as usize], sorted[(at as usize + 1).min(last)]);
    low + (high - low) * at.fract()
}

/// The median of the samples; NaN without samples.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The smallest sample, which estimates the time of an undisturbed call; NaN without samples.
///
/// ```
/// use tilewright_bench::statistics::fastest;
/// assert_eq!(fastest(&[3., 1., 2.]), 1.);
/// ```
pub fn fastest(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// 95% percentile bootstrap (Efron, "Bootstrap methods", 1979) of a statistic of resampled `samples`.
/// Equal samples give equal intervals.
fn bootstrap(resamples: impl Fn(&mut Random) -> f64) -> [f64; 2] {
    let mut random = Random::new(0);
    let values: Vec<f64> = (0..RESAMPLES).map(|_| resamples(&mut random)).collect();
    [quantile(&values, 0.025), quantile(&values, 0.975)]
}

fn resample(samples: &[f64], random: &mut Random) -> f64 {
    let drawn: Vec<f64> = samples.iter().map(|_| samples[random.below(samples.len())]).collect();
    median(&drawn)
}

/// The 95% confidence interval of the samples' median.
pub fn median_interval(samples: &[f64]) -> [f64; 2] {
    if samples.is_empty() {
        return [f64::NAN; 2];
    }
    bootstrap(|random| resample(samples, random))
}

/// The probability that at least the observed number of samples of `a` lie below all of `b`, if both have the same
/// distribution: B. Epstein's test of exceedances ("Tables for the distribution of the number of exceedances",
/// 1954). The test compares `a` with the minimum of `b`, so a few far too large samples hardly weaken it. Returns 1
/// without evidence.
///
/// ```
/// use tilewright_bench::statistics::p_below;
/// let (fast, slow) = ([1.0, 1.1, 1.2, 9.0], [2.0, 2.1, 8.0, 2.2]);
/// assert_eq!(p_below(&fast, &slow), 4. / 8. * 3. / 7. * 2. / 6.);
/// assert_eq!(p_below(&slow, &fast), 1.);
/// ```
pub fn p_below(a: &[f64], b: &[f64]) -> f64 {
    let below = a.iter().filter(|&x| b.iter().all(|y| x < y)).count();
    if b.is_empty() {
        return 1.0;
    }
    (0..below).map(|i| (a.len() - i) as f64 / (a.len() + b.len() - i) as f64).product()
}

/// Probabilities corrected for multiple tests by Holm's method ("A simple sequentially rejective multiple test
/// procedure", 1979): rejecting those below alpha causes any false rejection with a probability of at most alpha.
///
/// ```
/// use tilewright_bench::statistics::holm;
/// assert_eq!(holm(&[0.04, 0.01]), [0.04, 0.02]);
/// ```
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut corrected = vec![1.0; p.len()];
    let mut least = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        least = least.max(p[i] * (p.len() - rank) as f64).min(1.0);
        corrected[i] = least;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` samples around `center` with a few percent of noise and slow outliers, like samples of real machines.
    fn noisy(center: f64, n: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        (0..n)
            .map(|_| {
                let slow = if random.below(10) == 0 { 1.5 } else { 1.0 };
                center * slow * (1.0 + 0.02 * f64::from(random.normal()))
            })
            .collect()
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.25), 2.5);
        assert!(median(&[]).is_nan() && fastest(&[]).is_nan());
        assert_eq!(fastest(&[3.0, 1.0, 2.0]), 1.0);
    }

    #[test]
    fn intervals_hold_what_was_sampled() {
        let covered = |seed: u64| {
            let [low, high] = median_interval(&noisy(1.2, 21, seed));
            assert!(low < high && high - low < 0.2, "{low} {high}");
            // The median of the noise itself: every tenth sample is slow.
            low <= 1.203 && 1.203 <= high
        };
        let hits = (0..100).filter(|&seed| covered(seed)).count();
        assert!(hits >= 85, "95% expected, {hits} of 100 found");
    }

    #[test]
    fn differences_beyond_noise_are_told_from_noise() {
        assert!(p_below(&noisy(1.0, 10, 1), &noisy(1.1, 17, 2)) < 0.002);
        let false_alarms =
            (0..1000).filter(|s| p_below(&noisy(1.0, 10, 2 * s), &noisy(1.0, 17, 2 * s + 1)) < 0.05).count();
        // Three of ten samples below the minimum of seventeen others: 4.1%.
        assert!((20..=65).contains(&false_alarms), "41 expected, {false_alarms} of 1000 found");
        assert_eq!([p_below(&[], &[1.0]), p_below(&[1.0], &[])], [1.0; 2]);
    }

    #[test]
    fn many_rows_are_corrected_for() {
        // The smallest of three is multiplied by 3, the next by 2, the largest by 1; results never decrease.
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}

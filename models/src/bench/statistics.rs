//! What samples of a noisy machine say: the fastest, medians, and how sure they are.

use crate::random::Random;

/// Resamples of a bootstrap: the ends of a 95% interval then vary by about a percent of its width.
const RESAMPLES: usize = 2000;

/// The value below which a share of the samples lies, between neighbours by interpolation; NaN if there
/// are none.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[at as usize], sorted[(at as usize + 1).min(last)]);
    low + (high - low) * at.fract()
}

/// The middle of the samples; NaN if there are none.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The least of the samples: what a call takes where nothing disturbs it; NaN if there are none.
pub fn fastest(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// 95% percentile bootstrap (Efron, "Bootstrap methods", 1979) of a statistic of resampled `samples`.
/// The same samples always give the same interval.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` samples around `center` with some percent of noise, and slow outliers as machines have them.
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
}

//! Metrics of evaluations, as scikit-learn, scipy, seqeval and SQuAD's script compute them.
//!
//! ```text
//! accuracy       share of the examples whose class is right
//! F1 of a class  2 hits / (2 hits + false alarms + misses); macro: mean over classes, micro: of the summed counts
//! Matthews       (hits n - sum_k gold_k found_k) / sqrt((n^2 - sum_k found_k^2) (n^2 - sum_k gold_k^2))
//! Pearson        sum (x - mean x) (y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2)
//! Spearman       Pearson's of the ranks; ties have the mean of their ranks
//! perplexity     e^(mean negative log-likelihood of a token)
//! ```
//!
//! Metrics of nothing are NaN, and so is a correlation with a constant.

mod answers;
mod entities;

pub use answers::{answer_f1, exact_match, normalize_answer};
pub use entities::{EntityScores, entity_scores, is_iob2};

use std::collections::BTreeMap;

/// Share of the examples whose found class is the gold class.
///
/// ```
/// use tilewright::train::metrics::accuracy;
/// assert_eq!(accuracy(&[0, 1, 1, 2], &[0, 1, 2, 2]), 0.75);
/// ```
pub fn accuracy<T: PartialEq>(gold: &[T], found: &[T]) -> f64 {
    hits(gold, found) / gold.len() as f64
}

fn hits<T: PartialEq>(gold: &[T], found: &[T]) -> f64 {
    gold.iter().zip(found).filter(|(gold, found)| gold == found).count() as f64
}

/// Counts of one class.
#[derive(Clone, Copy, Debug, Default)]
struct ClassCounts {
    gold: f64,
    found: f64,
    hits: f64,
}

/// Counts of all classes that `gold` or `found` has.
fn counts(gold: &[usize], found: &[usize]) -> BTreeMap<usize, ClassCounts> {
    let mut counts: BTreeMap<usize, ClassCounts> = BTreeMap::new();
    for (&gold, &found) in gold.iter().zip(found) {
        counts.entry(gold).or_default().gold += 1.0;
        counts.entry(found).or_default().found += 1.0;
        if gold == found {
            counts.entry(gold).or_default().hits += 1.0;
        }
    }
    counts
}

/// Mean F1 of the classes that `gold` or `found` has.
pub fn f1_macro(gold: &[usize], found: &[usize]) -> f64 {
    let counts = counts(gold, found);
    let f1 = |of: &ClassCounts| 2.0 * of.hits / (of.gold + of.found);
    counts.values().map(f1).sum::<f64>() / counts.len() as f64
}

/// F1 of the summed counts of all classes. Every example has one class, so it equals the accuracy.
pub fn f1_micro(gold: &[usize], found: &[usize]) -> f64 {
    accuracy(gold, found)
}

/// Matthews' correlation of classes (Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006); 0 if all examples have one
/// gold class or one found class.
pub fn matthews(gold: &[usize], found: &[usize]) -> f64 {
    if gold.is_empty() {
        return f64::NAN;
    }
    let (n, hits, counts) = (gold.len() as f64, hits(gold, found), counts(gold, found));
    let sum = |term: fn(&ClassCounts) -> f64| counts.values().map(term).sum::<f64>();
    let covariance = hits * n - sum(|of| of.gold * of.found);
    let variances = [n * n - sum(|of| of.found * of.found), n * n - sum(|of| of.gold * of.gold)];
    match variances[0] * variances[1] {
        0.0 => 0.0,
        product => covariance / product.sqrt(),
    }
}

/// Pearson's correlation of `x` and `y`.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    // Rounding of the mean must not make a correlation of a constant.
    if [x, y].iter().any(|values| values.iter().all(|value| *value == values[0])) {
        return f64::NAN;
    }
    let centred = |values: &[f64]| -> Vec<f64> {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect()
    };
    let (x, y) = (centred(x), centred(y));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // The roots are apart, because the product of two sums of squares can overflow.
    (product(&x, &y) / (product(&x, &x).sqrt() * product(&y, &y).sqrt())).clamp(-1.0, 1.0)
}

/// Spearman's correlation of `x` and `y`.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&ranks(x), &ranks(y))
}

/// Rank of each value, from 1 up.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for ties in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = first as f64 + (ties.len() as f64 + 1.0) / 2.0;
        ties.iter().for_each(|&i| ranks[i] = mean);
        first += ties.len();
    }
    ranks
}

/// Perplexity of tokens with this mean negative log-likelihood, in nats.
pub fn perplexity(mean: f64) -> f64 {
    mean.exp()
}

//! Distance between a model's outputs and the outputs of another run of it.
//!
//! ```text
//! error       |found - expected| / largest |expected| of the output
//! top-1       share of rows whose largest logit has the same index
//! cosine      between the mean states of each sequence
//! ```

use crate::batch::Batch;
use crate::output::{Each, Output};
use tilewright_kernels::gemm::Format;

/// Lower bound of the cosine between each sequence's mean states in this type and in f32.
///
/// A trained encoder stays above the bound. Worst cosines of all-MiniLM-L6-v2 over the 200 sentences of
/// `tilewright verify --model`, with the default activation quantization: 1.00000 in f16, 0.99996 in bf16, 0.9997 in
/// q8_0, 0.9966 in int8, 0.936 in q4_1, 0.928 in q4_0. A cosine below the bound means that the checkpoint does not
/// tolerate the type, or that the code has an error.
pub fn least_cosine(dtype: Format) -> f64 {
    match dtype {
        Format::F32 => 0.999_999,
        Format::F16 => 0.999_99,
        Format::Bf16 | Format::Q8_0 => 0.999,
        Format::Int8 => 0.995,
        Format::Q4_0 | Format::Q4_1 => 0.9,
    }
}

/// Errors of one output.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// The output's name.
    pub name: &'static str,
    /// Largest error, relative to the largest expected value.
    pub worst: f64,
    /// Mean error, relative to the largest expected value.
    pub mean: f64,
    /// Share of rows whose largest value has the same index; `None` unless the output is logits.
    pub top_1: Option<f64>,
    /// True if all values were finite.
    pub finite: bool,
}

/// Compares the outputs of two models over many batches.
///
/// ```
/// use tilewright::{Batch, accuracy::OutputComparison, output::{Each, Output}};
/// let mut batch = Batch::default();
/// batch.push(&[7, 8], &[0, 0])?;
/// let logits = |values| Output { name: "logits", each: Each::Token, width: 2, scalar: false, values };
/// let (expected, found) = (logits(vec![1., 2., 4., 3.]), logits(vec![1., 2., 3., 3.5]));
/// let mut seen = OutputComparison::default();
/// seen.add(&batch, &[found], &[expected]);
/// let deviation = seen.deviations().next().unwrap();
/// assert_eq!((deviation.worst, deviation.mean, deviation.top_1), (0.25, 0.375 / 4., Some(0.5)));
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct OutputComparison {
    outputs: Vec<ErrorSums>,
    /// Cosine of each sequence's mean states; empty for models without `last_hidden_state`.
    pub cosines: Vec<f64>,
}

/// Running sums of one output.
#[derive(Clone, Debug, Default)]
struct ErrorSums {
    name: &'static str,
    values: usize,
    largest: f64,
    worst: f64,
    sum: f64,
    rows: usize,
    same_top: usize,
    not_finite: usize,
}

impl OutputComparison {
    /// Adds the outputs of two models for `batch`. Outputs missing in `expected` are ignored.
    pub fn add(&mut self, batch: &Batch, found: &[Output], expected: &[Output]) {
        for expected in expected {
            let Some(found) = found.iter().find(|found| found.name == expected.name) else { continue };
            self.sums(expected.name).add(found, expected);
            if expected.name == "last_hidden_state" && expected.each == Each::Token {
                let means = |output| batch.starts().windows(2).map(move |s| mean(output, s[0]..s[1]));
                self.cosines.extend(means(found).zip(means(expected)).map(|(f, e)| cosine(&f, &e)));
            }
        }
    }

    /// Deviation of each output.
    pub fn deviations(&self) -> impl Iterator<Item = Deviation> {
        self.outputs.iter().map(|sums| Deviation {
            name: sums.name,
            worst: sums.worst / sums.largest,
            mean: sums.sum / sums.values as f64 / sums.largest,
            top_1: sums.name.ends_with("logits").then(|| sums.same_top as f64 / sums.rows as f64),
            finite: sums.not_finite == 0,
        })
    }

    /// Worst and mean cosine; NaN if any cosine is. `None` if no output has states.
    pub fn cosine(&self) -> Option<(f64, f64)> {
        let mean = self.cosines.iter().sum::<f64>() / self.cosines.len() as f64;
        // `f64::min` ignores NaN.
        let worst = self.cosines.iter().copied().reduce(|a, b| if a.is_nan() || a < b { a } else { b })?;
        Some((worst, mean))
    }

    fn sums(&mut self, name: &'static str) -> &mut ErrorSums {
        let at = self.outputs.iter().position(|sums| sums.name == name).unwrap_or(self.outputs.len());
        if at == self.outputs.len() {
            self.outputs.push(ErrorSums { name, ..ErrorSums::default() });
        }
        &mut self.outputs[at]
    }
}

impl ErrorSums {
    fn add(&mut self, found: &Output, expected: &Output) {
        for (&f, &e) in found.values.iter().zip(&expected.values) {
            let error = f64::from(f - e).abs();
            self.largest = self.largest.max(f64::from(e.abs()));
            self.worst = self.worst.max(error);
            self.sum += error;
            self.not_finite += usize::from(!f.is_finite());
        }
        self.values += expected.values.len();
        let width = expected.width.max(1);
        for (f, e) in found.values.chunks_exact(width).zip(expected.values.chunks_exact(width)) {
            self.rows += 1;
            self.same_top += usize::from(top(f) == top(e));
        }
    }
}

/// Index of the largest value; the first of equal ones.
fn top(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Mean of the rows in a range.
fn mean(output: &Output, rows: std::ops::Range<usize>) -> Vec<f64> {
    let of_column = |column: usize| {
        let values = rows.clone().map(|row| f64::from(output.values[row * output.width + column]));
        values.sum::<f64>() / rows.len() as f64
    };
    (0..output.width).map(of_column).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_seen() {
        let mut batch = Batch::default();
        batch.push(&[1], &[0]).unwrap();
        batch.push(&[2], &[0]).unwrap();
        let states = |values: [f32; 4]| Output::new("last_hidden_state", Each::Token, 2, values.to_vec());
        let mut seen = OutputComparison::default();
        seen.add(&batch, &[states([1.0, 2.0, 3.0, f32::NAN])], &[states([1.0, 2.0, 3.0, 4.0])]);
        let (worst, mean) = seen.cosine().unwrap();
        assert!((seen.cosines[0] - 1.0).abs() < 1e-12 && worst.is_nan() && mean.is_nan());
        assert!(!seen.deviations().next().unwrap().finite);
    }
}

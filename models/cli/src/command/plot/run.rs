//! Series of a run, from its log.jsonl and speed.jsonl.

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Values of steps: (step, value), in the order of the file. Values are finite.
pub type Series = Vec<(f64, f64)>;

/// Series of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// Directory, as the user names it.
    pub name: String,
    pub loss: Series,
    pub eval_loss: Series,
    pub learning_rate: Series,
    pub gradient_norm: Series,
    pub tokens_per_second: Series,
    pub share_of_peak: Series,
    /// Largest step.
    pub steps: u64,
    /// Number of skipped steps.
    pub skipped: u64,
}

/// Figures of a run.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    pub run: &'a str,
    pub steps: u64,
    pub skipped: u64,
    /// Smoothed loss at the end.
    pub loss: Option<f64>,
    /// Last loss of held-out text.
    pub eval_loss: Option<f64>,
    /// Smallest loss of held-out text, and its step.
    pub best: Option<(f64, f64)>,
    /// Medians.
    pub tokens_per_second: Option<f64>,
    pub share_of_peak: Option<f64>,
}

impl Run {
    /// Reads the run in `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut run = Self { name: dir.display().to_string(), ..Self::default() };
        let read = |name: &str| lines(&dir.join(name));
        let log = read("log.jsonl")?.with_context(|| {
            format!("{}: expected the directory of a run, found no log.jsonl", dir.display())
        })?;
        for line in log {
            let step = line["step"].as_u64().unwrap_or_default();
            run.steps = run.steps.max(step);
            run.skipped += u64::from(line["skipped"] == true);
            for (name, series) in [
                ("loss", &mut run.loss),
                ("eval_loss", &mut run.eval_loss),
                ("learning_rate", &mut run.learning_rate),
                ("gradient_norm", &mut run.gradient_norm),
            ] {
                push(series, step, &line[name]);
            }
        }
        for line in read("speed.jsonl")?.unwrap_or_default() {
            let step = line["step"].as_u64().unwrap_or_default();
            push(&mut run.tokens_per_second, step, &line["tokens_per_second"]);
            push(&mut run.share_of_peak, step, &line["share_of_peak"]);
        }
        Ok(run)
    }

    /// Figures for the table.
    pub fn summary(&self) -> Summary<'_> {
        let last = |series: &[(f64, f64)]| series.last().map(|point| point.1);
        Summary {
            run: &self.name,
            steps: self.steps,
            skipped: self.skipped,
            loss: last(&smoothed(&self.loss)),
            eval_loss: last(&self.eval_loss),
            best: self.eval_loss.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)),
            tokens_per_second: median(&self.tokens_per_second),
            share_of_peak: median(&self.share_of_peak),
        }
    }
}

fn push(series: &mut Series, step: u64, value: &Value) {
    series.extend(value.as_f64().filter(|value| value.is_finite()).map(|value| (step as f64, value)));
}

/// Objects of a JSON lines file; `None` if it does not exist. A last line that an interruption cut is left out.
fn lines(path: &Path) -> Result<Option<Vec<Value>>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    let mut found = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n')) {
        match serde_json::from_str::<Value>(line) {
            Ok(line) if line["step"].is_u64() => found.push(line),
            Ok(_) => bail!("{}: line {}: expected a step, found none", path.display(), number + 1),
            Err(e) => bail!("{}: line {}: {e}", path.display(), number + 1),
        }
    }
    Ok(Some(found))
}

/// Means of each value and those before it, over a fiftieth of the series.
pub fn smoothed(series: &[(f64, f64)]) -> Series {
    let window = (series.len() / 50).max(1);
    let mean = |(i, point): (usize, &(f64, f64))| {
        let part = &series[(i + 1).saturating_sub(window)..=i];
        (point.0, part.iter().map(|point| point.1).sum::<f64>() / part.len() as f64)
    };
    series.iter().enumerate().map(mean).collect()
}

fn median(series: &[(f64, f64)]) -> Option<f64> {
    quantile(series.iter().map(|point| point.1), 0.5)
}

/// Value at the share `at` of the sorted values.
pub fn quantile(values: impl Iterator<Item = f64>, at: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((at * sorted.len().saturating_sub(1) as f64).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_lines_are_left_out_and_damaged_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Run::read(folder.path())
        };
        let refused = Run::read(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("found no log.jsonl"), "{refused}");
        let run =
            read("{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":null,\"skipped\":true}\n{\"step\":3,")
                .unwrap();
        assert_eq!((run.loss.as_slice(), run.steps, run.skipped), (&[(1.0, 2.5)][..], 2, 1));
        for (text, expected) in [("{\"step\":1}\n{\n", "line 2: EOF"), ("{}\n", "line 1: expected a step")] {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains("log.jsonl") && refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn smoothing_takes_a_fiftieth() {
        let series: Series = (0..100).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let found = smoothed(&series);
        assert_eq!((found.len(), found[0], found[1]), (100, (0.0, 0.0), (1.0, 0.5)));
        assert!(found[1..].iter().all(|point| point.1 == 0.5));
        assert_eq!(quantile([3.0, 1.0, 2.0].into_iter(), 0.5), Some(2.0));
        assert_eq!(quantile(std::iter::empty(), 0.5), None);
    }
}

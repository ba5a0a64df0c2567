//! Baselines: saved runs, and the comparison of a later run with them.
//!
//! The fastest sample of several visits, seconds apart, judges a row. Neighbours on a shared machine compete for
//! caches and memory for seconds or minutes, and make samples slower by half and more. No neighbour makes a sample
//! faster than the code is, and a slower code slows the fastest sample too. Medians show how many visits were
//! disturbed; they decide nothing. A row is *slower* if these three conditions hold, and *faster* if they hold the
//! other way round:
//!
//! 1. Its fastest sample differs by more than the threshold from the fastest tenth of the baseline's samples (a
//!    single lucky sample of the baseline may never recur). The difference must hold in seconds; in seconds times the
//!    multiply-add peak of the probes between the samples, which follows the clock; and in seconds times the
//!    bandwidth at which probes read a working set of the row's size.
//! 2. It stays slower in further visits over more than a minute; see [`confirm`](super::confirm).
//! 3. Epstein's test of exceedances rejects chance at [`ALPHA`], corrected for the number of rows by Holm's method.
//!    The test counts the visits of the baseline that are faster than all visits of this run by more than the
//!    threshold. It counts visits rather than samples, because the samples of one visit share its disturbance. A row
//!    whose visits differ among themselves, such as a row that reads a shared cache, must be slower by more.
//!
//! The comparison misses rows that are slower only now and then: their fastest sample is as fast as before.

use super::record::{Comparison, Level, Limit, Machine, Row, Run, Verdict};
use super::statistics::{fastest, median, p_below, quantile};
use std::path::{Path, PathBuf};
use tilewright::Error;

/// Probability of any false alarm among the rows of a comparison whose machine changed by chance alone.
pub const ALPHA: f64 = 0.01;

/// Quantile of the samples against which the other run's fastest sample is compared.
const USUAL: f64 = 0.1;

/// The file of the baseline `name` in `folder`.
///
/// # Errors
/// If the name has characters other than letters, digits, `.`, `_` and `-`, which every file system accepts.
pub fn path(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("{name:?} is not a baseline name: expected letters, digits, '.', '_' and '-'"));
    }
    Ok(folder.join(format!("{name}.json")))
}

/// Writes `run` atomically: a failure leaves no partial file.
///
/// # Errors
/// [`Error::Io`].
pub fn save(path: &Path, run: &Run) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let json = serde_json::to_vec(run).expect("records are plain data");
    tilewright::whole_file::write(path, &json)
}

/// Reads a saved run.
///
/// # Errors
/// [`Error::Io`], [`Error::File`].
pub fn load(path: &Path) -> Result<Run, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::File { path: path.to_owned(), why: format!("not a baseline: {e}") })
}

/// Differences between two machines that make their figures incomparable; empty if the machines are alike.
/// Compiler, version and revision may differ: a comparison judges their effect.
pub fn differences(then: &Machine, now: &Machine) -> Vec<String> {
    let mut found = Vec::new();
    let mut field = |name, then: String, now: String| {
        if then != now {
            found.push(format!("{name} was {then}, is {now}"));
        }
    };
    field("cpu", then.cpu.clone(), now.cpu.clone());
    field("features", then.features.join(" "), now.features.join(" "));
    field("cores", then.cores.to_string(), now.cores.to_string());
    field("caches", format!("{:?}", then.caches), format!("{:?}", now.caches));
    field("target", then.target.clone(), now.target.clone());
    found
}

/// Compares the rows that both runs have, in the order of `now`. `threshold` is a fraction.
///
/// [`Doubts`](super::confirm::Doubts) confirms the differences, and corrects their probabilities for the number of
/// rows.
pub fn compare(then: &Run, now: &Run, threshold: f64) -> Vec<Comparison> {
    now.rows
        .iter()
        .filter_map(|row| Some((then.rows.iter().find(|old| old.name() == row.name())?, row)))
        .filter(|(old, row)| !old.samples_s.is_empty() && !row.samples_s.is_empty())
        .map(|(old, row)| compare_row(old, row, threshold))
        .collect()
}

/// Compares one row with its baseline. Both rows have samples.
pub(super) fn compare_row(old: &Row, new: &Row, threshold: f64) -> Comparison {
    let (then_s, now_s) = (fastest(&old.samples_s), fastest(&new.samples_s));
    let ratio = then_s / now_s;
    let [_, most] = views(usual(&old.samples_s) / now_s, old, new);
    let [least, _] = views(then_s / usual(&new.samples_s), old, new);
    let verdict = match () {
        () if most < 1.0 / (1.0 + threshold) => Verdict::Slower,
        () if least > 1.0 + threshold => Verdict::Faster,
        () => Verdict::Same,
    };
    let median_ratio = median(&old.samples_s) / median(&new.samples_s);
    let by_more = |visits: &[f64]| visits.iter().map(|s| s * (1.0 + threshold)).collect::<Vec<_>>();
    let p = match ratio < 1.0 {
        true => p_below(&by_more(&old.visits_s), &new.visits_s),
        false => p_below(&by_more(&new.visits_s), &old.visits_s),
    };
    Comparison { name: new.name(), then_s, now_s, ratio, median_ratio, p, verdict }
}

/// A time that a row reaches repeatedly: the quantile [`USUAL`].
fn usual(samples: &[f64]) -> f64 {
    quantile(samples, USUAL)
}

/// Minimum and maximum of three ratios: in seconds, in runs of the multiply-add probe, in reads of the working
/// set.
fn views(ratio: f64, old: &Row, new: &Row) -> [f64; 2] {
    let by_clock = ratio * old.peak_gflops / new.peak_gflops;
    let by_memory = ratio * old.read_gbps / new.read_gbps;
    [by_clock, by_memory]
        .into_iter()
        .filter(|view| view.is_finite())
        .fold([ratio; 2], |[least, most], view| [least.min(view), most.max(view)])
}

impl Limit {
    /// Read bandwidth of a level, 10^9 bytes per second.
    pub fn read(&self, level: Level) -> f64 {
        self.read[level as usize]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tilewright_kernels::random::Random;

    fn machine() -> Machine {
        Machine {
            cpu: "a CPU".into(),
            features: vec!["avx2".into()],
            cores: 2,
            caches: [1, 2, 3],
            target: "x86_64-linux".into(),
            version: "0".into(),
            rustc: "rustc 1".into(),
            revision: "abc".into(),
        }
    }

    /// A run of rows with these times; three of four visits are disturbed, and every sample has some noise.
    pub(crate) fn run(seconds: &[f64], seed: u64) -> Run {
        let mut random = Random::new(seed);
        let rows = seconds.iter().enumerate().map(|(i, &s)| Row {
            kernel: format!("kernel{i}"),
            dtype: "f32".into(),
            shape: "1x1".into(),
            isa: "avx2".into(),
            threads: 1,
            packed: None,
            median_s: Some(s),
            samples_s: (0..20)
                .map(|i| {
                    let disturbed = if i % 20 < 15 { 1.3 + 0.2 * f64::from(random.unit()) } else { 1.0 };
                    s * disturbed * (1.0 + 0.01 * f64::from(random.normal()).abs())
                })
                .collect(),
            visits_s: vec![s, 1.3 * s, 1.01 * s, 1.4 * s, 1.02 * s, 1.01 * s, s, s],
            flops: 1.0,
            bytes: 1.0,
            gflops: None,
            gbps: None,
            tokens_per_s: None,
            level: Level::L2,
            bound_s: s,
            bound_fraction: None,
            peak_gflops: 100.0,
            read_gbps: 50.0,
            unstable: false,
            layer_inputs: None,
            peak_bytes: None,
            peers: BTreeMap::new(),
            notes: Vec::new(),
        });
        let limits = vec![Limit { threads: 1, peaks: BTreeMap::new(), read: [100.0, 50.0, 20.0, 10.0] }];
        Run { machine: machine(), unix_time: 0, peers: BTreeMap::new(), limits, rows: rows.collect() }
    }

    fn verdicts(then: &Run, now: &Run) -> Vec<Verdict> {
        compare(then, now, 0.05).iter().map(|c| c.verdict).collect()
    }

    #[test]
    fn a_planted_slowdown_is_found_among_many_rows() {
        let then = run(&[1.0; 100], 1);
        let mut seconds = [1.0; 100];
        (seconds[17], seconds[42]) = (1.1, 0.9);
        let found = verdicts(&then, &run(&seconds, 2));
        for (i, verdict) in found.into_iter().enumerate() {
            let expected = match i {
                17 => Verdict::Slower,
                42 => Verdict::Faster,
                _ => Verdict::Same,
            };
            assert_eq!(verdict, expected, "row {i}");
        }
    }

    #[test]
    fn a_slower_machine_is_no_slower_kernel() {
        let then = run(&[1.0; 3], 1);
        let mut clock = run(&[1.2; 3], 2);
        clock.rows.iter_mut().for_each(|row| row.peak_gflops /= 1.2);
        assert_eq!(verdicts(&then, &clock), [Verdict::Same; 3]);
        let mut memory = run(&[1.2; 3], 3);
        memory.rows.iter_mut().for_each(|row| row.read_gbps /= 1.2);
        assert_eq!(verdicts(&then, &memory), [Verdict::Same; 3]);
        // A lower read bandwidth of other working sets does not explain a slower row.
        let mut limits = run(&[1.2; 3], 3);
        limits.limits[0].read = [10.0; 4];
        assert_eq!(verdicts(&then, &limits), [Verdict::Slower; 3]);
    }

    #[test]
    fn disturbed_visits_are_no_slower_kernel_while_one_was_not() {
        let then = run(&[1.0], 1);
        let mut now = run(&[1.0], 2);
        now.rows[0].samples_s = vec![1.5, 1.6, 1.4, 1.01, 1.7];
        let found = &compare(&then, &now, 0.05)[0];
        assert_eq!(found.verdict, Verdict::Same);
        assert!(found.median_ratio < 0.9 && (found.ratio - 1.0).abs() < 0.02, "{found:?}");
        // Disturbed visits do not hide a slower kernel either.
        let mut then = then;
        then.rows[0].samples_s = vec![1.0, 1.0, 1.5, 1.6, 1.4, 1.7];
        now.rows[0].samples_s = vec![1.1; 5];
        assert_eq!(verdicts(&then, &now), [Verdict::Slower]);
    }

    #[test]
    fn one_lucky_sample_is_no_yardstick() {
        let (mut then, mut now) = (run(&[1.0], 1), run(&[1.0], 2));
        (then.rows[0].samples_s[19], now.rows[0].samples_s[18]) = (0.9, 1.0);
        assert_eq!(verdicts(&then, &now), [Verdict::Same]);
        assert_eq!(verdicts(&now, &then), [Verdict::Same]);
    }

    #[test]
    fn machines_are_told_apart_by_what_matters() {
        let then = machine();
        let build = Machine { rustc: "rustc 2".into(), revision: "def".into(), ..machine() };
        assert!(differences(&then, &build).is_empty());
        let other = Machine { cores: 4, cpu: "another CPU".into(), ..machine() };
        assert_eq!(differences(&then, &other), ["cpu was a CPU, is another CPU", "cores was 2, is 4"]);
    }

    #[test]
    fn baselines_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let file = path(&folder.path().join("new"), "main-1.0").unwrap();
        let saved = run(&[1.0, 2.0], 1);
        save(&file, &saved).unwrap();
        assert_eq!(load(&file).unwrap(), saved);
        assert!(path(folder.path(), "../x").is_err() && path(folder.path(), "").is_err());
        std::fs::write(&file, "{}").unwrap();
        assert!(load(&file).unwrap_err().to_string().contains("not a baseline"));
        assert!(matches!(load(&folder.path().join("none.json")), Err(Error::Io { .. })));
    }
}

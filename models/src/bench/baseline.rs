//! Results that are kept, and how a later run is told from them.
//!
//! A row is *slower* if all of this holds, *faster* if all of it holds the other way round:
//!
//! 1. the median of its samples is off by more than the threshold: in seconds; in seconds times the
//!    multiply-add peak that probes between the samples reached, which a changed clock changes as
//!    well; and in seconds times the read bandwidth of the level that it works in, which neighbours
//!    on a shared machine change;
//! 2. samples that came out so by chance are less likely than [`ALPHA`], by the test of Mann and
//!    Whitney, corrected by Holm's method for the number of rows;
//! 3. it stays so when it is measured again after all others, [`CONFIRMATIONS`] times, on a machine that
//!    is stable meanwhile: noise passes, a regression does not.

use super::record::{Comparison, Level, Limit, Machine, Row, Run, Verdict};
use super::statistics::{holm, median, p_larger, ratio_interval};
use crate::error::Error;
use std::path::{Path, PathBuf};

/// Probability of any false alarm among the rows, before they are confirmed.
pub const ALPHA: f64 = 0.05;

/// How often a difference must be seen again.
pub const CONFIRMATIONS: usize = 3;

/// The file of the baseline `name` in `folder`.
///
/// # Errors
/// If the name is not one that every file system takes: letters, digits, `.`, `_` and `-`.
pub fn path(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("{name:?} is no name of a baseline: letters, digits, '.', '_' and '-'"));
    }
    Ok(folder.join(format!("{name}.json")))
}

/// Writes `run`, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn save(path: &Path, run: &Run) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let json = serde_json::to_vec(run).expect("records are plain data");
    crate::whole_file::write(path, &json)
}

/// Reads a run that was saved.
///
/// # Errors
/// [`Error::Io`], [`Error::File`].
pub fn load(path: &Path) -> Result<Run, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::File { path: path.to_owned(), why: format!("no baseline: {e}") })
}

/// What makes figures of the two incomparable, field by field; nothing if it is the same machine.
/// Another compiler, version or revision is what comparisons are for.
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

/// The rows of `now` that `then` has too, compared; in their order.
pub fn compare(then: &Run, now: &Run, threshold: f64) -> Vec<Comparison> {
    let pairs: Vec<(&Row, &Row)> = now
        .rows
        .iter()
        .filter_map(|row| Some((then.rows.iter().find(|old| old.name() == row.name())?, row)))
        .filter(|(old, row)| !old.samples_s.is_empty() && !row.samples_s.is_empty())
        .collect();
    let slower: Vec<f64> = pairs.iter().map(|(old, new)| p_larger(&new.samples_s, &old.samples_s)).collect();
    let faster: Vec<f64> = pairs.iter().map(|(old, new)| p_larger(&old.samples_s, &new.samples_s)).collect();
    let (slower, faster) = (holm(&slower), holm(&faster));
    pairs
        .iter()
        .enumerate()
        .map(|(i, (old, new))| {
            let (then_s, now_s) = (median(&old.samples_s), median(&new.samples_s));
            let ratio = then_s / now_s;
            let [least, most] = views(ratio, (old, then), (new, now));
            let verdict = match () {
                () if most < 1.0 / (1.0 + threshold) && slower[i] < ALPHA => Verdict::Slower,
                () if least > 1.0 + threshold && faster[i] < ALPHA => Verdict::Faster,
                () => Verdict::Same,
            };
            Comparison {
                name: new.name(),
                then_s,
                now_s,
                ratio,
                ratio_interval: ratio_interval(&old.samples_s, &new.samples_s),
                p: if ratio < 1.0 { slower[i] } else { faster[i] },
                verdict,
            }
        })
        .collect()
}

/// The least and the most of the ratio in seconds, in runs of the multiply-add probe, and in reads of
/// the level that the row works in.
fn views(ratio: f64, (old, then): (&Row, &Run), (new, now): (&Row, &Run)) -> [f64; 2] {
    let by_clock = ratio * old.peak_gflops / new.peak_gflops;
    let by_memory = ratio * bandwidth(then, old) / bandwidth(now, new);
    [ratio, by_clock, by_memory]
        .into_iter()
        .filter(|view| view.is_finite())
        .fold([ratio; 2], |[least, most], view| [least.min(view), most.max(view)])
}

/// The run's read bandwidth of the row's level, on its threads.
fn bandwidth(run: &Run, row: &Row) -> f64 {
    run.limits
        .iter()
        .find(|limit| limit.threads == row.threads)
        .map_or(f64::NAN, |limit| limit.read(row.level))
}

impl Limit {
    /// 10^9 bytes per second from this level.
    pub fn read(&self, level: Level) -> f64 {
        self.read[level as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;

    pub(crate) fn machine() -> Machine {
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

    /// A run of rows with these times, some percent of noise on every sample.
    fn run(seconds: &[f64], seed: u64) -> Run {
        let mut random = Random::new(seed);
        let rows = seconds.iter().enumerate().map(|(i, &s)| Row {
            kernel: format!("kernel{i}"),
            dtype: "f32".into(),
            shape: "1x1".into(),
            isa: "avx2".into(),
            threads: 1,
            packed: None,
            median_s: Some(s),
            samples_s: (0..21).map(|_| s * (1.0 + 0.03 * f64::from(random.normal()))).collect(),
            flops: 1.0,
            bytes: 1.0,
            gflops: None,
            gbps: None,
            tokens_per_s: None,
            level: Level::L2,
            bound_s: s,
            bound_fraction: None,
            peak_gflops: 100.0,
            unstable: false,
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
        memory.limits[0].read[1] /= 1.2;
        assert_eq!(verdicts(&then, &memory), [Verdict::Same; 3]);
        // But L3's bandwidth is no excuse for what works in L2.
        memory.limits[0].read = [100.0, 50.0, 15.0, 8.0];
        assert_eq!(verdicts(&then, &memory), [Verdict::Slower; 3]);
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
        assert!(load(&file).unwrap_err().to_string().contains("no baseline"));
        assert!(matches!(load(&folder.path().join("none.json")), Err(Error::Io { .. })));
    }
}

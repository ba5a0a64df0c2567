//! Confirmation of differences from a baseline by further visits.
//!
//! Neighbours that slow the machine down for a second or a minute look like a regression. A row that differs is
//! therefore visited up to [`ATTEMPTS`] times more, after growing [`pause`]s. All samples so far and the best of the
//! probes judge a slower row: one undisturbed sample clears it. A faster row must be faster in every attempt on a
//! stable machine. At least [`CONFIRMATIONS`] attempts must find the machine stable, and a test must rule out chance.
//! Otherwise the row counts as equal and is reported as unconfirmed.

use super::baseline::{ALPHA, compare, compare_row};
use super::record::{Comparison, Row, Run, Verdict};
use super::statistics::holm;
use std::collections::BTreeMap;
use std::time::Duration;

/// Attempts on a stable machine that must see a difference again.
pub const CONFIRMATIONS: usize = 3;

/// Maximum number of attempts, with 78 s of pauses in total.
pub const ATTEMPTS: usize = 12;

/// The pause before an attempt, counted from 0: each pause is a second longer than the one before.
pub fn pause(attempt: usize) -> Duration {
    Duration::from_secs(attempt as u64 + 1)
}

/// Largest slowdown that an unstable machine explains: half of the cores lost, at half of the clock. A larger
/// slowdown needs only [`CONFIRMATIONS`] attempts, on any machine.
const EXPLAINED: f64 = 4.0;

/// Comparisons of rows with their baselines, after confirmation.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// A comparison for each row.
    pub rows: Vec<Comparison>,
    /// Rows whose difference may be chance, or whose machine was not stable for long enough to confirm it. They count
    /// as equal.
    pub unconfirmed: Vec<String>,
}

/// A row that differs, and the number of attempts that confirmed it.
#[derive(Debug)]
struct Doubt {
    /// The row in the baseline.
    then: Row,
    /// The row with all samples so far and the best of the probes.
    now: Row,
    seen: usize,
}

/// The rows that differ from a baseline, during their further visits.
///
/// ```no_run
/// use std::path::Path;
/// use tilewright_bench::{baseline, confirm::Doubts};
/// let [then, now] = [baseline::load(Path::new("then.json"))?, baseline::load(Path::new("now.json"))?];
/// let mut doubts = Doubts::new(&then, &now, 0.05);
/// let again = now.rows.iter().filter(|row| doubts.has(&row.name())); // to measure again
/// println!("{} rows differ", again.count());
/// doubts.see(&now.rows);
/// println!("{:?}", doubts.finish().unconfirmed);
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Debug)]
pub struct Doubts {
    rows: Vec<Comparison>,
    open: BTreeMap<String, Doubt>,
    threshold: f64,
}

impl Doubts {
    /// Compares the runs. Rows that differ by more than `threshold`, a fraction, are in doubt.
    pub fn new(then: &Run, now: &Run, threshold: f64) -> Self {
        let rows = compare(then, now, threshold);
        let row = |run: &Run, name: &str| run.rows.iter().find(|row| row.name() == name).cloned();
        let doubt = |c: &Comparison| {
            let (then, now) = (row(then, &c.name)?, row(now, &c.name)?);
            Some((c.name.clone(), Doubt { then, now, seen: 0 }))
        };
        let open = rows.iter().filter(|c| c.verdict != Verdict::Same).filter_map(doubt).collect();
        Self { rows, open, threshold }
    }

    /// True if the runs have no row in common.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// True if the row `name` needs another visit.
    pub fn has(&self, name: &str) -> bool {
        self.open.get(name).is_some_and(|doubt| !doubt.settled())
    }

    /// Adds one more visit of the rows in doubt.
    pub fn see(&mut self, again: &[Row]) {
        for row in again.iter().filter(|row| !row.samples_s.is_empty()) {
            let name = row.name();
            let Some(doubt) = self.open.get_mut(&name) else { continue };
            let Some(first) = self.rows.iter_mut().find(|c| c.name == name) else { continue };
            doubt.pool(row);
            let pooled = compare_row(&doubt.then, &doubt.now, self.threshold);
            first.p = pooled.p;
            let seen = match first.verdict {
                Verdict::Slower => pooled,
                _ => compare_row(&doubt.then, row, self.threshold),
            };
            let unstable = row.unstable && (1.0 / EXPLAINED..=EXPLAINED).contains(&seen.ratio);
            match () {
                // Disturbed samples cannot refute a faster row, but they can refute a slower one.
                () if first.verdict != seen.verdict && !(unstable && first.verdict == Verdict::Faster) => {
                    *first = Comparison { verdict: Verdict::Same, ..seen };
                    self.open.remove(&name);
                }
                () if first.verdict == Verdict::Slower => {
                    *first = seen;
                    doubt.seen += usize::from(!unstable);
                }
                () => doubt.seen += usize::from(!unstable),
            }
        }
    }

    /// Ends the confirmation. Unconfirmed rows count as equal.
    pub fn finish(mut self) -> Compared {
        let p: Vec<f64> = self.rows.iter().map(|row| row.p).collect();
        let mut unconfirmed = Vec::new();
        for (row, p) in self.rows.iter_mut().zip(holm(&p)) {
            row.p = p;
            let Some(doubt) = self.open.get(&row.name) else { continue };
            if doubt.seen < CONFIRMATIONS || p >= ALPHA {
                row.verdict = Verdict::Same;
                unconfirmed.push(row.name.clone());
            }
        }
        Compared { rows: self.rows, unconfirmed }
    }
}

impl Doubt {
    fn pool(&mut self, row: &Row) {
        self.now.samples_s.extend(&row.samples_s);
        self.now.visits_s.extend(&row.visits_s);
        self.now.peak_gflops = self.now.peak_gflops.max(row.peak_gflops);
        self.now.read_gbps = self.now.read_gbps.max(row.read_gbps);
    }

    fn settled(&self) -> bool {
        let ratio = compare_row(&self.then, &self.now, 0.0).ratio;
        self.seen >= CONFIRMATIONS && !(1.0 / EXPLAINED..=EXPLAINED).contains(&ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::super::baseline::tests::run;
    use super::*;

    /// Doubts about one row that took one second and now takes `seconds`.
    fn doubts(seconds: f64) -> (Doubts, Row) {
        let now = run(&[seconds], 2);
        (Doubts::new(&run(&[1.0], 1), &now, 0.05), now.rows[0].clone())
    }

    fn verdict(doubts: Doubts) -> (Verdict, usize) {
        let Compared { rows, unconfirmed } = doubts.finish();
        (rows[0].verdict, unconfirmed.len())
    }

    #[test]
    fn what_stays_slower_is_confirmed() {
        for (seconds, expected) in [(1.1, Verdict::Slower), (0.9, Verdict::Faster)] {
            let (mut doubts, row) = doubts(seconds);
            for _ in 0..ATTEMPTS {
                assert!(doubts.has(&row.name()));
                doubts.see(std::slice::from_ref(&row));
            }
            assert_eq!(verdict(doubts), (expected, 0));
        }
        let (same, row) = doubts(1.0);
        assert!(!same.has(&row.name()));
        assert_eq!(verdict(same), (Verdict::Same, 0));
    }

    #[test]
    fn one_undisturbed_sample_clears_a_row() {
        let (mut doubts, mut row) = doubts(1.2);
        let name = row.name();
        doubts.see(std::slice::from_ref(&row));
        // One undisturbed sample clears a row on an unstable machine too.
        (row.samples_s, row.unstable) = (vec![1.5, 1.01, 1.4], true);
        doubts.see(std::slice::from_ref(&row));
        assert!(!doubts.has(&name));
        assert_eq!(verdict(doubts), (Verdict::Same, 0));
    }

    #[test]
    fn fast_samples_of_a_slower_machine_are_held_against_its_best() {
        // Slow memory explains the later visits, but the first visit had fast memory and was slow as well.
        let (mut doubts, mut row) = doubts(1.1);
        row.read_gbps /= 1.5;
        for _ in 0..CONFIRMATIONS {
            doubts.see(std::slice::from_ref(&row));
        }
        assert_eq!(verdict(doubts), (Verdict::Slower, 0), "the first visit read as fast as the baseline");
    }

    #[test]
    fn what_became_faster_has_to_stay_so() {
        let (mut faster, row) = doubts(0.9);
        let disturbed = Row { samples_s: vec![1.2; 5], unstable: true, ..row.clone() };
        faster.see(std::slice::from_ref(&disturbed));
        assert!(faster.has(&row.name()), "an unstable machine says nothing");
        faster.see(&[Row { unstable: false, ..disturbed }]);
        assert_eq!(verdict(faster), (Verdict::Same, 0));
    }

    #[test]
    fn what_cannot_be_confirmed_is_named() {
        let (mut doubts, row) = doubts(1.2);
        let unstable = Row { unstable: true, ..row.clone() };
        for i in 0..ATTEMPTS {
            doubts.see(&[if i < CONFIRMATIONS - 1 { row.clone() } else { unstable.clone() }]);
        }
        assert_eq!(verdict(doubts), (Verdict::Same, 1));
    }

    #[test]
    fn what_no_machine_explains_is_soon_confirmed_on_any() {
        let (mut doubts, row) = doubts(10.0);
        let unstable = Row { unstable: true, ..row };
        for _ in 0..CONFIRMATIONS {
            assert!(doubts.has(&unstable.name()));
            doubts.see(std::slice::from_ref(&unstable));
        }
        assert!(!doubts.has(&unstable.name()));
        assert_eq!(verdict(doubts), (Verdict::Slower, 0));
    }

    #[test]
    fn what_chance_explains_is_not_confirmed() {
        let (mut doubts, row) = doubts(1.1);
        doubts.open.values_mut().for_each(|doubt| doubt.then.visits_s = vec![1.0, 1.3, 1.4, 1.2]);
        (0..CONFIRMATIONS).for_each(|_| doubts.see(std::slice::from_ref(&row)));
        assert_eq!(verdict(doubts), (Verdict::Same, 1), "one visit of four was faster");
    }

    #[test]
    fn pauses_grow_to_more_than_a_minute() {
        let pauses: Vec<Duration> = (0..ATTEMPTS).map(pause).collect();
        assert!(pauses.is_sorted());
        let all: Duration = pauses.iter().sum();
        assert!((60..=90).contains(&all.as_secs()), "{all:?}");
    }
}

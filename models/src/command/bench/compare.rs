//! `tilewright bench --compare`.

use super::tables::time;
use super::{Job, measure};
use crate::command::verify::TABLE;
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table};
use std::collections::BTreeMap;
use std::path::Path;
use tilewright::bench::baseline::{self, CONFIRMATIONS};
use tilewright::bench::bencher::Bencher;
use tilewright::bench::record::{Comparison, Machine, Run, Verdict};

/// Reads a baseline of this machine.
pub fn load(path: &Path, machine: &Machine, any_machine: bool) -> Result<Run> {
    let then = baseline::load(path)?;
    let differences = baseline::differences(&then.machine, machine);
    if !differences.is_empty() && !any_machine {
        bail!(
            "{} is of another machine ({}); --any-machine compares nevertheless",
            path.display(),
            differences.join("; ")
        );
    }
    Ok(then)
}

/// Times that a difference is measured again at most, for those during which the machine was not stable
/// say nothing.
const ATTEMPTS: usize = 3 * CONFIRMATIONS;

/// Factor that a machine that is not stable explains: half of the cores lost, and half of the clock.
const EXPLAINED: f64 = 4.0;

/// Rows beside their baselines.
pub struct Compared {
    /// All of them.
    pub rows: Vec<Comparison>,
    /// Those that differed, but on a machine that was not stable for long enough to confirm it; they count
    /// as the same.
    pub unconfirmed: Vec<String>,
}

/// Compares, and measures again what differs.
pub fn compare(
    bencher: &mut Bencher,
    then: &Run,
    now: &Run,
    jobs: &[Job],
    threshold: f64,
) -> Result<Compared> {
    let mut rows = baseline::compare(then, now, threshold);
    if rows.is_empty() {
        bail!("the baseline has none of these rows");
    }
    // Differences that are still to be seen this many times.
    let mut doubts: BTreeMap<String, usize> =
        rows.iter().filter(|c| c.verdict != Verdict::Same).map(|c| (c.name.clone(), CONFIRMATIONS)).collect();
    for _ in 0..ATTEMPTS {
        let again: Vec<Job> = now
            .rows
            .iter()
            .zip(jobs)
            .filter(|(row, _)| doubts.contains_key(&row.name()))
            .map(|(_, &job)| job)
            .collect();
        if again.is_empty() {
            break;
        }
        bencher.measure_limits();
        let measured = measure(bencher, &again)?;
        let again = Run { rows: measured, limits: bencher.limits().to_vec(), ..now.clone() };
        for seen in baseline::compare(then, &again, threshold) {
            let explained = (1.0 / EXPLAINED..=EXPLAINED).contains(&seen.ratio);
            let unstable = explained && again.rows.iter().any(|row| row.unstable && row.name() == seen.name);
            let Some(first) = rows.iter_mut().find(|c| c.name == seen.name).filter(|_| !unstable) else {
                continue;
            };
            let left = doubts.get(&seen.name).map_or(0, |left| left - 1);
            if first.verdict != seen.verdict {
                first.verdict = Verdict::Same;
                doubts.remove(&seen.name);
            } else if left == 0 {
                doubts.remove(&seen.name);
            } else {
                doubts.insert(seen.name, left);
            }
        }
    }
    for row in rows.iter_mut().filter(|row| doubts.contains_key(&row.name)) {
        row.verdict = Verdict::Same;
    }
    Ok(Compared { rows, unconfirmed: doubts.into_keys().collect() })
}

/// What differs, slower rows first, and how many do not.
pub fn table(Compared { rows: comparisons, unconfirmed }: &Compared) -> String {
    let mut table = Table::new();
    table.load_style(TABLE).set_header(["", "row", "then", "now", "then / now", "95% interval", "p"]);
    let of = |verdict| comparisons.iter().filter(move |c| c.verdict == verdict);
    for c in of(Verdict::Slower).chain(of(Verdict::Faster)) {
        let [low, high] = c.ratio_interval;
        let word = if c.verdict == Verdict::Slower { "SLOWER" } else { "faster" };
        table.add_row([
            word.to_owned(),
            c.name.clone(),
            time(c.then_s),
            time(c.now_s),
            format!("{:.2}", c.ratio),
            format!("{low:.2} .. {high:.2}"),
            format!("{:.1e}", c.p),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let [slower, faster, same] =
        [Verdict::Slower, Verdict::Faster, Verdict::Same].map(|verdict| of(verdict).count());
    let mut summary = format!("compared: {slower} slower, {faster} faster, {same} the same");
    if !unconfirmed.is_empty() {
        summary += &format!(
            "\ndiffered, but the machine was not stable enough to confirm it: {}",
            unconfirmed.join(", ")
        );
    }
    if slower + faster == 0 { summary } else { format!("{table}\n\n{summary}") }
}

/// The exit status: an error if a row became slower.
pub fn judge(comparisons: &[Comparison], threshold: f64) -> Result<()> {
    match comparisons.iter().filter(|c| c.verdict == Verdict::Slower).count() {
        0 => Ok(()),
        1 => bail!("1 row is slower by more than {threshold}%"),
        n => bail!("{n} rows are slower by more than {threshold}%"),
    }
}

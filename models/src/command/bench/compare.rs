//! `tilewright bench --compare`.

use super::tables::time;
use super::{Job, measure};
use crate::command::verify::TABLE;
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table};
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

/// Compares, and measures again what differs: a difference counts if it is seen every time, on a machine
/// that was stable meanwhile.
pub fn compare(
    bencher: &mut Bencher,
    then: &Run,
    now: &Run,
    jobs: &[Job],
    threshold: f64,
) -> Result<Vec<Comparison>> {
    let mut all = baseline::compare(then, now, threshold);
    if all.is_empty() {
        bail!("the baseline has none of these rows");
    }
    for _ in 0..CONFIRMATIONS {
        let in_doubt: Vec<Job> = now
            .rows
            .iter()
            .zip(jobs)
            .filter(|(row, _)| all.iter().any(|c| c.verdict != Verdict::Same && c.name == row.name()))
            .map(|(_, &job)| job)
            .collect();
        if in_doubt.is_empty() {
            break;
        }
        bencher.measure_limits();
        let rows = measure(bencher, &in_doubt)?;
        let again = Run { rows, limits: bencher.limits().to_vec(), ..now.clone() };
        let seen = baseline::compare(then, &again, threshold);
        for (row, seen) in again.rows.iter().zip(&seen) {
            if let Some(first) = all.iter_mut().find(|c| c.name == seen.name)
                && (first.verdict != seen.verdict || row.unstable)
            {
                first.verdict = Verdict::Same;
            }
        }
    }
    Ok(all)
}

/// What differs, slower rows first, and how many do not.
pub fn table(comparisons: &[Comparison]) -> String {
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
    let summary = format!("compared: {slower} slower, {faster} faster, {same} the same");
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

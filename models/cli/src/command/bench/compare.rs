//! `tilewright bench --compare`: judges the rows of a run by a baseline.

use super::tables::time;
use super::{Job, measure};
use crate::command::style::{self, TABLE};
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table};
use indicatif::ProgressBar;
use std::path::Path;
use std::time::Duration;
use tilewright_bench::baseline;
use tilewright_bench::bencher::Bencher;
use tilewright_bench::confirm::{self, ATTEMPTS, Compared, Doubts};
use tilewright_bench::record::{Comparison, Machine, Run, Verdict};

/// Reads a baseline. It must be of this machine, unless `any_machine`.
pub fn load(path: &Path, machine: &Machine, any_machine: bool) -> Result<Run> {
    let then = baseline::load(path)?;
    let differences = baseline::differences(&then.machine, machine);
    if !differences.is_empty() && !any_machine {
        bail!(
            "{} is of another machine ({}); --any-machine accepts it",
            path.display(),
            differences.join("; ")
        );
    }
    Ok(then)
}

/// Compares, and visits rows that differ again to confirm the difference.
pub fn compare(bencher: &Bencher, then: &Run, now: &Run, jobs: &[Job], threshold: f64) -> Result<Compared> {
    let mut doubts = Doubts::new(then, now, threshold);
    if doubts.is_empty() {
        bail!("the baseline has none of these rows");
    }
    for attempt in 0..ATTEMPTS {
        let again: Vec<Job> = now
            .rows
            .iter()
            .zip(jobs)
            .filter(|(row, _)| doubts.has(&row.name()))
            .map(|(_, &job)| job)
            .collect();
        if again.is_empty() {
            break;
        }
        let rest = (attempt..ATTEMPTS).map(confirm::pause).sum::<Duration>();
        wait(confirm::pause(attempt), &format!("{} again, {} s at most", rows(again.len()), rest.as_secs()));
        doubts.see(&measure(bencher, &again, 1)?);
    }
    Ok(doubts.finish())
}

fn rows(n: usize) -> String {
    if n == 1 { "1 row".to_owned() } else { format!("{n} rows") }
}

/// Sleeps behind a progress bar.
fn wait(pause: Duration, what: &str) {
    let bar = ProgressBar::new(pause.as_secs()).with_style(style::progress()).with_message(what.to_owned());
    bar.tick();
    for _ in 0..pause.as_secs() {
        std::thread::sleep(Duration::from_secs(1));
        bar.inc(1);
    }
    bar.finish_and_clear();
}

/// Table of the rows that differ, slower rows first, and a summary.
pub fn table(Compared { rows: comparisons, unconfirmed }: &Compared) -> String {
    let mut table = Table::new();
    table.load_style(TABLE).set_header(["", "row", "then", "now", "then / now", "medians", "p"]);
    let of = |verdict| comparisons.iter().filter(move |c| c.verdict == verdict);
    for c in of(Verdict::Slower).chain(of(Verdict::Faster)) {
        let word = if c.verdict == Verdict::Slower { "SLOWER" } else { "faster" };
        table.add_row([
            word.to_owned(),
            c.name.clone(),
            time(c.then_s),
            time(c.now_s),
            format!("{:.2}", c.ratio),
            format!("{:.2}", c.median_ratio),
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
            "\ndiffered without confirmation, on an unstable machine or by chance: {}",
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

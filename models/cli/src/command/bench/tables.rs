//! Tables of `tilewright bench`, and the format of their figures.

use super::super::style::TABLE;
use comfy_table::{CellAlignment, Table};
use std::collections::{BTreeMap, BTreeSet};
use tilewright_bench::record::{Level, Limit, Peer, Row, Run};

/// `1.23 ms`: three digits and a unit.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 999.5e-9 => format!("{} ns", digits(s * 1e9)),
        s if s < 999.5e-6 => format!("{} us", digits(s * 1e6)),
        s if s < 999.5e-3 => format!("{} ms", digits(s * 1e3)),
        s => format!("{} s", digits(s)),
    }
}

/// Three significant digits of a number below 1000.
fn digits(x: f64) -> String {
    match x {
        x if x < 9.995 => format!("{x:.2}"),
        x if x < 99.95 => format!("{x:.1}"),
        x => format!("{x:.0}"),
    }
}

/// Table whose columns from `first_number` on are right-aligned.
fn table(header: &[String], first_number: usize, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TABLE).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(first_number) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Table of the machine's limits, a column for each number of threads.
pub fn limits(limits: &[Limit]) -> String {
    let mut header = vec!["limit".to_owned()];
    header.extend(limits.iter().map(|limit| threads(limit.threads)));
    let names: BTreeSet<_> = limits.iter().flat_map(|limit| limit.peaks.keys()).collect();
    let peaks = names.into_iter().map(|name| {
        let figures = limits.iter().map(|limit| match limit.peaks.get(name) {
            Some(peak) => format!("{peak:.0} GFLOP/s"),
            None => String::new(),
        });
        std::iter::once(format!("multiply-adds, {name}")).chain(figures).collect()
    });
    let reads = [Level::L1, Level::L2, Level::L3, Level::Memory].map(|level| {
        let figures = limits.iter().map(|limit| format!("{:.0} GB/s", limit.read(level)));
        std::iter::once(format!("reads, {}", level_name(level))).chain(figures).collect()
    });
    format!("\n{}\n", table(&header, 1, peaks.chain(reads)))
}

fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::L1 => "L1",
        Level::L2 => "L2",
        Level::L3 => "L3",
        Level::Memory => "memory",
    }
}

/// A table for each number of threads.
pub fn rows(run: &Run, memory: bool) -> Vec<String> {
    let peers: BTreeSet<_> = run.rows.iter().flat_map(|row| row.peers.keys()).collect();
    let mut header: Vec<String> =
        ["kernel", "shape", "weights", "time", "rate", "of bound", "data in"].map(String::from).to_vec();
    if memory {
        header.push("allocates".into());
    }
    header.extend(peers.iter().map(|peer| format!("x {peer}")));
    let line = |row: &Row| {
        let dtype = if row.dtype == "f32" { String::new() } else { format!(" {}", row.dtype) };
        let mut line = vec![
            format!("{}{dtype}{}", row.kernel, if row.unstable { " ~" } else { "" }),
            row.shape.clone(),
            row.packed.map_or("", |packed| if packed { "packed" } else { "as stored" }).to_owned(),
            row.median_s.map_or("-".into(), time),
            rate(row),
            row.bound_fraction.map_or(String::new(), |share| format!("{:.0}%", 100.0 * share)),
            level_name(row.level).to_owned(),
        ];
        if memory {
            line.push(row.peak_bytes.map_or(String::new(), bytes));
        }
        line.extend(peers.iter().map(|name| row.peers.get(*name).map_or(String::new(), ratio)));
        line
    };
    run.limits
        .iter()
        .map(|limit| {
            let rows = run.rows.iter().filter(|row| row.threads == limit.threads);
            format!("{}\n{}\n", threads(limit.threads), table(&header, 3, rows.map(line)))
        })
        .collect()
}

/// Tokens, operations or bytes per second.
fn rate(row: &Row) -> String {
    match (row.tokens_per_s, row.gflops, row.gbps) {
        (Some(tokens), ..) => format!("{} tokens/s", digits(tokens)),
        (_, Some(flops), _) => format!("{} GFLOP/s", digits(flops)),
        (.., Some(bytes)) => format!("{} GB/s", digits(bytes)),
        _ => String::new(),
    }
}

/// `1.21 ±0.03`; the peer's time if we have no such kernel.
fn ratio(peer: &Peer) -> String {
    match (peer.ratio, peer.ratio_interval) {
        (Some(ratio), Some([low, high])) => format!("{ratio:.2} \u{b1}{:.2}", (high - low) / 2.0),
        _ => time(peer.median_s),
    }
}

fn bytes(n: usize) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.0} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// Notes below the tables, each with its number of rows.
pub fn notes(run: &Run) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for note in run.rows.iter().flat_map(|row| &row.notes) {
        *counts.entry(note).or_default() += 1;
    }
    let unstable = run.rows.iter().filter(|row| row.unstable).count();
    let mut lines: Vec<String> =
        counts.iter().map(|(note, count)| format!("{note} ({count} of {} rows)", run.rows.len())).collect();
    if unstable > 0 {
        lines.push(format!(
            "~ the machine was not stable: its clock moved by more than 5%, or other processes took a core ({unstable} of {} rows)",
            run.rows.len()
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let times = [5.4321e-9, 1e-6, 99.97e-6, 999.7e-6, 0.0123, 1.5].map(time);
        assert_eq!(times, ["5.43 ns", "1.00 us", "100 us", "1.00 ms", "12.3 ms", "1.50 s"]);
        assert_eq!([12, 5000, 3 << 20].map(bytes), ["12 B", "5 KiB", "3.0 MiB"]);
    }
}

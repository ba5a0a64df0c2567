//! Sortable tables: all rows, and a comparison with a baseline.

use super::bars::Side;
use super::format::{
    bytes, describe, gbps, gflops, interval, level, percent, positive, seconds, significant,
};
use crate::record::{Comparison, Level, Row, Run, Verdict};
use maud::{Markup, Render, html};
use std::collections::BTreeSet;

/// A column of a table of `T`.
struct Column<'a, T> {
    name: &'a str,
    unit: &'static str,
    numeric: bool,
    cell: Box<dyn Fn(&T) -> Cell + 'a>,
}

/// Content of a cell, and the sort key if it differs from the text.
struct Cell {
    text: Markup,
    key: Option<f64>,
}

impl<'a, T> Column<'a, T> {
    fn text<R: Render>(name: &'a str, text: impl Fn(&T) -> R + 'a) -> Self {
        let cell = move |item: &T| Cell { text: html! { (text(item)) }, key: None };
        Self { name, unit: "", numeric: false, cell: Box::new(cell) }
    }

    /// Column of numbers that `show` formats. A missing number is a dash and comes last in any order.
    fn number(
        name: &'a str,
        unit: &'static str,
        value: impl Fn(&T) -> Option<f64> + 'a,
        show: impl Fn(f64) -> String + 'a,
    ) -> Self {
        let cell = move |item: &T| {
            let key = value(item).filter(|value| value.is_finite());
            Cell { text: html! { (key.map_or("–".into(), &show)) }, key }
        };
        Self { name, unit, numeric: true, cell: Box::new(cell) }
    }
}

/// Table of `items`, each named by the column `head`. An item with an `index` in the run is a target of links.
fn table<T>(
    id: &str,
    caption: &str,
    head: usize,
    columns: &[Column<T>],
    items: &[&T],
    index: impl Fn(usize) -> Option<usize>,
) -> Markup {
    html! {
        div.scroll.tall tabindex="0" role="region" aria-label=(caption) {
            table.sortable id=(id) {
                thead {
                    tr {
                        @for column in columns {
                            th.number[column.numeric] scope="col" {
                                button type="button" {
                                    (column.name)
                                    @if !column.unit.is_empty() { " " span.unit { (column.unit) } }
                                }
                            }
                        }
                    }
                }
                tbody {
                    @for (i, item) in items.iter().enumerate() {
                        tr id=[index(i).map(|index| format!("row-{index}"))] {
                            @for (j, column) in columns.iter().enumerate() {
                                @let cell = (column.cell)(item);
                                @if j == head {
                                    th scope="row" { (cell.text) }
                                } @else if column.numeric {
                                    td.number data-key=[cell.key] { (cell.text) }
                                } @else {
                                    td { (cell.text) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// All rows of a run, in its order.
pub(super) fn rows(run: &Run, peers: &BTreeSet<&str>) -> Markup {
    let any = |has: fn(&Row) -> bool| run.rows.iter().any(has);
    let three = |value: f64| significant(value, 3);
    let mut columns = vec![
        Column::text("kernel", |row: &Row| {
            html! {
                (row.kernel)
                @if row.unstable { " " span.badge title="The machine's peak varied meanwhile" { "unstable" } }
            }
        }),
        Column::text("type", |row: &Row| row.dtype.clone()),
        Column::text("shape", |row: &Row| row.shape.clone()),
        // `8t` as in the names of rows, so that a filter distinguishes threads from other numbers.
        Column::number("threads", "", |row: &Row| Some(row.threads as f64), |n| format!("{n}t")),
    ];
    if any(|row| row.packed.is_some()) {
        columns.push(Column::text("weights", |row: &Row| match row.packed {
            Some(true) => "packed",
            Some(false) => "unpacked",
            None => "",
        }));
    }
    columns.push(Column {
        name: "time",
        unit: "µs",
        numeric: true,
        cell: Box::new(|row: &Row| {
            let key = row.median_s.and_then(positive).map(|time| time * 1e6);
            let samples = row.samples_s.iter().copied().filter_map(positive);
            let (low, high) = samples.fold((f64::MAX, 0f64), |(lo, hi), s| (lo.min(s), hi.max(s)));
            let title = match row.samples_s.len() {
                n if low <= high => format!("{n} samples, {} to {}", seconds(low), seconds(high)),
                _ => describe(row),
            };
            let text = html! { span title=(title) { (key.map_or("–".into(), |time| significant(time, 4))) } };
            Cell { text, key }
        }),
    });
    columns.push(Column::number("rate", "GFLOP/s", gflops, three));
    columns.push(Column::number(
        "rate",
        "GB/s",
        |row| gflops(row).map_or_else(|| gbps(row), |_| None),
        three,
    ));
    columns.push(Column::number("of bound", "", |row: &Row| row.bound_fraction, percent));
    columns.push(Column {
        cell: Box::new(|row: &Row| Cell { text: html! { (level(row.level)) }, key: Some(depth(row.level)) }),
        ..Column::number("lives in", "", |_| None, percent)
    });
    columns.extend(peers.iter().map(|&name| ratio(name)));
    if any(|row| row.tokens_per_s.is_some()) {
        columns.push(Column::number("tokens", "1/s", |row: &Row| row.tokens_per_s, three));
    }
    columns.push(Column::text("isa", |row: &Row| row.isa.clone()));
    columns.push(Column::number("peak", "GFLOP/s", |row: &Row| positive(row.peak_gflops), three));
    if any(|row| row.peak_bytes.is_some()) {
        let size = |row: &Row| row.peak_bytes.map(|size| size as f64);
        columns.push(Column::number("allocates", "", size, |size| bytes(size as usize)));
    }
    if any(|row| !row.notes.is_empty()) {
        columns.push(Column::text("notes", |row: &Row| {
            html! { @for note in &row.notes { span.remark { (note) } " " } }
        }));
    }
    table("all", "All rows", 0, &columns, &run.rows.iter().collect::<Vec<_>>(), Some)
}

fn depth(level: Level) -> f64 {
    match level {
        Level::L1 => 1.0,
        Level::L2 => 2.0,
        Level::L3 => 3.0,
        Level::Memory => 4.0,
    }
}

/// Column of the ratio to a peer, with its sign, and with its interval as a tooltip.
fn ratio<'a>(name: &'a str) -> Column<'a, Row> {
    let cell = move |row: &Row| {
        let Some(peer) = row.peers.get(name) else {
            return Cell { text: html! { "–" }, key: None };
        };
        let key = peer.ratio.and_then(positive);
        let side = Side::of(peer.ratio_interval);
        let mut title = format!("{name} takes {}", seconds(peer.median_s));
        if let Some(ends) = peer.ratio_interval {
            title.push_str(&format!(", ratio {}: {}", interval(ends), side.name()));
        }
        let text = html! {
            span class=[key.map(|_| side.name())] title=(title) {
                @if let Some(ratio) = key { (side.sign()) " " (significant(ratio, 3)) } @else { "–" }
            }
        };
        Cell { text, key }
    };
    Column { name, unit: "ratio", numeric: true, cell: Box::new(cell) }
}

/// Table of the rows that both runs have: slower rows first, then faster rows, each by falling change.
pub(super) fn comparisons(run: &Run, comparisons: &[Comparison]) -> Markup {
    let mut items: Vec<&Comparison> = comparisons.iter().collect();
    let order = |verdict| match verdict {
        Verdict::Slower => 0,
        Verdict::Faster => 1,
        Verdict::Same => 2,
    };
    let change = |ratio: f64| positive(ratio).map_or(0.0, |ratio| ratio.ln().abs());
    items.sort_by(|a, b| {
        (order(a.verdict).cmp(&order(b.verdict))).then(change(b.ratio).total_cmp(&change(a.ratio)))
    });
    let side = |verdict| match verdict {
        Verdict::Slower => Side::Slower,
        Verdict::Faster => Side::Faster,
        Verdict::Same => Side::Undecided,
    };
    // A narrow screen shows the first columns only.
    let columns = [
        Column {
            name: "verdict",
            unit: "",
            numeric: true,
            cell: Box::new(move |item: &Comparison| {
                let side = side(item.verdict);
                let name = if item.verdict == Verdict::Same { "same" } else { side.name() };
                Cell {
                    text: html! { span class=(side.name()) { (side.sign()) " " (name) } },
                    key: Some(f64::from(-order(item.verdict))), // largest first: slower rows
                }
            }),
        },
        Column::number("ratio", "", |item: &Comparison| Some(item.ratio), |ratio| significant(ratio, 3)),
        Column::text("row", |item: &Comparison| {
            let index = run.rows.iter().position(|row| row.name() == item.name);
            html! {
                @if let Some(index) = index { a href={ "#row-" (index) } { (item.name) } } @else { (item.name) }
            }
        }),
        Column::number("then", "µs", |item: &Comparison| positive(item.then_s), |s| significant(s * 1e6, 4)),
        Column::number("now", "µs", |item: &Comparison| positive(item.now_s), |s| significant(s * 1e6, 4)),
        Column::number(
            "medians",
            "",
            |item: &Comparison| Some(item.median_ratio),
            |ratio| significant(ratio, 3),
        ),
        Column::number("p", "", |item: &Comparison| Some(item.p), |p| significant(p, 2)),
    ];
    table("compared", "Comparison", 2, &columns, &items, |_| None)
}

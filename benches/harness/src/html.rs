//! A run as one self-contained HTML page: no network, no other file.
//!
//! | module | contents |
//! |---|---|
//! | `format` | numbers, times and dates |
//! | `plot` | axes, and positions of marks |
//! | `roofline` | compute-bound rows below their roofs |
//! | `bars` | rates of memory-bound rows, ratios to peers |
//! | `table` | all rows; a comparison with a baseline |
//!
//! Names come from users' files and from other libraries, so `maud` escapes every value in the page. The script
//! sorts and filters tables; the page works without it otherwise.

mod bars;
pub(crate) mod format;
mod plot;
mod roofline;
mod table;
#[cfg(test)]
mod tests;

use super::record::{Comparison, Limit, Machine, Run, Verdict};
use bars::Side;
use format::{bytes, count, date, positive, significant};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use roofline::Palette;
use std::collections::BTreeSet;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");
/// Style without the script: hides the filter and the sort buttons.
const WITHOUT_SCRIPT: &str = "th button{pointer-events:none}th button::after,.filter{display:none}";

/// Earlier results to compare a run with.
#[derive(Clone, Copy, Debug)]
pub struct Baseline<'a> {
    /// Name of the baseline.
    pub name: &'a str,
    /// Time of the measurement in seconds since 1970, if known.
    pub unix_time: Option<u64>,
    /// A comparison for each row that both runs have.
    pub comparisons: &'a [Comparison],
}

/// Renders a run, and its comparison with a baseline if there is one.
///
/// ```
/// use tilewright_bench::{html::page, record::{Machine, Run}};
///
/// let machine = Machine {
///     cpu: "Example <4 cores>".into(),
///     features: vec!["avx2".into()],
///     cores: 4,
///     caches: [32 << 10, 1 << 20, 16 << 20],
///     target: "x86_64-linux".into(),
///     version: "0.1.0".into(),
///     rustc: "1.95.0".into(),
///     revision: "unknown".into(),
/// };
/// let run = Run { machine, unix_time: 0, peers: [].into(), limits: vec![], rows: vec![] };
/// let page = page(&run, None);
/// assert!(page.starts_with("<!DOCTYPE html>") && page.contains("Example &lt;4 cores&gt;"));
/// ```
pub fn page(run: &Run, baseline: Option<&Baseline>) -> String {
    let sections: Vec<Section> = [
        baseline.map(|baseline| comparison(run, baseline)),
        Some(limits(&run.limits)),
        rooflines(run),
        memory(run),
        peers(run),
        Some(rows(run)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let date = date(run.unix_time);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "tilewright bench: " (run.machine.cpu) ", " (date) }
                style { (PreEscaped(STYLE)) }
                noscript { style { (PreEscaped(WITHOUT_SCRIPT)) } }
            }
            body {
                header {
                    h1 { "tilewright bench" }
                    p.lead { (summary(run)) }
                    (machine(&run.machine, &date))
                    nav aria-label="Sections" {
                        @for section in &sections { a href={ "#" (section.id) } { (section.title) } }
                    }
                }
                main {
                    @for section in &sections {
                        section id=(section.id) { h2 { (section.title) } (section.body) }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// A part of the page, linked from its head.
struct Section {
    id: &'static str,
    title: String,
    body: Markup,
}

/// Threads of the rows, ascending.
fn threads(run: &Run) -> BTreeSet<usize> {
    run.rows.iter().map(|row| row.threads).collect()
}

/// Summary of the measured rows, in a sentence.
fn summary(run: &Run) -> String {
    let kernels: BTreeSet<&str> = run.rows.iter().map(|row| row.kernel.as_str()).collect();
    let isas: BTreeSet<&str> = run.rows.iter().map(|row| row.isa.as_str()).collect();
    let mut text = match run.rows.len() {
        0 => return "No rows: nothing was measured.".into(),
        rows => format!("{} of {}", count(rows, "row"), count(kernels.len(), "kernel")),
    };
    text.push_str(&format!(" with {}", Vec::from_iter(isas).join(", ")));
    let threads: Vec<String> = threads(run).iter().map(usize::to_string).collect();
    let plural = if threads == ["1"] { "" } else { "s" };
    text.push_str(&format!(" on {} thread{plural}", threads.join(", ")));
    if !run.peers.is_empty() {
        text.push_str(&format!(", against {}", count(run.peers.len(), "peer")));
    }
    let unstable = run.rows.iter().filter(|row| row.unstable).count();
    match unstable {
        0 => text.push('.'),
        _ => text.push_str(&format!(
            ". {} unstable: the machine's peak varied meanwhile.",
            count(unstable, "row")
        )),
    }
    text
}

fn machine(machine: &Machine, date: &str) -> Markup {
    let caches = ["L1", "L2", "L3"].into_iter().zip(machine.caches);
    let caches: Vec<String> = caches.map(|(level, size)| format!("{level} {}", bytes(size))).collect();
    let facts = [
        ("CPU", machine.cpu.clone()),
        ("Cores", machine.cores.to_string()),
        ("Caches", caches.join(", ")),
        ("Features", machine.features.join(" ")),
        ("Target", machine.target.clone()),
        ("Version", format!("{} at {}", machine.version, machine.revision)),
        ("Compiler", machine.rustc.clone()),
    ];
    html! {
        dl.facts {
            @for (name, value) in &facts { div { dt { (name) } dd { (value) } } }
            div { dt { "Date" } dd { time datetime=(date) { (date) } } }
        }
    }
}

fn limits(limits: &[Limit]) -> Section {
    let probes: BTreeSet<&str> =
        limits.iter().flat_map(|limit| limit.peaks.keys().map(String::as_str)).collect();
    let rate = |rate: Option<f64>| rate.and_then(positive).map_or("–".into(), |rate| significant(rate, 3));
    let body = html! {
        @if limits.is_empty() {
            p { "Not measured." }
        } @else {
            p.note {
                "Limits of the machine, measured in the same run: multiply-adds on registers, and reads of \
                 a working set that each level holds. These limits bound every row."
            }
            div.scroll {
                table {
                    thead { tr {
                        th.number scope="col" { "threads" }
                        @for probe in &probes { th.number scope="col" { (probe) " " span.unit { "GFLOP/s" } } }
                        @for level in ["L1", "L2", "L3", "memory"] {
                            th.number scope="col" { (level) " " span.unit { "GB/s" } }
                        }
                    } }
                    tbody {
                        @for limit in limits {
                            tr {
                                th.number scope="row" { (limit.threads) }
                                @for &probe in &probes { td.number { (rate(limit.peaks.get(probe).copied())) } }
                                @for read in limit.read { td.number { (rate(Some(read))) } }
                            }
                        }
                    }
                }
            }
        }
    };
    Section { id: "limits", title: "Limits of the machine".into(), body }
}

fn rooflines(run: &Run) -> Option<Section> {
    run.rows.iter().any(roofline::computes).then(|| {
        let palette = Palette::new(&run.rows);
        let body = html! {
            p.note {
                "A point is a row: the closer to the roof above it, the less is left to gain. Colours are kernels, \
                 shapes are types; a point names its row when pointed at, and links to it."
            }
            (palette.legend())
            div.figures { @for threads in threads(run) { (roofline::figure(run, threads, &palette)) } }
        };
        Section { id: "rooflines", title: "Rooflines".into(), body }
    })
}

fn memory(run: &Run) -> Option<Section> {
    run.rows.iter().any(|row| !roofline::computes(row)).then(|| {
        let body = html! {
            p.note {
                "Rows that memory bounds: the dot is the measured rate, the line beside it the bandwidth of the level \
                 that holds the working set."
            }
            div.figures { @for threads in threads(run) { (bars::memory(run, threads)) } }
        };
        Section { id: "memory", title: "Memory".into(), body }
    })
}

/// Names of all peers in the rows and in the run.
fn peer_names(run: &Run) -> BTreeSet<&str> {
    run.rows.iter().flat_map(|row| row.peers.keys()).chain(run.peers.keys()).map(String::as_str).collect()
}

fn peers(run: &Run) -> Option<Section> {
    let names = peer_names(run);
    (!names.is_empty()).then(|| {
        let body = html! {
            p.note {
                "Peers ran the same cases in turns. The ratio is a peer's time over ours: above 1 (right, blue, ▲), we are \
                 faster, below 1 (left, orange, ▼) slower. Whiskers are 95% confidence intervals; an interval that \
                 contains 1 leaves the comparison undecided (grey, ≈)."
            }
            (standings(run, &names))
            div.columns {
                @for &name in &names {
                    @let picture = bars::ratios(run, name);
                    @if !picture.0.is_empty() {
                        figure { figcaption { "Against " (name) } (picture) }
                    }
                }
            }
        };
        Section { id: "peers", title: "Peers".into(), body }
    })
}

/// Table of the number of rows in which each peer is ahead or behind.
fn standings(run: &Run, names: &BTreeSet<&str>) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr {
                    th scope="col" { "peer" }
                    th scope="col" { "version" }
                    @for head in ["rows", "slower ▼", "undecided ≈", "faster ▲", "geometric mean"] {
                        th.number scope="col" { (head) }
                    }
                } }
                tbody {
                    @for &name in names {
                        @let ratios: Vec<(f64, Side)> = run.rows.iter().filter_map(|row| row.peers.get(name))
                            .filter_map(|peer| Some((positive(peer.ratio?)?, Side::of(peer.ratio_interval))))
                            .collect();
                        @let logs: f64 = ratios.iter().map(|(ratio, _)| ratio.ln()).sum();
                        tr {
                            th scope="row" { (name) }
                            td { (run.peers.get(name).map_or("–", String::as_str)) }
                            td.number { (ratios.len()) }
                            @for side in [Side::Slower, Side::Undecided, Side::Faster] {
                                td.number { (ratios.iter().filter(|ratio| ratio.1 == side).count()) }
                            }
                            td.number { (significant((logs / ratios.len() as f64).exp(), 3)) }
                        }
                    }
                }
            }
        }
    }
}

fn rows(run: &Run) -> Section {
    let body = html! {
        @if run.rows.is_empty() {
            p { "None." }
        } @else {
            p.note {
                "Times are medians. A click on a head sorts by its column. Rates count the lower bound of operations or \
                 bytes of a call. ▲: faster than a peer, ▼: slower, ≈: undecided."
            }
            p.filter {
                label for="filter" { "Filter" }
                input id="filter" type="search" placeholder="words that a row must contain: linear bf16 8t"
                    aria-controls="all" autocomplete="off" spellcheck="false";
                output for="filter" { (count(run.rows.len(), "row")) }
            }
            (table::rows(run, &peer_names(run)))
        }
    };
    Section { id: "rows", title: "All rows".into(), body }
}

fn comparison(run: &Run, baseline: &Baseline) -> Section {
    let of = |verdict| baseline.comparisons.iter().filter(|row| row.verdict == verdict).count();
    let names: BTreeSet<&str> = baseline.comparisons.iter().map(|row| row.name.as_str()).collect();
    let new = run.rows.iter().filter(|row| !names.contains(row.name().as_str())).count();
    let body = html! {
        p.note {
            @if let Some(time) = baseline.unix_time { "Measured " (date(time)) ". " }
            (of(Verdict::Slower)) " slower, " (of(Verdict::Faster)) " faster, " (of(Verdict::Same)) " the same"
            @if new > 0 { "; " (count(new, "row")) " of this run without a counterpart" }
            ". The ratio is the time then over the time now: above 1, a row became faster. p is the probability of \
             such a difference by chance, corrected for the number of rows."
        }
        @if !baseline.comparisons.is_empty() { (table::comparisons(run, baseline.comparisons)) }
    };
    Section { id: "comparison", title: format!("Compared with {}", baseline.name), body }
}

//! Charts with one line for each row: rates of memory-bound rows, ratios to a peer.

use super::format::{count, describe, gbps, interval, level, percent, positive, seconds, significant};
use super::plot::{Axis, Margins, Plot};
use super::roofline::computes;
use crate::record::{Peer, Row, Run};
use maud::{Markup, html};

const WIDTH: u32 = 680;
/// Height of a line.
const LINE: u32 = 19;
/// Longest label that fits left of the axis, in characters.
const LABEL: usize = 40;
const MARGINS: Margins = Margins { top: 6, left: 280, right: 150, bottom: 48 };

/// Side of 1 on which the interval of a ratio lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// All of the interval is below 1.
    Slower,
    /// The interval contains 1, or is missing.
    Undecided,
    /// All of the interval is above 1.
    Faster,
}

impl Side {
    pub(super) fn of(interval: Option<[f64; 2]>) -> Self {
        match interval {
            Some([low, high]) if low > 1.0 && high > 1.0 => Self::Faster,
            Some([low, high]) if low < 1.0 && high < 1.0 => Self::Slower,
            _ => Self::Undecided,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Undecided => "undecided",
            Self::Faster => "faster",
        }
    }

    /// Sign in place of [`name`](Self::name) for narrow columns.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Slower => "▼",
            Self::Undecided => "≈",
            Self::Faster => "▲",
        }
    }
}

/// A line of a chart: index of its row, label left of the axis, text right of the axis, tooltip.
struct ChartLine {
    index: usize,
    label: String,
    text: String,
    title: String,
}

/// Draws a chart of `lines`; `mark` draws the mark of line i at a height.
fn picture(
    label: &str,
    axis: Axis,
    lines: &[ChartLine],
    rules: &[Vec<(f64, f64)>],
    mark: impl Fn(&Plot, usize, f64) -> Markup,
) -> Markup {
    let height = MARGINS.top + LINE * lines.len() as u32 + MARGINS.bottom;
    let plot = Plot::new((WIDTH, height), MARGINS, axis, Axis::rows(lines.len()), rules);
    let marks = html! {
        @for (i, line) in lines.iter().enumerate() {
            @let y = plot.y(i as f64 + 0.5);
            a.line href={ "#row-" (line.index) } tabindex="-1" {
                title { (line.title) }
                rect.hit x="0" y=(y - f64::from(LINE) / 2.0) width=(WIDTH) height=(LINE) {}
                text.end x=(plot.left() - 8.0) y=(y) dy="0.35em" { (line.label) }
                (mark(&plot, i, y))
                text x=(plot.right() + 8.0) y=(y) dy="0.35em" { (line.text) }
            }
        }
    };
    plot.with(label, &marks)
}

/// The label of a row, `linear f32 128x768x768 8t`, with an ellipsis in the middle if it is long.
fn label(row: &Row, threads: bool, isa: bool) -> String {
    let mut label = format!("{} {} {}", row.kernel, row.dtype, row.shape);
    if row.packed == Some(false) {
        label.push_str(" unpacked");
    }
    if isa {
        label.push_str(&format!(" {}", row.isa));
    }
    if threads {
        label.push_str(&format!(" {}t", row.threads));
    }
    let letters: Vec<char> = label.chars().collect();
    if letters.len() <= LABEL {
        return label;
    }
    let (head, tail) = (&letters[..LABEL * 3 / 5], &letters[letters.len() - (LABEL * 2 / 5 - 1)..]);
    format!("{}…{}", String::from_iter(head), String::from_iter(tail))
}

/// True if rows ran on several backends, so that labels must name them.
fn several_isas(run: &Run) -> bool {
    run.rows.windows(2).any(|pair| pair[0].isa != pair[1].isa)
}

/// Chart of the memory-bound rows on `threads` threads: the rate of each row beside its limiting bandwidth. Empty
/// without rows.
pub(super) fn memory(run: &Run, threads: usize) -> Markup {
    let isa = several_isas(run);
    let rows: Vec<(usize, &Row)> =
        (run.rows.iter().enumerate()).filter(|(_, row)| row.threads == threads && !computes(row)).collect();
    if rows.is_empty() {
        return html! {};
    }
    // The bound of a memory-bound row is its bytes over the bandwidth of its level.
    let bandwidth = |row: &Row| positive(row.bytes / row.bound_s / 1e9);
    let lines: Vec<ChartLine> = (rows.iter())
        .map(|&(index, row)| {
            let text = match (gbps(row), row.bound_fraction) {
                (Some(rate), Some(share)) => {
                    format!("{} · {} of {}", significant(rate, 3), percent(share), level(row.level))
                }
                (Some(rate), None) => significant(rate, 3),
                (None, _) => "no such kernel yet".into(),
            };
            ChartLine { index, label: label(row, false, isa), text, title: describe(row) }
        })
        .collect();
    let rates = rows.iter().flat_map(|&(_, row)| [gbps(row), bandwidth(row)]).flatten();
    let (lo, hi) = rates.fold((f64::MAX, 0f64), |(lo, hi), rate| (lo.min(rate), hi.max(rate)));
    let (lo, hi) = if lo <= hi { (lo / 1.5, hi * 1.5) } else { (1.0, 100.0) };
    let name = format!("Memory on {}", count(threads, "thread"));
    html! {
        figure {
            figcaption { (name) ": " (count(rows.len(), "row")) }
            (picture(&name, Axis::log(lo, hi, "GB/s"), &lines, &[], |plot, i, y| {
                let row = rows[i].1;
                html! {
                    @if let (Some(rate), Some(limit)) = (gbps(row), bandwidth(row)) {
                        path.gap d={ "M" (plot.x(rate)) " " (y) "H" (plot.x(limit)) } {}
                    }
                    @if let Some(limit) = bandwidth(row) {
                        path.limit d={ "M" (plot.x(limit)) " " (y - 6.0) "v12" } {}
                    }
                    @if let Some(rate) = gbps(row) {
                        circle.mark.k0.unstable[row.unstable] cx=(plot.x(rate)) cy=(y) r="5" {}
                    } @else {
                        path.absent d={ "M" (plot.left() + 3.0) " " (y - 5.0) "l10 10m0-10l-10 10" } {}
                    }
                }
            }))
        }
    }
}

/// Chart of the ratios to the peer `name` for all rows with samples of the peer, slower rows first. Empty without
/// rows.
pub(super) fn ratios(run: &Run, name: &str) -> Markup {
    let isa = several_isas(run);
    let mut rows: Vec<(usize, &Row, &Peer)> = (run.rows.iter().enumerate())
        .filter_map(|(index, row)| Some((index, row, row.peers.get(name)?)))
        .collect();
    if rows.is_empty() {
        return html! {};
    }
    let ratio = |peer: &Peer| peer.ratio.and_then(positive);
    // Rows without a ratio come last.
    rows.sort_by(|a, b| {
        let key = |peer: &Peer| ratio(peer).unwrap_or(f64::INFINITY);
        key(a.2).total_cmp(&key(b.2))
    });
    let ends = |peer: &Peer| {
        let [low, high] = peer.ratio_interval?;
        Some([positive(low)?, positive(high)?])
    };
    let lines: Vec<ChartLine> = (rows.iter())
        .map(|&(index, row, peer)| {
            let mut title = format!("{}: {name} takes {}", describe(row), seconds(peer.median_s));
            let text = match ratio(peer) {
                Some(ratio) => {
                    title.push_str(&format!(", {} times as long", significant(ratio, 3)));
                    if let Some(ends) = ends(peer) {
                        title.push_str(&format!(" ({})", interval(ends)));
                    }
                    format!("{} {}", significant(ratio, 3), Side::of(ends(peer)).name())
                }
                None => "no such kernel yet".into(),
            };
            ChartLine { index, label: label(row, true, isa), text, title }
        })
        .collect();
    let all = rows.iter().flat_map(|&(_, _, peer)| {
        [ratio(peer), ends(peer).map(|ends| ends[0]), ends(peer).map(|ends| ends[1])]
    });
    let (lo, hi) = all.flatten().fold((0.8f64, 1.25f64), |(lo, hi), x| (lo.min(x), hi.max(x)));
    let axis = Axis::log(lo / 1.1, hi * 1.1, "slower ← its time over ours → faster");
    let one = vec![(1.0, 0.0), (1.0, rows.len() as f64)];
    html! {
        (picture(&format!("Ratios to {name}"), axis, &lines, &[one], |plot, i, y| {
            let peer = rows[i].2;
            let one = plot.x(1.0);
            html! {
                @if let Some(ratio) = ratio(peer) {
                    @let end = plot.x(ratio);
                    rect class={ "bar " (Side::of(ends(peer)).name()) } x=(one.min(end)) y=(y - 5.0)
                        width=((one - end).abs().max(1.0)) height="10" {}
                } @else {
                    path.absent d={ "M" (one - 5.0) " " (y - 5.0) "l10 10m0-10l-10 10" } {}
                }
                @if let Some([low, high]) = ends(peer) {
                    path.whisker d={ "M" (plot.x(low)) " " (y - 3.5) "v7m0-3.5H" (plot.x(high)) "m0-3.5v7" } {}
                }
            }
        }))
    }
}

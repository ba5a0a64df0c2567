//! Rooflines: rates of rows below the limits of the machine.
//!
//! Both axes are logarithmic. A bandwidth is a diagonal and a multiply-add peak is a horizontal line. A compute-bound
//! row is a point: its operations per byte, and its measured operations per second.
//!
//! S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
//! multicore architectures", Communications of the ACM 52(4), 2009.

use super::format::{count, describe, gflops, plain, positive, significant};
use super::plot::{Axis, Margins, Plot, round};
use crate::record::{Limit, Row, Run};
use maud::{Markup, html};

/// Number of colours in `page.css`; further kernels start again with the first colour.
const COLOURS: usize = 10;
/// Width and height of a picture.
const SIZE: (u32, u32) = (640, 440);
/// Vertical distance below which labels overlap.
const LINE: f64 = 15.0;
/// Length of a bandwidth's label along its diagonal.
const LABEL: f64 = 120.0;

/// Colours of kernels and shapes of types, common to all charts.
pub(super) struct Palette<'a> {
    kernels: Vec<&'a str>,
    dtypes: Vec<&'a str>,
}

impl<'a> Palette<'a> {
    pub(super) fn new(rows: &'a [Row]) -> Self {
        let mut palette = Self { kernels: Vec::new(), dtypes: Vec::new() };
        for row in rows.iter().filter(|row| computes(row)) {
            if !palette.kernels.contains(&family(row)) {
                palette.kernels.push(family(row));
            }
            if !palette.dtypes.contains(&row.dtype.as_str()) {
                palette.dtypes.push(&row.dtype);
            }
        }
        palette
    }

    fn colour(&self, kernel: &str) -> usize {
        self.kernels.iter().position(|&known| known == kernel).unwrap_or(0) % COLOURS
    }

    /// Legend of colours and shapes.
    pub(super) fn legend(&self) -> Markup {
        let swatch = |class: &str, shape: &str| {
            html! {
                svg.swatch viewBox="-8 -8 16 16" aria-hidden="true" { path class=(class) d=(shape) {} }
            }
        };
        html! {
            ul.legend {
                @for kernel in &self.kernels {
                    li { (swatch(&format!("mark k{}", self.colour(kernel)), CIRCLE)) (kernel) }
                }
            }
            ul.legend {
                @for dtype in &self.dtypes {
                    li { (swatch("mark", shape(dtype))) (dtype) }
                }
                li { (swatch("mark unstable", CIRCLE)) "unstable" }
                li { (swatch("absent", CROSS)) "no such kernel yet" }
            }
        }
    }
}

/// True if a row is a point of a roofline. Memory alone bounds the other rows.
pub(super) fn computes(row: &Row) -> bool {
    positive(row.flops).is_some()
}

/// Name that determines a row's colour. All models share one: `model/bert-base` is `model`.
fn family(row: &Row) -> &str {
    row.kernel.split('/').next().unwrap_or_default()
}

const CIRCLE: &str = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z";
const CROSS: &str = "M-5-5L5 5M5-5L-5 5";

fn shape(dtype: &str) -> &'static str {
    match dtype {
        "f32" => CIRCLE,
        "bf16" => "M-4.5-4.5h9v9h-9z",
        "f16" => "M0-6L5.5 4.5h-11z",
        "int8" => "M0-6.5L6.5 0L0 6.5L-6.5 0z",
        _ => "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
    }
}

/// A row, and its coordinates in units of the axes.
struct Point<'a> {
    index: usize,
    row: &'a Row,
    intensity: Option<f64>,
    rate: Option<f64>,
}

/// The picture of one number of threads; empty if all rows are memory-bound.
pub(super) fn figure(run: &Run, threads: usize, palette: &Palette) -> Markup {
    let points: Vec<Point> = (run.rows.iter().enumerate())
        .filter(|(_, row)| row.threads == threads && computes(row))
        .map(|(index, row)| Point {
            index,
            row,
            intensity: positive(row.flops / row.bytes),
            rate: gflops(row),
        })
        .collect();
    if points.is_empty() {
        return html! {};
    }
    let roofs = Roofs::new(run.limits.iter().find(|limit| limit.threads == threads));
    let (x, y) = axes(&points, &roofs);
    let lines = roofs.lines(&x, &y);
    let margins = Margins { top: 14, left: 64, right: 125, bottom: 50 };
    let plot = Plot::new(SIZE, margins, x, y, &lines);
    let label = format!("Roofline on {}", count(threads, "thread"));
    let marks = html! { (roofs.labels(&plot, &lines)) (marks(&plot, &points, palette)) };
    html! {
        figure {
            figcaption { (label) ": " (count(points.len(), "row")) }
            (plot.with(&label, &marks))
        }
    }
}

/// Axes whose ranges contain all points and all ridges. A ridge is the point where two roofs meet.
fn axes(points: &[Point], roofs: &Roofs) -> (Axis, Axis) {
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold(None, |range: Option<(f64, f64)>, value| {
            range.map_or(Some((value, value)), |(lo, hi)| Some((lo.min(value), hi.max(value))))
        })
    };
    let ridges = roofs.read.iter().flat_map(|(_, read)| roofs.peaks.iter().map(move |(_, peak)| peak / read));
    let (lo, hi) =
        range(&mut points.iter().filter_map(|point| point.intensity).chain(ridges)).unwrap_or((1.0, 10.0));
    let x = Axis::log(lo / 4.0, hi * 2.0, "operations per byte");
    let rates = points.iter().filter_map(|point| point.rate);
    let (lo, hi) = range(&mut rates.chain(roofs.peaks.iter().map(|&(_, peak)| peak))).unwrap_or((1.0, 10.0));
    (x, Axis::log(lo / 3.0, hi * 1.5, "GFLOP/s"))
}

fn marks(plot: &Plot, points: &[Point], palette: &Palette) -> Markup {
    html! {
        @for Point { index, row, intensity, rate } in points {
            // A row without bytes stands at the right end.
            @let x = plot.x(intensity.unwrap_or(f64::MAX));
            @let at = |y: f64| format!("translate({x} {y})");
            a href={ "#row-" (index) } tabindex="-1" {
                @match rate {
                    Some(rate) => {
                        path class={ "mark k" (palette.colour(family(row))) @if row.unstable { " unstable" } }
                            d=(shape(&row.dtype)) transform=(at(plot.y(*rate))) { title { (describe(row)) } }
                    }
                    None => {
                        path.absent d=(CROSS) transform=(at(plot.bottom())) { title { (describe(row)) } }
                    }
                }
            }
        }
    }
}

/// Upper bounds of the rows, fastest first.
struct Roofs<'a> {
    /// 10^9 operations per second.
    peaks: Vec<(&'a str, f64)>,
    /// 10^9 bytes per second.
    read: Vec<(&'a str, f64)>,
}

impl<'a> Roofs<'a> {
    fn new(limit: Option<&'a Limit>) -> Self {
        let known = |(name, rate): (&'a str, f64)| Some((name, positive(rate)?));
        let fastest_first = |roofs: &mut Vec<(&str, f64)>| roofs.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (mut peaks, mut read) = (Vec::new(), Vec::new());
        if let Some(limit) = limit {
            peaks.extend(limit.peaks.iter().map(|(name, &peak)| (name.as_str(), peak)).filter_map(known));
            read.extend(["L1", "L2", "L3", "memory"].into_iter().zip(limit.read).filter_map(known));
        }
        fastest_first(&mut peaks);
        fastest_first(&mut read);
        Self { peaks, read }
    }

    /// One line for each peak, then one line for each bandwidth. A line outside the picture is empty.
    fn lines(&self, x: &Axis, y: &Axis) -> Vec<Vec<(f64, f64)>> {
        let top = self.peaks.first().map_or(y.hi, |&(_, peak)| peak);
        let fastest = self.read.first().map_or(f64::INFINITY, |&(_, read)| read);
        let peaks = self.peaks.iter().map(|&(_, peak)| {
            let from = if fastest.is_finite() { (peak / fastest).max(x.lo) } else { x.lo };
            vec![(from, peak), (x.hi, peak)]
        });
        let reads = self.read.iter().map(|&(_, read)| {
            let (from, to) = ((y.lo / read).max(x.lo), (top / read).min(x.hi));
            if from < to { vec![(from, from * read), (to, to * read)] } else { Vec::new() }
        });
        peaks.chain(reads).collect()
    }

    /// Labels of the peaks right of their lines, and of the bandwidths along their lines.
    fn labels(&self, plot: &Plot, lines: &[Vec<(f64, f64)>]) -> Markup {
        let mut below = f64::NEG_INFINITY;
        let peaks = self.peaks.iter().map(|&(name, peak)| {
            let line = plot.y(peak);
            below = line.max(below + LINE);
            (line, below, format!("{} {name}", significant(peak, 3)))
        });
        let (mut along, mut above): (f64, Option<f64>) = (0.0, None);
        let reads = self.read.iter().zip(&lines[self.peaks.len()..]).filter_map(|(&(name, read), line)| {
            let &[(x0, y0), (x1, y1)] = line.as_slice() else { return None };
            let (dx, dy) = (plot.x(x1) - plot.x(x0), plot.y(y1) - plot.y(y0));
            let angle = dy.atan2(dx);
            // Diagonals are parallel. Their distance is the difference of their heights at one intensity, projected on
            // the normal. If labels would touch, the next label moves further along its line.
            let height = plot.y(y0) - (plot.x(x0) - plot.left()) * angle.tan();
            let close = above.is_some_and(|above| (height - above) * angle.cos() < LINE);
            along = if close { along + LABEL } else { 0.0 };
            above = Some(height);
            let (x, y) =
                (plot.x(x0) + (along + 16.0) * angle.cos(), plot.y(y0) + (along + 16.0) * angle.sin());
            let turn = format!(
                "translate({} {}) rotate({}) translate(0 -5)",
                round(x),
                round(y),
                round(angle.to_degrees())
            );
            Some((turn, format!("{name} {} GB/s", plain(read, 3))))
        });
        html! {
            @for (line, at, label) in peaks {
                path.leader d={ "M" (plot.right()) " " (line) "L" (plot.right() + 8.0) " " (at) } {}
                text x=(plot.right() + 12.0) y=(at) dy="0.35em" { (label) }
            }
            @for (turn, label) in reads {
                text.halo transform=(turn) { (label) }
            }
        }
    }
}

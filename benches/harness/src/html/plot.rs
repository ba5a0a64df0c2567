//! The coordinate system of a picture: axes, ticks, grid and lines drawn by `plotters`, with marks on top.
//!
//! ```text
//!  0      left                    right    width
//!  +--------+------------------------+---------+  0
//!  | labels |  y.hi                  |  texts  |  top
//!  |        |        marks           |         |
//!  |        |  y.lo                  |         |  bottom
//!  +--------+------------------------+---------+
//!           x.lo    x axis        x.hi            height
//! ```
//! This module writes the marks (points, bars) as SVG itself. Marks of plotters carry no class (the page's colour
//! scheme decides the colour by class), no title (the tooltip) and no link to their row.

use super::format::plain;
use maud::{Markup, PreEscaped, html};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;

/// Colour of lines and text. Plots use only the colours of this module; `page.css` replaces them in the
/// dark scheme.
pub(super) const INK: RGBColor = RGBColor(0x3A, 0x42, 0x4E);
/// The grid.
pub(super) const GRID: RGBColor = RGBColor(0xDF, 0xE3, 0xE9);
/// Lines that limit the marks.
pub(super) const ROOF: RGBColor = RGBColor(0x6B, 0x75, 0x84);

/// Divisor that plotters applies to font sizes.
const FONT: f64 = 1.24;
/// Height of tick labels, in the units of the picture.
const TEXT: f64 = 13.0;

/// An axis: its range, its ticks, its title.
pub(super) struct Axis {
    pub(super) lo: f64,
    pub(super) hi: f64,
    log: bool,
    ticks: Vec<f64>,
    title: String,
}

impl Axis {
    /// A logarithmic axis from `lo` to `hi`, both above zero.
    pub(super) fn log(lo: f64, hi: f64, title: &str) -> Self {
        Self { lo, hi, log: true, ticks: ticks(lo, hi), title: title.into() }
    }

    /// An axis of rows `0..n` from the top, each of height one, without ticks.
    pub(super) fn rows(n: usize) -> Self {
        Self { lo: n as f64, hi: 0.0, log: false, ticks: Vec::new(), title: String::new() }
    }

    /// A value on the scale that is linear in pixels.
    fn scale(&self, value: f64) -> f64 {
        if self.log { value.max(f64::MIN_POSITIVE).log10() } else { value }
    }

    /// Position of `value` on the axis: 0 at `lo`, 1 at `hi`, clamped to this range.
    fn share(&self, value: f64) -> f64 {
        let (lo, hi) = (self.scale(self.lo), self.scale(self.hi));
        ((self.scale(value) - lo) / (hi - lo)).clamp(0.0, 1.0)
    }
}

/// Coordinates for plotters, whose own types do not allow a choice of ticks.
impl Ranged for &Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.share(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.lo..self.hi
    }
}

impl ValueFormatter<f64> for &Axis {
    fn format(value: &f64) -> String {
        plain(*value, 3)
    }
}

/// At most eight ticks at round values of a logarithmic axis; at least two if the axis spans a tenth.
fn ticks(lo: f64, hi: f64) -> Vec<f64> {
    const STEPS: [&[f64]; 6] = [
        &[
            1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.2, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0,
            8.0, 9.0,
        ],
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        &[1.0, 2.0, 5.0],
        &[1.0, 3.0],
        &[1.0],
    ];
    const MOST: usize = 8;
    let decades = lo.log10().floor() as i32..=hi.log10().ceil() as i32;
    // The tolerance admits computed values like 0.1 at the ends.
    let inside = |tick: &f64| (lo * (1.0 - 1e-9)..=hi * (1.0 + 1e-9)).contains(tick);
    for steps in STEPS {
        let ticks: Vec<f64> = (decades.clone())
            .flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)))
            .filter(inside)
            .collect();
        if ticks.len() <= MOST {
            return ticks;
        }
    }
    let powers: Vec<f64> = decades.map(|decade| 10f64.powi(decade)).filter(inside).collect();
    let every = powers.len().div_ceil(MOST);
    powers.into_iter().step_by(every).collect()
}

/// Space around the marks, in the units of the picture.
pub(super) struct Margins {
    pub(super) top: u32,
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) bottom: u32,
}

/// A picture to put marks on.
pub(super) struct Plot {
    x: Axis,
    y: Axis,
    width: u32,
    height: u32,
    margins: Margins,
    svg: String,
}

impl Plot {
    /// Draws axes, grid and `lines`, each a run of points in the axes' units.
    pub(super) fn new(
        (width, height): (u32, u32),
        margins: Margins,
        x: Axis,
        y: Axis,
        lines: &[Vec<(f64, f64)>],
    ) -> Self {
        let mut svg = String::new();
        draw(&mut svg, (width, height), &margins, &x, &y, lines)
            .unwrap_or_else(|error| unreachable!("a string takes all that is written: {error}"));
        Self { x, y, width, height, margins, svg }
    }

    /// Distance of `x` from the left edge.
    pub(super) fn x(&self, x: f64) -> f64 {
        let (left, right) = (self.left(), self.right());
        round(left + self.x.share(x) * (right - left))
    }

    /// Distance of `y` from the top edge.
    pub(super) fn y(&self, y: f64) -> f64 {
        let (top, bottom) = (self.top(), self.bottom());
        round(bottom - self.y.share(y) * (bottom - top))
    }

    pub(super) fn left(&self) -> f64 {
        f64::from(self.margins.left)
    }

    pub(super) fn right(&self) -> f64 {
        f64::from(self.width - self.margins.right)
    }

    pub(super) fn top(&self) -> f64 {
        f64::from(self.margins.top)
    }

    pub(super) fn bottom(&self) -> f64 {
        f64::from(self.height - self.margins.bottom)
    }

    /// The picture with `marks`, as wide as its container, but not much wider than its drawn size.
    pub(super) fn with(&self, label: &str, marks: &Markup) -> Markup {
        let (width, height) = (self.width, self.height);
        html! {
            div.picture {
                svg role="group" aria-label=(label) viewBox={ "0 0 " (width) " " (height) }
                    style={ "max-width:" (width * 5 / 4) "px" } {
                    (PreEscaped(&self.svg))
                    (marks)
                }
            }
        }
    }
}

/// Rounds to a hundredth of a unit, which is finer than a pixel.
pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn draw(
    svg: &mut String,
    size: (u32, u32),
    margins: &Margins,
    x: &Axis,
    y: &Axis,
    lines: &[Vec<(f64, f64)>],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let area = SVGBackend::with_string(svg, size).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin_top(margins.top)
        .margin_right(margins.right)
        .set_label_area_size(LabelAreaPosition::Left, margins.left)
        .set_label_area_size(LabelAreaPosition::Bottom, margins.bottom)
        .build_cartesian_2d(x, y)?;
    let text = |size: f64| ("sans-serif", size * FONT).into_font().color(&INK);
    let mut mesh = chart.configure_mesh();
    mesh.label_style(text(TEXT))
        .axis_desc_style(text(TEXT + 1.0))
        .x_desc(&x.title)
        .y_desc(&y.title)
        .axis_style(ROOF)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT);
    if y.ticks.is_empty() {
        mesh.disable_y_mesh().disable_y_axis();
    }
    mesh.draw()?;
    for line in lines {
        chart.draw_series([PathElement::new(line.as_slice(), ROOF.stroke_width(2))])?;
    }
    drop(chart);
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_round_and_inside() {
        assert_eq!(ticks(1.0, 20.0), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(ticks(1e-3, 1e3), [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3]);
        for (lo, hi) in [(0.8, 1.25), (0.9, 1.1), (3.0, 4.0), (1e-9, 1e15), (0.07, 130.0), (1.0, 1.1)] {
            let ticks = ticks(lo, hi);
            assert!((2..=8).contains(&ticks.len()), "{lo}..{hi}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (lo * 0.999..=hi * 1.001).contains(tick)), "{ticks:?}");
        }
    }

    #[test]
    fn values_beyond_an_axis_stay_at_its_end() {
        let margins = Margins { top: 10, left: 50, right: 20, bottom: 40 };
        let plot = Plot::new((300, 200), margins, Axis::log(0.1, 10.0, "x"), Axis::rows(2), &[]);
        assert_eq!([0.0, 0.1, 1.0, 10.0, 1e9].map(|x| plot.x(x)), [50.0, 50.0, 165.0, 280.0, 280.0]);
        assert_eq!([0.0, 1.0, 2.0].map(|y| plot.y(y)), [10.0, 85.0, 160.0]);
        assert!(!plot.svg.contains("NaN"));
    }
}

//! A chart: axes and grid drawn by plotters, curves over them as paths whose classes decide their colours.

use super::run::{Series, quantile};
use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;
use std::fmt::Write as _;
use std::ops::Range;

/// Size of the picture. At a width of 400 pixels its text is still about 11 pixels high.
const SIZE: (u32, u32) = (460, 290);
/// Space around the curves: top, right, bottom, left.
const MARGINS: [u32; 4] = [10, 14, 42, 62];
/// Columns of a curve: longer series are drawn by the least and the largest value in each.
const COLUMNS: usize = 384;
/// Height of texts; plotters divides it by 1.24.
const TEXT: f64 = 13.0 * 1.24;
/// Text and grid. page.css replaces both colours in the dark scheme.
const INK: RGBColor = RGBColor(0x3A, 0x42, 0x4E);
const GRID: RGBColor = RGBColor(0xDF, 0xE3, 0xE9);

/// A curve of a chart.
pub struct Curve {
    /// Classes of the path.
    pub class: String,
    /// Text that a pointer shows.
    pub name: String,
    pub points: Series,
    /// True if each point is marked by a dot.
    pub has_dots: bool,
}

/// The picture of `curves`; `None` if none of them has a point. Extreme values, beyond the 99th percentile of a curve,
/// do not stretch the axis: they stay at its edge.
pub fn chart(label: &str, curves: &[Curve], from_zero: bool) -> Option<Markup> {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let x = span(points().map(|point| point.0))?;
    let of_curve = |curve: &Curve| {
        let values = || curve.points.iter().map(|point| point.1);
        let most = if curve.has_dots { 1.0 } else { 0.99 };
        Some([quantile(values(), 0.0)?, quantile(values(), most)?])
    };
    let mut y = span(curves.iter().filter_map(of_curve).flatten())?;
    if from_zero {
        y.start = 0.0;
    }
    let [top, right, bottom, left] = MARGINS.map(f64::from);
    let (width, height) = (f64::from(SIZE.0), f64::from(SIZE.1));
    let place = |(step, value): (f64, f64)| {
        let across = (step - x.start) / (x.end - x.start);
        let up = ((value - y.start) / (y.end - y.start)).clamp(0.0, 1.0);
        (left + across * (width - left - right), height - bottom - up * (height - top - bottom))
    };
    let axes = axes(&x, &y);
    Some(html! {
        svg role="img" aria-label=(label) viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } {
            (PreEscaped(axes))
            @for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
                path class={ "curve " (curve.class) } d=(path(&thinned(&curve.points), place)) {
                    title { (curve.name) }
                }
                @if curve.has_dots {
                    @for &point in &thinned(&curve.points) {
                        @let at = place(point);
                        circle class={ "dot " (curve.class) } cx=(round(at.0)) cy=(round(at.1)) r="3" {
                            title { (curve.name) ", step " (point.0) ": " (number(point.1, 1e-4)) }
                        }
                    }
                }
            }
        }
    })
}

/// From the least to the largest value, never empty.
fn span(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let ends = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let (lo, hi) = Some(ends).filter(|(lo, hi)| lo <= hi)?;
    let room = if hi > lo { 0.0 } else { (0.1 * hi.abs()).max(1e-9) };
    Some(lo - room..hi + room)
}

/// At most two points for each column.
fn thinned(points: &[(f64, f64)]) -> Series {
    let part = points.len().div_ceil(COLUMNS);
    if part <= 2 {
        return points.to_vec();
    }
    let ends = |part: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let ends = part.iter().min_by(by_value).into_iter().chain(part.iter().max_by(by_value));
        let mut ends: Vec<(f64, f64)> = ends.copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    points.chunks(part).flat_map(ends).collect()
}

fn path(points: &[(f64, f64)], place: impl Fn((f64, f64)) -> (f64, f64)) -> String {
    let mut d = String::new();
    for (i, &point) in points.iter().enumerate() {
        let (x, y) = place(point);
        let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, round(x), round(y));
    }
    d
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn axes(x: &Range<f64>, y: &Range<f64>) -> String {
    let mut svg = String::new();
    let mut draw = || -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let [top, right, bottom, left] = MARGINS;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(top)
            .margin_right(right)
            .set_label_area_size(LabelAreaPosition::Left, left)
            .set_label_area_size(LabelAreaPosition::Bottom, bottom)
            .build_cartesian_2d(x.clone(), y.clone())?;
        let text = ("sans-serif", TEXT).into_font().color(&INK);
        chart
            .configure_mesh()
            .x_labels(6)
            .y_labels(6)
            .x_desc("step")
            .x_label_formatter(&|step| number(*step, 1.0))
            .y_label_formatter(&|value| number(*value, (y.end - y.start) / 20.0))
            .label_style(text.clone())
            .axis_desc_style(text)
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;
        drop(chart);
        area.present()?;
        Ok(())
    };
    draw().unwrap_or_else(|error| unreachable!("a string takes all that is written: {error}"));
    svg
}

/// A number with the digits that tell it from one that is `resolution` away.
fn number(value: f64, resolution: f64) -> String {
    let digits = |of: f64| (-of.log10().floor()).max(0.0) as usize;
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-2..1e6).contains(&size) => {
            let digits = digits(resolution / 10f64.powf(size.log10().floor())).min(3);
            let text = format!("{value:.digits$e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trimmed(mantissa))
        }
        _ => trimmed(&format!("{value:.0$}", digits(resolution).min(6))).to_owned(),
    }
}

/// Text of a number without zeros after its last digit.
fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let found =
            [(0.0, 1.0), (2.5, 0.1), (5e-4, 1e-5), (1.25e-4, 1e-5), (1200.0, 1.0), (2e6, 1e5), (3.0, 0.25)];
        let found = found.map(|(value, resolution)| number(value, resolution));
        assert_eq!(found, ["0", "2.5", "5e-4", "1.3e-4", "1200", "2e6", "3"]);
    }

    #[test]
    fn long_curves_keep_their_extremes() {
        let points: Series = (0..10_000).map(|i| (f64::from(i), if i == 777 { 9.0 } else { 1.0 })).collect();
        let found = thinned(&points);
        assert!(found.len() <= 2 * COLUMNS && found.contains(&(777.0, 9.0)), "{}", found.len());
        assert!(found.is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!(thinned(&points[..9]), points[..9]);
    }

    #[test]
    fn a_constant_curve_and_none_have_axes_or_no_chart() {
        let curve = |points: &[(f64, f64)]| {
            [Curve { class: "k0".into(), name: "<a>".into(), points: points.to_vec(), has_dots: true }]
        };
        let found = chart("loss", &curve(&[(5.0, 0.0)]), false).unwrap().into_string();
        assert!(found.contains("&lt;a&gt;") && !found.contains("NaN") && !found.contains("inf"), "{found}");
        assert!(chart("loss", &curve(&[]), false).is_none());
    }
}

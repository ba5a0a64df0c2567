//! The page: a table of the runs, and a chart for each quantity.

use super::chart::{Curve, chart};
use super::run::{Run, Series, smoothed};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page.css");
/// Number of colours in page.css; each run after them has the colour of an earlier one, with dashes.
const COLOURS: usize = 7;

/// A quantity of the runs.
struct Quantity {
    title: &'static str,
    note: &'static str,
    of: fn(&Run) -> &Series,
    /// True if single values are drawn beside smoothed ones.
    is_noisy: bool,
    from_zero: bool,
}

const QUANTITIES: [Quantity; 5] = [
    Quantity {
        title: "Loss of training",
        note: "Thin: each step. Thick: mean over a fiftieth of the steps.",
        of: |run| &run.loss,
        is_noisy: true,
        from_zero: false,
    },
    Quantity {
        title: "Norm of the gradients",
        note: "Before clipping.",
        of: |run| &run.gradient_norm,
        is_noisy: true,
        from_zero: true,
    },
    Quantity {
        title: "Learning rate",
        note: "",
        of: |run| &run.learning_rate,
        is_noisy: false,
        from_zero: true,
    },
    Quantity {
        title: "Tokens per second",
        note: "Of the steps, without evaluations and checkpoints.",
        of: |run| &run.tokens_per_second,
        is_noisy: true,
        from_zero: true,
    },
    Quantity {
        title: "Share of the FMA peak",
        note: "Operations of linear layers and attention, over the peak measured at the run's start.",
        of: |run| &run.share_of_peak,
        is_noisy: true,
        from_zero: true,
    },
];

/// Renders the runs.
pub fn page(runs: &[Run]) -> String {
    let title = match runs {
        [run] => format!("Run {}", run.name),
        _ => format!("{} runs", runs.len()),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "tilewright: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (table(runs))
                main {
                    (figure(runs, &QUANTITIES[0]))
                    (held_out(runs))
                    @for quantity in &QUANTITIES[1..] { (figure(runs, quantity)) }
                }
            }
        }
    }
    .into_string()
}

/// Classes that give a run its colour and dashes.
fn class(run: usize) -> String {
    format!("k{}{}", run % COLOURS, if run < COLOURS { "" } else { " again" })
}

fn table(runs: &[Run]) -> Markup {
    let cell = |value: Option<f64>, digits: usize| {
        value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
    };
    html! {
        div.scroll {
            table {
                thead { tr {
                    th scope="col" { "run" }
                    @for name in ["steps", "skipped", "loss", "held-out loss", "best", "tokens/s", "FMA peak"] {
                        th.number scope="col" { (name) }
                    }
                } }
                tbody {
                    @for (i, run) in runs.iter().enumerate() {
                        @let of = run.summary();
                        tr {
                            th scope="row" {
                                svg.swatch viewBox="0 0 24 8" aria-hidden="true" {
                                    path class={ "curve smooth " (class(i)) } d="M0 4L24 4" {}
                                }
                                (of.run)
                            }
                            td.number { (of.steps) }
                            td.number { (of.skipped) }
                            td.number { (cell(of.loss, 4)) }
                            td.number { (cell(of.eval_loss, 4)) }
                            td.number {
                                (cell(of.best.map(|best| best.1), 4))
                                @if let Some((step, _)) = of.best { span.soft { " at " (step) } }
                            }
                            td.number { (cell(of.tokens_per_second, 0)) }
                            td.number { (cell(of.share_of_peak.map(|share| 100.0 * share), 1)) "%" }
                        }
                    }
                }
            }
        }
    }
}

fn figure(runs: &[Run], of: &Quantity) -> Markup {
    let curves = |(i, run): (usize, &Run)| {
        let (points, name) = ((of.of)(run), run.name.clone());
        let curve = |kind: &str, points: Series| Curve {
            class: format!("{kind} {}", class(i)),
            name: name.clone(),
            points,
            has_dots: false,
        };
        match of.is_noisy {
            true => vec![curve("raw", points.clone()), curve("smooth", smoothed(points))],
            false => vec![curve("smooth", points.clone())],
        }
    };
    let mut curves: Vec<Curve> = runs.iter().enumerate().flat_map(curves).collect();
    // Thin lines first: those of one run do not hide the means of another.
    curves.sort_by_key(|curve| !curve.class.starts_with("raw"));
    draw(of.title, of.note, &curves, of.from_zero)
}

fn held_out(runs: &[Run]) -> Markup {
    let curve = |(i, run): (usize, &Run)| Curve {
        class: format!("smooth {}", class(i)),
        name: run.name.clone(),
        points: run.eval_loss.clone(),
        has_dots: true,
    };
    let curves: Vec<Curve> = runs.iter().enumerate().map(curve).collect();
    draw("Loss of held-out text", "A dot is an evaluation.", &curves, false)
}

fn draw(title: &str, note: &str, curves: &[Curve], from_zero: bool) -> Markup {
    html! {
        @if let Some(picture) = chart(title, curves, from_zero) {
            figure {
                figcaption { (title) @if !note.is_empty() { span.soft { " " (note) } } }
                (picture)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stand_alone_and_escape_names() {
        let run = Run {
            name: "<b>a".into(),
            loss: vec![(1.0, 3.0), (2.0, 2.0)],
            eval_loss: vec![(2.0, 2.5)],
            ..Run::default()
        };
        let page = page(&[run, Run::default()]);
        assert!(page.contains("&lt;b&gt;a") && !page.contains("<b>a"));
        assert!(page.contains("2 runs") && page.contains("Loss of held-out text"));
        assert!(!page.contains("Learning rate"), "a chart without points is left out");
        let links = ["href", "src=", "url(", "@import", "https:"];
        assert!(links.iter().all(|link| !page.contains(link)), "needs no other file");
    }
}

//! The page of a run with every kind of row, and of runs without rows.

use super::format::date;
use super::{Baseline, page};
use crate::record::{Comparison, Level, Limit, Machine, Peer, Row, Run, Verdict};
use std::collections::BTreeMap;
use tilewright_kernels::random::Random;

const PEERS: [(&str, &str, f64); 5] = [
    ("gemm", "0.19.0", 1.15),
    ("mkl", "2024.2.0", 0.96),
    ("onednn", "3.5.3", 1.02),
    ("openblas", "0.3.28 Haswell", 1.3),
    ("pytorch", "2.4.1 (oneDNN 3.4.2, MKL 2024.2)", 2.1),
];

fn machine() -> Machine {
    Machine {
        cpu: "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz".into(),
        features: ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-int8"]
            .map(String::from)
            .into(),
        cores: 8,
        caches: [48 << 10, 2 << 20, 105 << 20],
        target: "x86_64-linux".into(),
        version: "0.1.0".into(),
        rustc: "1.95.0 (59807616e 2026-04-14)".into(),
        revision: "c579a58-dirty".into(),
    }
}

fn empty() -> Run {
    Run {
        machine: machine(),
        unix_time: 1_772_366_400,
        peers: BTreeMap::new(),
        limits: Vec::new(),
        rows: Vec::new(),
    }
}

fn row(kernel: &str, dtype: &str, shape: &str, threads: usize, flops: f64, bytes: f64) -> Row {
    Row {
        kernel: kernel.into(),
        dtype: dtype.into(),
        shape: shape.into(),
        isa: "avx512".into(),
        threads,
        packed: (kernel == "linear").then_some(true),
        median_s: None,
        samples_s: Vec::new(),
        visits_s: Vec::new(),
        flops,
        bytes,
        gflops: None,
        gbps: None,
        tokens_per_s: None,
        level: match bytes {
            b if b < 32e3 => Level::L1,
            b if b < 1.5e6 => Level::L2,
            b if b < 32e6 => Level::L3,
            _ => Level::Memory,
        },
        bound_s: 1e-6,
        bound_fraction: None,
        peak_gflops: 95.0 * threads as f64,
        read_gbps: 128.0 * threads as f64,
        unstable: false,
        layer_inputs: None,
        peak_bytes: None,
        peers: BTreeMap::new(),
        notes: Vec::new(),
    }
}

fn limit(threads: usize) -> Limit {
    let n = threads as f64;
    let peaks = [("f32 avx2", 48.0), ("f32 avx512", 96.0), ("bf16 avx512", 180.0), ("int8 vnni", 370.0)];
    Limit {
        threads,
        peaks: peaks.map(|(name, peak)| (name.into(), peak * n)).into(),
        read: [310.0 * n, 128.0 * n, 24.0 * n, 11.0 * n.min(4.0)],
    }
}

/// A run with invented, plausible times, equal on each call.
fn sample() -> Run {
    let mut rows = Vec::new();
    for threads in [1, 8] {
        for (m, k, n) in [
            (1, 768, 768),
            (1, 4096, 11008),
            (16, 768, 3072),
            (128, 768, 768),
            (128, 768, 3072),
            (512, 1024, 4096),
            (1024, 1024, 1024),
        ] {
            let [m, k, n] = [m, k, n].map(f64::from);
            for (dtype, size) in [("f32", 4.0), ("bf16", 2.0), ("int8", 1.0)] {
                if dtype == "f32" || m > 1.0 {
                    let bytes = size * (m * k + k * n) + 4.0 * m * n;
                    rows.push(row("linear", dtype, &format!("{m}x{k}x{n}"), threads, 2.0 * m * k * n, bytes));
                }
            }
        }
        for (shape, s) in
            [("B1 H12 S128 D64", 128.0), ("B1 H12 S512 D64 causal", 512.0), ("B8 H12 S1 T512 D64", 30.0)]
        {
            rows.push(row(
                "attention",
                "f32",
                shape,
                threads,
                4.0 * 12.0 * s * s * 64.0,
                12.0 * 16.0 * s * 64.0,
            ));
        }
        rows.push(row("softmax", "f32", "512x512", threads, 512.0 * 512.0 * 20.0, 8.0 * 512.0 * 512.0));
        rows.push(row("gelu", "f32", "128x3072", threads, 128.0 * 3072.0 * 25.0, 8.0 * 128.0 * 3072.0));
        for (kernel, size) in [("layernorm", 8.0), ("rmsnorm", 8.0), ("rope", 12.0), ("embedding", 8.0)] {
            for m in [8, 128, 4096] {
                rows.push(row(kernel, "f32", &format!("{m}x768"), threads, 0.0, size * 768.0 * f64::from(m)));
            }
        }
        rows.push(row("model/bert-base", "f32", "B1 S128", threads, 22.3e9, 3.4e8));
        rows.push(row("model/gpt2", "f32", "B1 S1 after 127", threads, 0.25e9, 5.0e8));
    }
    let limits = vec![limit(1), limit(8)];
    let mut random = Random::new(3);
    let mut unit = || (f64::from(random.unit()) + 1.0) / 2.0;
    for row in &mut rows {
        let limit = &limits[usize::from(row.threads == 8)];
        let peak = match row.dtype.as_str() {
            "bf16" => limit.peaks["bf16 avx512"],
            "int8" => limit.peaks["int8 vnni"],
            _ => limit.peaks["f32 avx512"],
        };
        let read = limit.read[row.level as usize];
        row.bound_s = (row.flops / peak / 1e9).max(row.bytes / read / 1e9);
        if row.dtype == "bf16" && row.threads == 8 && row.shape.starts_with("1024") {
            row.notes.push("no bf16 kernel with 8 threads yet".into());
            row.peers.insert("mkl".into(), Peer { median_s: 1e-4, ratio: None, ratio_interval: None });
            continue;
        }
        let time = row.bound_s / (0.45 + 0.5 * unit());
        row.median_s = Some(time);
        row.samples_s = (0..21).map(|i| time * (1.0 + 0.02 * f64::from(i % 7 - 3))).collect();
        row.bound_fraction = Some(row.bound_s / time);
        if row.flops > 0.0 {
            row.gflops = Some(row.flops / time / 1e9);
        } else {
            row.gbps = Some(row.bytes / time / 1e9);
        }
        if row.kernel.starts_with("model/") {
            row.tokens_per_s = Some(128.0 / time);
            row.notes.push("onednn: no such operation".into());
        }
        row.unstable = unit() > 0.94;
        for (name, _, typical) in PEERS {
            let only = matches!(name, "gemm" | "openblas" | "mkl");
            if only && row.kernel != "linear" || name == "onednn" && row.tokens_per_s.is_some() {
                continue;
            }
            let ratio = typical * (0.8 + 0.45 * unit());
            let wide = 0.01 + 0.06 * unit();
            let interval = [ratio * (1.0 - wide), ratio * (1.0 + wide)];
            let peer = Peer { median_s: time * ratio, ratio: Some(ratio), ratio_interval: Some(interval) };
            row.peers.insert(name.into(), peer);
        }
    }
    let peers = PEERS.map(|(name, version, _)| (name.into(), version.into())).into();
    Run { peers, limits, rows, ..empty() }
}

fn comparisons(run: &Run) -> Vec<Comparison> {
    (run.rows.iter().filter(|row| row.median_s.is_some()).skip(2).enumerate())
        .map(|(i, row)| {
            let (ratio, verdict) = match i % 9 {
                1 => (1.12 + i as f64 / 100.0, Verdict::Faster),
                4 => (0.9 - i as f64 / 400.0, Verdict::Slower),
                _ => (1.0 + (i % 5) as f64 / 200.0, Verdict::Same),
            };
            let now_s = row.median_s.unwrap_or(f64::NAN);
            let median_ratio = ratio * 0.98;
            Comparison {
                name: row.name(),
                then_s: now_s * ratio,
                now_s,
                ratio,
                median_ratio,
                p: 0.01,
                verdict,
            }
        })
        .collect()
}

/// Asserts that the page contains no undefined number, no omitted figure and no link to the network.
fn sound(page: &str) {
    for wrong in ["NaN", "inf\"", "inf ", "undefined", "http://", "https://", "src=", "@import", "url("] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(wrong), "{wrong} in {}", page.split(wrong).next().unwrap_or_default());
    }
    // In SVG, an unclosed element contains all elements behind it.
    for (open, close) in [("<path", "</path>"), ("<circle", "</circle>"), ("<rect class", "</rect>")] {
        assert_eq!(page.matches(open).count(), page.matches(close).count(), "{open}");
    }
    for tag in page.split('<') {
        assert!(tag.split('>').next().unwrap_or_default().matches(" class=").count() < 2, "<{tag}");
    }
}

/// Attribute values that follow `name="`, in order.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.split(&format!("{name}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_row_is_in_the_table_and_on_a_picture() {
    let run = sample();
    let page = page(&run, None);
    sound(&page);
    let (pictures, table) = page.split_once("id=\"rows\"").unwrap();
    let (before_peers, peers) = pictures.split_once("id=\"peers\"").unwrap();
    for (i, row) in run.rows.iter().enumerate() {
        assert_eq!(table.matches(&format!("<tr id=\"row-{i}\">")).count(), 1, "{}", row.name());
        // One link at the rate of the row, and one for each peer.
        assert_eq!(before_peers.matches(&format!("href=\"#row-{i}\"")).count(), 1, "{}", row.name());
        assert_eq!(peers.matches(&format!("href=\"#row-{i}\"")).count(), row.peers.len(), "{}", row.name());
        assert!(pictures.contains(&row.name()), "{}", row.name());
    }
    for (name, version) in &run.peers {
        assert!(page.contains(name) && page.contains(version.as_str()));
    }
}

#[test]
fn data_is_escaped() {
    let evil = "<script>alert(\"1\")</script>&'";
    let mut run = sample();
    let text = || String::from(evil);
    run.machine = Machine {
        cpu: text(),
        features: vec![text()],
        target: text(),
        version: text(),
        rustc: text(),
        revision: text(),
        ..machine()
    };
    run.peers.insert(text(), text());
    run.limits[0].peaks.insert(text(), 70.0);
    for (i, row) in run.rows.iter_mut().enumerate() {
        let field = [&mut row.kernel, &mut row.dtype, &mut row.shape, &mut row.isa].into_iter().nth(i % 4);
        *field.unwrap() = text();
        row.notes.push(text());
        row.peers.insert(text(), Peer { median_s: 1.0, ratio: Some(2.0), ratio_interval: Some([1.0, 3.0]) });
    }
    let comparisons = comparisons(&run);
    let page = page(&run, Some(&Baseline { name: evil, unix_time: None, comparisons: &comparisons }));
    assert_eq!(page.matches("<script").count(), 1, "only the page's own");
    assert!(!page.contains("alert(\"1\")"));
    assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;"));
}

#[test]
fn a_run_without_rows_says_so() {
    let page = page(&empty(), Some(&Baseline { name: "main", unix_time: Some(0), comparisons: &[] }));
    sound(&page);
    assert!(page.contains("nothing was measured") && page.contains("Compared with main"));
    assert!(page.contains("2026-03-01T12:00:00Z") && page.contains("1970-01-01T00:00:00Z"));
    assert!(!page.contains("<figure") && !page.contains("id=\"filter\"") && !page.contains("<button"));
}

#[test]
fn figures_that_are_absent_or_absurd_are_shown_as_such() {
    let absurd = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e-300, 1e300];
    let mut run = sample();
    run.rows.truncate(30);
    for (i, row) in run.rows.iter_mut().enumerate() {
        let value = absurd[i % absurd.len()];
        match i / absurd.len() {
            0 => (row.median_s, row.gflops, row.bound_fraction) = (None, None, None),
            1 => (row.median_s, row.gflops, row.bound_fraction) = (Some(value), Some(value), Some(value)),
            2 => (row.bytes, row.bound_s, row.peak_gflops) = (value, value, value),
            3 => (row.flops, row.gbps, row.tokens_per_s) = (value, None, Some(value)),
            _ => row.samples_s = vec![value],
        }
        let peer = Peer { median_s: value, ratio: Some(value), ratio_interval: Some([value, 1.0]) };
        row.peers.insert("absurd".into(), peer);
    }
    run.limits[0].read = [f64::NAN, 0.0, f64::INFINITY, 10.0];
    run.limits[0].peaks.insert("absurd".into(), f64::NAN);
    let comparison = Comparison {
        name: "gone".into(),
        then_s: f64::NAN,
        now_s: 0.0,
        ratio: f64::NAN,
        median_ratio: f64::INFINITY,
        p: 1.0,
        verdict: Verdict::Same,
    };
    let text = page(&run, Some(&Baseline { name: "main", unix_time: None, comparisons: &[comparison] }));
    sound(&text);
    for i in 0..run.rows.len() {
        assert!(text.contains(&format!("href=\"#row-{i}\"")), "row {i} is on no picture");
    }
    run.limits.clear();
    sound(&page(&run, None));
}

#[test]
fn extreme_ratios_stay_inside_their_picture() {
    let mut run = sample();
    for (row, exponent) in run.rows.iter_mut().zip((-3..=3).cycle()) {
        let ratio = 10f64.powi(exponent);
        let interval = Some([ratio / 1.5, ratio * 1.5]);
        row.peers =
            [("mkl".into(), Peer { median_s: 1.0, ratio: Some(ratio), ratio_interval: interval })].into();
    }
    let page = page(&run, None);
    sound(&page);
    let picture = page.split_once("Ratios to mkl").unwrap().1.split_once("</figure>").unwrap().0;
    let bars: Vec<&str> = picture.split("<rect class=\"bar").skip(1).collect();
    assert_eq!(bars.len(), run.rows.len());
    for bar in bars {
        let number = |name| attributes(bar, name)[0].parse::<f64>().unwrap();
        let (left, right) = (number(" x"), number(" x") + number("width"));
        assert!((280.0..=531.0).contains(&left) && (280.0..=531.0).contains(&right), "{left}..{right}");
    }
    for label in ["0.001", ">\n1\n<", ">\n1000\n<", "0.00100 slower", "1.00 undecided", "1000 faster"] {
        assert!(picture.contains(label), "{label}");
    }
}

#[test]
fn a_comparison_lists_slower_rows_first() {
    let run = sample();
    let comparisons = comparisons(&run);
    let page = page(&run, Some(&Baseline { name: "main", unix_time: Some(9), comparisons: &comparisons }));
    sound(&page);
    let table = page.split_once("id=\"compared\"").unwrap().1.split_once("</table>").unwrap().0;
    let positions = ["▼ slower", "▲ faster", "≈ same"].map(|verdict| {
        let found: Vec<usize> = table.match_indices(verdict).map(|(at, _)| at).collect();
        (found[0], *found.last().unwrap(), found.len())
    });
    assert!(positions[0].1 < positions[1].0 && positions[1].1 < positions[2].0, "{positions:?}");
    assert_eq!(positions.iter().map(|position| position.2).sum::<usize>(), comparisons.len());
    assert!(page.contains("rows of this run without a counterpart"));
}

#[test]
fn colours_of_plotters_have_a_dark_counterpart() {
    for colour in [super::plot::INK, super::plot::GRID, super::plot::ROOF] {
        let hex = format!("\"#{:02X}{:02X}{:02X}\"", colour.0, colour.1, colour.2);
        assert!(super::STYLE.contains(&hex), "{hex}");
    }
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (unix, iso) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_800, "2000-03-01T00:00:00Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(date(unix), iso);
    }
}

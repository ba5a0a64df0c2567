//! Rows as Markdown tables, which `tilewright bench --markdown` writes from a run or from the files of earlier runs.

use crate::html::format::{count, date, level, percent, seconds, significant};
use crate::record::{Peer, Row, RowLine, RunFacts};
use std::collections::{BTreeMap, BTreeSet};

/// Explanation of the columns, above all tables.
const PREAMBLE: &str = "\
# Results

`tilewright bench --markdown` wrote the tables of kernels and models; do not edit them. A row is one case, and
`tilewright bench CASE --threads N` measures it again (`tilewright bench --list` shows the names of cases).

- `time`: median of the samples. `~` marks rows measured while the machine was not stable.
- `of bound`: share of the roofline's bound, the larger of operations / peak and bytes / read bandwidth.
- `data in`: the smallest cache level, or memory, that holds inputs and outputs.
- `x NAME`: time of the library NAME over ours, with half of its 95% interval. Above 1, tilewright is faster.
";

/// Line of a file of results below which the text is written by hand.
pub const BY_HAND: &str = "<!-- `tilewright bench --markdown` keeps the text below this line. -->";

/// `tables` with the text that `old`, a file of results, has from the line [`BY_HAND`] on.
///
/// ```
/// use tilewright_bench::markdown::{BY_HAND, with_text_of};
/// let old = format!("tables\n{BY_HAND}\n\n# Chapter\n");
/// assert_eq!(with_text_of("new\n".to_owned(), &old), format!("new\n\n{BY_HAND}\n\n# Chapter\n"));
/// assert_eq!(with_text_of("new\n".to_owned(), "tables\n"), "new\n");
/// ```
pub fn with_text_of(mut tables: String, old: &str) -> String {
    if let Some(start) = old.find(BY_HAND) {
        tables += "\n";
        tables += &old[start..];
    }
    tables
}

/// The heading of a group of rows.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Group<'a> {
    run: &'a RunFacts,
    isa: &'a str,
    threads: usize,
}

/// One table of `lines` for each run, backend and number of threads, in the order of the runs' dates.
///
/// ```
/// assert!(tilewright_bench::markdown::tables(&[]).starts_with("# Results"));
/// ```
pub fn tables(lines: &[RowLine]) -> String {
    let mut groups: BTreeMap<(u64, Group<'_>), Vec<&Row>> = BTreeMap::new();
    for RowLine { row, run } in lines {
        let group = Group { run, isa: &row.isa, threads: row.threads };
        groups.entry((run.unix_time, group)).or_default().push(row);
    }
    let mut text = PREAMBLE.to_owned();
    for ((_, Group { run, isa, threads }), rows) in groups {
        let day = &date(run.unix_time)[..10];
        let RunFacts { cpu, version, revision, .. } = run;
        let threads = count(threads, "thread");
        text += &format!("\n## {}, {isa}, {threads}, {day}\n\n", cell(cpu));
        text += &format!("tilewright {version}, revision {}.\n\n", cell(revision));
        text += &table(&rows);
    }
    text
}

fn table(rows: &[&Row]) -> String {
    let peers: BTreeSet<&str> = rows.iter().flat_map(|row| row.peers.keys().map(String::as_str)).collect();
    let mut header: Vec<String> =
        ["kernel", "type", "shape", "weights", "time", "rate", "of bound", "data in"]
            .map(String::from)
            .into();
    header.extend(peers.iter().map(|peer| format!("x {}", cell(peer))));
    // Four columns of words come first, then figures.
    let rule: Vec<String> =
        (0..header.len()).map(|i| if i < 4 { "---" } else { "---:" }.to_owned()).collect();
    let body = rows.iter().map(|row| {
        let inputs = row.layer_inputs.as_ref().map_or(String::new(), |inputs| format!(", inputs {inputs}"));
        let mut cells = vec![
            cell(&row.kernel),
            format!("{}{inputs}", row.dtype),
            cell(&row.shape),
            row.packed.map_or("", |packed| if packed { "packed" } else { "as stored" }).to_owned(),
            format!("{}{}", if row.unstable { "~ " } else { "" }, row.median_s.map_or("–".into(), seconds)),
            rate(row),
            row.bound_fraction.map_or(String::new(), percent),
            level(row.level).to_owned(),
        ];
        cells.extend(peers.iter().map(|&peer| row.peers.get(peer).map_or(String::new(), ratio)));
        cells
    });
    [header, rule].into_iter().chain(body).map(|cells| format!("| {} |\n", cells.join(" | "))).collect()
}

/// Tokens, operations or bytes per second.
fn rate(row: &Row) -> String {
    match (row.tokens_per_s, row.gflops, row.gbps) {
        (Some(tokens), ..) => format!("{} tokens/s", significant(tokens, 3)),
        (_, Some(flops), _) => format!("{} GFLOP/s", significant(flops, 3)),
        (.., Some(bytes)) => format!("{} GB/s", significant(bytes, 3)),
        _ => String::new(),
    }
}

/// The ratio to a peer, `1.21 ±0.03`, or the peer's time if this project has no such kernel.
fn ratio(peer: &Peer) -> String {
    match (peer.ratio, peer.ratio_interval) {
        (Some(ratio), Some([low, high])) => format!("{ratio:.2} ±{:.2}", (high - low) / 2.0),
        _ => seconds(peer.median_s),
    }
}

/// Escapes text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::tables;
    use crate::record::{Level, Peer, Row, RowLine, RunFacts};

    #[test]
    fn rows_of_a_run_and_of_its_files_give_the_same_tables() {
        let row = Row {
            kernel: "linear".into(),
            dtype: "q4_0".into(),
            layer_inputs: Some("rounded".into()),
            shape: "1x2|3".into(),
            isa: "avx2".into(),
            threads: 2,
            packed: Some(true),
            median_s: Some(1.5e-3),
            samples_s: vec![1.5e-3],
            visits_s: vec![1.5e-3],
            flops: 12.0,
            bytes: 0.0,
            gflops: Some(8e-6),
            gbps: None,
            tokens_per_s: None,
            level: Level::L2,
            bound_s: 0.5e-3,
            bound_fraction: Some(0.333),
            peak_gflops: 100.0,
            read_gbps: 10.0,
            unstable: true,
            peak_bytes: None,
            peers: [(
                "mkl".to_owned(),
                Peer { median_s: 3e-3, ratio: Some(2.0), ratio_interval: Some([1.9, 2.1]) },
            )]
            .into(),
            notes: Vec::new(),
        };
        let run = |unix_time| RunFacts {
            cpu: "a CPU".into(),
            version: "1".into(),
            revision: "abc".into(),
            unix_time,
        };
        let lines = [1_772_366_400, 0].map(|time| RowLine { row: row.clone(), run: run(time) });
        let text = tables(&lines);
        let line = "| linear | q4_0, inputs rounded | 1x2\\|3 | packed | ~ 1.50 ms | 8.00e-6 GFLOP/s | 33% | L2 | 2.00 ±0.10 |";
        assert_eq!(text.lines().filter(|found| *found == line).count(), 2, "{text}");
        let days: Vec<_> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(days, ["## a CPU, avx2, 2 threads, 1970-01-01", "## a CPU, avx2, 2 threads, 2026-03-01"]);
        let read = lines.map(|line| serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap());
        assert_eq!(tables(&read), text);
    }
}

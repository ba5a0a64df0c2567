//! `tilewright report`.

mod speed;

use super::verify::{TABLE, all, check, report_failures, style, table as verify_table};
use super::{Common, Session, isa};
use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use speed::{Measurement, Work, measure};
use std::time::Duration;
use tilewright::cpu::Cpu;
use tilewright::probe;

/// Show what this CPU is, verify the kernels, and measure them and a model
///
/// Takes under a minute and no files: inputs and weights are random. Times are those of the fastest
/// of many runs. Shares are of the FMA peak that runs in between reached, on as many threads.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tilewright report
  tilewright report --threads 1
  tilewright report --isa avx2 --json > report.json")]
pub struct Report {
    /// Cases of the verification, for each kernel on each backend
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,

    #[command(flatten)]
    common: Common,
}

/// Time for each yardstick.
const PROBE: Duration = Duration::from_millis(100);

impl Report {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        let cpu = Cpu::detect();
        session.say(&format!("features  {}", cpu.features.join(" ")))?;
        session.say(&format!("caches    {}", isa::caches(&cpu)))?;

        let backends = if self.common.forced() { vec![session.backend] } else { all() };
        let checked = check(None, &backends, 0, self.cases);
        session.say(&format!(
            "\nVerified: worst error as a share of its bound, and in ULP; {} cases each\n",
            self.cases
        ))?;
        session.say(&verify_table(&checked, &backends).to_string())?;

        let limits = Limits::measure(&session, &cpu);
        session.say(&limits.to_string())?;

        let bar = ProgressBar::new(speed::ROWS).with_style(style());
        let rows = measure(&session, &bar)?;
        bar.finish_and_clear();
        session.say(&speed_table(&rows).to_string())?;
        if session.json {
            let all = json!({
                "cpu": cpu,
                "verified": checked.iter().map(super::verify::Row::json).collect::<Vec<_>>(),
                "limits": limits.json(),
                "speed": rows.iter().map(Measurement::json).collect::<Vec<_>>(),
            });
            session.print_json(all)?;
        }
        report_failures(&checked, &session)
    }
}

/// What no kernel can exceed.
struct Limits {
    /// Floating-point operations per second, on all threads.
    peak: f64,
    threads: usize,
    /// Bytes per second that one thread reads from L1, L2, L3 and memory.
    read: [f64; 4],
}

impl Limits {
    fn measure(session: &Session, cpu: &Cpu) -> Self {
        Self {
            peak: probe::peak(session.backend, PROBE),
            threads: session.threads,
            read: probe::working_sets(cpu, 1).map(|bytes| probe::bandwidth(session.backend, bytes, PROBE)),
        }
    }

    fn json(&self) -> Value {
        let [l1, l2, l3, memory] = self.read.map(|rate| rate / 1e9);
        json!({
            "peak_gflops": self.peak / 1e9,
            "read_gbytes_per_s_one_thread": { "l1": l1, "l2": l2, "l3": l3, "memory": memory },
        })
    }
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [l1, l2, l3, memory] = self.read.map(|rate| rate / 1e9);
        let plural = if self.threads == 1 { "" } else { "s" };
        writeln!(f, "\nFMA peak {:.0} GFLOP/s on {} thread{plural}", self.peak / 1e9, self.threads)?;
        writeln!(
            f,
            "one thread reads {l1:.0} GB/s from L1, {l2:.0} from L2, {l3:.0} from L3, {memory:.0} from memory"
        )
    }
}

fn speed_table(rows: &[Measurement]) -> Table {
    let mut table = Table::new();
    table.load_style(TABLE).set_header(["kernel", "case", "time", "rate", "of peak"]);
    for row in rows {
        let time = match row.seconds {
            s if s < 1e-3 => format!("{:.1} us", s * 1e6),
            s => format!("{:.2} ms", s * 1e3),
        };
        let rate = match row.work {
            Work::Flops(n) => format!("{:.1} GFLOP/s", n / row.seconds / 1e9),
            Work::Bytes(n) => format!("{:.1} GB/s", n / row.seconds / 1e9),
            Work::Tokens { tokens, .. } => format!("{:.0} tokens/s", tokens / row.seconds),
        };
        let share = row.share_of_peak().map_or(String::new(), |share| format!("{:.0}%", 100.0 * share));
        table.add_row([row.kernel.to_owned(), row.case.clone(), time, rate, share]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

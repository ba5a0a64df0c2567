//! `tilewright report`: CPU, verification and speed at a glance.

use super::bench::{dtype, jobs, measure, tables};
use super::verify::{COLUMNS, all, check, report_failures, table as verify_table};
use super::{Common, MainThread, isa};
use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use tilewright_bench::bencher::Bencher;
use tilewright_bench::case::dtype_name;
use tilewright_bench::cpu::Cpu;
use tilewright_bench::measure::Effort;
use tilewright_bench::record::{Machine, Run};
use tilewright_bench::registry;
use tilewright_peers::Dtype;

/// Shows this CPU, verifies the kernels, and measures them and a model
///
/// Takes under a minute and needs no files: inputs and weights are random. Times are medians of a few samples.
/// Shares are of the roofline's bound, as in `tilewright bench`, which measures longer.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tilewright report
  tilewright report --threads 1
  tilewright report --dtype bf16
  tilewright report --isa avx2 --json > report.json")]
pub struct Report {
    /// Number of verified cases for each kernel on each backend
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,

    /// Type of the measured products and of the model
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = dtype())]
    dtype: Dtype,

    #[command(flatten)]
    common: Common,
}

impl Report {
    pub fn run(self) -> Result<()> {
        let session = self.common.start_in(MainThread::Measures, Some(dtype_name(self.dtype)))?;
        let cpu = Cpu::detect();
        session.say(&format!("features  {}", cpu.features.join(" ")))?;
        session.say(&format!("caches    {}", isa::caches(&cpu)))?;

        let backends = if self.common.forced() { vec![session.backend] } else { all() };
        let checked = check(None, &backends, 0, self.cases);
        session.say(&format!("\n{} cases of each kernel on each backend", self.cases))?;
        session.say(COLUMNS)?;
        session.say(&verify_table(&checked, &backends).to_string())?;

        let mut bencher = Bencher::new(session.backend, &[session.threads], Effort::QUICK)
            .context("cannot start the threads")?;
        bencher.measure_limits();
        session.say(&tables::limits(bencher.limits()))?;
        let rows = measure(&bencher, &jobs(&registry::report(self.dtype), 1), bencher.effort.visits)?;
        let run = Run {
            machine: Machine::detect(),
            unix_time: super::bench::unix_time(),
            peers: [].into(),
            limits: bencher.limits().to_vec(),
            rows,
        };
        for table in tables::rows(&run, false) {
            session.say(&table)?;
        }
        if session.json {
            let verified: Vec<_> = checked.iter().map(super::verify::KernelResult::json).collect();
            session.print_json(json!({ "cpu": cpu, "verified": verified, "measured": run }))?;
        }
        session.say(&tables::notes(&run))?;
        report_failures(&checked, &session)
    }
}

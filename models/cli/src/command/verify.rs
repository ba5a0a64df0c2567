//! `tilewright verify`: kernels against their definitions, checkpoints in each type against f32.

mod exhaustive;
mod model;

use super::checkpoint::{self, format};
use super::style::{self, TABLE};
use super::{Common, Session};
use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::PathBuf;
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;
use tilewright_verify::{Counterexample, Worst};

/// Checks every kernel on every backend of this CPU against its definition
///
/// Arguments are random: extents that straddle vectors, tiles and blocks, strides, misalignment, NaN, infinities,
/// denormals. The table shows the worst error of each kernel as a share of its derived bound; 1.00 is the bound. If
/// a bound is stated in units of the last place (ULP), the error in ULP precedes the share. The exit status is 1 if
/// an error exceeds its bound.
///
/// With --model, the command runs a checkpoint on 200 sentences (fewer if the model is large) in each type, and
/// compares its outputs with f32. The f32 outputs come from the definitions if they take seconds, else from the
/// portable backend. The exit status is 1 if an output is not finite, or if the cosine of a sentence's mean state
/// is below the type's floor.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tilewright verify
  tilewright verify --kernel gemm --isa avx2 --cases 10000
  tilewright verify --kernel gemm --isa avx2 --seed 17 --cases 1    repeats one case
  tilewright verify --exhaustive --isa avx512
  tilewright verify --model all-minilm-l6-v2 --dtype bf16,int8
  tilewright verify --model all-minilm-l6-v2 --texts mine.txt --json")]
pub struct Verify {
    /// Check only this kernel
    #[arg(long, value_name = "NAME", value_parser = kernels())]
    kernel: Option<String>,

    /// Seed of the first case; each further case adds 1
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Number of cases for each kernel on each backend
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,

    /// Check all 2^32 arguments of exp, log, erf, tanh, GELU and SiLU instead; takes minutes for each function
    #[arg(long, conflicts_with_all = ["kernel", "seed", "cases"])]
    exhaustive: bool,

    /// Check this checkpoint instead: a directory, a GGUF file, or ORG/NAME on the Hub with the feature `hub`
    #[arg(long, value_name = "DIR|FILE|ORG/NAME", conflicts_with_all = ["kernel", "seed", "cases", "exhaustive"])]
    model: Option<PathBuf>,

    /// Types of the linear layers to check [default: all]
    #[arg(long = "dtype", value_name = "TYPE,..", requires = "model", value_delimiter = ',', value_parser = format())]
    dtypes: Vec<Format>,

    /// Run the model on the lines of this file instead of the 200 sentences
    #[arg(long, value_name = "FILE", requires = "model")]
    texts: Option<PathBuf>,

    /// Run the model on the ids in this file, in the format of `tilewright forward`; needs no tokenizer
    #[arg(long, value_name = "IN.safetensors", requires = "model", conflicts_with = "texts")]
    inputs: Option<PathBuf>,

    #[command(flatten)]
    common: Common,
}

/// The names that `--kernel` takes.
fn kernels() -> Vec<&'static str> {
    let mut names: Vec<_> = tilewright_verify::checks(None).map(|check| check.kernel).collect();
    names.dedup();
    names
}

/// Result of the checks of one kernel on one backend.
pub struct KernelResult {
    kernel: &'static str,
    backend: Backend,
    result: Result<Worst, Counterexample>,
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        if let Some(model) = &self.model {
            return model::run(&self, &checkpoint::locate(model)?, &session);
        }
        let backends = if self.common.forced() { vec![session.backend] } else { all() };
        if self.exhaustive {
            return exhaustive::run(&session, &backends);
        }
        let rows = check(self.kernel.as_deref(), &backends, self.seed, self.cases);
        if session.json {
            let results: Vec<_> = rows.iter().map(KernelResult::json).collect();
            session.print_json(json!({ "seed": self.seed, "cases": self.cases, "results": results }))?;
        } else {
            let Self { cases, seed, .. } = self;
            session.say(&format!("{cases} cases of each kernel on each backend, seeds from {seed}"))?;
            session.say(COLUMNS)?;
            session.say(&table(&rows, &backends).to_string())?;
        }
        report_failures(&rows, &session)
    }
}

/// The line above [`table`].
pub const COLUMNS: &str = "\
columns: worst error as a share of the derived bound (1.00 is the most allowed); ULP where the bound is stated in ULP
";

/// All backends of this CPU except the reference.
pub fn all() -> Vec<Backend> {
    Backend::available().iter().copied().filter(|&b| b != Backend::REFERENCE).collect()
}

/// Runs the checks of `kernel` (of all kernels if `None`) behind a progress bar; one result for each kernel and
/// backend.
pub fn check(kernel: Option<&str>, backends: &[Backend], seed: u64, cases: u64) -> Vec<KernelResult> {
    let checks: Vec<_> = tilewright_verify::checks(kernel).collect();
    let bar = ProgressBar::new(cases * (checks.len() * backends.len()) as u64).with_style(style::progress());
    let mut rows = Vec::new();
    for checks in checks.chunk_by(|a, b| a.kernel == b.kernel) {
        let kernel = checks[0].kernel;
        for &backend in backends {
            bar.set_message(format!("{kernel} on {}", backend.name()));
            let done = bar.position() + cases * checks.len() as u64;
            let all = checks.iter().map(|check| check.run(backend, seed, cases, || bar.inc(1)));
            let result = all.reduce(|a, b| Ok(a?.max(b?))).expect("a kernel has a check");
            bar.set_position(done);
            rows.push(KernelResult { kernel, backend, result });
        }
    }
    bar.finish_and_clear();
    rows
}

/// A row for each kernel, a column for each backend.
pub fn table(rows: &[KernelResult], backends: &[Backend]) -> Table {
    let mut table = Table::new();
    let names = backends.iter().map(|b| b.name());
    table.load_style(TABLE).set_header(std::iter::once("kernel").chain(names));
    for kernel in rows.chunks(backends.len()) {
        let results = kernel.iter().map(|row| match &row.result {
            Ok(Worst { share, ulp: Some(ulp) }) => format!("{ulp:.2} ULP  {share:.2}"),
            Ok(Worst { share, ulp: None }) => format!("{share:.2}"),
            Err(_) => "FAILED".to_owned(),
        });
        table.add_row(std::iter::once(kernel[0].kernel.to_owned()).chain(results));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Prints each failure with the command that repeats it.
///
/// # Errors
/// If a check failed.
pub fn report_failures(rows: &[KernelResult], session: &Session) -> Result<()> {
    let failures: Vec<_> = rows.iter().filter_map(|row| row.result.as_ref().err()).collect();
    for failure in &failures {
        session.say(&format!("\n{failure}"))?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{} of {} checks failed", failures.len(), rows.len())
}

impl KernelResult {
    pub fn json(&self) -> Value {
        let mut row =
            json!({ "kernel": self.kernel, "isa": self.backend.name(), "passed": self.result.is_ok() });
        match &self.result {
            Ok(worst) => {
                row["worst_share_of_bound"] = json!(worst.share);
                row["worst_ulp"] = json!(worst.ulp);
            }
            Err(failure) => {
                row["failure"] = json!({
                    "seed": failure.seed,
                    "arguments": failure.params,
                    "why": failure.why,
                    "command": failure.command(),
                });
            }
        }
        row
    }
}

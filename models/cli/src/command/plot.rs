//! `tilewright plot`: curves of runs as one HTML page.

mod chart;
mod page;
mod run;

use super::Common;
use anyhow::{Context as _, Result};
use clap::Args;
use run::Run;
use serde_json::json;
use std::path::{Path, PathBuf};
use tilewright::whole_file;

/// Draws the curves of runs as one HTML page
///
/// A run is a directory that `tilewright pretrain` or `finetune` wrote with --out: its log.jsonl has losses, learning
/// rates and norms of gradients, its speed.jsonl tokens/s. Both commands write the page of their own run, report.html,
/// with each checkpoint and at their end. The page needs no network and no other file.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright plot model                            # writes model/report.html
  tilewright plot bert albert --out compared.html  # one page with the curves of both")]
pub struct Plot {
    /// Directories of runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// File for the page [default: report.html in the directory of the run; of several, in the current one]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    common: Common,
}

/// Name of a run's page.
const PAGE: &str = "report.html";

impl Plot {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        let runs = self.runs.iter().map(|dir| Run::read(dir)).collect::<Result<Vec<_>>>()?;
        let default = || match &self.runs[..] {
            [dir] => dir.join(PAGE),
            _ => PAGE.into(),
        };
        let out = self.out.clone().unwrap_or_else(default);
        whole_file::write(&out, page::page(&runs).as_bytes()).context("--out")?;
        if session.json {
            let summaries: Vec<_> = runs.iter().map(|run| json!(run.summary())).collect();
            return session.print_json(json!({ "runs": summaries, "out": out }));
        }
        for run in &runs {
            let steps = run.summary().steps;
            session.say(&format!("{}: {steps} steps", run.name))?;
        }
        session.say(&format!("wrote {}", out.display()))
    }
}

/// Writes the page of the run in `dir`.
pub fn write_report(dir: &Path) -> Result<()> {
    let page = page::page(&[Run::read(dir)?]);
    Ok(whole_file::write(&dir.join(PAGE), page.as_bytes())?)
}

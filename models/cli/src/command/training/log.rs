//! A log of a run in JSON lines: a line for each step.

use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tilewright::whole_file;

/// A log, open at its end.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of a run that goes on after `step` steps. Lines of later steps, which the run repeats, are removed;
    /// so is a line that an interruption cut.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let path = path.to_owned();
        let old = match std::fs::read_to_string(&path) {
            Ok(old) => old,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        let counts = |line: &&str| {
            let line: Option<Value> = serde_json::from_str(line).ok();
            line.is_some_and(|line| line["step"].as_u64().is_some_and(|of| of <= step))
        };
        let kept: String = old.split_inclusive('\n').filter(counts).collect();
        if kept != old {
            whole_file::write(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().append(true).create(true).open(&path);
        Ok(Self { file: file.with_context(|| path.display().to_string())?, path })
    }

    /// Appends the line of a step.
    pub fn push(&mut self, line: &Value) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).with_context(|| self.path.display().to_string())
    }

    /// Waits until the disk has all lines.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().with_context(|| self.path.display().to_string())
    }
}

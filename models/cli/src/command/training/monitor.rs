//! Progress of a run: the bar, log.jsonl, speed.jsonl, TensorBoard's events.
//!
//! | file in --out | line or event | after a resumption |
//! |---|---|---|
//! | log.jsonl | loss, norm, rate of a step; evaluations | bits of a run that was never interrupted |
//! | speed.jsonl | time of a step, tokens/s, share of the peak | times of the process that wrote the line |
//! | tensorboard/events.out.tfevents.* | both | a new file, which replaces events of repeated steps |

use super::events::EventFile;
use super::log::Log;
use crate::command::{Session, style};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tilewright::train::StepReport;
use tilewright_bench::probe::peak;

/// Time for the measurement of the peak: each of its runs takes about 0.2 ms.
const PROBE: Duration = Duration::from_millis(50);

/// Progress of a run.
#[derive(Debug)]
pub struct Monitor {
    session: Session,
    bar: ProgressBar,
    log: Log,
    speed: Log,
    events: Option<EventFile>,
    /// f32 multiply-adds of the pool's threads on registers, in operations per second.
    peak: f64,
    /// Sums over the steps of this process, without evaluations and checkpoints.
    pub seconds: f64,
    pub tokens: usize,
    operations: f64,
    /// End of the last step, or the start of this one.
    since: Instant,
}

impl Monitor {
    /// Opens the files in `out` of a run of `steps` steps that goes on after step `first`.
    pub fn open(session: Session, out: &Path, first: u64, steps: u64, tensorboard: bool) -> Result<Self> {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let bar = bar.with_style(style::progress());
        bar.set_position(first);
        bar.reset_eta();
        let open = |name: &str| Log::open(&out.join(name), first);
        Ok(Self {
            session,
            bar,
            log: open("log.jsonl")?,
            speed: open("speed.jsonl")?,
            events: tensorboard.then(|| EventFile::create(&out.join("tensorboard"), first)).transpose()?,
            peak: peak(session.backend, PROBE),
            seconds: 0.0,
            tokens: 0,
            operations: 0.0,
            since: Instant::now(),
        })
    }

    /// Starts the clock of a step.
    pub fn start(&mut self) {
        self.since = Instant::now();
    }

    /// Takes the report of the step that ends now, starts the clock of the next one, and returns the step's line for
    /// [`log`](Self::log).
    pub fn step(&mut self, report: &StepReport) -> Result<Value> {
        let seconds = self.since.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.tokens += report.tokens;
        self.operations += report.operations;
        let mut line = json!(report);
        line["parts"] = means(&report.parts);
        let speed = json!({
            "step": report.step,
            "seconds": seconds,
            "tokens_per_second": report.tokens as f64 / seconds,
            "share_of_peak": report.operations / seconds / self.peak,
        });
        self.speed.push(&speed)?;
        if let Some(events) = &mut self.events {
            events.push(report.step, &[&line, &speed])?;
        }
        let skipped = if report.skipped { ", skipped" } else { "" };
        self.bar.set_message(format!(
            "loss {:.4}{skipped}, lr {:.2e}, {:.0} tokens/s, {:.0}% of the FMA peak",
            report.loss,
            report.learning_rate,
            self.tokens_per_second(),
            100.0 * self.share_of_peak(),
        ));
        self.bar.set_position(report.step);
        self.start();
        Ok(line)
    }

    /// Appends a line to the log.
    pub fn log(&mut self, line: &Value) -> Result<()> {
        self.log.push(line)
    }

    /// Takes the fields of an evaluation after step `step`.
    pub fn evaluated(&mut self, step: u64, fields: &Value) -> Result<()> {
        self.events.as_mut().map_or(Ok(()), |events| events.push(step, &[fields]))
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) -> Result<()> {
        self.bar.suspend(|| self.session.say(line))
    }

    /// Tokens per second of this process's steps; 0 if it had none.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }

    /// Share of the peak in the steps of this process.
    pub fn share_of_peak(&self) -> f64 {
        self.operations / self.seconds.max(1e-9) / self.peak
    }

    /// Waits until the disk has all lines.
    pub fn sync(&self) -> Result<()> {
        self.log.sync()?;
        self.speed.sync()?;
        self.events.as_ref().map_or(Ok(()), EventFile::sync)
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Means of objectives as an object.
pub fn means(parts: &[(&'static str, f64)]) -> Value {
    let fields: Map<String, Value> =
        parts.iter().map(|(name, mean)| ((*name).to_owned(), json!(mean))).collect();
    Value::Object(fields)
}

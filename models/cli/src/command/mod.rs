//! The subcommands, one file each, and their common part: `--isa`, `--threads`, `--json`, the header and the
//! exit status.
//!
//! A new subcommand is a file with a [`clap::Args`] struct and its `run`, a `mod` line, and one
//! variant of [`Command`] with its arm.

mod answer;
mod bench;
mod checkpoint;
mod classify;
mod detect_replaced;
mod embed;
mod evaluate;
mod fill_mask;
mod finetune;
mod forward;
mod generate;
mod gradients;
mod hub;
mod info;
mod isa;
mod plot;
mod pretrain;
mod report;
mod settings;
mod style;
mod task;
mod text;
mod tokenize;
mod tokenizer;
mod training;
mod training_type;
mod verify;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::ExitCode;
use tilewright_bench::cpu::Cpu;
use tilewright_kernels::Backend;

/// CPU kernels for transformers, and reference models built on them
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Tilewright {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Answer(answer::Answer),
    Bench(Box<bench::Bench>),
    Classify(classify::Classify),
    DetectReplaced(detect_replaced::DetectReplaced),
    Embed(embed::Embed),
    Evaluate(evaluate::Evaluate),
    FillMask(fill_mask::FillMask),
    Finetune(Box<finetune::Finetune>),
    Forward(forward::Forward),
    Gradients(gradients::Gradients),
    Plot(plot::Plot),
    Pretrain(Box<pretrain::Pretrain>),
    Generate(Box<generate::Generate>),
    Info(info::Info),
    Isa(isa::Isa),
    Report(report::Report),
    Tokenize(Box<tokenize::Tokenize>),
    Tokenizer(tokenizer::Tokenizer),
    Verify(verify::Verify),
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Self::Answer(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Classify(args) => args.run(),
            Self::DetectReplaced(args) => args.run(),
            Self::Embed(args) => args.run(),
            Self::Evaluate(args) => args.run(),
            Self::FillMask(args) => args.run(),
            Self::Finetune(args) => args.run(),
            Self::Forward(args) => args.run(),
            Self::Gradients(args) => args.run(),
            Self::Plot(args) => args.run(),
            Self::Pretrain(args) => args.run(),
            Self::Generate(args) => args.run(),
            Self::Info(args) => args.run(),
            Self::Isa(args) => args.run(),
            Self::Report(args) => args.run(),
            Self::Tokenize(args) => args.run(),
            Self::Tokenizer(args) => args.run(),
            Self::Verify(args) => args.run(),
        }
    }
}

/// Options that every subcommand flattens into its arguments.
#[derive(Debug, Args)]
pub struct Common {
    /// Backend to compute on; `tilewright isa` lists the names [default: TILEWRIGHT_ISA, or else the best of this CPU,
    /// or every backend for the checks of verify and report]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,

    /// Number of threads [default: RAYON_NUM_THREADS, or else one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_THREADS)))]
    threads: Option<u16>,

    /// Write one JSON object to stdout, and the header to stderr
    #[arg(long)]
    json: bool,
}

/// State of a started subcommand, which computes on `backend` in the global rayon pool.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The backend in effect.
    pub backend: Backend,
    /// Threads of the global pool.
    pub threads: usize,
    /// Type of the linear layers, if the subcommand takes one.
    pub dtype: Option<&'static str>,
    /// True if stdout carries JSON alone.
    pub json: bool,
}

impl Common {
    /// The reason why this backend is in effect.
    pub fn why(&self) -> &'static str {
        match (&self.isa, std::env::var_os("TILEWRIGHT_ISA")) {
            (Some(_), _) => "--isa names it",
            (None, Some(_)) => "TILEWRIGHT_ISA names it",
            (None, None) => "the best of this CPU",
        }
    }

    /// True if the user chose the backend.
    pub fn forced(&self) -> bool {
        self.isa.is_some() || std::env::var_os("TILEWRIGHT_ISA").is_some()
    }

    /// Chooses the backend, makes the thread pool and prints the header.
    pub fn start(&self) -> Result<Session> {
        self.start_in(MainThread::Computes, None)
    }

    /// As [`start`](Self::start), for work in the type `dtype` and a main thread of another role.
    fn start_in(&self, main: MainThread, dtype: Option<&'static str>) -> Result<Session> {
        let threads = self.threads.map_or_else(default_threads, usize::from);
        Session::start(self.isa.as_deref(), main, threads, dtype, self.json)
    }
}

/// Role of the main thread in the global pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MainThread {
    /// Belongs to the pool. From outside of the pool, every call of a kernel hands its work over and sleeps until the
    /// work is done; decoding lost up to half of its speed.
    Computes,
    /// Stays outside, and measures kernels in pools made for the purpose. While the main thread belonged to the global
    /// pool, each call of a kernel in such a pool of two threads took 1.3 us longer: a copy of 128x768 floats 8.1 us
    /// instead of 6.8 (two Sapphire Rapids cores, 2026-11-29, `bench copy/f32/128x768 --quick --threads 2`, medians of
    /// 12 runs in turns).
    Measures,
}

/// Largest number of threads, from `--threads` or RAYON_NUM_THREADS.
const MAX_THREADS: u16 = 1024;

/// Default of `--threads`: RAYON_NUM_THREADS, or else one for each core; at most [`MAX_THREADS`].
fn default_threads() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.unwrap_or_else(cores).min(MAX_THREADS.into())
}

/// The backend named by `--isa`, or else by TILEWRIGHT_ISA, or else the best of this CPU.
fn backend(isa: Option<&str>) -> Result<Backend> {
    match isa {
        Some(name) => Backend::named(name).context("--isa"),
        None => Backend::from_env().context("TILEWRIGHT_ISA"),
    }
}

impl Session {
    /// Chooses the backend, makes the global pool of `threads` threads and prints the header.
    fn start(
        isa: Option<&str>,
        main: MainThread,
        threads: usize,
        dtype: Option<&'static str>,
        json: bool,
    ) -> Result<Self> {
        let backend = backend(isa)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = match main {
            MainThread::Computes => pool.use_current_thread(),
            MainThread::Measures => pool,
        };
        pool.build_global().context("cannot start the threads")?;
        let session = Self { backend, threads: rayon::current_num_threads(), dtype, json };
        session.say(&session.header())?;
        Ok(session)
    }

    /// Prints a line for a human: to stderr if stdout carries JSON.
    pub fn say(&self, line: &str) -> Result<()> {
        match self.json {
            true => writeln!(std::io::stderr(), "{line}")?,
            false => writeln!(std::io::stdout(), "{line}")?,
        }
        Ok(())
    }

    /// The facts of the header, as JSON.
    pub fn facts(&self) -> Value {
        let mut facts = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": Cpu::detect().name,
            "isa": self.backend.name(),
            "threads": self.threads,
        });
        if let Some(dtype) = self.dtype {
            facts["dtype"] = dtype.into();
        }
        facts
    }

    /// Prints `result`, an object, with the facts of this run in its field `run`.
    pub fn print_json(&self, mut result: Value) -> Result<()> {
        result["run"] = self.facts();
        Ok(writeln!(std::io::stdout(), "{result}")?)
    }

    /// The line above every table: version, CPU, backend in effect, type, threads.
    pub fn header(&self) -> String {
        format!(
            "tilewright {} | {} | isa {}{} | {} thread{}",
            env!("CARGO_PKG_VERSION"),
            Cpu::detect().name,
            self.backend.name(),
            self.dtype.map_or(String::new(), |dtype| format!(" | {dtype}")),
            self.threads,
            if self.threads == 1 { "" } else { "s" },
        )
    }
}

/// Parses the arguments, runs the subcommand, prints its error.
pub fn main() -> ExitCode {
    let arguments = settings::insert::<Tilewright>(std::env::args_os().collect());
    match arguments.and_then(|arguments| Tilewright::parse_from(arguments).command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output, for instance `head`, closed the pipe.
        Err(e)
            if e.downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

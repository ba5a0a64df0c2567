//! `tilewright bench`: cases, measurement, output files, baselines.

mod cases;
mod compare;
pub mod tables;

use super::{MAX_THREADS, MainThread, Session, checkpoint::layer_inputs, default_threads, style};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tilewright::{ActivationQuantization, whole_file};
use tilewright_bench::baseline;
use tilewright_bench::bencher::{Bencher, Measured};
use tilewright_bench::case::{Case, DTYPES, dtype_name};
use tilewright_bench::measure::Effort;
use tilewright_bench::record::{Comparison, Machine, Row, RowLine, Run};
use tilewright_bench::{html, markdown};
use tilewright_peers::Dtype;

/// Measures kernels and models against the machine's limits and other libraries
///
/// Our kernel, other libraries and probes of the machine's multiply-add peak take turns on each case. A row shows
/// the median time, the rate, and the share of the roofline's bound. The bound is the best that the peak, and the
/// read bandwidth of the cache or memory that holds the data, allow. For each library, the row shows its time
/// over ours (above 1, tilewright is faster) with a 95% confidence interval. A row is marked with ~ if the
/// machine's clock moved by more than 5% meanwhile, or other processes took a core.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tilewright bench --quick                                all cases, briefly
  tilewright bench linear/f32/128x768 attention           cases whose names contain one of the filters
  tilewright bench linear --threads 1 --peer mkl=/opt/intel/lib/libmkl_rt.so.3
  tilewright bench --save main; git switch topic; cargo run --release -- bench --compare main
  tilewright bench model/bert-base --batch 4 --seq 64
  tilewright bench model/bert-base --dtype int8
  tilewright bench --json - --quick > rows.jsonl          one JSON object for each row
  tilewright bench --html report.html
  tilewright bench model/smollm2 --dtype q4_0 --layer-inputs rounded
  tilewright bench --markdown RESULTS.md --from rows.jsonl more.jsonl

Other libraries: mkl (libmkl_rt.so.3; PyPI's wheel `mkl`), openblas (libopenblas.so; Debian's
libopenblas0-pthread, PyPI's `scipy-openblas32`), onednn (libdnnl.so.3; PyPI's `onednn-cpu-gomp`). The crates `gemm`
and `matrixmultiply` are built in with --features peers.")]
pub struct Bench {
    /// Measure only cases whose name contains one of these filters; --list shows the names
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    /// List the names of the cases, and measure nothing
    #[arg(long)]
    list: bool,

    /// Type of inputs and weights; for models, of the linear layers [default: f32, and the types that filters name]
    #[arg(long, value_name = "TYPE", value_parser = dtype())]
    dtype: Option<Dtype>,

    /// Inputs of the linear layers of models: exact (f32), or rounded to --dtype (to int8 with q8_0, q4_0 and q4_1)
    /// [default: exact with q8_0, q4_0 and q4_1, else rounded]
    #[arg(long, value_name = "HOW", value_parser = layer_inputs())]
    layer_inputs: Option<ActivationQuantization>,

    /// Backend to measure; `tilewright isa` lists the names [default: TILEWRIGHT_ISA, or else the best of this CPU]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,

    /// Numbers of threads, each measured in turn [default: 1, and RAYON_NUM_THREADS or else one for each core]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_THREADS)))]
    threads: Vec<u16>,

    /// Measure linear layers of the shapes in this file instead: MxK:KxN, one shape a line, as benchdnn writes them
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,

    /// Number of sequences in the models' inputs, instead of the registry's tasks
    #[arg(long, value_name = "N", requires = "seq", value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Option<u16>,

    /// Tokens of each sequence
    #[arg(long, value_name = "N", requires = "batch", value_parser = clap::value_parser!(u16).range(1..=512))]
    seq: Option<u16>,

    /// Library to compare with, and the path of its shared object; NAME is mkl, openblas or onednn
    #[arg(long = "peer", value_name = "NAME=PATH")]
    peers: Vec<PeerPath>,

    /// Write the rows as JSON, one object a line, to this file; - is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a self-contained HTML page: limits, roofline, ratios, table, comparison
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the rows as Markdown tables. A file that exists keeps its text by hand, below a line that names this option
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Measure nothing, and make the tables of --markdown from these files, which --json wrote
    #[arg(long, value_name = "ROWS", requires = "markdown", num_args = 1.., conflicts_with_all = ["filters", "list", "json", "html", "save", "compare"])]
    from: Vec<PathBuf>,

    /// Save the rows as a baseline of this name
    #[arg(long, value_name = "NAME")]
    save: Option<String>,

    /// Compare with the baseline of this name; the exit status is 1 if a row is slower beyond threshold and noise
    #[arg(long, value_name = "NAME")]
    compare: Option<String>,

    /// Difference in percent up to which a row counts as the same
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    threshold: f64,

    /// Accept a baseline of another machine
    #[arg(long, requires = "compare")]
    any_machine: bool,

    /// Directory of the baselines
    #[arg(long, value_name = "DIR", default_value = "target/tilewright-baselines")]
    baselines: PathBuf,

    /// Take few samples: for a look, not for figures to quote
    #[arg(long)]
    quick: bool,

    /// Seconds from one visit of a case to the next, at least, where --save and --compare visit it repeatedly
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=3600))]
    apart: u64,

    /// Show the peak bytes that a call allocates on new threads
    #[arg(long)]
    memory: bool,
}

/// `NAME=PATH`.
#[derive(Clone, Debug)]
struct PeerPath {
    name: String,
    path: PathBuf,
}

impl FromStr for PeerPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.into() })
            }
            _ => Err("expected NAME=PATH, such as mkl=/opt/intel/lib/libmkl_rt.so.3".into()),
        }
    }
}

/// Parses the name of a type.
pub fn dtype() -> impl TypedValueParser<Value = Dtype> {
    PossibleValuesParser::new(DTYPES.map(dtype_name)).map(|name| {
        DTYPES.into_iter().find(|&dtype| dtype_name(dtype) == name).expect("one of the possible values")
    })
}

/// Parses a difference in percent.
fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent),
        _ => Err("expected a number from 0 to 1000".into()),
    }
}

/// Visits of each case for a baseline. Hundreds of rows can be judged even if two of ten visits are disturbed:
/// the chance that eight of ten visits are faster than all of seventeen others is about one in 50 000.
const BASELINE_VISITS: usize = 10;

/// Visits of each case for a comparison, before the rows that differ are visited again.
const VISITS: usize = 5;

impl Bench {
    pub fn run(self) -> Result<()> {
        if let (Some(path), false) = (&self.markdown, self.from.is_empty()) {
            return write_tables(path, &read_rows(&self.from)?);
        }
        let cases = self.cases()?;
        if self.list {
            let names: String = cases.iter().map(|case| case.name() + "\n").collect();
            return Ok(write!(std::io::stdout(), "{names}")?);
        }
        // Wrong arguments are reported before minutes of measuring.
        let baseline = |name: &String| baseline::path(&self.baselines, name).map_err(|e| anyhow!(e));
        let save = self.save.as_ref().map(baseline).transpose().context("--save")?;
        let machine = Machine::detect();
        let then = match &self.compare {
            Some(name) => {
                let path = baseline(name).context("--compare")?;
                if !path.exists() {
                    bail!(
                        "--compare: no baseline {name:?} in {}; --save makes one",
                        self.baselines.display()
                    );
                }
                Some(compare::load(&path, &machine, self.any_machine)?)
            }
            None => None,
        };
        let files = [&self.json, &self.html, &self.markdown].into_iter().flatten();
        for path in files.filter(|path| *path != Path::new("-")) {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if folder.is_some_and(|folder| !folder.is_dir()) || path.is_dir() {
                bail!("{}: is a directory, or its directory does not exist", path.display());
            }
        }

        let threads = self.threads();
        let json = self.json.as_deref() == Some(Path::new("-"));
        let most = threads.iter().copied().max().unwrap_or(1);
        // The global pool prepares the cases, for instance packs the weights. Kernels are timed inside of the
        // pools of `Bencher`, one for each number of threads.
        let session = Session::start(
            self.isa.as_deref(),
            MainThread::Measures,
            most,
            self.dtype.map(dtype_name),
            json,
        )?;
        let mut bencher = self.bencher(&session, &threads)?;
        let unix_time = unix_time();
        bencher.measure_limits();
        session.say(&tables::limits(bencher.limits()))?;

        let jobs = jobs(&cases, threads.len());
        let rows = measure(&bencher, &jobs, bencher.effort.visits)?;
        let peers = bencher.libraries.iter().map(|library| (library.name().to_owned(), library.version()));
        let run = Run { machine, unix_time, peers: peers.collect(), limits: bencher.limits().to_vec(), rows };
        for table in tables::rows(&run, self.memory) {
            session.say(&table)?;
        }
        session.say(&tables::notes(&run))?;

        let compared = match &then {
            Some(then) => Some(compare::compare(&bencher, then, &run, &jobs, self.threshold / 100.0)?),
            None => None,
        };
        if let Some(compared) = &compared {
            session.say(&compare::table(compared))?;
        }
        let comparisons = compared.as_ref().map(|compared| &compared.rows[..]);
        self.write(&run, then.as_ref(), comparisons)?;
        if let Some(path) = &save {
            baseline::save(path, &run)?;
            session.say(&format!("saved {}", path.display()))?;
        }
        compare::judge(comparisons.unwrap_or_default(), self.threshold)
    }

    fn threads(&self) -> Vec<usize> {
        let mut threads: Vec<usize> = self.threads.iter().copied().map(usize::from).collect();
        if threads.is_empty() {
            threads = vec![1, default_threads()];
        }
        threads.sort_unstable();
        threads.dedup();
        threads
    }

    /// Makes the bencher and loads the other libraries; prints which were loaded.
    fn bencher(&self, session: &Session, threads: &[usize]) -> Result<Bencher> {
        let effort = if self.quick { Effort::QUICK } else { Effort::FULL };
        let effort = match (&self.save, &self.compare) {
            (Some(_), _) => effort.in_visits(BASELINE_VISITS),
            (None, Some(_)) => effort.in_visits(VISITS),
            (None, None) => effort,
        };
        let effort = Effort { apart: Duration::from_secs(self.apart), ..effort };
        let mut bencher =
            Bencher::new(session.backend, threads, effort).context("cannot start the threads")?;
        bencher.models.layer_inputs = self.layer_inputs;
        bencher.memory = self.memory.then_some(|run| {
            crate::ALLOCATOR.reset_peak_usage();
            let before = crate::ALLOCATOR.current_usage();
            run();
            crate::ALLOCATOR.peak_usage().saturating_sub(before)
        });
        bencher.libraries = tilewright_peers::built_in();
        for PeerPath { name, path } in &self.peers {
            match tilewright_peers::load(name, path) {
                Ok(library) => bencher.libraries.push(library),
                Err(why) => bencher.absent.push(format!("{name}: {why}")),
            }
        }
        for library in &bencher.libraries {
            session.say(&format!("beside {}: {}", library.name(), library.version()))?;
        }
        for note in &bencher.absent {
            session.say(&format!("not beside {note}"))?;
        }
        Ok(bencher)
    }

    fn write(&self, run: &Run, then: Option<&Run>, comparisons: Option<&[Comparison]>) -> Result<()> {
        if let Some(path) = &self.json {
            let mut lines = String::new();
            for line in run.lines() {
                lines += &serde_json::to_string(&line)?;
                lines.push('\n');
            }
            match path.as_path() == Path::new("-") {
                true => write!(std::io::stdout(), "{lines}")?,
                false => whole_file::write(path, lines.as_bytes())?,
            }
        }
        if let Some(path) = &self.markdown {
            let lines: Vec<RowLine> = run.lines().collect();
            write_tables(path, &lines)?;
        }
        if let Some(path) = &self.html {
            let baseline = self.compare.as_deref().zip(then).zip(comparisons);
            let baseline = baseline.map(|((name, then), comparisons)| html::Baseline {
                name,
                unix_time: Some(then.unix_time),
                comparisons,
            });
            whole_file::write(path, html::page(run, baseline.as_ref()).as_bytes())?;
        }
        Ok(())
    }
}

/// Writes the tables of --markdown; the text that the file has by hand stays.
fn write_tables(path: &Path, lines: &[RowLine]) -> Result<()> {
    let old = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        found => found.with_context(|| path.display().to_string())?,
    };
    let text = markdown::with_text_of(markdown::tables(lines), &old);
    Ok(whole_file::write(path, text.as_bytes())?)
}

/// Reads the rows that `--json` wrote to `files`.
fn read_rows(files: &[PathBuf]) -> Result<Vec<RowLine>> {
    let mut rows = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for (i, line) in text.lines().enumerate() {
            let row = serde_json::from_str(line);
            rows.push(row.with_context(|| {
                format!("{}, line {}: not a row that --json writes", path.display(), i + 1)
            })?);
        }
    }
    Ok(rows)
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A case, and the index of the pool that runs it.
pub type Job = (Case, usize);

/// Jobs for all cases on all pools, ordered by pool.
pub fn jobs(cases: &[Case], pools: usize) -> Vec<Job> {
    (0..pools).flat_map(|pool| cases.iter().map(move |&case| (case, pool))).collect()
}

/// Visits all jobs `visits` times, behind a progress bar.
pub fn measure(bencher: &Bencher, jobs: &[Job], visits: usize) -> Result<Vec<Row>> {
    let bar = ProgressBar::new((visits * jobs.len()) as u64).with_style(style::progress());
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(2)); // drawing costs time that is measured
    let mut found: Vec<Measured> = jobs.iter().map(|_| Measured::default()).collect();
    for visit in 0..visits {
        let started = Instant::now();
        for ((case, pool), found) in jobs.iter().zip(&mut found) {
            bar.set_message(case.name());
            found.extend(bencher.measure(case, *pool)?);
            bar.inc(1);
        }
        if visit + 1 < visits {
            std::thread::sleep(bencher.effort.apart.saturating_sub(started.elapsed()));
        }
    }
    bar.finish_and_clear();
    Ok(jobs.iter().zip(&found).map(|((case, pool), found)| bencher.row(case, *pool, found)).collect())
}

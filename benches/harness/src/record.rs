//! Records of a run, which `--json`, `--html`, `--save` and `--compare` share.
//!
//! In JSON, a row is one object. Times are in seconds, rates in 10^9 per second. A ratio above 1 means that this
//! project is faster. Later versions may add fields; existing fields keep their names and meaning.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The machine and the build that a run was made on: its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name that the CPU reports.
    pub cpu: String,
    /// CPU features that kernels use.
    pub features: Vec<String>,
    /// Cores available to the process.
    pub cores: usize,
    /// Bytes of L1, L2 and L3 as reported.
    pub caches: [usize; 3],
    /// `x86_64-linux`.
    pub target: String,
    /// Version of this package.
    pub version: String,
    /// Compiler of the build.
    pub rustc: String,
    /// Revision of the sources, with `-dirty` appended if files had changed; or `unknown`.
    pub revision: String,
}

/// Peak and bandwidths of the machine on one number of threads, measured in this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Number of threads of the measurement.
    pub threads: usize,
    /// Multiply-add peaks, 10^9 operations per second, by the name of the probe: `f32 avx512`,
    /// `int8 avx512vnni`, ..
    pub peaks: BTreeMap<String, f64>,
    /// Read bandwidth of L1, L2, L3 and memory, 10^9 bytes per second.
    pub read: [f64; 4],
}

/// Cache level, or memory, that holds a working set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// First-level cache.
    L1,
    /// Second-level cache.
    L2,
    /// Third-level cache.
    L3,
    /// Memory.
    Memory,
}

/// One case, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `linear`, `attention`, `layernorm`, .., `model/bert-base`.
    pub kernel: String,
    /// `f32`, `bf16`, `f16`, `int8`, `q8_0`, `q4_0` or `q4_1`.
    pub dtype: String,
    /// Activation quantization of a model's linear layers, `exact` or `rounded`, if it is not the default of the type
    /// (`tilewright bench --layer-inputs`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub layer_inputs: Option<String>,
    /// `128x768x3072` (M, K, N), `B1 H12 S512 D64 causal`, `128x768`.
    pub shape: String,
    /// The backend.
    pub isa: String,
    /// Threads of this project and of every peer.
    pub threads: usize,
    /// True if weights were packed beforehand; `null` if the case has none.
    pub packed: Option<bool>,
    /// Median of the samples; `null` where this project has no such kernel yet.
    pub median_s: Option<f64>,
    /// All samples, in the order they were taken.
    pub samples_s: Vec<f64>,
    /// The fastest sample of each visit.
    pub visits_s: Vec<f64>,
    /// Floating-point operations of a call; 0 for memory-bound kernels.
    pub flops: f64,
    /// Lower bound of the bytes that a call reads and writes.
    pub bytes: f64,
    /// 10^9 operations per second, where `flops` is not 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gflops: Option<f64>,
    /// 10^9 bytes per second, where `flops` is 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gbps: Option<f64>,
    /// Tokens per second of a model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokens_per_s: Option<f64>,
    /// Level that holds the working set: `bytes`, or a thread's share of them.
    pub level: Level,
    /// The roofline's bound: max(flops / peak, bytes / bandwidth of the level).
    pub bound_s: f64,
    /// `bound_s / median_s`.
    pub bound_fraction: Option<f64>,
    /// Multiply-add peak, 10^9 operations per second, of the probes between this row's samples.
    pub peak_gflops: f64,
    /// Median read bandwidth, 10^9 bytes per second, of the probes between this row's samples. The probes run on the
    /// row's threads and read a working set of `bytes`, at most 64 MiB.
    pub read_gbps: f64,
    /// True if the probes of this row varied by more than 5%, if they fell short of the run's best probe by more than
    /// 5%, or if other processes took cores that the row needs.
    pub unstable: bool,
    /// Peak of the bytes that a call allocates, with `--memory`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_bytes: Option<usize>,
    /// Other libraries, by name.
    pub peers: BTreeMap<String, Peer>,
    /// Notes for the reader of this row: `mkl: cannot be loaded: ..`, `gemm: no such operation`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// The figures of another library on the same case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Median of the library's samples.
    pub median_s: f64,
    /// Median over pairs of samples of the library's time over this project's time: above 1, this project is faster.
    /// `null` if this project has no such kernel.
    pub ratio: Option<f64>,
    /// 95% bootstrap confidence interval of `ratio`.
    pub ratio_interval: Option<[f64; 2]>,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Machine and build.
    pub machine: Machine,
    /// Start of the run, in seconds since 1970.
    pub unix_time: u64,
    /// Versions of the peers, by name.
    pub peers: BTreeMap<String, String>,
    /// Limits, by threads.
    pub limits: Vec<Limit>,
    /// The rows, in the registry's order.
    pub rows: Vec<Row>,
}

impl Row {
    /// Unique name in a run: `linear/f32/128x768x768/packed/avx512/1t`,
    /// `model/smollm2-135m/q4_0/16 in, 64 out/rounded/avx2/2t`.
    pub fn name(&self) -> String {
        let packed = match self.packed {
            Some(true) => "/packed",
            Some(false) => "/unpacked",
            None => "",
        };
        let Self { kernel, dtype, shape, isa, threads, layer_inputs, .. } = self;
        let inputs = layer_inputs.as_ref().map_or(String::new(), |inputs| format!("/{inputs}"));
        format!("{kernel}/{dtype}/{shape}{inputs}{packed}/{isa}/{threads}t")
    }
}

/// One line of `tilewright bench --json`: a row, and the run it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowLine {
    /// The row; in JSON, its fields stand beside `run`.
    #[serde(flatten)]
    pub row: Row,
    /// The run.
    pub run: RunFacts,
}

/// Machine, build and date of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunFacts {
    /// [`Machine::cpu`].
    pub cpu: String,
    /// [`Machine::version`].
    pub version: String,
    /// [`Machine::revision`].
    pub revision: String,
    /// [`Run::unix_time`].
    pub unix_time: u64,
}

impl Run {
    /// The rows as lines of `--json`.
    pub fn lines(&self) -> impl Iterator<Item = RowLine> {
        let Machine { cpu, version, revision, .. } = &self.machine;
        self.rows.iter().map(move |row| RowLine {
            row: row.clone(),
            run: RunFacts {
                cpu: cpu.clone(),
                version: version.clone(),
                revision: revision.clone(),
                unix_time: self.unix_time,
            },
        })
    }
}

/// The outcome of a comparison with a baseline, for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Slower beyond threshold and noise, and confirmed.
    Slower,
    /// Faster beyond threshold and noise, and confirmed.
    Faster,
    /// Neither slower nor faster.
    Same,
}

/// One row beside its baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`Row::name`].
    pub name: String,
    /// Fastest sample of the baseline, in seconds.
    pub then_s: f64,
    /// Fastest sample of this run, in seconds.
    pub now_s: f64,
    /// `then_s / now_s`: above 1, the row became faster.
    pub ratio: f64,
    /// Ratio of the medians, which disturbed visits move away from 1.
    pub median_ratio: f64,
    /// Probability that chance makes this many visits of the faster run faster than all visits of the other run by
    /// more than the threshold.
    pub p: f64,
    /// Slower, faster or the same.
    pub verdict: Verdict,
}

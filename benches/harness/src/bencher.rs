//! The bencher: measures a case beside other libraries and makes its row.

use super::case::{Case, Prepared, dtype_name};
use super::limit;
use super::measure::{Contestant, Effort, Probed, Samples, samples};
use super::models::Models;
use super::record::{Limit, Machine, Row};
use super::statistics::median;
use crate::cpu::Cpu;
use crate::probe::{Reads, peak_once};
use rayon::ThreadPool;
use std::fmt;
use std::time::{Duration, Instant};
use tilewright::Error;
use tilewright_kernels::Backend;
use tilewright_peers::{Library, PeerCall};

/// Runs of the peak probe, of 200 us each, between two rounds.
const PROBES: usize = 8;

/// Minimum time of the read probe between two rounds; the probe reads its working set at least three times.
const READ: Duration = Duration::from_millis(1);

/// Minimum and maximum bytes of the read probe's working sets. Fewer bytes are too few for a loop. Sets beyond 64 MiB,
/// the largest L3 in [`Cpu`], would only take longer.
const READ_BYTES: [f64; 2] = [4096.0, (64 << 20) as f64];

/// Measures the peak of the bytes that a call allocates; see [`Bencher::memory`].
pub type PeakBytes = fn(&mut dyn FnMut()) -> usize;

/// Measures cases on a backend and beside other libraries.
pub struct Bencher {
    /// The backend of this project.
    pub backend: Backend,
    /// Other libraries.
    pub libraries: Vec<Box<dyn Library>>,
    /// Libraries that could not be loaded, as notes for every row.
    pub absent: Vec<String>,
    /// Amount of measurement.
    pub effort: Effort,
    /// Function that calls its argument and returns the peak of the allocated bytes, if the program's allocator counts.
    pub memory: Option<PeakBytes>,
    cpu: Cpu,
    pools: Vec<ThreadPool>,
    limits: Vec<Limit>,
    /// Models of the cases.
    pub models: Models,
}

impl fmt::Debug for Bencher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let libraries: Vec<_> = self.libraries.iter().map(|library| library.name()).collect();
        f.debug_struct("Bencher")
            .field("backend", &self.backend)
            .field("libraries", &libraries)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The samples of a case and their contestants. This project's kernel, if any, comes first.
#[derive(Debug, Default)]
pub struct Measured {
    samples: Samples,
    ours: bool,
    peers: Vec<&'static str>,
    notes: Vec<String>,
    peak_bytes: Option<usize>,
}

impl Bencher {
    /// Starts a pool for each number of threads. The bencher has no other libraries and no measured limits yet.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn new(
        backend: Backend,
        threads: &[usize],
        effort: Effort,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pools = threads.iter().map(|&n| rayon::ThreadPoolBuilder::new().num_threads(n).build());
        Ok(Self {
            backend,
            libraries: Vec::new(),
            absent: Vec::new(),
            effort,
            memory: None,
            cpu: Cpu::detect(),
            pools: pools.collect::<Result<_, _>>()?,
            limits: Vec::new(),
            models: Models::default(),
        })
    }

    /// Measures the machine's limits on each number of threads.
    pub fn measure_limits(&mut self) {
        self.limits =
            self.pools.iter().map(|pool| pool.install(|| limit::measure(self.backend, &self.cpu))).collect();
    }

    /// The limits of the last measurement.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Pools, by their index in the list of threads.
    pub fn pools(&self) -> &[ThreadPool] {
        &self.pools
    }

    /// Takes the samples of one visit.
    ///
    /// # Errors
    /// Errors of the kernel or the model.
    pub fn measure(&self, case: &Case, pool: usize) -> Result<Measured, Error> {
        let pool = &self.pools[pool];
        let threads = pool.current_num_threads();
        let inputs = case.inputs();
        let mut found = Measured { notes: self.absent.clone(), ..Measured::default() };

        let mut ours = case.prepare(&inputs, self.backend, &self.models)?;
        found.ours = ours.is_some();
        if ours.is_none() {
            let dtype = dtype_name(case.dtype);
            found.notes.push(format!(
                "{dtype}: unpacked weights and caches in types other than bf16 have no kernel"
            ));
        }
        let mut calls: Vec<(Box<dyn PeerCall + '_>, bool)> = Vec::new();
        // `for_peers` returns `None` for an operation that no library has.
        let operation = case.for_peers(&inputs);
        for (library, operation) in self.libraries.iter().flat_map(|library| operation.map(|o| (library, o)))
        {
            let (name, in_rayon) = (library.name(), library.in_rayon());
            match library.prepare(operation, threads) {
                Ok(Some(mut call)) => {
                    seconds(pool, in_rayon, 1, || call.run());
                    match case.check(&inputs, &call.output()) {
                        Ok(()) => {
                            found.peers.push(name);
                            calls.push((call, in_rayon));
                        }
                        Err(why) => found.notes.push(format!("{name}: wrong, not timed: {why}")),
                    }
                }
                Ok(None) => found.notes.push(format!("{name}: no such operation")),
                Err(why) => found.notes.push(format!("{name}: {why}")),
            }
        }
        if let (Some(memory), Some(ours)) = (self.memory, &mut ours) {
            match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
                Ok(pool) => found.peak_bytes = Some(peak_bytes(memory, ours, &pool)?),
                Err(why) => found.notes.push(format!("peak bytes: threads cannot be started: {why}")),
            }
        }

        let mut failed = None;
        let mut our_turn = ours.as_mut().map(|ours| {
            let failed = &mut failed;
            move |calls: usize| seconds(pool, true, calls, || *failed = ours.run().err().or(failed.take()))
        });
        let mut their_turns: Vec<_> = calls
            .iter_mut()
            .map(|(call, in_rayon)| |calls: usize| seconds(pool, *in_rayon, calls, || call.run()))
            .collect();
        let mut contestants: Vec<&mut dyn Contestant> = Vec::new();
        contestants.extend(our_turn.as_mut().map(|turn| turn as &mut dyn Contestant));
        contestants.extend(their_turns.iter_mut().map(|turn| turn as &mut dyn Contestant));
        let (backend, multiply_adds) = (self.backend, limit::probe_of(case, self.backend));
        // The best of a few runs. A single run may lose a core to another process; the row would then seem to exceed
        // the peak.
        let peak = || (0..PROBES).map(|_| peak_once(multiply_adds)).fold(0.0, f64::max);
        let [least, most] = READ_BYTES;
        let bytes = (case.work().bytes.min(most) / threads as f64).max(least) as usize;
        let reads = pool.install(|| Reads::new(backend, bytes));
        let probe = || pool.install(|| Probed { peak: peak(), read: reads.best(READ) });
        found.samples = samples(&mut contestants, threads, &self.effort, probe);
        match failed {
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    /// The record of a case's samples.
    ///
    /// # Panics
    /// If the limits of the pool have not been measured.
    pub fn row(&self, case: &Case, pool: usize, found: &Measured) -> Row {
        let limit = &self.limits[pool];
        let work = case.work();
        let level = limit::level(work.bytes, limit.threads, &self.cpu);
        let seconds = if found.ours { found.samples.seconds[0].clone() } else { Vec::new() };
        let median_s = (!seconds.is_empty()).then(|| median(&seconds));
        let peak_gflops = median(&found.samples.peaks) / 1e9;
        // The probes between the samples saw the clock of the samples; the limits of the run are older.
        let peak = match found.ours {
            true => peak_gflops,
            false => limit::peak(limit, case, self.backend),
        };
        let bound_s = limit::bound(&work, peak, limit.read(level));
        let rate = |amount: f64| median_s.map(|s| amount / s);
        let ours = found.ours.then_some(0);
        let first_peer = usize::from(found.ours);
        let best_peak = limit::peak(limit, case, self.backend);
        let best_peak = if best_peak.is_finite() { best_peak } else { peak_gflops };
        Row {
            kernel: case.kernel().to_owned(),
            dtype: dtype_name(case.dtype).to_owned(),
            layer_inputs: case.layer_inputs(&self.models).map(|inputs| inputs.name().to_owned()),
            shape: case.shape(),
            isa: self.backend.name().to_owned(),
            threads: limit.threads,
            packed: case.packed(),
            median_s,
            flops: work.flops,
            bytes: work.bytes,
            gflops: rate(work.flops / 1e9).filter(|_| work.flops > 0.0),
            gbps: rate(work.bytes / 1e9).filter(|_| work.flops == 0.0),
            tokens_per_s: work.tokens.and_then(rate),
            level,
            bound_s,
            bound_fraction: median_s.map(|s| bound_s / s),
            peak_gflops,
            read_gbps: median(&found.samples.reads) / 1e9,
            unstable: found.samples.unstable(best_peak * 1e9),
            peak_bytes: found.peak_bytes,
            peers: found
                .peers
                .iter()
                .enumerate()
                .map(|(i, name)| ((*name).to_owned(), found.samples.peer(first_peer + i, ours)))
                .collect(),
            notes: found.notes.clone(),
            samples_s: seconds,
            visits_s: if found.ours { found.samples.visits(0) } else { Vec::new() },
        }
    }
}

impl Measured {
    /// Adds the samples of another visit.
    pub fn extend(&mut self, other: Self) {
        if self.samples.seconds.is_empty() {
            *self = other;
        } else if self.peers == other.peers {
            self.samples.extend(other.samples);
        }
    }
}

/// Seconds of `calls` calls, in the pool if `in_pool`, else on this thread.
fn seconds(pool: &ThreadPool, in_pool: bool, calls: usize, mut call: impl FnMut() + Send) -> f64 {
    let mut timed = move || {
        let started = Instant::now();
        (0..calls).for_each(|_| call());
        started.elapsed().as_secs_f64()
    };
    if in_pool { pool.install(timed) } else { timed() }
}

/// Peak of the allocated bytes while new threads run a kernel for the first time: the memory that the kernel needs
/// beside its tensors. Later calls reuse the threads' scratch memory.
fn peak_bytes(memory: PeakBytes, ours: &mut Prepared<'_>, pool: &ThreadPool) -> Result<usize, Error> {
    let mut result = Ok(());
    pool.install(|| ()); // starts the threads
    let bytes = memory(&mut || result = pool.install(|| ours.run()));
    result.map(|()| bytes)
}

impl Machine {
    /// Describes this machine and this build.
    pub fn detect() -> Self {
        let cpu = Cpu::detect();
        Self {
            cpu: cpu.name,
            features: cpu.features.iter().map(|&name| name.to_owned()).collect(),
            cores: cpu.cores,
            caches: cpu.caches.map(|cache| cache.reported),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rustc: env!("TILEWRIGHT_RUSTC").to_owned(),
            revision: env!("TILEWRIGHT_REVISION").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use tilewright_peers::{Dtype, PeerOperation};

    /// A library that multiplies; if `wrong`, its last element is wrong.
    struct Fake {
        wrong: bool,
    }

    struct FakeCall<'a> {
        operation: PeerOperation<'a>,
        wrong: bool,
        y: Vec<f32>,
    }

    impl Library for Fake {
        fn name(&self) -> &'static str {
            if self.wrong { "wrong" } else { "right" }
        }

        fn version(&self) -> String {
            "1".into()
        }

        fn prepare<'a>(
            &'a self,
            operation: PeerOperation<'a>,
            threads: usize,
        ) -> Result<Option<Box<dyn PeerCall + 'a>>, tilewright_peers::Error> {
            match operation {
                PeerOperation::Linear { .. } if threads == 1 => {
                    Ok(Some(Box::new(FakeCall { operation, wrong: self.wrong, y: Vec::new() })))
                }
                _ => Ok(None),
            }
        }
    }

    impl PeerCall for FakeCall<'_> {
        fn run(&mut self) {
            let PeerOperation::Linear { shape: [m, k, n], x, weight, .. } = self.operation else {
                unreachable!()
            };
            let dot = |i: usize, j: usize| (0..k).map(|p| x[i * k + p] * weight[j * k + p]).sum::<f32>();
            self.y = (0..m * n).map(|at| dot(at / n, at % n)).collect();
            self.y[m * n - 1] += if self.wrong { 1.0 } else { 0.0 };
        }

        fn output(&self) -> Vec<f32> {
            self.y.clone()
        }
    }

    #[test]
    fn peers_are_measured_or_named() {
        let effort = Effort { rounds: [3, 3], ..Effort::QUICK };
        let mut bencher = Bencher::new(Backend::best(), &[1, 2], effort).unwrap();
        bencher.libraries = vec![Box::new(Fake { wrong: false }), Box::new(Fake { wrong: true })];
        bencher.absent = vec!["mkl: cannot be loaded".into()];
        bencher.measure_limits();
        let case = registry::linear(&[[4, 8, 16]], Dtype::F32)[0];
        let found = bencher.measure(&case, 0).unwrap();
        let row = bencher.row(&case, 0, &found);
        assert_eq!(row.name(), format!("linear/f32/4x8x16/packed/{}/1t", Backend::best().name()));
        assert_eq!(row.samples_s.len(), 3);
        assert!(row.peers["right"].ratio.unwrap() > 0.0 && row.bound_fraction.unwrap() > 0.0, "{row:?}");
        assert!(!row.peers.contains_key("wrong"));
        assert_eq!(row.notes[0], "mkl: cannot be loaded");
        assert!(row.notes[1].starts_with("wrong: wrong, not timed: element 63"), "{:?}", row.notes);

        let on_two = bencher.row(&case, 1, &bencher.measure(&case, 1).unwrap());
        assert!(on_two.peers.is_empty() && on_two.threads == 2);
        assert!(on_two.notes.contains(&"right: no such operation".into()), "{:?}", on_two.notes);

        // This project has no kernel for unpacked bf16 weights.
        let lacking = registry::linear(&[[4, 8, 16]], Dtype::Bf16)[1];
        let row = bencher.row(&lacking, 0, &bencher.measure(&lacking, 0).unwrap());
        assert_eq!((row.median_s, row.peers["right"].ratio), (None, None));
    }
}

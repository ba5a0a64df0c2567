//! Measured peaks and bandwidths of this CPU: the yardsticks of `tilewright report` and of the benches.
//!
//! Noise slows runs down and rarely speeds them up, so each figure is the best of many short runs. Runs of figures
//! for comparison alternate, so that both see the same clock.

use crate::cpu::Cpu;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tilewright_kernels::Backend;
use tilewright_kernels::probe::{Peak, Read};

/// Minimum time of one run. It is long against the start of threads and a reading of the clock. It is short against
/// the scheduler's time slice, so that at least one run finds all of its cores free.
const RUN: Duration = Duration::from_micros(200);

/// Steps of the peak probe between two readings of the clock: 10 us or more, because a reading takes up to 50 ns.
const PEAK_STEPS: usize = 8000;

/// Operations per second of one run of a peak probe on all threads of the pool.
///
/// Each thread reads the clock itself: its rate counts in full even if another thread waits for a core.
pub fn peak_once(peak: impl Into<Peak>) -> f64 {
    let peak = peak.into();
    each_alone(&together(|_| peak.run(PEAK_STEPS)))
}

/// The peak on all threads of the pool, in operations per second.
///
/// ```
/// use tilewright_bench::probe::peak;
/// use tilewright_kernels::Backend;
/// assert!(peak(Backend::best(), std::time::Duration::from_millis(1)) > 0.0);
/// ```
pub fn peak(peak: impl Into<Peak>, budget: Duration) -> f64 {
    let peak = peak.into();
    best_of(budget, || peak_once(peak))
}

/// Every peak of this CPU on all threads of the pool, within the budget for each peak.
pub fn peaks(budget: Duration) -> Vec<(Peak, f64)> {
    let mut found: Vec<_> = Peak::available().iter().map(|&peak| (peak, 0.0f64)).collect();
    let started = Instant::now();
    let mut runs = 0;
    while runs < 3 || started.elapsed() < budget * found.len() as u32 {
        for (peak, best) in &mut found {
            *best = best.max(peak_once(*peak));
        }
        runs += 1;
    }
    found
}

/// Read bandwidth of L1, L2, L3 and memory, bytes per second, for all threads of the pool together. Each thread reads
/// its own working set. `budget` is the time for each level.
pub fn bandwidths(backend: Backend, cpu: &Cpu, budget: Duration) -> [f64; 4] {
    let bytes = working_sets(cpu, rayon::current_num_threads());
    core::array::from_fn(|level| {
        let reads = Reads::new(backend, bytes[level]);
        // L1 and L2 belong to a core; L3 and memory are shared.
        if level < 2 { reads.best(budget) } else { shared(budget, || reads.run()) }
    })
}

/// Repeated reads of a working set on each thread of a pool, which measure the bandwidth of the level that holds it.
#[derive(Debug)]
pub struct Reads {
    backend: Backend,
    sets: Vec<Vec<f32>>,
}

impl Reads {
    /// Makes a working set of `bytes` bytes for each thread of the current pool.
    pub fn new(backend: Backend, bytes: usize) -> Self {
        // Each thread first writes its own set, so that the pages lie on its NUMA node.
        Self { backend, sets: rayon::broadcast(|_| working_set(bytes)) }
    }

    /// Bytes per second of all threads of the pool together, each by its own clock: the best of all runs within the
    /// budget, at least three. The first run loads the working sets into the caches. Call `best` in the pool that made
    /// the working sets.
    pub fn best(&self, budget: Duration) -> f64 {
        best_of(budget, || each_alone(&self.run()))
    }

    fn run(&self) -> Vec<BusyTime> {
        together(|thread| read(self.backend, &self.sets[thread]))
    }
}

/// The best rate of threads that share a resource, among the runs within the budget.
fn shared(budget: Duration, run: impl Fn() -> Vec<BusyTime>) -> f64 {
    let started = Instant::now();
    let (mut best, mut runs, mut at_once) = (0.0f64, 0, false);
    // If other processes use the cores, many runs may pass until all threads run at once.
    while runs < 3 || started.elapsed() < if at_once { budget } else { 10 * budget } {
        let threads = run();
        best = best.max(rate(&threads));
        at_once |= overlap(&threads) > 0.8;
        runs += 1;
    }
    best
}

/// Bytes of each thread's working set in L1, L2, L3 and memory, for `threads` threads.
pub fn working_sets(cpu: &Cpu, threads: usize) -> [usize; 4] {
    let [l1, l2, l3] = cpu.caches.map(|cache| cache.clamped);
    // Half of the L3 leaves room for other data, and 8 L2 bound the part of a large L3 that a virtual machine gets.
    // All threads share the L3, but each must read more than its L2 holds.
    let third = ((l3 / 2).min(8 * l2) / threads).max(2 * l2);
    // One thread reads four L3 sizes. Each of several threads reads two, more than an L3 of its own would hold. 2 GiB
    // in total are enough for any number of threads.
    let memory = (4 * l3 / threads.min(2)).min((2 << 30) / threads);
    [l1 / 2, l2 / 2, third, memory]
}

/// Allocates `bytes` bytes behind the first cache line boundary, and writes them: unwritten memory may be one page of
/// zeros that is mapped repeatedly.
fn working_set(bytes: usize) -> Vec<f32> {
    const LINE_FLOATS: usize = 64 / size_of::<f32>();
    vec![1.0; bytes / size_of::<f32>() + LINE_FLOATS - 1]
}

/// Reads all of `set`, often enough that readings of the clock are cheap, and returns the number of bytes.
fn read(backend: Backend, set: &[f32]) -> u64 {
    let passes = ((4 << 20) / size_of_val(set).max(1)).max(1);
    backend.run(Read { data: set, passes })
}

/// Units of work that one thread did, with start and end.
struct BusyTime {
    started: Instant,
    ended: Instant,
    units: u64,
}

/// Repeats `work` for at least [`RUN`]. `work` returns the units it did.
fn busy(work: impl Fn() -> u64) -> BusyTime {
    let started = Instant::now();
    let mut units = 0;
    loop {
        units += work();
        let ended = Instant::now();
        if ended - started >= RUN {
            return BusyTime { started, ended, units };
        }
    }
}

/// Units per second from the first start to the last end. A thread that ran alone, with the whole shared resource,
/// does not raise this rate.
fn rate(threads: &[BusyTime]) -> f64 {
    let units: u64 = threads.iter().map(|t| t.units).sum();
    let started = threads.iter().map(|t| t.started).min();
    let ended = threads.iter().map(|t| t.ended).max();
    started.zip(ended).map_or(0.0, |(started, ended)| units as f64 / (ended - started).as_secs_f64())
}

/// Sum of the rates of threads that share nothing, each by its own clock.
fn each_alone(threads: &[BusyTime]) -> f64 {
    threads.iter().map(|thread| rate(std::slice::from_ref(thread))).sum()
}

/// Share of the time from the first start to the last end during which all threads ran.
fn overlap(threads: &[BusyTime]) -> f64 {
    let (from, to) = (threads.iter().map(|t| t.started), threads.iter().map(|t| t.ended));
    let all = from.clone().max().zip(to.clone().min()).map(|(from, to)| to.saturating_duration_since(from));
    let any = from.min().zip(to.max()).map(|(from, to)| to - from);
    all.zip(any).map_or(0.0, |(all, any)| all.as_secs_f64() / any.as_secs_f64())
}

/// Runs `work` on each thread of the pool, and starts all threads together. Otherwise one thread would run alone, with
/// all shared resources, until the pool wakes up. `work` takes the index of its thread.
fn together(work: impl Fn(usize) -> u64 + Sync) -> Vec<BusyTime> {
    /// Time after which a thread begins without the others, if the scheduler holds them back.
    const PATIENCE: Duration = Duration::from_millis(1);
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return vec![busy(|| work(0))];
    }
    let arrived = AtomicUsize::new(0);
    rayon::broadcast(|thread| {
        let waiting = Instant::now();
        arrived.fetch_add(1, Ordering::Relaxed);
        while arrived.load(Ordering::Relaxed) < threads && waiting.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
        busy(|| work(thread.index()))
    })
}

/// The largest result of the calls within the budget, at least three.
fn best_of(budget: Duration, mut f: impl FnMut() -> f64) -> f64 {
    let started = Instant::now();
    let mut best = 0.0f64;
    let mut runs = 0;
    while runs < 3 || started.elapsed() < budget {
        best = best.max(f());
        runs += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CacheSize;
    use std::collections::BTreeMap;

    /// Pairs of wide and narrow instructions of the same cores.
    const PAIRS: [[&str; 2]; 9] = [
        ["f32 avx2", "f32 portable"],
        ["f32 avx512", "f32 avx2"],
        ["f16 avx512fp16", "f32 avx512"],
        // Intel's cores start a `vdpbf16ps` every second cycle, on one port: half of the rate of f32.
        ["bf16 avx512bf16", "f32 portable"],
        ["bf16 amx", "bf16 avx512bf16"],
        ["int8 avx512vnni", "bf16 avx512bf16"],
        ["int8 avx512vnni", "int8 avxvnni"],
        ["int8 avxvnni", "f32 avx2"],
        ["int8 amx", "bf16 amx"],
    ];

    /// Pair of AMD's cores alone.
    const AMD_PAIR: [&str; 2] = ["bf16 avx512bf16", "f32 avx512"];

    #[test]
    fn wider_instructions_have_higher_peaks() {
        // Times in an emulator do not show the speed of instructions.
        let mut pairs = if cfg!(target_arch = "aarch64") { Vec::new() } else { PAIRS.to_vec() };
        if Cpu::detect().name.starts_with("AMD") {
            pairs.push(AMD_PAIR);
        }
        let mut best = BTreeMap::new();
        let started = Instant::now();
        loop {
            for (peak, rate) in peaks(Duration::ZERO) {
                assert!(rate > 0.0, "{peak:?}");
                let best = best.entry(peak.name()).or_insert(rate);
                *best = rate.max(*best);
            }
            let slower = pairs.iter().find(|[wide, narrow]| {
                best.get(wide).zip(best.get(narrow)).is_some_and(|(wide, narrow)| *wide < 0.9 * narrow)
            });
            let Some(pair) = slower else { break };
            // A noisy machine may need several attempts.
            assert!(started.elapsed() < Duration::from_secs(5), "{pair:?} of {best:?}");
        }
    }

    #[test]
    fn every_level_is_read() {
        // Small caches keep the test short: memory-sized sets of the real CPU take long, above all under emulation.
        let caches = [16 << 10, 64 << 10, 256 << 10].map(|b| CacheSize { reported: b, clamped: b });
        let cpu = Cpu { caches, ..Cpu::detect() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
        for &backend in Backend::available() {
            let rates = pool.install(|| bandwidths(backend, &cpu, Duration::from_millis(1)));
            assert!(rates.iter().all(|&rate| rate > 0.0), "{backend:?}: {rates:?}");
        }
    }

    #[test]
    fn threads_that_take_turns_are_not_together() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let busy = |from, to| BusyTime { started: at(from), ended: at(to), units: 100 };
        let (turns, at_once) = ([busy(0, 100), busy(100, 200)], [busy(0, 100), busy(50, 100)]);
        assert_eq!((rate(&turns), each_alone(&turns), overlap(&turns)), (1000.0, 2000.0, 0.0));
        assert_eq!((rate(&at_once), overlap(&at_once)), (2000.0, 0.5));
    }

    #[test]
    fn working_sets_grow_with_their_level() {
        let cpu = Cpu::detect();
        for threads in [1, 2, 8, 64, 256] {
            let sets = working_sets(&cpu, threads);
            assert!(sets.is_sorted() && sets[0] > 0 && sets[3] * threads <= 2 << 30, "{threads}: {sets:?}");
        }
    }
}

//! Limits of the machine, and the bound of a case.
//!
//! The bound is the roofline's (Williams, Waterman and Patterson, "Roofline", 2009): a run takes at least the time of
//! its multiply-adds at their peak, and at least the time of its bytes at the read bandwidth of the level that holds
//! them. Every bench run measures peak and bandwidth itself, on the same number of threads. The bound leaves out all
//! other work: exponentials, transposition, the wake-up of a pool.

use super::case::{Case, Work, dtype_name};
use super::record::{Level, Limit};
use crate::cpu::Cpu;
use crate::probe;
use std::time::Duration;
use tilewright_kernels::Backend;
use tilewright_kernels::probe::Peak;

/// Time spent on each figure.
const PROBE: Duration = Duration::from_millis(50);

/// The multiply-add probe that bounds a case. In f32 it is the probe of the backend. In other types it is the fastest
/// probe of this CPU, for every backend, or the f32 probe if the CPU has no probe of the type.
pub fn probe_of(case: &Case, backend: Backend) -> Peak {
    let own = Peak::from(backend);
    let of_type = |dtype| Peak::available().iter().copied().find(|probe| probe.dtype() == dtype);
    match dtype_name(case.dtype) {
        "f32" => own,
        dtype => of_type(dtype).unwrap_or(own),
    }
}

/// Measures the limits in the current pool; `backend`'s loads read the working sets.
pub fn measure(backend: Backend, cpu: &Cpu) -> Limit {
    let peaks = probe::peaks(PROBE).into_iter().map(|(peak, rate)| (peak.name().to_owned(), rate / 1e9));
    Limit {
        threads: rayon::current_num_threads(),
        peaks: peaks.collect(),
        read: probe::bandwidths(backend, cpu, PROBE).map(|rate| rate / 1e9),
    }
}

/// Cache level, or memory, that holds `bytes` divided among `threads` threads, each with its own L1 and L2.
pub fn level(bytes: f64, threads: usize, cpu: &Cpu) -> Level {
    let [l1, l2, l3] = cpu.caches.map(|cache| cache.clamped as f64);
    let part = bytes / threads as f64;
    match () {
        () if part <= l1 => Level::L1,
        () if part <= l2 => Level::L2,
        () if bytes <= l3 => Level::L3,
        () => Level::Memory,
    }
}

/// The peak that bounds a case, in 10^9 operations per second. Infinite if it was not measured: no bound.
pub fn peak(limit: &Limit, case: &Case, backend: Backend) -> f64 {
    limit.peaks.get(probe_of(case, backend).name()).copied().unwrap_or(f64::INFINITY)
}

/// Lower bound of the seconds that this work takes.
pub fn bound(work: &Work, peak_gflops: f64, read_gbps: f64) -> f64 {
    (work.flops / peak_gflops).max(work.bytes / read_gbps) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_of_the_two_bounds() {
        let work = Work { flops: 200e9, bytes: 10e9, tokens: None };
        assert_eq!(bound(&work, 100.0, 10.0), 2.0);
        assert_eq!(bound(&work, 100.0, 1.0), 10.0);
        assert_eq!(bound(&work, f64::INFINITY, 10.0), 1.0);
    }

    #[test]
    fn working_sets_live_where_they_fit() {
        let cpu = Cpu::detect();
        let [l1, l2, l3] = cpu.caches.map(|cache| cache.clamped as f64);
        assert_eq!(level(l1, 1, &cpu), Level::L1);
        assert_eq!(level(l1 + 4.0, 1, &cpu), Level::L2);
        assert_eq!(level(2.0 * l2, 2, &cpu), Level::L2);
        assert_eq!(level(l3, 1, &cpu), Level::L3);
        assert_eq!(level(l3 + 4.0, 64, &cpu), if l3 / 64.0 < l2 { Level::L2 } else { Level::Memory });
    }
}

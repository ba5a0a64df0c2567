//! What this CPU can do at best, measured: the yardsticks of `tilewright report` and of the benches.
//!
//! Machines are noisy, and mostly in one direction: the best of many short runs is what a kernel can
//! do. Where two figures are compared, their runs alternate, so that both see the same clock.

use std::time::{Duration, Instant};
use tilewright_kernels::Backend;
use tilewright_kernels::probe::{Peak, Read};

/// Steps of one run of the peak probe: about 100 us at 4 cycles a step and 3 GHz, short
/// against the time slices of a scheduler, so that some run finds all of its cores free.
const PEAK_STEPS: usize = 60_000;

/// Floating-point operations per second of one run on all threads of the pool.
pub fn peak_once(backend: Backend) -> f64 {
    let probe = Peak { steps: PEAK_STEPS };
    if rayon::current_num_threads() == 1 {
        return rate(|| backend.run(probe));
    }
    // Each thread by its own clock: what the pool takes to wake up is no part of the peak.
    rayon::broadcast(|_| rate(|| backend.run(probe))).iter().sum()
}

/// The f32 peak of `backend` on all threads of the pool, in operations per second.
pub fn peak(backend: Backend, budget: Duration) -> f64 {
    best_of(budget, || peak_once(backend))
}

/// Bytes per second that one thread reads from a working set of `bytes`.
pub fn bandwidth(backend: Backend, bytes: usize, budget: Duration) -> f64 {
    let data = vec![1.0; bytes.div_ceil(size_of::<f32>())];
    // At least 4 MiB to a run: some 100 us even from L1.
    let passes = ((4 << 20) / bytes.max(1)).max(1);
    best_of(budget, || rate(|| backend.run(Read { data: &data, passes })))
}

/// A time, and the peak at that time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Seconds of the fastest run.
    pub seconds: f64,
    /// Operations per second of the best peak run among those that alternated with it.
    pub peak: f64,
}

/// The fastest run of `f` within the budget (one at least, after one that warms up), alternating with
/// runs of the peak probe.
pub fn time(backend: Backend, budget: Duration, mut f: impl FnMut()) -> Timing {
    f();
    let mut timing = Timing { seconds: f64::INFINITY, peak: 0.0 };
    let started = Instant::now();
    while timing.peak == 0.0 || started.elapsed() < budget {
        timing.peak = timing.peak.max(peak_once(backend));
        // Short runs are repeated back to back: the probe displaces what they find in the caches.
        let run = Instant::now();
        while timing.seconds == f64::INFINITY || run.elapsed() < Duration::from_millis(2) {
            let once = Instant::now();
            f();
            timing.seconds = timing.seconds.min(once.elapsed().as_secs_f64());
        }
    }
    timing
}

/// Units per second of `f`, which returns units.
fn rate(f: impl FnOnce() -> u64) -> f64 {
    let started = Instant::now();
    f() as f64 / started.elapsed().as_secs_f64()
}

/// The largest of as many results as the budget allows, of three at least.
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

    #[test]
    fn no_kernel_beats_the_peak() {
        let backend = Backend::best();
        let (flops, mut sum) = (2.0 * 1e6, 0.0f32);
        let timing = time(backend, Duration::from_millis(20), || {
            for i in 0..1_000_000 {
                sum = sum.mul_add(0.5, std::hint::black_box(i as f32));
            }
        });
        assert!(sum.is_finite() && timing.seconds > 0.0);
        assert!(timing.peak > flops / timing.seconds, "one chain is slower than many: {timing:?}");
        assert!(bandwidth(backend, 16 << 10, Duration::from_millis(5)) > 0.0);
    }
}

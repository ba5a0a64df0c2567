//! How benches run kernels: on one thread and on all, on memory as an allocator of tensors hands it out.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

/// A pool of threads, and its name in benches.
#[derive(Debug)]
pub struct Threads {
    pool: ThreadPool,
    /// How many.
    pub count: usize,
    /// `1 thread`, `2 threads`, ..
    pub name: String,
}

impl Threads {
    /// One thread; and as many as there are cores, if there are several.
    ///
    /// # Panics
    /// If no threads can be started.
    pub fn one_and_all() -> Vec<Self> {
        let mut counts = vec![1, std::thread::available_parallelism().map_or(1, usize::from)];
        counts.dedup();
        let pool = |n| Self {
            pool: ThreadPoolBuilder::new().num_threads(n).build().expect("threads"),
            count: n,
            name: format!("{n} thread{}", if n == 1 { "" } else { "s" }),
        };
        counts.into_iter().map(pool).collect()
    }

    /// The time of `runs` calls of `f`.
    pub fn time(&self, runs: u64, mut f: impl FnMut() + Send) -> Duration {
        self.pool.install(|| {
            let started = Instant::now();
            (0..runs).for_each(|_| f());
            started.elapsed()
        })
    }
}

/// Floats that begin with a page: vectors that straddle cache lines cost up to twice the time.
#[derive(Debug)]
pub struct Aligned {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `n` sums of sines: neither sorted nor periodic.
    pub fn new(n: usize) -> Self {
        const PAGE: usize = 4096;
        let data = vec![0.0; n + PAGE / size_of::<f32>()];
        let mut new = Self { start: data.as_ptr().align_offset(PAGE), data, len: n };
        for (i, x) in new.iter_mut().enumerate() {
            *x = (i as f32).sin() + (i as f32 * 0.017).cos();
        }
        new
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[self.start..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..][..self.len]
    }
}

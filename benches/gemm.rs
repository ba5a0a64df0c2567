//! Linear layers y = x W^T, on every backend, on one thread and on all, beside the `gemm` crate and
//! the FMA peak.
//!
//! ```text
//! cargo bench --bench gemm                                    all
//! cargo bench --bench gemm -- '128x768x3072/1 thread/avx512'  one shape, one backend
//! ```
//! Names are `MxKxN/threads/backend, packed|unpacked`; throughput is in floating-point operations
//! (criterion's "elem/s"). What is compared stands side by side in one group, for the clock drifts.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tilewright_kernels::gemm::{Epilogue, Gemm, PackedB, Rhs};
use tilewright_kernels::{View, ViewMut, probe::Peak};
use tilewright_suite::timing::{Aligned, Threads};
use tilewright_suite::{backends, peer};

/// (m, k, n): BERT-base's layers at 128 and 512 tokens, squares, MiniLM's at 32, decoding.
const SHAPES: [[usize; 3]; 9] = [
    [128, 768, 768],
    [128, 768, 3072],
    [512, 768, 3072],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [32, 384, 1536],
    [64, 64, 64],
    [1, 768, 3072],
    [1, 4096, 4096],
];

/// Steps of the peak probe: some 20 to 70 us.
const PEAK_STEPS: usize = 10_000;

fn linear(criterion: &mut Criterion) {
    for threads in Threads::one_and_all() {
        for shape in SHAPES {
            let [m, k, n] = shape;
            let mut group = criterion.benchmark_group(format!("{m}x{k}x{n}/{}", threads.name));
            group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
            products(&mut group, &threads, shape);
            group.finish();
        }
    }
}

/// All ways to compute one product.
fn products(group: &mut BenchmarkGroup<'_, WallTime>, threads: &Threads, [m, k, n]: [usize; 3]) {
    let [x, weight, mut y] = [m * k, n * k, m * n].map(Aligned::new);
    let a = View::new(&x, [1, m, k]).expect("a whole matrix");
    let b = View::new(&weight, [n, k]).expect("a whole matrix").transpose();
    for backend in backends() {
        let packed = PackedB::new(backend, b);
        for (kind, rhs) in [("packed", Rhs::Packed(&packed)), ("unpacked", Rhs::Matrix(b.into()))] {
            group.bench_function(format!("{}, {kind}", backend.name()), |bencher| {
                bencher.iter_custom(|runs| {
                    threads.time(runs, || {
                        let c = ViewMut::new(&mut y, [1, m, n]).expect("a whole matrix");
                        let epilogue = Epilogue::default();
                        let product = Gemm { alpha: 1.0, a, b: rhs, beta: 0.0, c, epilogue };
                        backend.run(product).expect("shapes fit");
                    })
                });
            });
        }
    }
    group.bench_function("gemm crate, unpacked", |bencher| {
        bencher.iter_custom(|runs| {
            threads.time(runs, || peer::product([m, k, n], &x, &weight, peer::Order::Transposed, &mut y))
        });
    });
}

fn peak(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peak/1 thread");
    for backend in backends() {
        let probe = Peak::from(backend);
        group.throughput(Throughput::Elements(probe.run(PEAK_STEPS)));
        group.bench_function(backend.name(), |bencher| bencher.iter(|| probe.run(PEAK_STEPS)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .without_plots();
    targets = peak, linear
}
criterion_main!(benches);

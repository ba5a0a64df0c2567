//! The cases of `tilewright bench` under criterion: all cases in f32, products in all other types, attention and
//! row kernels in bf16. Each case runs on every backend, on one thread and on all cores, beside the crates `gemm`
//! and `matrixmultiply`.
//!
//! ```text
//! cargo bench --bench kernels -- 'linear/f32/128x768x3072'         one shape, every contestant
//! cargo bench --bench kernels -- 'linear/.*/1x4096x4096'           one shape in all types
//! cargo bench --bench kernels -- 'avx512, 1 thread$' --quick       one backend, on one thread
//! cargo bench --bench kernels -- attention --save-baseline main    for critcmp
//! ```
//! Names are `kernel/type/shape/who, threads`. The contestants of a shape run one after the other, because the clock
//! drifts over time. Throughput is in floating-point operations (criterion's "elem/s"), in bytes for row kernels, in
//! tokens for models. `tilewright bench` shows shares of the machine's limit instead.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use std::time::{Duration, Instant};
use tilewright_bench::case::{Case, Operation, dtype_name};
use tilewright_bench::models::Models;
use tilewright_bench::registry;
use tilewright_peers::{Dtype, Library};
use tilewright_suite::{all_backends, backends};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    let (libraries, models) = (tilewright_peers::built_in(), Models::default());
    // Packed and unpacked weights belong to one group.
    for cases in cases().chunk_by(|a, b| group(a) == group(b)) {
        let mut group = criterion.benchmark_group(group(&cases[0]));
        let work = cases[0].work();
        group.throughput(match work.tokens {
            Some(tokens) => Throughput::Elements(tokens as u64),
            None if work.flops > 0.0 => Throughput::Elements(work.flops as u64),
            None => Throughput::Bytes(work.bytes as u64),
        });
        if matches!(cases[0].operation, Operation::Model { .. } | Operation::Train(_)) {
            group.sample_size(10);
        }
        for case in cases {
            for threads in thread_counts() {
                run(&mut group, case, threads, &libraries, &models);
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

/// All cases of f32, and the cases of other types whose kernels differ.
fn cases() -> Vec<Case> {
    let types = [Dtype::Bf16, Dtype::F16, Dtype::Int8, Dtype::Q8_0, Dtype::Q4_0];
    let others = types.into_iter().flat_map(registry::cases).filter(|case| match case.operation {
        // Weights of these types are always packed.
        Operation::Linear { packed, .. } => packed,
        Operation::LinearBackward { .. }
        | Operation::Attention(_)
        | Operation::Rows { .. }
        | Operation::Training(_) => case.dtype == Dtype::Bf16,
        Operation::Model { .. } | Operation::Train(_) => false,
    });
    registry::cases(Dtype::F32).into_iter().chain(others).collect()
}

fn group(case: &Case) -> String {
    format!("{}/{}/{}", case.kernel(), dtype_name(case.dtype), case.shape())
}

/// One thread, and one thread for each core if the machine has several.
fn thread_counts() -> Vec<usize> {
    let mut counts = vec![1, std::thread::available_parallelism().map_or(1, usize::from)];
    counts.dedup();
    counts
}

/// Benches every contestant of a case on `threads` threads. Prepares only cases that the filter selects.
fn run(
    group: &mut BenchmarkGroup<'_, WallTime>,
    case: &Case,
    threads: usize,
    libraries: &[Box<dyn Library>],
    models: &Models,
) {
    let on = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
    let weights = match case.packed() {
        Some(true) => ", packed",
        Some(false) => ", unpacked",
        None => "",
    };
    let backends = match case.dtype {
        Dtype::F32 => backends(),
        _ => all_backends().into_iter().filter(|backend| !backend.is_plain()).collect(),
    };
    for backend in backends {
        group.bench_function(format!("{}{weights}, {on}", backend.name()), |bencher| {
            let inputs = case.inputs();
            let mut prepared =
                case.prepare(&inputs, backend, models).expect("shapes fit").expect("there is such a kernel");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            bencher.iter_custom(|runs| pool.install(|| timed(runs, || prepared.run().expect("shapes fit"))));
        });
    }
    // Neither `gemm` nor `matrixmultiply` packs weights beforehand.
    for library in libraries.iter().filter(|_| case.packed() != Some(true)) {
        let inputs = case.inputs();
        let Some(operation) = case.for_peers(&inputs) else { continue };
        if let Some(mut call) = library.prepare(operation, threads).expect("shapes fit") {
            group.bench_function(format!("{}{weights}, {on}", library.name()), |bencher| {
                let pool = pool(threads);
                bencher.iter_custom(|runs| match library.in_rayon() {
                    true => pool.install(|| timed(runs, || call.run())),
                    false => timed(runs, || call.run()),
                });
            });
        }
    }
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

fn timed(runs: u64, mut f: impl FnMut()) -> Duration {
    let started = Instant::now();
    (0..runs).for_each(|_| f());
    started.elapsed()
}

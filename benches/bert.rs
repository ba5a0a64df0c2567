//! BERT-base forward passes with random weights, on one thread and on all.
//!
//! ```text
//! cargo bench --bench bert                                      all
//! cargo bench --bench bert -- 'B1 S128/1 thread/avx512'         one case, one backend
//! ```
//! Throughput is in tokens (criterion's "elem/s").

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tilewright::Batch;
use tilewright::bert::{Bert, Config, Workspace};
use tilewright_kernels::Backend;
use tilewright_suite::backends;
use tilewright_suite::timing::Threads;

/// Sequences and their length.
const CASES: [[usize; 2]; 4] = [[1, 16], [1, 128], [8, 128], [1, 512]];

fn forward(criterion: &mut Criterion) {
    let pools = Threads::one_and_all();
    for backend in backends().into_iter().filter(|&b| b != Backend::PORTABLE) {
        let bert = Bert::random(Config::default(), 0, backend).expect("the default config");
        for [sequences, length] in CASES {
            let mut batch = Batch::default();
            for s in 0..sequences {
                let ids: Vec<u32> =
                    (0..length).map(|i| (1000 + (s * length + i) * 7919 % 29000) as u32).collect();
                batch.push(&ids, &vec![0; length]).expect("ids and types");
            }
            for threads in &pools {
                let name = format!("BERT-base B{sequences} S{length}/{}", threads.name);
                let mut group = criterion.benchmark_group(name);
                group.throughput(Throughput::Elements(batch.tokens() as u64));
                group.sample_size(10).warm_up_time(Duration::from_secs(1));
                group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
                    let mut work = Workspace::default();
                    bencher.iter_custom(|runs| {
                        threads.time(runs, || {
                            bert.forward(&batch, &mut work).expect("ids are in the table");
                        })
                    });
                });
                group.finish();
            }
        }
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);

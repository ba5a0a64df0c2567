//! Attention on every backend, on one thread and on all. (`cargo bench --bench gemm -- peak` is what the
//! machine allows.)
//!
//! ```text
//! cargo bench --bench attention                                 all
//! cargo bench --bench attention -- '1x12x512x64/1 thread/avx512'
//! ```
//! Names are `BATCHxHEADSxTOKENSxDIM/threads/backend`, or `BATCHxHEADS/KV_HEADSxQUERIES:KEYSxDIM/..` where
//! these differ; throughput is in the floating-point operations of both products (criterion's "elem/s"),
//! without those that a causal mask makes needless.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tilewright_kernels::{Attention, Start, View, ViewMut, Window};
use tilewright_suite::backends;
use tilewright_suite::timing::{Aligned, Threads};

/// Batch, heads, kv heads, queries, keys, head dimension, window: BERT-base's layers at 128, 512 and
/// 2048 tokens, a prompt, and one token after 2048 others.
const CASES: [([usize; 6], Window); 7] = [
    ([1, 12, 12, 128, 128, 64], Window::ALL),
    ([1, 12, 12, 512, 512, 64], Window::ALL),
    ([1, 12, 12, 2048, 2048, 64], Window::ALL),
    ([1, 12, 12, 2048, 2048, 64], Window::CAUSAL),
    ([8, 12, 12, 128, 128, 64], Window::ALL),
    ([1, 32, 8, 512, 512, 128], Window::CAUSAL),
    ([1, 32, 8, 1, 2048, 128], Window::CAUSAL),
];

fn attention(criterion: &mut Criterion) {
    for threads in Threads::one_and_all() {
        for ([batch, heads, kv_heads, queries, keys, dim], window) in CASES {
            let [q, mut out] = [(); 2].map(|()| Aligned::new(batch * heads * queries * dim));
            let [k, v] = [(); 2].map(|()| Aligned::new(batch * kv_heads * keys * dim));
            let causal = if window == Window::CAUSAL { ", causal" } else { "" };
            let shape = match (queries == keys, heads == kv_heads) {
                (true, true) => format!("{batch}x{heads}x{keys}x{dim}"),
                _ => format!("{batch}x{heads}/{kv_heads}x{queries}:{keys}x{dim}"),
            };
            let mut group = criterion.benchmark_group(format!("{shape}{causal}/{}", threads.name));
            // What a causal mask leaves of the scores of the last `queries` of `keys` tokens.
            let seen =
                if causal.is_empty() { queries * keys } else { queries * (2 * keys - queries + 1) / 2 };
            group.throughput(Throughput::Elements((4 * batch * heads * seen * dim) as u64));
            let q = View::new(&q, [batch, heads, queries, dim]).expect("a whole tensor");
            let [k, v] =
                [&k, &v].map(|x| View::new(x, [batch, kv_heads, keys, dim]).expect("a whole tensor"));
            for backend in backends() {
                group.bench_function(backend.name(), |bencher| {
                    bencher.iter_custom(|runs| {
                        threads.time(runs, || {
                            let to = ViewMut::new(&mut out, [batch, heads, queries, dim]);
                            let to = to.expect("a whole tensor");
                            let attention =
                                Attention { window, start: Start::End, ..Attention::new(q, k, v, to) };
                            backend.run(attention).expect("shapes fit");
                        })
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(10)
        .without_plots();
    targets = attention
}
criterion_main!(benches);

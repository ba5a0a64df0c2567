//! Row kernels, out of place, on every backend, on one thread and on all.
//!
//! ```text
//! cargo bench --bench rows                                        all
//! cargo bench --bench rows -- 'layer norm/128x768/1 thread/avx2'  one
//! ```
//! Throughput is in bytes of x and y; a copy, which is what memory allows, stands beside the kernels.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tilewright_kernels::{
    Activate, Activation, Backend, Embedding, Error, Gated, L2Normalize, LayerNorm, Lookup, Mask, Pool,
    Pooling, RmsNorm, Rope, RopeLayout, RopeTable, Rows, Softmax, View, ViewMut,
};
use tilewright_suite::backends;
use tilewright_suite::timing::{Aligned, Threads};

/// Rows and columns: BERT-base's states at 128 tokens, in L2, and at 4096, beyond it; its gates.
const SHAPES: [[usize; 2]; 3] = [[128, 768], [4096, 768], [128, 4096]];

/// What a kernel is given.
struct Data<'a> {
    x: View<'a, 2>,
    up: View<'a, 2>,
    weight: &'a [f32],
    bias: &'a [f32],
    ids: &'a [u32],
    offsets: &'a [usize],
    table: &'a RopeTable,
}

type Run = fn(Backend, &Data<'_>, ViewMut<'_, 2>) -> Result<(), Error>;

const KERNELS: [(&str, Run); 15] = [
    ("copy", |backend, d, out| activate(backend, d, out, Activation::Identity)),
    ("layer norm", |backend, d, out| {
        let (rows, weight, bias) = (Rows::Into(d.x, out), Some(d.weight), Some(d.bias));
        backend.run(LayerNorm { rows, residual: None, weight, bias, eps: 1e-12 })
    }),
    ("RMS norm", |backend, d, out| {
        let rows = Rows::Into(d.x, out);
        backend.run(RmsNorm { rows, residual: None, weight: Some(d.weight), eps: 1e-6 })
    }),
    ("L2 norm", |backend, d, out| backend.run(L2Normalize { rows: Rows::Into(d.x, out), eps: 1e-12 })),
    ("softmax", |backend, d, out| softmax(backend, d, out, Mask::None, false)),
    ("softmax with bias", |backend, d, out| softmax(backend, d, out, Mask::Bias(d.up), false)),
    ("log-softmax", |backend, d, out| softmax(backend, d, out, Mask::None, true)),
    ("GELU erf", |backend, d, out| activate(backend, d, out, Activation::GeluErf)),
    ("GELU tanh", |backend, d, out| activate(backend, d, out, Activation::GeluTanh)),
    ("SiLU", |backend, d, out| activate(backend, d, out, Activation::Silu)),
    ("tanh", |backend, d, out| activate(backend, d, out, Activation::Tanh)),
    ("SwiGLU", |backend, d, out| {
        backend.run(Gated { gate: Rows::Into(d.x, out), up: d.up, activation: Activation::Silu })
    }),
    ("RoPE", |backend, d, out| {
        backend.run(Rope { rows: Rows::Into(d.x, out), head_dim: 64, positions: d.ids, table: d.table })
    }),
    ("embedding", |backend, d, out| {
        let lookups = [d.x, d.up].map(|table| Lookup { table, ids: d.ids });
        backend.run(Embedding { lookups: &lookups, out })
    }),
    ("mean", |backend, d, out| {
        let out = out.slice(0, 0..1);
        backend.run(Pool { x: d.x, offsets: d.offsets, pooling: Pooling::Mean, out })
    }),
];

fn activate(
    backend: Backend,
    d: &Data<'_>,
    out: ViewMut<'_, 2>,
    activation: Activation,
) -> Result<(), Error> {
    backend.run(Activate { rows: Rows::Into(d.x, out), activation })
}

fn softmax(
    backend: Backend,
    d: &Data<'_>,
    out: ViewMut<'_, 2>,
    mask: Mask<'_>,
    log: bool,
) -> Result<(), Error> {
    backend.run(Softmax { rows: Rows::Into(d.x, out), scale: 1.0, mask, log })
}

fn rows(criterion: &mut Criterion) {
    let pools = Threads::one_and_all();
    let table = RopeTable::new(RopeLayout::HalfSplit, 4096, 64, 1e4);
    for shape @ [rows, n] in SHAPES {
        let mut buffers = [rows * n, rows * n, n, n, rows * n].map(Aligned::new);
        let [x, up, weight, bias, out] = buffers.each_mut().map(|x| &mut x[..]);
        let ids: Vec<u32> = (0..rows).map(|i| (i * 7919 % rows) as u32).collect();
        let data = Data {
            x: View::new(x, shape).expect("a whole matrix"),
            up: View::new(up, shape).expect("a whole matrix"),
            weight,
            bias,
            ids: &ids,
            offsets: &[0, rows],
            table: &table,
        };
        for (kernel, run) in KERNELS {
            for threads in &pools {
                let mut group = criterion.benchmark_group(format!("{kernel}/{rows}x{n}/{}", threads.name));
                group.throughput(Throughput::Bytes((2 * rows * n * size_of::<f32>()) as u64));
                for backend in backends() {
                    group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
                        bencher.iter_custom(|runs| {
                            threads.time(runs, || {
                                let out = ViewMut::new(&mut *out, shape).expect("a whole matrix");
                                run(backend, &data, out).expect("shapes fit");
                            })
                        });
                    });
                }
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(20)
        .without_plots();
    targets = rows
}
criterion_main!(benches);

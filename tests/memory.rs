//! The contract on memory: kernels allocate nothing in a steady state, and the memory of attention grows linearly with
//! the length.

use allocation_counter::{AllocationInfo, measure};
use half::{bf16, f16};
use tilewright_kernels::gemm::{Epilogue, Gemm, PackedB, Rhs};
use tilewright_kernels::optimizer::{
    Adafactor, AdafactorOptions, Adam, AdamOptions, GlobalNorm, GradientTree, Lamb, SecondMoment, Trainable,
};
use tilewright_kernels::{
    Activate, Activation, Attention, Backend, CrossEntropy, CrossEntropyBackward, Element, Embedding,
    LayerNorm, LayerNormBackward, LinearCrossEntropy, Lookup, RmsNorm, Rows, Softmax, Targets, View, ViewMut,
};
use tilewright_suite::backends;

/// Allocations of `f`, which runs on one thread.
fn allocations(f: impl FnOnce() + Send) -> AllocationInfo {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let mut found = AllocationInfo::default();
    one.install(|| found = measure(f));
    found
}

/// Asserts that the third of three runs allocates nothing.
fn steady(backend: Backend, kernel: &str, mut run: impl FnMut(Backend) + Send) {
    let found = allocations(|| {
        run(backend);
        run(backend);
        let steady = measure(|| run(backend));
        assert_eq!(steady.count_total, 0, "{kernel} on {}: {steady:?}", backend.name());
    });
    assert!(found.count_total > 0, "{kernel} on {}: the counter counts nothing", backend.name());
}

/// Runs a row kernel.
type RowCall<T> = fn(Backend, Rows<'_, T>);

fn row_kernels<T: Element>() -> [(&'static str, RowCall<T>); 4] {
    [
        ("layer norm", |backend, rows| {
            backend.run(LayerNorm::new(rows, 1e-5)).unwrap();
        }),
        ("RMS norm", |backend, rows| {
            backend.run(RmsNorm::new(rows, 1e-5)).unwrap();
        }),
        ("softmax", |backend, rows| {
            backend.run(Softmax::new(rows)).unwrap();
        }),
        ("GELU", |backend, rows| {
            backend.run(Activate { rows, activation: Activation::GeluErf }).unwrap();
        }),
    ]
}

/// Asserts that row kernels of a type, and a gather of two rows from a table, allocate nothing.
fn rows_allocate_nothing<T: Element>(backend: Backend, n: usize) {
    let x = vec![T::from_f32(0.5); n * n];
    let matrix = View::new(&x, [n, n]).unwrap();
    let mut y = Vec::new();
    for (name, run) in row_kernels::<T>() {
        steady(backend, name, |backend| {
            y.resize(n * n, T::default());
            run(backend, Rows::Into(matrix, ViewMut::new(&mut y, [n, n]).unwrap()));
        });
        y = Vec::new();
    }
    let (statistics, mut dweight) = (vec![1.0; n], vec![0.0; n]);
    steady(backend, "layer norm backward", |backend| {
        y.resize(n * n, T::default());
        let rows = Rows::Into(matrix, ViewMut::new(&mut y, [n, n]).unwrap());
        let gradient = LayerNormBackward::new(rows, matrix, &statistics, &statistics);
        backend.run(LayerNormBackward { dweight: Some(&mut dweight), ..gradient }).unwrap();
    });
    y = Vec::new();
    steady(backend, "embedding", |backend| {
        y.resize(n * n, T::default());
        let lookup = Lookup { table: matrix, ids: &[1, 0] };
        let out = ViewMut::new(&mut y, [2, n]).unwrap();
        backend.run(Embedding::new(&[lookup, lookup], out)).unwrap();
    });
}

/// Asserts that losses and optimizer steps allocate nothing.
fn training_allocates_nothing(backend: Backend, x: View<'_, 2>) {
    let [rows, classes] = x.shape();
    let (labels, numbers) = (vec![1; rows], vec![0.5; rows * classes]);
    let targets = Targets::new(&labels);
    let [mut a, mut b, mut c] = [(); 3].map(|()| Vec::new());
    let mut zeros = move |run: &mut dyn FnMut([&mut [f32]; 3])| {
        [&mut a, &mut b, &mut c].into_iter().for_each(|x| x.resize(rows * classes, 0.0));
        run([&mut a, &mut b, &mut c]);
    };
    steady(backend, "cross-entropy", |backend| {
        zeros(&mut |[dx, ..]| {
            backend.run(CrossEntropy { logits: x, targets, losses: None }).unwrap();
            let rows = Rows::Into(x, ViewMut::new(dx, x.shape()).unwrap());
            backend.run(CrossEntropyBackward { rows, targets, scale: 1.0, losses: None }).unwrap();
        });
    });
    steady(backend, "linear cross-entropy", |backend| {
        zeros(&mut |[dx, dweight, _]| {
            let (dx, dweight) =
                (ViewMut::new(dx, x.shape()).unwrap(), ViewMut::new(dweight, x.shape()).unwrap());
            let forward = LinearCrossEntropy::new(x, x, targets);
            backend.run(LinearCrossEntropy { dx: Some(dx), dweight: Some(dweight), ..forward }).unwrap();
        });
    });
    steady(backend, "optimizers", |backend| {
        zeros(&mut |[p, m, v]| {
            backend.run(GlobalNorm { x: &numbers });
            let options = AdamOptions::adamw(0.1, 1);
            backend.run(Adam { of: Trainable::new(p, &numbers), m, v, options }).unwrap();
            backend.run(Lamb { of: Trainable::new(p, &numbers), m, v, options }).unwrap();
            let second_moment = SecondMoment::Factored { rows: &mut m[..rows], columns: &mut v[..classes] };
            let of = Trainable::new(p, &numbers);
            backend.run(Adafactor { of, second_moment, options: AdafactorOptions::new(1) }).unwrap();
        });
    });
    let mut tree = GradientTree::new(numbers.len(), 5);
    steady(backend, "gradient tree", |backend| {
        [3, 0, 4, 1, 2].into_iter().for_each(|part| tree.push(backend, part, &numbers).unwrap());
        tree.clear();
    });
}

/// Peak of bytes that a vocabulary projection with its gradients allocates on a new thread.
fn projection_peak(backend: Backend, tokens: usize, vocabulary: usize) -> u64 {
    const D: usize = 16;
    let (x, weight) = (vec![0.5; tokens * D], vec![0.5; vocabulary * D]);
    let (mut dx, mut dweight) = (vec![0.0; tokens * D], vec![0.0; vocabulary * D]);
    let labels: Vec<i64> = (0..tokens as i64).collect();
    let peak = allocations(|| {
        let (x, weight) = (View::new(&x, [tokens, D]).unwrap(), View::new(&weight, [vocabulary, D]).unwrap());
        let forward = LinearCrossEntropy::new(x, weight, Targets::new(&labels));
        let dx = Some(ViewMut::new(&mut dx, [tokens, D]).unwrap());
        let dweight = Some(ViewMut::new(&mut dweight, [vocabulary, D]).unwrap());
        backend.run(LinearCrossEntropy { dx, dweight, ..forward }).unwrap();
    });
    peak.bytes_max
}

#[test]
fn logits_are_never_whole() {
    let backend = Backend::best();
    let (tokens, vocabulary) = (1024, 16_000);
    let peak = projection_peak(backend, tokens, vocabulary);
    let logits = (4 * tokens * vocabulary) as u64;
    println!("linear cross-entropy on {}: {peak} bytes, the logits {logits}", backend.name());
    // PyTorch 2.15 holds log-probabilities and their gradient: 2.2 times the logits at 1024 x 50257.
    assert!(peak < 2 * logits / 10, "{peak} bytes, the logits {logits}");
}

#[test]
fn a_steady_state_allocates_nothing() {
    const N: usize = 100;
    let x = vec![0.5; N * N];
    let matrix = View::new(&x, [N, N]).unwrap();
    for backend in backends() {
        let packed = PackedB::new(backend, matrix);
        let unpacked = [matrix, matrix.transpose()].map(|b| Rhs::Matrix(b.into()));
        let weights = [Rhs::Packed(&packed), unpacked[0], unpacked[1]];
        for (rhs, m) in weights.into_iter().flat_map(|rhs| [(rhs, 1), (rhs, N)]) {
            let mut y = Vec::new();
            steady(backend, "gemm", |backend| {
                y.resize(m * N, 0.0);
                let c = ViewMut::new(&mut y, [m, N]).unwrap().into();
                let (a, epilogue) = (matrix.slice(0, 0..m).into(), Epilogue::default());
                backend.run(Gemm { alpha: 1.0, a, b: rhs, beta: 0.0, c, epilogue }).unwrap();
            });
        }
        let mut y = Vec::new();
        steady(backend, "attention", |backend| {
            y.resize(N * N, 0.0);
            let heads = View::new(&x, [1, 2, N, N / 2]).unwrap();
            let out = ViewMut::new(&mut y, [1, 2, N, N / 2]).unwrap();
            backend.run(Attention::new(heads, heads, heads, out)).unwrap();
        });
        training_allocates_nothing(backend, matrix);
        rows_allocate_nothing::<f32>(backend, N);
        rows_allocate_nothing::<bf16>(backend, N);
        rows_allocate_nothing::<f16>(backend, N);
    }
}

/// Peak of the bytes that attention over `length` tokens allocates on a new thread.
fn attention_peak(backend: Backend, length: usize) -> u64 {
    let shape = [1, 1, length, 16];
    let (x, mut y) = (vec![0.5; length * 16], vec![0.0; length * 16]);
    let peak = allocations(|| {
        let x = View::new(&x, shape).unwrap();
        backend.run(Attention::new(x, x, x, ViewMut::new(&mut y, shape).unwrap())).unwrap();
    });
    assert!(y.iter().all(|x| (x - 0.5).abs() < 1e-5));
    peak.bytes_max
}

#[test]
fn attention_takes_memory_linear_in_the_length() {
    let backend = Backend::best();
    let [short, long] = [1024, 8192].map(|length| attention_peak(backend, length));
    println!("attention on {}: {short} bytes at 1024 tokens, {long} at 8192", backend.name());
    // A matrix of all scores would take 256 MiB, 64 times as much as for the shorter sequence.
    assert!(long <= 8 * short.max(1 << 10), "{short} bytes at 1024 tokens, {long} at 8192");
    assert!(long < 4 << 20, "{long} bytes at 8192 tokens");
}

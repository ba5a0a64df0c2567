//! Every operation of every library against its definition in f64.
//!
//! `TILEWRIGHT_PEERS="mkl=/path,openblas=/path,onednn=/path"` names the libraries to load.

use half::{bf16, f16};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use tilewright_peers::{Dtype, Library, PeerCall, PeerOperation, built_in, load};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;
const U16: f64 = 1.0 / (1 << 11) as f64;

/// Shapes m, k, n: one row, odd sizes, sizes that libraries split and block.
const LINEAR: [[usize; 3]; 8] = [
    [1, 1, 1],
    [1, 300, 70],
    [1, 1024, 512],
    [3, 7, 5],
    [17, 129, 33],
    [64, 64, 64],
    [70, 1031, 130],
    [128, 768, 256],
];

/// Rows, columns.
const ROWS: [[usize; 2]; 5] = [[1, 1], [1, 768], [3, 7], [37, 129], [128, 1024]];

fn say(what: &str) {
    // The test harness captures `eprintln`.
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The compiled-in crates, and the libraries in `TILEWRIGHT_PEERS`.
fn libraries() -> &'static [Box<dyn Library>] {
    static LIBRARIES: OnceLock<Vec<Box<dyn Library>>> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let mut libraries = built_in();
        let named = std::env::var("TILEWRIGHT_PEERS").unwrap_or_default();
        for entry in named.split(',').filter(|entry| !entry.is_empty()) {
            let (name, path) = entry.split_once('=').expect("TILEWRIGHT_PEERS is name=path,..");
            libraries.push(load(name, Path::new(path)).unwrap_or_else(|e| panic!("{e}")));
        }
        for name in ["gemm", "matrixmultiply", "mkl", "openblas", "onednn"] {
            match libraries.iter().find(|library| library.name() == name) {
                Some(library) => say(&format!("{name}: {}", library.version())),
                None => say(&format!("SKIPPED {name}: not built in, not named by TILEWRIGHT_PEERS")),
            }
        }
        libraries
    })
}

/// Linear congruential generator of numbers in [-1, 1), equal on every run.
struct Congruential(u64);

impl Congruential {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vec(&mut self, len: usize, f: impl Fn(f32) -> f32) -> Vec<f32> {
        (0..len).map(|_| f(self.unit())).collect()
    }
}

/// Runs the operation on every library, on one thread and on two, twice each, and compares the results with `expected`,
/// pairs of values and bounds. Returns the names of the libraries that computed it on one thread.
fn check(
    what: &str,
    operation: PeerOperation<'_>,
    expected: impl Fn(&dyn Library) -> Vec<(f64, f64)>,
) -> Vec<&'static str> {
    let mut computed = Vec::new();
    for library in libraries() {
        let expected = expected(library.as_ref());
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let name = format!("{}, {threads} threads, {what}", library.name());
            let prepared = pool.install(|| library.prepare(operation, threads));
            let Some(mut call) = prepared.unwrap_or_else(|e| panic!("{name}: {e}")) else { continue };
            // The second run differs if the first run left state behind.
            for _ in 0..2 {
                pool.install(|| call.run());
                compare(&name, call.as_ref(), &expected);
            }
            if threads == 1 {
                computed.push(library.name());
            }
        }
    }
    computed
}

fn compare(name: &str, call: &dyn PeerCall, expected: &[(f64, f64)]) {
    let found = call.output();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (&found, &(expected, bound))) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= bound, "{name}: element {i}: {found:e}, expected {expected:e} within {bound:.2e}");
    }
}

/// Prints the libraries that did not compute the operation, and fails if one of `required` is among them.
fn require(what: &str, computed: &[&str], required: &[&str]) {
    for name in libraries().iter().map(|library| library.name()).filter(|name| !computed.contains(name)) {
        assert!(!required.contains(&name), "{name} does not compute {what}");
        say(&format!("SKIPPED {name}: {what}: no such operation"));
    }
}

/// The elements of the product of the rounded inputs, each with the sum of the magnitudes of its terms.
fn products([m, k, n]: [usize; 3], x: &[f32], weight: &[f32], round: impl Fn(f32) -> f64) -> Vec<(f64, f64)> {
    let (x, weight): (Vec<f64>, Vec<f64>) =
        (x.iter().map(|&x| round(x)).collect(), weight.iter().map(|&w| round(w)).collect());
    let dot = |i: usize, j: usize| {
        let pairs = x[i * k..][..k].iter().zip(&weight[j * k..][..k]);
        pairs.fold((0.0, 0.0), |(sum, magnitude), (x, w)| (sum + x * w, magnitude + (x * w).abs()))
    };
    (0..m * n).map(|i| dot(i / n, i % n)).collect()
}

/// gamma_k, the bound of the relative error of k roundings.
fn gamma(k: usize) -> f64 {
    k as f64 * U / (1.0 - k as f64 * U)
}

/// Compares all shapes in one type with exact products of the rounded inputs, within `bound(library, k, sum of
/// magnitudes)`.
fn linear(
    dtype: Dtype,
    round: impl Fn(f32) -> f64,
    bound: impl Fn(&dyn Library, usize, f64) -> f64,
    required: &[&str],
) {
    for packed in [false, true] {
        let name = format!("{dtype:?}{}", if packed { " packed" } else { "" });
        let mut computed = Vec::new();
        for shape in LINEAR {
            let [m, k, n] = shape;
            let mut random = Congruential(1);
            let (x, weight) = (random.vec(m * k, |x| x), random.vec(n * k, |x| x));
            let exact = products(shape, &x, &weight, &round);
            let expected = |library: &dyn Library| {
                exact.iter().map(|&(sum, magnitude)| (sum, bound(library, k, magnitude))).collect()
            };
            let operation = PeerOperation::Linear { shape, x: &x, weight: &weight, dtype, packed };
            computed = check(&format!("{name} {shape:?}"), operation, expected);
        }
        require(&name, &computed, required);
    }
}

#[test]
fn linear_f32() {
    // k products and k - 1 sums, in any order.
    let all = ["gemm", "matrixmultiply", "mkl", "openblas", "onednn"];
    linear(Dtype::F32, f64::from, |_, k, magnitude| gamma(k) * magnitude, &all);
}

#[test]
fn linear_bf16() {
    // Products are exact in f32. Each sum, or each sum of a pair in one instruction, is rounded.
    linear(Dtype::Bf16, |x| bf16::from_f32(x).to_f64(), |_, k, magnitude| gamma(k) * magnitude, &[]);
}

#[test]
fn linear_f16() {
    let bound = |library: &dyn Library, k: usize, magnitude: f64| {
        // `gemm` has f16 outputs and rounds them after every block of at least 512 k-steps.
        let roundings = if library.name() == "gemm" { k.div_ceil(512) as f64 } else { 0.0 };
        let subnormal = 2.0_f64.powi(-25);
        gamma(k) * magnitude + roundings * (U16 * (1.0 + gamma(k)) * magnitude + subnormal)
    };
    linear(Dtype::F16, |x| f16::from_f32(x).to_f64(), bound, &["gemm"]);
}

#[test]
fn linear_int8() {
    for packed in [false, true] {
        let mut computed = Vec::new();
        let name = if packed { "int8 packed" } else { "int8" };
        for shape in LINEAR {
            let [m, k, n] = shape;
            let mut random = Congruential(1);
            let mut x = random.vec(m * k, |x| (x.abs() * 128.0).floor());
            let mut weight = random.vec(n * k, |w| (w * 127.5).trunc());
            // The largest sums: 16-bit sums of more than two products would saturate.
            x[..k].fill(127.0);
            weight[..k].fill(127.0);
            weight[(n - 1) * k..].fill(-127.0);
            let exact = products(shape, &x, &weight, f64::from);
            // Integer sums become the nearest f32.
            let expected =
                |_: &dyn Library| exact.iter().map(|&(sum, _)| (f64::from(sum as f32), 0.0)).collect();
            let dtype = Dtype::Int8;
            let operation = PeerOperation::Linear { shape, x: &x, weight: &weight, dtype, packed };
            computed = check(&format!("{name} {shape:?}"), operation, expected);
        }
        require(name, &computed, &[]);
    }
}

#[test]
fn int8_of_numbers_that_are_no_bytes() {
    for (x, weight) in [([0.5, 1.0], [1.0; 2]), ([-1.0, 1.0], [1.0; 2]), ([1.0; 2], [128.0, 1.0])] {
        let (shape, dtype) = ([1, 2, 1], Dtype::Int8);
        let operation = PeerOperation::Linear { shape, x: &x, weight: &weight, dtype, packed: false };
        for library in libraries() {
            let computed = library.prepare(operation, 1).is_ok_and(|call| call.is_some());
            assert!(!computed, "{}: {x:?} {weight:?}", library.name());
        }
    }
}

#[test]
fn softmax() {
    let mut computed = Vec::new();
    for shape in ROWS {
        let columns = shape[1];
        let x = Congruential(1).vec(shape[0] * columns, |x| x * 10.0);
        let mut expected = Vec::new();
        for row in x.chunks(columns) {
            let (max, min) = row.iter().fold((f32::MIN, f32::MAX), |(a, b), &x| (a.max(x), b.min(x)));
            let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
            // One rounding of x - max, some ULP of exp, one rounding of the sum for each column, one division.
            let relative = (16.0 + f64::from(max - min) + columns as f64) * U;
            expected.extend(row.iter().map(|&x| {
                let y = (f64::from(x) - f64::from(max)).exp() / sum;
                (y, y * relative)
            }));
        }
        let operation = PeerOperation::Softmax { shape, x: &x };
        computed = check(&format!("softmax {shape:?}"), operation, |_| expected.clone());
    }
    require("softmax", &computed, &["onednn"]);
}

#[test]
fn layer_norm() {
    let mut computed = Vec::new();
    for shape in ROWS {
        let columns = shape[1];
        let mut random = Congruential(1);
        let x = random.vec(shape[0] * columns, |x| 3.0 * x + 1.0);
        let [weight, bias] = [0; 2].map(|_| random.vec(columns, |x| x));
        let eps = 1e-5;
        let mut expected = Vec::new();
        for row in x.chunks(columns) {
            let n = columns as f64;
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            let deviation = (variance + f64::from(eps)).sqrt();
            // The errors of the mean, and so of all differences from the mean, are at most gamma_n times the largest
            // |x|. The variance and the division add a relative error.
            let largest = row.iter().fold(0.0_f64, |a, &x| a.max(f64::from(x).abs()));
            let u = gamma(columns + 8);
            for (&x, (&weight, &bias)) in row.iter().zip(weight.iter().zip(&bias)) {
                let (weight, bias) = (f64::from(weight), f64::from(bias));
                let normal = (f64::from(x) - mean) / deviation;
                let error = u * (largest / deviation + normal.abs()) * (1.0 + normal.abs());
                expected.push((normal * weight + bias, error * weight.abs() + U * bias.abs()));
            }
        }
        let operation = PeerOperation::LayerNorm { shape, x: &x, weight: &weight, bias: &bias, eps };
        computed = check(&format!("layer norm {shape:?}"), operation, |_| expected.clone());
    }
    require("layer norm", &computed, &["onednn"]);
}

#[test]
fn gelu() {
    for tanh in [false, true] {
        let mut computed = Vec::new();
        for shape in ROWS {
            let x = Congruential(1).vec(shape[0] * shape[1], |x| x * 6.0);
            let exact = |x: f64| match tanh {
                true => {
                    0.5 * x
                        * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
                }
                false => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            };
            // The error function is accurate to the last bits of 1, so results near 0 have a small absolute error but
            // not a small relative error.
            let expected: Vec<_> =
                x.iter().map(|&x| f64::from(x)).map(|x| (exact(x), 8.0 * U * x.abs())).collect();
            let operation = PeerOperation::Gelu { shape, x: &x, tanh };
            computed = check(&format!("GELU, tanh {tanh} {shape:?}"), operation, |_| expected.clone());
        }
        require(if tanh { "GELU by tanh" } else { "GELU" }, &computed, &["onednn"]);
    }
}

/// The error function for |x| < 4.3, by its Maclaurin series. No term exceeds 10^7, so f64 leaves an error of about
/// 10^-9. The terms vanish long before the last one.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

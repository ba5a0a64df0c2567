//! Products in types other than f32: the contract on every backend, and the exact results of int8 and of groups.

use half::f16;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Quantized, Rhs};
use tilewright_kernels::{Backend, View, ViewMut};
use tilewright_suite::all_backends;
use tilewright_verify::Failure;
use tilewright_verify::bound::identical;
use tilewright_verify::tensor::Random;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.unit()).collect()
}

fn product(backend: Backend, a: Lhs<'_>, b: &PackedB) -> Result<Vec<f32>, Failure> {
    let (m, n) = (a.shape()[1], b.n());
    let mut c = vec![f32::NAN; m * n];
    let (b, to) = (Rhs::Packed(b), ViewMut::new(&mut c, [m, n])?.into());
    backend.run(Gemm { alpha: 1.0, a, b, beta: 0.0, c: to, epilogue: Epilogue::default() })?;
    Ok(c)
}

/// A in f32, and A rounded to the type of the weights.
fn kinds<'a>(a: &'a [f32], [m, k]: [usize; 2]) -> [Lhs<'a>; 2] {
    let view = View::new(a, [1, m, k]).unwrap();
    [view.into(), Lhs::Rounded(view)]
}

/// A row has the same bits alone and in products of any number of rows, on any number of threads.
#[test]
fn rows_do_not_depend_on_their_neighbours_or_on_threads() {
    for (k, n) in [(600, 130), (1700, 70), (20, 13)] {
        let (b, most) = (numbers(n * k, 3), 70);
        let b = View::new(&b, [n, k]).unwrap().transpose();
        let a = numbers(most * k, 4);
        for (backend, format) in all_backends().into_iter().flat_map(|b| Format::ALL.map(|f| (b, f))) {
            let packed = PackedB::in_format(backend, format, b).unwrap();
            for kind in 0..2 {
                let row = |i: usize| product(backend, kinds(&a[i * k..], [1, k])[kind], &packed).unwrap();
                let alone: Vec<f32> = (0..most).flat_map(row).collect();
                for m in (1..=34).chain([47, most]) {
                    let what = format!("{} {}: {m} rows of {k}", backend.name(), format.name());
                    let together = || product(backend, kinds(&a, [m, k])[kind], &packed).unwrap();
                    identical(&together(), &alone[..m * n]).unwrap_or_else(|e| panic!("{what}: {e}"));
                    if m == most {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
                        let on_three = pool.install(|| {
                            let packed = PackedB::in_format(backend, format, b).unwrap();
                            product(backend, kinds(&a, [m, k])[kind], &packed).unwrap()
                        });
                        identical(&on_three, &alone).unwrap_or_else(|e| panic!("{what}, 3 threads: {e}"));
                    }
                }
            }
        }
    }
}

/// int8 products are sums of integers, scaled in f32, so all backends give equal bits.
#[test]
fn int8_is_exact() {
    let shapes = [(3, 1, 5), (17, 63, 40), (5, 65, 33), (30, 777, 50), (2, 5000, 20)];
    for (m, k, n) in shapes {
        // The ends of the range, of one sign and of both signs: the sums of pairs exceed 16 bits.
        let ends = |sign: f32| move |i: usize| if i % 7 == 3 { -sign } else { sign };
        let edges: Vec<f32> = (0..m * k).map(ends(1.0)).collect();
        let of_edges: Vec<f32> = (0..n * k).map(ends(-1.0)).collect();
        for (a, w) in [(numbers(m * k, 1), numbers(n * k, 2)), (edges, of_edges)] {
            let view = View::new(&a, [1, m, k]).unwrap();
            let weight = View::new(&w, [n, k]).unwrap().transpose();
            for (lhs, of_row) in [
                (Lhs::Rounded(view), (|row| Quantized::symmetric(row)) as fn(Vec<f32>) -> Quantized),
                (Lhs::ZeroPoint(view), |row| Quantized::zero_point(row)),
            ] {
                let expected = (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| {
                    let (row, column) = (&a[i * k..][..k], &w[j * k..][..k]);
                    let (of_row, of_column) =
                        (of_row(row.to_vec()), Quantized::symmetric(column.iter().copied()));
                    let number = |q: Quantized, x: f32| i32::from(q.quantize(x)) - q.zero;
                    let sum: i32 =
                        row.iter().zip(column).map(|(&x, &w)| number(of_row, x) * number(of_column, w)).sum();
                    sum as f32 * of_row.scale * of_column.scale
                });
                let expected: Vec<f32> = expected.collect();
                for backend in all_backends() {
                    let packed = PackedB::in_format(backend, Format::Int8, weight).unwrap();
                    identical(&product(backend, lhs, &packed).unwrap(), &expected)
                        .unwrap_or_else(|e| panic!("{} {m}x{k}x{n}: {e}", backend.name()));
                }
            }
        }
    }
}

/// Groups have the byte layout of ggml.
#[test]
fn groups_are_read_as_they_are_stored() {
    let mut random = Random::new(5);
    let (n, k) = (37, 96);
    for (format, bytes) in [(Format::Q8_0, 34), (Format::Q4_0, 18), (Format::Q4_1, 20)] {
        let mut stored = vec![0u8; n * k / 32 * bytes];
        for group in stored.chunks_mut(bytes) {
            group.iter_mut().for_each(|byte| *byte = random.bits() as u8);
            group[..2].copy_from_slice(&f16::from_f32(random.unit()).to_le_bytes());
            if format == Format::Q4_1 {
                group[2..4].copy_from_slice(&f16::from_f32(random.unit()).to_le_bytes());
            }
        }
        // Rows in another order.
        let other: Vec<u8> = stored.rchunks(k / 32 * bytes).flatten().copied().collect();
        for backend in Backend::available() {
            let packed = PackedB::from_groups(*backend, format, &stored, [n, k]).unwrap();
            let paired = PackedB::gated_from_groups(*backend, format, &stored, &other, [n, k]).unwrap();
            let alone = PackedB::from_groups(*backend, format, &other, [n, k]).unwrap();
            for (j, p) in (0..n).flat_map(|j| (0..k).map(move |p| (j, p))) {
                let group = &stored[(j * k + p) / 32 * bytes..][..bytes];
                let half = |at: usize| f64::from(f16::from_le_bytes([group[at], group[at + 1]]).to_f32());
                let nibble = |from: usize| f64::from(group[from + p % 16] >> (p % 32 / 16 * 4) & 15);
                let expected = match format {
                    Format::Q8_0 => half(0) * f64::from(group[2 + p % 32].cast_signed()),
                    Format::Q4_0 => half(0) * (nibble(2) - 8.0),
                    _ => half(0) * nibble(4) + half(2),
                };
                let found = packed.get(false, p, j);
                let pair = [false, true].map(|up| paired.get(up, p, j));
                assert_eq!(pair, [found, alone.get(false, p, j)], "a pair {} [{p}, {j}]", format.name());
                assert_eq!(
                    found,
                    f64::from(expected as f32),
                    "{} {} [{p}, {j}]",
                    backend.name(),
                    format.name()
                );
            }
        }
        let wrong = [
            (&stored[1..], [n, k]),
            (&stored[..], [n, k + 32]),
            (&stored[..], [n, 95]),
            (&[], [usize::MAX, 64]),
        ];
        for (bytes, shape) in wrong {
            let error = PackedB::from_groups(Backend::best(), format, bytes, shape).unwrap_err();
            assert!(error.to_string().starts_with("PackedB.groups: expected"), "{error}");
        }
        for (gate, up) in [(&stored[1..], &stored[..]), (&stored[..], &stored[1..])] {
            let error = PackedB::gated_from_groups(Backend::best(), format, gate, up, [n, k]).unwrap_err();
            assert!(error.to_string().starts_with("PackedB.groups: expected the bytes"), "{error}");
        }
    }
    assert!(PackedB::from_groups(Backend::best(), Format::Int8, &[], [0, 0]).is_err());
}

/// A format keeps weights that it represents, and rounds others by at most its step.
#[test]
fn formats_round_to_the_nearest() {
    let (n, k) = (40, 100);
    let w = numbers(n * k, 6);
    let weight = View::new(&w, [n, k]).unwrap().transpose();
    // Steps for numbers below 1, with tolerance for the rounding of scales and minima.
    let steps = [0.0, 2f64.powi(-9), 2f64.powi(-12), 0.5 / 127.0 + 1e-6, 0.6 / 127.0, 1.1 / 8.0, 1.1 / 15.0];
    for backend in Backend::available() {
        for (format, step) in Format::ALL.into_iter().zip(steps) {
            let packed = PackedB::in_format(*backend, format, weight).unwrap();
            for (j, p) in (0..n).flat_map(|j| (0..k).map(move |p| (j, p))) {
                let (found, exact) = (packed.get(false, p, j), f64::from(w[j * k + p]));
                assert!(
                    (found - exact).abs() <= step,
                    "{} {}: {exact} became {found}",
                    backend.name(),
                    format.name()
                );
            }
            if format != Format::F32 {
                let numbers =
                    (k.next_multiple_of(64) * n.next_multiple_of(32) + 2 * n.next_multiple_of(32)) as f64;
                assert!(packed.bytes() as f64 <= 2.2 * numbers, "{} bytes", packed.bytes());
            }
        }
    }
}

#[test]
fn refuses_what_it_cannot_sum() {
    // 66311 is the largest k whose sums cannot overflow, also for numbers at the ends of the range.
    let most = 66_311;
    let (a, w) = (vec![1.0; most], vec![-1.0; most]);
    let mut low = a.clone();
    low[0] = -1e-30; // a negative number: all others are then 255 from the zero point
    for backend in all_backends() {
        let b = View::new(&w, [1, most]).unwrap().transpose();
        let packed = PackedB::in_format(backend, Format::Int8, b).unwrap();
        let found =
            product(backend, Lhs::ZeroPoint(View::new(&low, [1, 1, most]).unwrap()), &packed).unwrap();
        let expected = -(most as f32);
        assert!((found[0] / expected - 1.0).abs() < 1e-4, "{}: {found:?}", backend.name());
    }
    let (k, x) = (most + 1, vec![1.0; most + 1]);
    let column = View::new(&x, [1, k]).unwrap().transpose();
    let error = PackedB::in_format(Backend::best(), Format::Int8, column).unwrap_err();
    assert!(error.to_string().contains("k-steps of int8"), "{error}");
    let packed = PackedB::in_format(Backend::best(), Format::Bf16, column).unwrap();
    let error =
        product(Backend::best(), Lhs::ZeroPoint(View::new(&x, [1, 1, k]).unwrap()), &packed).unwrap_err();
    assert!(error.to_string().contains("expected weights of int8 for a zero point"), "{error}");
}

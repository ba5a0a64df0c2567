//! The contracts of [`Isa`], [`Vector`] and [`Microkernel`](crate::isa::Microkernel), on every backend of this CPU.
//!
//! Each clause is one test body. Results are compared bit by bit with scalar arithmetic.

use crate::isa::{A_STRIDE, Isa, Prefetch, Tile, Vector};
use crate::{Backend, Kernel};

/// Makes a test of a body that is generic over the instruction set. The body becomes a kernel, which every available
/// backend runs.
macro_rules! on_every_backend {
    ($(fn $name:ident<$I:ident>($isa:ident) $body:block)*) => {$(
        #[test]
        fn $name() {
            struct Body;
            impl Kernel for Body {
                type Output = ();
                fn reference(self) {}
                fn eval<$I: Isa>(self, $isa: $I) {
                    $isa.run(#[inline(always)] || $body)
                }
            }
            assert!(Backend::available().contains(&Backend::PORTABLE));
            for backend in Backend::available() {
                backend.run(Body);
            }
        }
    )*};
}

pub(crate) mod emulated;
pub(crate) mod microkernel;
mod vector;

/// The `i`-th of a fixed sequence without pattern, in [-1, 1).
fn noise(i: usize) -> f32 {
    let hash = (i as u32 ^ 0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0xc2b2_ae35);
    ((hash ^ (hash >> 13)) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// `a * b + c` as [`Vector::mul_add`] rounds it.
fn mul_add<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::V::FUSED { a.mul_add(b, c) } else { a * b + c }
}

on_every_backend! {
    fn the_tile_fits_the_vectors<I>(isa) {
        assert_eq!(I::detect().map(|_| isa.run(|| I::NAME)), Some(I::NAME));
        assert!(I::MR >= 1 && I::NR % (2 * I::V::LANES) == 0);
    }

    fn transposition<I>(isa) {
        let lanes = I::V::LANES;
        let (from, to) = (lanes + 3, lanes + 1);
        let src: Vec<f32> = (0..lanes * from).map(noise).collect();
        let mut dst = vec![9.0; lanes * to];
        // SAFETY: `src` and `dst` hold `lanes` rows of at least `lanes` floats at these strides; they do not overlap.
        unsafe { isa.transpose(src.as_ptr(), from, dst.as_mut_ptr(), to) };
        for (i, row) in dst.chunks(to).enumerate() {
            assert_eq!(row[lanes], 9.0, "{} wrote past row {i}", I::NAME);
            for j in 0..lanes {
                assert_eq!(row[j], src[j * from + i], "{} row {i} column {j}", I::NAME);
            }
        }
        let mut next = 0;
        let each = |i: usize, column: I::V| {
            assert_eq!(i, next, "{} columns out of order", I::NAME);
            next += 1;
            let mut found = [0.0; 16];
            column.store(&mut found);
            assert_eq!(found[..lanes], dst[i * to..][..lanes], "{} column {i}", I::NAME);
        };
        // SAFETY: `src` holds `lanes` rows of at least `lanes` floats, `from` apart.
        unsafe { isa.columns(src.as_ptr(), from, each) };
        assert_eq!(next, lanes, "{} columns", I::NAME);
    }

    fn every_tile_is_one_chain_of_multiply_adds<I>(isa) {
        for rows in 1..=I::MR {
            for k in (0..=20).chain(255..=257) {
                for packed in [true, false] {
                    for accumulate in [true, false] {
                        check_tile(isa, rows, k, if packed { I::NR } else { I::NR + 3 }, accumulate);
                    }
                }
            }
        }
    }
}

/// Compares a tile of [`Isa::gemm_tile`] with scalar chains. Memory that the microkernel must not use is NaN.
#[inline(always)]
fn check_tile<I: Isa>(isa: I, rows: usize, k: usize, b_stride: usize, accumulate: bool) {
    let c_stride = I::NR + 5;
    let mut a = vec![f32::NAN; (rows - 1) * A_STRIDE + k];
    for i in 0..rows {
        for p in 0..k {
            a[i * A_STRIDE + p] = noise(i * 1000 + p);
        }
    }
    let mut b = vec![f32::NAN; k * b_stride];
    let mut c = vec![f32::NAN; rows * c_stride];
    for (p, row) in b.chunks_mut(b_stride).enumerate() {
        row[..I::NR].iter_mut().enumerate().for_each(|(j, x)| *x = noise(7777 + p * 100 + j));
    }
    if accumulate {
        for (i, row) in c.chunks_mut(c_stride).enumerate() {
            row[..I::NR].iter_mut().enumerate().for_each(|(j, x)| *x = noise(i * 50 + j));
        }
    }
    let before = c.clone();
    let (a_at, b_at, c_at) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    let prefetch = Prefetch { from: core::ptr::null(), stride: 4096, step: 16 }; // any address is allowed
    let tile = Tile { rows, k, a: a_at, b: b_at, b_stride, c: c_at, c_stride, accumulate, prefetch };
    // SAFETY: A holds `rows` rows of `k` floats, B `k` rows of at least NR, and C `rows` rows of at least NR, at these
    // strides. C is initialised and overlaps neither.
    unsafe { isa.gemm_tile(tile) };
    for i in 0..rows {
        for j in 0..c_stride {
            let (at, mut want) = (i * c_stride + j, f32::NAN);
            if j < I::NR {
                let start = if accumulate { before[at] } else { 0.0 };
                want =
                    (0..k).fold(start, |sum, p| mul_add::<I>(a[i * A_STRIDE + p], b[p * b_stride + j], sum));
            }
            let same = c[at].to_bits() == want.to_bits();
            let case =
                format!("{} rows {rows}, k {k}, b_stride {b_stride}, accumulate {accumulate}", I::NAME);
            assert!(same, "{case}: C[{i}, {j}] is {}, expected {want}", c[at]);
        }
    }
}

//! Microkernels written once for all instruction sets: an outer product, and GEMV of packed and unpacked weights.
//!
//! ```text
//! outer product of R rows and N vectors of V lanes, at k-step p
//!
//!              b[p][0..V]  b[p][V..2V]        per k-step: N loads of B, R broadcasts of A,
//!  a[0][p] --> acc[0][0]   acc[0][1]                      R N multiply-adds
//!  a[1][p] --> acc[1][0]   acc[1][1]          registers:  R N accumulators + N of B
//!    ...                                                  + 1 or 2 broadcasts of A
//!  a[R-1][p]-> acc[R-1][0] acc[R-1][1]
//! ```
//!
//! Each instruction set chooses MR and NR so that this budget fits its registers.

use super::lane::{broadcast, load, store};
use super::{A_STRIDE, Dot, Isa, LINE_FLOATS, Tile, Vector};

/// k-steps per iteration: enough to hide the loop's own instructions and to spread the prefetches.
const UNROLL: usize = 4;

/// [`Isa::dot_tile`] for exactly `R` rows of `N` vectors.
///
/// # Safety
/// The bullets under [`Tile`] hold with k-groups in place of floats, `rows == R` and `NR == N * LANES`.
#[inline(always)]
pub(super) unsafe fn outer_product<I: Isa, D: Dot<I>, const R: usize, const N: usize>(
    isa: I,
    dot: D,
    t: Tile<D::Operand, D::Sum>,
) {
    let lanes = I::V::LANES;
    let mut acc = [[I::V::splat(isa, 0.0); N]; R];
    if t.accumulate {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                // SAFETY: i < rows and (j + 1) LANES <= NR, so the vector lies in C, which is initialised if
                // `accumulate` (preconditions of `outer_product`).
                *v = unsafe { load::<I, _>(isa, t.c.add(i * t.c_stride + j * lanes)) };
            }
        }
    }
    let (mut a, mut b, mut prefetch) = (t.a, t.b, t.prefetch);
    for _ in 0..t.k / UNROLL {
        for p in 0..UNROLL {
            // Prefetch between k-steps: in front of them, its addresses cost the widest tile the registers of
            // two sums, which went to the stack and back.
            if p == UNROLL / 2 {
                prefetch.advance::<_, R>(isa);
            }
            // SAFETY: `a` and `b` point to a k-step p < k of A and of B (preconditions of `outer_product`).
            unsafe { step(isa, dot, &mut acc, a, b) };
            a = a.wrapping_add(1);
            b = b.wrapping_add(t.b_stride);
        }
    }
    for _ in 0..t.k % UNROLL {
        // SAFETY: `a` and `b` point to a k-step p < k of A and of B (preconditions of `outer_product`).
        unsafe { step(isa, dot, &mut acc, a, b) };
        a = a.wrapping_add(1);
        b = b.wrapping_add(t.b_stride);
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            // SAFETY: i < rows and (j + 1) LANES <= NR, so the vector lies in C (precondition of
            // `outer_product`).
            unsafe { store::<I, _>(*v, t.c.add(i * t.c_stride + j * lanes)) };
        }
    }
}

/// One k-step: `acc` += the column of A at `a` times the row of B at `b`.
///
/// # Safety
/// `a + i * A_STRIDE` for i < `R` and `N` vectors at `b` are valid for reads.
#[inline(always)]
unsafe fn step<I: Isa, D: Dot<I>, const R: usize, const N: usize>(
    isa: I,
    dot: D,
    acc: &mut [[I::V; N]; R],
    a: *const D::Operand,
    b: *const D::Operand,
) {
    let mut bv = [I::V::splat(isa, 0.0); N];
    for (j, v) in bv.iter_mut().enumerate() {
        // SAFETY: `N` vectors at `b` are valid for reads (precondition of `step`).
        *v = unsafe { load::<I, _>(isa, b.add(j * I::V::LANES)) };
    }
    for (i, row) in acc.iter_mut().enumerate() {
        // SAFETY: `a + i * A_STRIDE` is valid for reads for i < `R` (precondition of `step`).
        let av = unsafe { broadcast::<I, _>(isa, a.add(i * A_STRIDE)) };
        for (v, bv) in row.iter_mut().zip(bv) {
            *v = dot.dot(av, bv, *v);
        }
    }
}

/// Calls [`outer_product`] with the constant `R` equal to `tile.rows`.
macro_rules! for_rows {
    ($isa:expr, $dot:expr, $tile:expr, $vectors:literal, [$($rows:literal)*]) => {
        match $tile.rows {
            // SAFETY: `rows` is the constant of its arm. The caller of the macro guarantees the bullets under `Tile`.
            $($rows => unsafe { $crate::isa::tile::outer_product::<_, _, $rows, $vectors>($isa, $dot, $tile) },)*
            _ => unreachable!("a tile has 1..=MR rows"),
        }
    };
}
pub(super) use for_rows;

/// Number of panels that [`gemv_panels`] reads side by side.
///
/// Hardware prefetchers follow a stream only within a page, so four streams keep more cache lines in flight than
/// one: 30 GB/s against 27 GB/s from L3, 26 GB/s against 21 GB/s from memory. Eight streams are no faster.
pub(crate) const STREAMS: usize = 4;

/// Floats from the k-step that [`gemv_panels`] reads to the line that it prefetches, in each panel. From memory,
/// distances of 256 to 1024 are equally fast, 5% faster than no prefetch.
const PREFETCH_DISTANCE: usize = 256;

/// GEMV of one row of A and [`STREAMS`] panels of B, side by side: reading B bounds its time. Every sum is the chain
/// of [`outer_product`].
///
/// # Safety
/// The bullets under [`Tile`] hold with k-groups in place of floats and `rows == 1`, for each panel
/// `b + q * panel_stride` and its sums `c + q * c_stride`, q < `STREAMS`.
#[inline(always)]
pub(crate) unsafe fn gemv_panels<I: Isa, D: Dot<I>>(
    isa: I,
    dot: D,
    t: Tile<D::Operand, D::Sum>,
    panel_stride: usize,
) {
    /// Maximum number of vectors of a panel's k-step, over all instruction sets.
    const MAX_VECTORS: usize = 4;
    let lanes = I::V::LANES;
    let vectors = I::NR / lanes;
    let mut acc = [[I::V::splat(isa, 0.0); MAX_VECTORS]; STREAMS];
    if t.accumulate {
        for (q, sums) in acc.iter_mut().enumerate() {
            for (j, v) in sums[..vectors].iter_mut().enumerate() {
                // SAFETY: vector j of the NR sums of panel q, initialised if `accumulate` (preconditions of
                // `gemv_panels`).
                *v = unsafe { load::<I, _>(isa, t.c.add(q * t.c_stride + j * lanes)) };
            }
        }
    }
    for p in 0..t.k {
        // SAFETY: `a + p` is valid for reads for p < k (precondition of `gemv_panels`).
        let a = unsafe { broadcast::<I, _>(isa, t.a.add(p)) };
        for (q, sums) in acc.iter_mut().enumerate() {
            let step = t.b.wrapping_add(q * panel_stride + p * t.b_stride);
            for line in (0..I::NR).step_by(LINE_FLOATS) {
                isa.prefetch(step.wrapping_add(PREFETCH_DISTANCE + line).cast());
            }
            for (j, v) in sums[..vectors].iter_mut().enumerate() {
                // SAFETY: vector j of k-step p < k of panel q (precondition of `gemv_panels`).
                let b = unsafe { load::<I, _>(isa, step.add(j * lanes)) };
                *v = dot.dot(a, b, *v);
            }
        }
    }
    for (q, sums) in acc.iter().enumerate() {
        for (j, v) in sums[..vectors].iter().enumerate() {
            // SAFETY: vector j of the NR sums of panel q (precondition of `gemv_panels`).
            unsafe { store::<I, _>(*v, t.c.add(q * t.c_stride + j * lanes)) };
        }
    }
}

/// Number of panels whose columns one call of [`gemv_rows`] computes: 32 columns, or one wider panel.
#[inline(always)]
pub(crate) const fn row_panels<I: Isa>() -> usize {
    if I::NR < 32 { 32 / I::NR } else { 1 }
}

/// Rows of memory that [`gemv_rows`] reads side by side.
///
/// - A multiply-add waits 4 cycles for the previous one of its sum: 16 columns take at least 4 cycles a k-step,
///   59 GB/s. From L3 they reach 55 GB/s.
/// - 32 columns with software prefetches took 20% longer; 30% longer where rows are a multiple of 4 KiB apart,
///   because their lines share a set of L1. From memory they were 1% faster.
/// - Software prefetches further along each of the 16 rows cost 4%: hardware prefetchers suffice.
const ROWS: usize = 16;

/// GEMV of one row of A and `vectors * LANES` columns of B, each a row in memory, `b_stride` apart.
///
/// B is an unpacked weight \[out, in\]: registers transpose it, block by block. Every sum is the chain of
/// [`outer_product`].
///
/// `PREFETCH` prefetches the next rows, for a weight in memory: hardware prefetchers start anew in every row. It is
/// 1.5 times as fast at k = 512 and 1.1 times at k = 4096. From L3 it would cost 17% where rows of 3072 floats
/// share a set of L1.
///
/// # Safety
/// - The bullets of [`Tile`] hold with `rows == 1` and `vectors * LANES` in place of NR.
/// - `b + j * b_stride + p` is valid for reads.
/// - `k` is a multiple of `LANES`, and not 0.
#[inline(always)]
pub(crate) unsafe fn gemv_rows<I: Isa, const PREFETCH: bool>(isa: I, t: Tile, vectors: usize) {
    let lanes = I::V::LANES;
    // Use a whole cache line of these rows before reading lines of other rows: at power-of-two strides, L1 does
    // not keep the lines of more rows.
    let (at_once, steps) = if lanes < ROWS { (ROWS / lanes, LINE_FLOATS) } else { (1, t.k) };
    for first in (0..vectors).step_by(at_once) {
        for line in (0..t.k).step_by(steps) {
            // The sums stay in memory, so that this stays a loop: unrolled, it would not fit the registers.
            for g in first..vectors.min(first + at_once) {
                // SAFETY: k is a multiple of LANES, so LANES k-steps from p on are valid for reads in A and in each
                // of LANES rows of B (preconditions of `gemv_rows`). The LANES sums lie in C. They are initialised
                // if `accumulate` (precondition), or by the store of line 0.
                unsafe {
                    let rows = t.b.add(g * lanes * t.b_stride);
                    let sums = t.c.add(g * lanes);
                    let mut sum = if t.accumulate || line > 0 {
                        I::V::load_ptr(isa, sums)
                    } else {
                        I::V::splat(isa, 0.0)
                    };
                    for p in (line..t.k.min(line + steps)).step_by(lanes) {
                        for row in 0..if PREFETCH { lanes } else { 0 } {
                            isa.prefetch(rows.wrapping_add((ROWS + row) * t.b_stride + p));
                        }
                        isa.columns(
                            rows.add(p),
                            t.b_stride,
                            #[inline(always)]
                            |i, b| sum = I::V::splat(isa, *t.a.add(p + i)).mul_add(b, sum),
                        );
                    }
                    sum.store_ptr(sums);
                }
            }
        }
    }
}

//! The register tile of instruction sets that multiply by a broadcast scalar.
//!
//! ```text
//!              b[p][0..V]  b[p][V..2V]        R x N accumulators, N loads of B and R broadcasts
//!  a[0][p] --> acc[0][0]   acc[0][1]          of A per step: R*N fused multiply-adds
//!  a[1][p] --> acc[1][0]   acc[1][1]
//!    ...                                      registers: R*N + N + 1 or 2 in flight for A
//!  a[R-1][p]-> acc[R-1][0] acc[R-1][1]
//! ```

use super::lane::{broadcast, load, store};
use super::{A_STRIDE, Dot, Isa, LINE_FLOATS, Tile, Vector};

/// k-steps per iteration: enough to hide the loop's own instructions and to space prefetches.
const UNROLL: usize = 4;

/// [`Isa::dot_tile`] for exactly `R` rows of `N` vectors.
///
/// # Safety
/// As [`Tile`], with `rows == R` and `NR == N * LANES`.
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
                // SAFETY: i < rows and j < N, inside C.
                *v = unsafe { load::<I, _>(isa, t.c.add(i * t.c_stride + j * lanes)) };
            }
        }
    }
    let (mut a, mut b, mut prefetch) = (t.a, t.b, t.prefetch);
    for _ in 0..t.k / UNROLL {
        for p in 0..UNROLL {
            // Between steps: in front of them, its addresses cost the widest tile two of its sums'
            // registers, which then went to the stack and back.
            if p == UNROLL / 2 {
                prefetch.advance::<_, R>(isa);
            }
            // SAFETY: `a` and `b` stand at a step p < k.
            unsafe { step(isa, dot, &mut acc, a, b) };
            a = a.wrapping_add(1);
            b = b.wrapping_add(t.b_stride);
        }
    }
    for _ in 0..t.k % UNROLL {
        // SAFETY: `a` and `b` stand at a step p < k.
        unsafe { step(isa, dot, &mut acc, a, b) };
        a = a.wrapping_add(1);
        b = b.wrapping_add(t.b_stride);
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            // SAFETY: i < rows and j < N, inside C.
            unsafe { store::<I, _>(*v, t.c.add(i * t.c_stride + j * lanes)) };
        }
    }
}

/// One k-step: `acc` += the column of A at `a` times the row of B at `b`.
///
/// # Safety
/// `R` rows of A, `A_STRIDE` apart, and `N` vectors of B are valid for reads.
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
        // SAFETY: `R` rows of A, `A_STRIDE` apart, and `N` vectors of B are valid for reads (precondition of
        // `step`).
        *v = unsafe { load::<I, _>(isa, b.add(j * I::V::LANES)) };
    }
    for (i, row) in acc.iter_mut().enumerate() {
        // SAFETY: `R` rows of A, `A_STRIDE` apart, and `N` vectors of B are valid for reads (precondition of
        // `step`).
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
            // SAFETY: `rows` is the constant of its arm; the caller keeps the contract of `Tile`.
            $($rows => unsafe { $crate::isa::tile::outer_product::<_, _, $rows, $vectors>($isa, $dot, $tile) },)*
            _ => unreachable!("a tile has 1..=MR rows"),
        }
    };
}
pub(super) use for_rows;

/// Panels that [`gemv_panels`] reads side by side: four streams keep more cache lines on their
/// way than one, which the hardware prefetchers follow only within a page (30 GB/s against 27 from
/// L3, 26 against 21 from memory; 8 streams are no better).
pub(crate) const STREAMS: usize = 4;

/// Floats that [`gemv_panels`] prefetches ahead in each panel. From memory, 256 to 1024 are equal, and 5%
/// faster than no prefetch.
const ROW_AHEAD: usize = 256;

/// The tile of a single row of A: multiplies it with `STREAMS` panels of B at once, for then the time
/// goes into reading B. Every sum is the same chain as in [`outer_product`].
///
/// # Safety
/// As [`Tile`] with `rows == 1`, for each of the panels `b + q * panel_stride` and the sums
/// `c + q * c_stride`.
#[inline(always)]
pub(crate) unsafe fn gemv_panels<I: Isa, D: Dot<I>>(
    isa: I,
    dot: D,
    t: Tile<D::Operand, D::Sum>,
    panel_stride: usize,
) {
    /// Most vectors in a panel of any instruction set.
    const MAX_VECTORS: usize = 4;
    let lanes = I::V::LANES;
    let vectors = I::NR / lanes;
    let mut acc = [[I::V::splat(isa, 0.0); MAX_VECTORS]; STREAMS];
    if t.accumulate {
        for (q, sums) in acc.iter_mut().enumerate() {
            for (j, v) in sums[..vectors].iter_mut().enumerate() {
                // SAFETY: inside the sums of panel q.
                *v = unsafe { load::<I, _>(isa, t.c.add(q * t.c_stride + j * lanes)) };
            }
        }
    }
    for p in 0..t.k {
        // SAFETY: p < k.
        let a = unsafe { broadcast::<I, _>(isa, t.a.add(p)) };
        for (q, sums) in acc.iter_mut().enumerate() {
            let step = t.b.wrapping_add(q * panel_stride + p * t.b_stride);
            for line in (0..I::NR).step_by(LINE_FLOATS) {
                isa.prefetch(step.wrapping_add(ROW_AHEAD + line).cast());
            }
            for (j, v) in sums[..vectors].iter_mut().enumerate() {
                // SAFETY: inside k-step p of panel q.
                let b = unsafe { load::<I, _>(isa, step.add(j * lanes)) };
                *v = dot.dot(a, b, *v);
            }
        }
    }
    for (q, sums) in acc.iter().enumerate() {
        for (j, v) in sums[..vectors].iter().enumerate() {
            // SAFETY: inside the sums of panel q.
            unsafe { store::<I, _>(*v, t.c.add(q * t.c_stride + j * lanes)) };
        }
    }
}

/// Panels whose columns [`gemv_rows`] computes in one call: 32 columns.
#[inline(always)]
pub(crate) const fn row_panels<I: Isa>() -> usize {
    if I::NR < 32 { 32 / I::NR } else { 1 }
}

/// Rows of memory that [`gemv_rows`] reads side by side. A sum's next multiply-add waits 4 cycles
/// for its last, so that 16 columns take at least 4 cycles a step (59 GB/s), and hardly more from L3
/// (55). 32 columns, with prefetches in software, took 20% longer, and 30% where rows are a multiple of
/// 4 KiB apart, whose lines share a set of L1; from memory they were 1% faster. Prefetches
/// further on in each of the 16 cost 4%: the processor's own suffice.
const ROWS: usize = 16;

/// GEMV of one row of A and `vectors * LANES` columns of B, each a row in memory, `b_stride` apart.
///
/// B is a weight \[out, in\] that is not packed: registers transpose it, block by block. Every sum is the same
/// chain as in [`outer_product`]. `AHEAD` also prefetches the next rows, for a weight in memory: the processor's
/// own prefetches start anew in every row. It is 1.5 times as fast at k = 512 and 1.1 times at k = 4096. From
/// L3 it would cost 17% where rows of 3072 floats share a set of L1.
///
/// # Safety
/// - The bullets of [`Tile`] hold with `rows == 1` and `vectors * LANES` in place of NR.
/// - `b + j * b_stride + p` is valid for reads.
/// - `k` is a multiple of `LANES`, and not 0.
#[inline(always)]
pub(crate) unsafe fn gemv_rows<I: Isa, const AHEAD: bool>(isa: I, t: Tile, vectors: usize) {
    let lanes = I::V::LANES;
    // Use all of a cache line before lines of other rows: at power-of-two strides, lines of more rows do not
    // stay in L1.
    let (at_once, steps) = if lanes < ROWS { (ROWS / lanes, LINE_FLOATS) } else { (1, t.k) };
    for first in (0..vectors).step_by(at_once) {
        for line in (0..t.k).step_by(steps) {
            // The sums stay in memory and this a loop: unrolled, it would not fit the registers.
            for g in first..vectors.min(first + at_once) {
                // SAFETY: LANES steps from p on, of LANES columns, and their sums, which are
                // initialised by the first of the steps.
                unsafe {
                    let rows = t.b.add(g * lanes * t.b_stride);
                    let sums = t.c.add(g * lanes);
                    let mut sum = if t.accumulate || line > 0 {
                        I::V::load_ptr(isa, sums)
                    } else {
                        I::V::splat(isa, 0.0)
                    };
                    for p in (line..t.k.min(line + steps)).step_by(lanes) {
                        for row in 0..if AHEAD { lanes } else { 0 } {
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

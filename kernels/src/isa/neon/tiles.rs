//! NEON's register tiles.
//!
//! ```text
//! by lane, 6x16: f32 (fmla), quads of int8 (sdot)
//!   registers       24 of sums + 6 of A + 2 of B = 32 of 4 lanes
//!   per 4 words     96 multiplies by lane, 6 ldr of A (4 words of a row each), 8 ldp of B, 9 others
//!
//! by pairs of rows and columns, 6x16: bf16 (bfmmla), quads of int8 (smmla)
//!   registers       24 of sums, 2 rows x 2 columns each, + 6 of A + 2 of B = 32
//!   per 4 words     48 multiplies, 6 trn of A, 6 ldr of A, 16 ldr of B, 6 others
//!
//! cycles for 4 words by llvm-mca 22    vector-port bound    found
//!   fmla    neoverse-v2 (4 ports)      24                   24.0
//!           neoverse-n1 (2 ports)      48                   52.0, of 3-wide dispatch in its model
//!   sdot    neoverse-v2                24                   24.0
//!           neoverse-n1                48                   52.0, 3-wide dispatch
//!   bfmmla  neoverse-v2                13.5                 14.0
//!   smmla   neoverse-v2                13.5                 14.0
//! ```
//!
//! A row of A is read four words at a time and multiplied by lane, as KleidiAI does, which takes a
//! quarter of the loads of a broadcast. 24 sums are 6 cycles of work for four ports, as much as the latency
//! of a bfmmla and more than the 4 cycles of an fmla; 8x8 would have just 4, and 7x12 an odd number of
//! vectors, which a gated panel could not halve. `.ci/neon-tiles` repeats the figures on what the compiler
//! made.
//!
//! bfmmla multiplies twice as much as bfdot, on the same ports, and rounds the same; so does smmla with
//! sdot. They take two words of each of two rows, and of two columns, which stand next to each other in
//! panels of depth 2:
//!
//! ```text
//!  sums of           columns j        j+1
//!  row i           | lane 0         lane 1 |     += | i: words w, w+1   |  x | j: w, w+1 | j+1: w, w+1 |
//!  row i+1         | lane 2         lane 3 |        | i+1: words w, w+1 |
//! ```

use super::{F32x4, Neon};
use crate::isa::lane::{Lane, broadcast, load, store};
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Dot, F32, Isa, Tile, Vector};
use core::arch::aarch64::*;

/// Multiplies all lanes of B with one of A.
pub(super) trait ByLane: Dot<Neon> {
    /// `sum`, and the products of the word in lane `P` of `a` and the word of every lane of `b`.
    fn multiply<const P: i32>(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4;
}

impl ByLane for F32 {
    #[inline(always)]
    fn multiply<const P: i32>(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
        // SAFETY: a value of `F32x4` proves NEON.
        F32x4(unsafe { vfmaq_laneq_f32::<P>(sum.0, b.0, a.0) })
    }
}

/// Multiplies two words of two rows with two words of two columns.
pub(super) trait ByPairs: Copy {
    /// A k-group of A or B.
    type Operand: Lane;

    /// A sum of products.
    type Sum: Lane;

    /// `sum`, and the products of the rows in the halves of `a` and the columns in the halves of `b`.
    fn multiply(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4;

    /// `sums`, and the products of four words of `R` rows of A and of a panel.
    ///
    /// # Safety
    /// Four words of `R` rows at `a`, `A_STRIDE` apart, and of NR columns at `b` are valid for reads.
    unsafe fn four_k_groups<const R: usize>(
        self,
        sums: &mut Sums,
        a: *const Self::Operand,
        b: *const Self::Operand,
    );
}

/// The sums of pairs of rows and of columns.
pub(super) type Sums = [[F32x4; PAIRS]; ROW_PAIRS];

/// Calls a function with the constant `R` equal to `tile.rows`.
macro_rules! for_rows {
    ($function:ident, $isa:expr, $way:expr, $tile:expr, [$($rows:literal)*]) => {
        match $tile.rows {
            // SAFETY: `rows` is the constant of its arm; the caller keeps the contract of `Tile`.
            $($rows => unsafe { $function::<_, $rows>($isa, $way, $tile) },)*
            _ => unreachable!("a tile has 1..=MR rows"),
        }
    };
}

/// The tile by lane.
///
/// # Safety
/// The bullets under [`Tile`] hold, with words for floats.
#[inline(always)]
pub(super) unsafe fn by_lane<W: ByLane>(isa: Neon, way: W, tile: Tile<W::Operand, W::Sum>) {
    for_rows!(by_lane_6x16, isa, way, tile, [6 5 4 3 2 1])
}

/// The tile by pairs.
///
/// # Safety
/// The bullets under [`Tile`] hold, with words for floats and panels of depth 2; k is a multiple of 4.
#[inline(always)]
pub(super) unsafe fn by_pairs<W: ByPairs>(isa: Neon, way: W, tile: Tile<W::Operand, W::Sum>) {
    for_rows!(by_pairs_6x16, isa, way, tile, [6 5 4 3 2 1])
}

/// [`by_lane`] for exactly `R` rows.
///
/// # Safety
/// As [`Tile`], with `rows == R`; NEON may be used.
#[inline(always)]
unsafe fn by_lane_6x16<W: ByLane, const R: usize>(isa: Neon, way: W, t: Tile<W::Operand, W::Sum>) {
    let mut acc = [[F32x4::splat(isa, 0.0); 4]; R];
    if t.accumulate {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                // SAFETY: i < rows and j < NR / 4, inside C.
                *v = unsafe { load(isa, t.c.add(i * t.c_stride + 4 * j)) };
            }
        }
    }
    let (mut a, mut b, mut prefetch) = (t.a, t.b, t.prefetch);
    let mut av = [F32x4::splat(isa, 0.0); R];
    for _ in 0..t.k / 4 {
        prefetch.advance::<_, R>(isa);
        for (i, v) in av.iter_mut().enumerate() {
            // SAFETY: four k-steps of row i.
            *v = unsafe { load(isa, a.add(i * A_STRIDE)) };
        }
        // SAFETY: `b` stands at the first of four k-steps.
        unsafe {
            step::<_, R, 0>(isa, way, &mut acc, &av, b);
            step::<_, R, 1>(isa, way, &mut acc, &av, b.add(t.b_stride));
            step::<_, R, 2>(isa, way, &mut acc, &av, b.add(2 * t.b_stride));
            step::<_, R, 3>(isa, way, &mut acc, &av, b.add(3 * t.b_stride));
        }
        a = a.wrapping_add(4);
        b = b.wrapping_add(4 * t.b_stride);
    }
    for _ in 0..t.k % 4 {
        for (i, v) in av.iter_mut().enumerate() {
            // SAFETY: one k-step of row i.
            *v = unsafe { broadcast(isa, a.add(i * A_STRIDE)) };
        }
        // SAFETY: `b` stands at a k-step.
        unsafe { step::<_, R, 0>(isa, way, &mut acc, &av, b) };
        a = a.wrapping_add(1);
        b = b.wrapping_add(t.b_stride);
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            // SAFETY: i < rows and j < NR / 4, inside C.
            unsafe { store::<Neon, _>(*v, t.c.add(i * t.c_stride + 4 * j)) };
        }
    }
}

/// One k-step: `acc` += lane `P` of each row of A times the row of B at `b`.
///
/// # Safety
/// NR floats at `b` are valid for reads.
#[inline(always)]
unsafe fn step<W: ByLane, const R: usize, const P: i32>(
    isa: Neon,
    way: W,
    acc: &mut [[F32x4; 4]; R],
    a: &[F32x4; R],
    b: *const W::Operand,
) {
    for j in 0..4 {
        // SAFETY: vector j of NR / 4.
        let b = unsafe { load(isa, b.add(4 * j)) };
        for (row, a) in acc.iter_mut().zip(a) {
            row[j] = way.multiply::<P>(*a, b, row[j]);
        }
    }
}

/// Pairs of columns in a panel.
const PAIRS: usize = Neon::NR / 2;

/// Pairs of rows in a tile.
const ROW_PAIRS: usize = Neon::MR / 2;

/// The row beside row 2 i of `R`. An odd last row is its own partner, whose sums are not stored.
pub(super) const fn partner<const R: usize>(i: usize) -> usize {
    if 2 * i + 1 < R { 2 * i + 1 } else { R - 1 }
}

/// [`by_pairs`] for exactly `R` rows.
///
/// # Safety
/// As there, with `rows == R`.
#[inline(always)]
unsafe fn by_pairs_6x16<W: ByPairs, const R: usize>(isa: Neon, way: W, t: Tile<W::Operand, W::Sum>) {
    debug_assert!(t.b_stride == Neon::NR);
    let row_pairs = R.div_ceil(2);
    let zero = F32x4::splat(isa, 0.0);
    let mut acc = [[zero; PAIRS]; ROW_PAIRS];
    if t.accumulate {
        for (i, sums) in acc[..row_pairs].iter_mut().enumerate() {
            // SAFETY: two rows below R of C.
            *sums = unsafe {
                load_pairs(isa, t.c.add(2 * i * t.c_stride), t.c.add(partner::<R>(i) * t.c_stride))
            };
        }
    }
    let (mut a, mut b, mut prefetch) = (t.a, t.b, t.prefetch);
    for _ in 0..t.k / 4 {
        prefetch.advance::<_, R>(isa);
        // SAFETY: `a` and `b` stand at the first of four words.
        unsafe { way.four_k_groups::<R>(&mut acc, a, b) };
        a = a.wrapping_add(4);
        b = b.wrapping_add(4 * Neon::NR);
    }
    for (i, sums) in acc[..row_pairs].iter().enumerate() {
        let odd = (2 * i + 1 < R).then(|| t.c.wrapping_add((2 * i + 1) * t.c_stride));
        // SAFETY: rows below R of C.
        unsafe { store_pairs(sums, t.c.add(2 * i * t.c_stride), odd) };
    }
}

/// GEMV of one row and [`STREAMS`] panels, two at a time. One row fills half of the lanes of its sums, so the
/// sums of four panels would take all registers.
///
/// # Safety
/// As [`Microkernel::gemv`](crate::isa::Microkernel::gemv), with panels of depth 2.
#[inline(always)]
pub(super) unsafe fn gemv_by_pairs<W: ByPairs>(
    isa: Neon,
    way: W,
    t: Tile<W::Operand, W::Sum>,
    panel_stride: usize,
) {
    for first in (0..STREAMS).step_by(2) {
        let b = t.b.wrapping_add(first * panel_stride);
        let c = t.c.wrapping_add(first * t.c_stride);
        let mut acc = [[F32x4::splat(isa, 0.0); PAIRS]; 2];
        if t.accumulate {
            for (q, sums) in acc.iter_mut().enumerate() {
                // SAFETY: the sums of a panel.
                *sums = unsafe { load_pairs(isa, c.add(q * t.c_stride), c.add(q * t.c_stride)) };
            }
        }
        for p in (0..t.k).step_by(4) {
            // SAFETY: four words of the row, for k is a multiple of four.
            let a = unsafe { load(isa, t.a.add(p)) };
            for (half, a) in halves_exchanged([a, a]).into_iter().enumerate() {
                for (q, sums) in acc.iter_mut().enumerate() {
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let at = q * panel_stride + (p + 2 * half) * t.b_stride + 4 * j;
                        // SAFETY: pair j of the columns of a panel.
                        *sum = way.multiply(a, unsafe { load(isa, b.add(at)) }, *sum);
                    }
                }
            }
        }
        for (q, sums) in acc.iter().enumerate() {
            // SAFETY: the sums of panel `q` lie in C (precondition of the function).
            unsafe { store_pairs(sums, c.add(q * t.c_stride), None) };
        }
    }
}

/// Loads two rows of C as sums of pairs of columns.
///
/// # Safety
/// NR floats of both rows are valid for reads.
#[inline(always)]
unsafe fn load_pairs<T: Lane>(isa: Neon, even: *const T, odd: *const T) -> [F32x4; PAIRS] {
    let mut sums = [F32x4::splat(isa, 0.0); PAIRS];
    for (j, pair) in sums.chunks_exact_mut(2).enumerate() {
        // SAFETY: NR floats of both rows are valid for reads (precondition of `load_pairs`).
        let rows = unsafe { [load(isa, even.add(4 * j)), load(isa, odd.add(4 * j))] };
        pair.copy_from_slice(&halves_exchanged(rows));
    }
    sums
}

/// The reverse; the odd row may be missing.
///
/// # Safety
/// NR floats of each row are valid for writes.
#[inline(always)]
unsafe fn store_pairs<T: Lane>(sums: &[F32x4; PAIRS], even: *mut T, odd: Option<*mut T>) {
    for (j, pair) in sums.chunks_exact(2).enumerate() {
        let rows = halves_exchanged([pair[0], pair[1]]);
        // SAFETY: NR floats of each row are valid for writes (precondition of `store_pairs`).
        unsafe {
            store::<Neon, _>(rows[0], even.add(4 * j));
            if let Some(odd) = odd {
                store::<Neon, _>(rows[1], odd.add(4 * j));
            }
        }
    }
}

/// The first halves of both, and the second halves.
#[inline(always)]
fn halves_exchanged([a, b]: [F32x4; 2]) -> [F32x4; 2] {
    // SAFETY: a value of `F32x4` proves NEON.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a.0), vreinterpretq_f64_f32(b.0));
        [vtrn1q_f64(a, b), vtrn2q_f64(a, b)].map(|v| F32x4(vreinterpretq_f32_f64(v)))
    }
}

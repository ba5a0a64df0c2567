//! Microkernels of NEON: by lane (`fmla`, `sdot`) and by pairs (`bfmmla`, `smmla`).
//!
//! ```text
//! by lane, 6x16: f32 (fmla), int8 (sdot)
//!   registers          24 sums + 6 of A + 2 of B = 32 of 4 lanes
//!   per 4 k-groups     96 multiplies by lane, 6 ldr of A (4 k-groups of a row each), 8 ldp of B, 9 others
//!
//! by pairs of rows and columns, 6x16: bf16 (bfmmla), int8 (smmla)
//!   registers          24 sums, 2 rows x 2 columns each, + 6 of A + 2 of B = 32
//!   per 4 k-groups     48 multiplies, 6 trn of A, 6 ldr of A, 16 ldr of B, 6 others
//!
//! cycles for 4 k-groups by llvm-mca 22    vector-port bound    model
//!   fmla    neoverse-v2 (4 ports)         24                   24.0
//!           neoverse-n1 (2 ports)         48                   52.0, bound by 3-wide dispatch
//!   sdot    neoverse-v2                   24                   24.0
//!           neoverse-n1                   48                   52.0, bound by 3-wide dispatch
//!   bfmmla  neoverse-v2                   13.5                 14.0
//!   smmla   neoverse-v2                   13.5                 14.0
//! ```
//!
//! Size of the tile: 24 sums are 6 cycles of work for four ports. That covers the latency of a `bfmmla`, 6 cycles,
//! and of an `fmla`, 4 cycles. 8x8 has 16 sums, 4 cycles. 7x12 has an odd number of vectors, which a gated panel
//! cannot halve.
//!
//! By lane: one load of A holds four k-groups of a row, a quarter of the loads of broadcasts (as in KleidiAI).
//! `.ci/neon-tiles` repeats the figures on the compiled loops.
//!
//! By pairs: `bfmmla` multiplies twice as much as `bfdot` on the same ports, and rounds as `bfdot` does; `smmla`
//! multiplies twice as much as `sdot`. They take two k-groups of each of two rows and two columns. In panels of
//! depth 2, both k-groups of a column are adjacent:
//!
//! ```text
//!  sums of           columns j        j+1
//!  row i           | lane 0         lane 1 |     += | i: k-groups w, w+1   |  x | j: w, w+1 | j+1: w, w+1 |
//!  row i+1         | lane 2         lane 3 |        | i+1: k-groups w, w+1 |
//! ```

use super::{F32x4, Neon};
use crate::isa::lane::{Lane, broadcast, load, store};
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Dot, F32, Isa, Tile, Vector};
use core::arch::aarch64::*;

/// A dot instruction that multiplies all lanes of B by one lane of A.
pub(super) trait ByLane: Dot<Neon> {
    /// `sum` plus the dot products of lane `P` of `a` and each lane of `b`.
    fn dot_lane<const P: i32>(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4;
}

impl ByLane for F32 {
    #[inline(always)]
    fn dot_lane<const P: i32>(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
        // SAFETY: a value of `F32x4` proves NEON.
        F32x4(unsafe { vfmaq_laneq_f32::<P>(sum.0, b.0, a.0) })
    }
}

/// An instruction that multiplies two k-groups of two rows by two k-groups of two columns.
pub(super) trait ByPairs: Copy {
    /// Type of a k-group of A or B.
    type Operand: Lane;

    /// Type of a sum.
    type Sum: Lane;

    /// `sum` plus the dot products of the rows in the halves of `a` and the columns in the halves of `b`.
    fn dot_pairs(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4;

    /// Adds the products of four k-groups of `R` rows of A and of a panel to `sums`.
    ///
    /// # Safety
    /// Four k-groups of `R` rows at `a`, `A_STRIDE` apart, and of NR columns at `b` are valid for reads.
    unsafe fn four_k_groups<const R: usize>(
        self,
        sums: &mut Sums,
        a: *const Self::Operand,
        b: *const Self::Operand,
    );
}

/// Sums of a tile by pairs: a vector holds the four sums of two rows and two columns.
pub(super) type Sums = [[F32x4; PAIRS]; ROW_PAIRS];

/// Calls a function with the constant `R` equal to `tile.rows`.
macro_rules! for_rows {
    ($function:ident, $isa:expr, $variant:expr, $tile:expr, [$($rows:literal)*]) => {
        match $tile.rows {
            // SAFETY: `rows` is the constant of its arm. The caller of the macro guarantees the bullets under `Tile`.
            $($rows => unsafe { $function::<_, $rows>($isa, $variant, $tile) },)*
            _ => unreachable!("a tile has 1..=MR rows"),
        }
    };
}

/// Microkernel by lane.
///
/// # Safety
/// The bullets under [`Tile`] hold, with k-groups in place of floats.
#[inline(always)]
pub(super) unsafe fn by_lane<V: ByLane>(isa: Neon, variant: V, tile: Tile<V::Operand, V::Sum>) {
    for_rows!(by_lane_6x16, isa, variant, tile, [6 5 4 3 2 1])
}

/// Microkernel by pairs.
///
/// # Safety
/// - The bullets under [`Tile`] hold, with k-groups in place of floats and a panel of depth 2.
/// - k is a multiple of 4.
#[inline(always)]
pub(super) unsafe fn by_pairs<V: ByPairs>(isa: Neon, variant: V, tile: Tile<V::Operand, V::Sum>) {
    for_rows!(by_pairs_6x16, isa, variant, tile, [6 5 4 3 2 1])
}

/// [`by_lane`] for exactly `R` rows.
///
/// # Safety
/// The bullets under [`Tile`] hold, with k-groups in place of floats and `rows == R`.
#[inline(always)]
unsafe fn by_lane_6x16<V: ByLane, const R: usize>(isa: Neon, variant: V, t: Tile<V::Operand, V::Sum>) {
    let mut acc = [[F32x4::splat(isa, 0.0); 4]; R];
    if t.accumulate {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                // SAFETY: i < rows and j < NR / 4, so the vector lies in C, which is initialised if `accumulate`
                // (preconditions of `by_lane_6x16`).
                *v = unsafe { load(isa, t.c.add(i * t.c_stride + 4 * j)) };
            }
        }
    }
    let (mut a, mut b, mut prefetch) = (t.a, t.b, t.prefetch);
    let mut av = [F32x4::splat(isa, 0.0); R];
    for _ in 0..t.k / 4 {
        prefetch.advance::<_, R>(isa);
        for (i, v) in av.iter_mut().enumerate() {
            // SAFETY: four k-groups below k of row i < rows of A (precondition of `by_lane_6x16`).
            *v = unsafe { load(isa, a.add(i * A_STRIDE)) };
        }
        // SAFETY: `b` points to the first of four k-groups below k of B (precondition of `by_lane_6x16`).
        unsafe {
            step::<_, R, 0>(isa, variant, &mut acc, &av, b);
            step::<_, R, 1>(isa, variant, &mut acc, &av, b.add(t.b_stride));
            step::<_, R, 2>(isa, variant, &mut acc, &av, b.add(2 * t.b_stride));
            step::<_, R, 3>(isa, variant, &mut acc, &av, b.add(3 * t.b_stride));
        }
        a = a.wrapping_add(4);
        b = b.wrapping_add(4 * t.b_stride);
    }
    for _ in 0..t.k % 4 {
        for (i, v) in av.iter_mut().enumerate() {
            // SAFETY: a k-group below k of row i < rows of A (precondition of `by_lane_6x16`).
            *v = unsafe { broadcast(isa, a.add(i * A_STRIDE)) };
        }
        // SAFETY: `b` points to a k-group below k of B (precondition of `by_lane_6x16`).
        unsafe { step::<_, R, 0>(isa, variant, &mut acc, &av, b) };
        a = a.wrapping_add(1);
        b = b.wrapping_add(t.b_stride);
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            // SAFETY: i < rows and j < NR / 4, so the vector lies in C (precondition of `by_lane_6x16`).
            unsafe { store::<Neon, _>(*v, t.c.add(i * t.c_stride + 4 * j)) };
        }
    }
}

/// One k-group: `acc` += lane `P` of each row of A times the NR columns at `b`.
///
/// # Safety
/// NR k-groups at `b` are valid for reads.
#[inline(always)]
unsafe fn step<V: ByLane, const R: usize, const P: i32>(
    isa: Neon,
    variant: V,
    acc: &mut [[F32x4; 4]; R],
    a: &[F32x4; R],
    b: *const V::Operand,
) {
    for j in 0..4 {
        // SAFETY: j < NR / 4, and NR k-groups at `b` are valid for reads (precondition of `step`).
        let b = unsafe { load(isa, b.add(4 * j)) };
        for (row, a) in acc.iter_mut().zip(a) {
            row[j] = variant.dot_lane::<P>(*a, b, row[j]);
        }
    }
}

/// Number of column pairs in a panel.
const PAIRS: usize = Neon::NR / 2;

/// Maximum number of row pairs in a tile.
const ROW_PAIRS: usize = Neon::MR / 2;

/// Returns the row that forms a pair with row 2 i of `R`. An odd last row is its own partner; sums of the partner
/// are then dropped.
pub(super) const fn partner<const R: usize>(i: usize) -> usize {
    if 2 * i + 1 < R { 2 * i + 1 } else { R - 1 }
}

/// [`by_pairs`] for exactly `R` rows.
///
/// # Safety
/// The preconditions of [`by_pairs`] hold with `rows == R`.
#[inline(always)]
unsafe fn by_pairs_6x16<V: ByPairs, const R: usize>(isa: Neon, variant: V, t: Tile<V::Operand, V::Sum>) {
    debug_assert!(t.b_stride == Neon::NR);
    let row_pairs = R.div_ceil(2);
    let zero = F32x4::splat(isa, 0.0);
    let mut acc = [[zero; PAIRS]; ROW_PAIRS];
    if t.accumulate {
        for (i, sums) in acc[..row_pairs].iter_mut().enumerate() {
            // SAFETY: rows 2 i and `partner(i)` are below R, so NR sums of both lie in C, which is initialised if
            // `accumulate` (preconditions of `by_pairs`).
            *sums = unsafe {
                load_pairs(isa, t.c.add(2 * i * t.c_stride), t.c.add(partner::<R>(i) * t.c_stride))
            };
        }
    }
    let (mut a, mut b, mut prefetch) = (t.a, t.b, t.prefetch);
    for _ in 0..t.k / 4 {
        prefetch.advance::<_, R>(isa);
        // SAFETY: `a` and `b` point to the first of four k-groups below k, a multiple of 4 (preconditions of
        // `by_pairs`).
        unsafe { variant.four_k_groups::<R>(&mut acc, a, b) };
        a = a.wrapping_add(4);
        b = b.wrapping_add(4 * Neon::NR);
    }
    for (i, sums) in acc[..row_pairs].iter().enumerate() {
        let odd = (2 * i + 1 < R).then(|| t.c.wrapping_add((2 * i + 1) * t.c_stride));
        // SAFETY: rows 2 i and 2 i + 1, if `odd` is some, are below R, so NR sums of each lie in C (precondition of
        // `by_pairs`).
        unsafe { store_pairs(sums, t.c.add(2 * i * t.c_stride), odd) };
    }
}

/// GEMV of one row and [`STREAMS`] panels, two at a time. One row fills half of the lanes of its sums, so the
/// sums of four panels would take all 32 registers.
///
/// # Safety
/// - The preconditions of [`Microkernel::gemv`](crate::isa::Microkernel::gemv) hold, with panels of depth 2.
/// - k is a multiple of 4.
#[inline(always)]
pub(super) unsafe fn gemv_by_pairs<V: ByPairs>(
    isa: Neon,
    variant: V,
    t: Tile<V::Operand, V::Sum>,
    panel_stride: usize,
) {
    for first in (0..STREAMS).step_by(2) {
        let b = t.b.wrapping_add(first * panel_stride);
        let c = t.c.wrapping_add(first * t.c_stride);
        let mut acc = [[F32x4::splat(isa, 0.0); PAIRS]; 2];
        if t.accumulate {
            for (q, sums) in acc.iter_mut().enumerate() {
                // SAFETY: the NR sums of a panel lie in C, initialised if `accumulate` (preconditions of
                // `gemv_by_pairs`). They are loaded twice, as both rows of the pair.
                *sums = unsafe { load_pairs(isa, c.add(q * t.c_stride), c.add(q * t.c_stride)) };
            }
        }
        for p in (0..t.k).step_by(4) {
            // SAFETY: four k-groups from p < k on of the row, because k is a multiple of 4 (precondition of
            // `gemv_by_pairs`).
            let a = unsafe { load(isa, t.a.add(p)) };
            for (half, a) in halves_exchanged([a, a]).into_iter().enumerate() {
                for (q, sums) in acc.iter_mut().enumerate() {
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let at = q * panel_stride + (p + 2 * half) * t.b_stride + 4 * j;
                        // SAFETY: two k-groups below k of column pair j of panel q (precondition of
                        // `gemv_by_pairs`).
                        *sum = variant.dot_pairs(a, unsafe { load(isa, b.add(at)) }, *sum);
                    }
                }
            }
        }
        for (q, sums) in acc.iter().enumerate() {
            // SAFETY: the NR sums of panel q lie in C (precondition of `gemv_by_pairs`).
            unsafe { store_pairs(sums, c.add(q * t.c_stride), None) };
        }
    }
}

/// Loads two rows of C as sums of a row pair and its column pairs.
///
/// # Safety
/// NR sums at `even` and at `odd` are valid for reads.
#[inline(always)]
unsafe fn load_pairs<T: Lane>(isa: Neon, even: *const T, odd: *const T) -> [F32x4; PAIRS] {
    let mut sums = [F32x4::splat(isa, 0.0); PAIRS];
    for (j, pair) in sums.chunks_exact_mut(2).enumerate() {
        // SAFETY: NR sums at `even` and at `odd` are valid for reads (precondition of `load_pairs`).
        let rows = unsafe { [load(isa, even.add(4 * j)), load(isa, odd.add(4 * j))] };
        pair.copy_from_slice(&halves_exchanged(rows));
    }
    sums
}

/// Stores the sums of a row pair to two rows of C, or to the even row alone.
///
/// # Safety
/// `even`, and `odd` if it is some, are valid for writes of NR sums.
#[inline(always)]
unsafe fn store_pairs<T: Lane>(sums: &[F32x4; PAIRS], even: *mut T, odd: Option<*mut T>) {
    for (j, pair) in sums.chunks_exact(2).enumerate() {
        let rows = halves_exchanged([pair[0], pair[1]]);
        // SAFETY: `even` and `odd` are valid for writes of NR sums (precondition of `store_pairs`).
        unsafe {
            store::<Neon, _>(rows[0], even.add(4 * j));
            if let Some(odd) = odd {
                store::<Neon, _>(rows[1], odd.add(4 * j));
            }
        }
    }
}

/// Returns a vector of both first halves and a vector of both second halves.
#[inline(always)]
fn halves_exchanged([a, b]: [F32x4; 2]) -> [F32x4; 2] {
    // SAFETY: a value of `F32x4` proves NEON.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a.0), vreinterpretq_f64_f32(b.0));
        [vtrn1q_f64(a, b), vtrn2q_f64(a, b)].map(|v| F32x4(vreinterpretq_f32_f64(v)))
    }
}

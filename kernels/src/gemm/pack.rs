//! Packing: rows of A and panels of B, laid out for the microkernel.
//!
//! ```text
//! packed B (k x n), NR columns to a panel        packed A (rows x k), KC steps to a slab
//!
//!   panel 0         panel 1                        slab 0             slab 1
//!   +-----------+   +-----------+                  +---- KC ----+pad  +---- KC ----+pad
//!   | p=0: NR   |   | p=0: NR   |  ..              | row 0      |     | row 0      |   ..
//!   | p=1: NR   |   | p=1: NR   |                  | row 1      |     | row 1      |
//!   |  ..       |   |  ..       |                  |  ..        |     |  ..        |
//!   | p=k-1: NR |   | p=k-1: NR |                  rows A_STRIDE apart, in both
//!   +-----------+   +-----------+
//!   zeros where n is not a multiple of NR
//! ```
//!
//! A panel is one contiguous stream for each M: the microkernel reads KC steps of it at a time, GEMV reads it
//! whole. Rows of A are copied, not interleaved: reason 4 in [`gemm`](super).
//!
//! A *gated* panel holds NR/2 columns of the gate and behind them the corresponding NR/2 columns of the up
//! matrix: one tile has both factors of act(gate) * up.

use super::format::Format;
use super::lhs::Lhs;
use crate::backend::Kernel;
use crate::element::Element;
use crate::isa::{A_STRIDE, Isa, KC, LINE, MAX_LANES, Vector, bf16_bits};
use crate::parallel;
use crate::view::{AnyView, View, ViewMut};

/// Packs `b`, or the gated pair `b` and `up`, to `panels` of `nr` columns.
pub(super) struct Pack<'a> {
    pub b: View<'a, 2>,
    pub up: Option<View<'a, 2>>,
    pub nr: usize,
    pub panels: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();

    crate::backend::compile_here!();

    fn reference(self) {
        let [k, n] = self.b.shape();
        let halves = if self.up.is_some() { 2 } else { 1 };
        let width = self.nr / halves;
        for (half, b) in [Some(self.b), self.up].into_iter().flatten().enumerate() {
            for j in 0..n {
                for p in 0..k {
                    self.panels[(j / width * k + p) * self.nr + half * width + j % width] = b.get([p, j]);
                }
            }
        }
    }

    fn eval<I: Isa>(self, isa: I) {
        let [k, n] = self.b.shape();
        let halves = if self.up.is_some() { 2 } else { 1 };
        let width = I::NR / halves;
        let panels = n.div_ceil(width);
        let all = ViewMut::new(self.panels, [panels, k * I::NR]).expect("allocated for these panels");
        parallel::for_each_block(all, 1, &|panel, mut out| {
            let out = out.row_mut([0, 0]);
            let columns = panel * width..n.min((panel + 1) * width);
            for (half, b) in [Some(self.b), self.up].into_iter().flatten().enumerate() {
                let b = b.slice(1, columns.clone());
                let out = &mut out[half * width..];
                // SAFETY: `out` ends with the half of its last k-step, and `b` has at most `width` columns.
                isa.run(
                    #[inline(always)]
                    || unsafe { copy_block(isa, b, out.as_mut_ptr(), I::NR) },
                );
            }
        });
    }
}

/// Copies `src` to `dst` as f32, with rows `dst_stride` apart. A's rows are rows here, B's k-steps are rows.
///
/// # Safety
/// `dst + r * dst_stride` is valid for writes of `src.shape()[1]` floats for each row `r` of `src`.
#[inline(always)]
pub(crate) unsafe fn copy_block<I: Isa, T: Element>(
    isa: I,
    src: View<'_, 2, T>,
    dst: *mut f32,
    dst_stride: usize,
) {
    let [rows, columns] = src.shape();
    let [row_stride, column_stride] = src.strides();
    let from = src.as_ptr();
    let lanes = I::V::LANES;
    if column_stride == 1 {
        for r in 0..rows {
            // SAFETY: row r of `src` and of `dst` has `columns` elements (precondition of `copy_block`).
            unsafe { copy_row(isa, from.add(r * row_stride), dst.add(r * dst_stride), columns) };
        }
        return;
    }
    let whole = |n: usize| if row_stride == 1 { n - n % lanes } else { 0 };
    // The loop over columns is outside: it reads LANES streams, no more than hardware prefetchers follow.
    for c in (0..whole(columns)).step_by(lanes) {
        for r in (0..whole(rows)).step_by(lanes) {
            // SAFETY: a block of LANES x LANES elements inside `src` and `dst`.
            unsafe {
                let (from, to) = (from.add(r + c * column_stride), dst.add(r * dst_stride + c));
                if T::IS_F32 {
                    isa.transpose(from.cast(), column_stride, to, dst_stride);
                } else {
                    isa.transpose_vectors(
                        #[inline(always)]
                        |i| T::load::<I>(isa, from.add(i * column_stride)),
                        to,
                        dst_stride,
                    );
                }
            }
        }
    }
    if (whole(rows), whole(columns)) == (rows, columns) {
        return;
    }
    for r in 0..rows {
        let done = if r < whole(rows) { whole(columns) } else { 0 };
        for c in done..columns {
            // SAFETY: [r, c] lies in `src` and in `dst`.
            unsafe {
                *dst.add(r * dst_stride + c) = (*from.add(r * row_stride + c * column_stride)).to_f32();
            }
        }
    }
}

/// Copies `n` elements as f32.
///
/// # Safety
/// `from` is valid for reads of `n` elements, `to` for writes of `n` floats, and they do not overlap.
#[inline(always)]
pub(super) unsafe fn copy_row<I: Isa, T: Element>(isa: I, from: *const T, to: *mut f32, n: usize) {
    let lanes = I::V::LANES;
    let whole = n - n % lanes;
    for i in (0..whole).step_by(lanes) {
        // SAFETY: i + LANES <= n elements of both (precondition of `copy_row`).
        unsafe { T::load::<I>(isa, from.add(i)).store_ptr(to.add(i)) };
    }
    for i in whole..n {
        // SAFETY: i < n elements of both (precondition of `copy_row`).
        unsafe { *to.add(i) = (*from.add(i)).to_f32() };
    }
}

/// Packs the columns of `b` to `dst` as f32, `NR` floats a k-step, and fills them up with zeros to `width`. Prefetches
/// the columns behind them, if columns are neighbours in memory.
///
/// # Safety
/// - `b` has at most `width` columns;
/// - `dst + p * NR` is valid for writes of `width` floats for each k-step p of `b`.
#[inline(always)]
pub(crate) unsafe fn pack_panel<I: Isa, T: Element>(isa: I, b: View<'_, 2, T>, dst: *mut f32, width: usize) {
    let [k, n] = b.shape();
    if b.strides()[1] == 1 {
        for p in 0..k {
            let from = b.as_ptr().wrapping_add(p * b.strides()[0]);
            prefetch_behind(isa, from, n);
            // SAFETY: n <= width elements of k-step p of `b`, and as many floats (precondition of `pack_panel`).
            unsafe { copy_row(isa, from, dst.add(p * I::NR), n) };
        }
    } else {
        // SAFETY: n <= width floats of each k-step (precondition of `pack_panel`).
        unsafe { copy_block(isa, b, dst, I::NR) };
    }
    if n < width {
        for p in 0..k {
            for j in n..width {
                // SAFETY: j < width of k-step p (precondition of `pack_panel`).
                unsafe { *dst.add(p * I::NR + j) = 0.0 };
            }
        }
    }
}

/// Prefetches the `n` elements behind those at `row`: the same k-step of the next panel. Hardware prefetchers do not
/// follow a panel down a row-major B, whose k-steps are far apart.
#[inline(always)]
pub(super) fn prefetch_behind<I: Isa, T>(isa: I, row: *const T, n: usize) {
    for at in (n..2 * n).step_by(LINE / size_of::<T>()) {
        isa.prefetch(row.wrapping_add(at).cast());
    }
}

/// Packs rows of A (rows x k) as f32 to slabs of `KC` k-steps, each `rows * A_STRIDE` floats. Rounds
/// [`Lhs::Rounded`] to the format `rounding`. Enters the instruction set by itself.
///
/// # Safety
/// `dst` is valid for writes of [`packed_a_len`] floats.
#[inline(always)]
pub(super) unsafe fn pack_a<I: Isa>(isa: I, a: Lhs<'_, 2>, rounding: Format, dst: *mut f32) {
    // Each type has a function of its own: the one of f32 alone keeps its addresses in registers.
    match a {
        Lhs::Exact(AnyView::F32(a)) | Lhs::ZeroPoint(a) => isa.run(
            #[inline(always)]
            // SAFETY: `dst` has room for the rows (precondition of `pack_a`).
            || unsafe { copy_slabs(isa, a, dst) },
        ),
        Lhs::Exact(AnyView::Bf16(a)) => isa.run(
            #[inline(always)]
            // SAFETY: `dst` has room for the rows (precondition of `pack_a`).
            || unsafe { copy_slabs(isa, a, dst) },
        ),
        Lhs::Exact(AnyView::F16(a)) => isa.run(
            #[inline(always)]
            // SAFETY: `dst` has room for the rows (precondition of `pack_a`).
            || unsafe { copy_slabs(isa, a, dst) },
        ),
        Lhs::Rounded(a) => isa.run(
            #[inline(always)]
            || {
                // SAFETY: `dst` has room for the rows (precondition of `pack_a`).
                unsafe { copy_slabs(isa, a, dst) };
                for at in (0..packed_a_len(a.shape()[0], a.shape()[1])).step_by(I::V::LANES) {
                    let to = dst.wrapping_add(at);
                    // SAFETY: a vector of the packed rows, whose length is a multiple of LANES (precondition of
                    // `pack_a`).
                    unsafe { rounded(isa, I::V::load_ptr(isa, to), rounding).store_ptr(to) };
                }
            },
        ),
    }
}

/// Copies rows to slabs of `KC` k-steps.
///
/// # Safety
/// The preconditions of [`pack_a`] hold.
#[inline(always)]
unsafe fn copy_slabs<I: Isa, T: Element>(isa: I, a: View<'_, 2, T>, dst: *mut f32) {
    let [rows, k] = a.shape();
    for (slab, p) in (0..k).step_by(KC).enumerate() {
        let to = dst.wrapping_add(slab * rows * A_STRIDE);
        // SAFETY: each slab lies inside the floats of `dst` (precondition of `copy_slabs`).
        unsafe { copy_block(isa, a.slice(1, p..k.min(p + KC)), to, A_STRIDE) };
    }
}

/// Rounds each lane to a format of 16 bits, to nearest, ties to even; other formats change nothing.
#[inline(always)]
pub(super) fn rounded<I: Isa>(isa: I, v: I::V, format: Format) -> I::V {
    match format {
        Format::Bf16 => bf16_bits(isa, v).shl_bits::<16>(),
        Format::F16 => {
            let mut halves = [0u16; MAX_LANES];
            // SAFETY: `halves` has room for LANES numbers of 16 bits.
            unsafe {
                v.store_f16(halves.as_mut_ptr());
                I::V::load_f16(isa, halves.as_ptr())
            }
        }
        _ => v,
    }
}

/// Calls `f(p, v)` with each vector `v` of a row, as f32, and the index `p` of its first element. The last vector
/// ends with zeros.
#[inline(always)]
pub(super) fn row_vectors<I: Isa, T: Element>(isa: I, row: View<'_, 1, T>, mut f: impl FnMut(usize, I::V)) {
    let ([n], [stride], lanes) = (row.shape(), row.strides(), I::V::LANES);
    let from = row.as_ptr();
    // Whole vectors have a loop of their own, without a branch.
    let whole = if stride == 1 { n - n % lanes } else { 0 };
    for p in (0..whole).step_by(lanes) {
        // SAFETY: p + LANES <= n elements of the row, whose stride is 1.
        f(p, unsafe { T::load::<I>(isa, from.add(p)) });
    }
    for p in (whole..n).step_by(lanes) {
        let live = lanes.min(n - p);
        // SAFETY: p + live <= n elements of the row.
        let v = unsafe {
            if stride == 1 {
                T::load_partial::<I>(isa, core::slice::from_raw_parts(from.add(p), live), 0.0)
            } else {
                let mut gathered = [T::default(); MAX_LANES];
                for (i, x) in gathered[..live].iter_mut().enumerate() {
                    *x = *from.add((p + i) * stride);
                }
                T::load_partial::<I>(isa, &gathered[..live], 0.0)
            }
        };
        f(p, v);
    }
}

/// Floats from the first that [`pack_a`] writes to the end of its last slab.
#[inline(always)]
pub(crate) fn packed_a_len(rows: usize, k: usize) -> usize {
    k.div_ceil(KC) * rows * A_STRIDE
}

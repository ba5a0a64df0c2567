//! Products so small that packing A and cutting tasks would take longer than the sums.

use super::pack::pack_panel;
use super::product::Product;
use super::rhs::Rhs;
use crate::isa::{Isa, Vector};
use crate::scratch;

/// Most rows, and most k-steps, of a small product: its sums take half a microsecond
/// (AVX-512).
const MAX_M: usize = 16;
const MAX_K: usize = 32;

impl Product<'_> {
    /// Whether [`small`](Self::small) computes this product: at most a panel wide.
    #[inline(always)]
    pub(super) fn is_small<I: Isa>(&self) -> bool {
        let [batch, m, n] = self.shape;
        batch == 1 && !self.gated && m <= MAX_M && n <= I::NR && self.k <= MAX_K && self.a.floats().is_some()
    }

    /// Computes C on the calling thread, with A read where it is.
    ///
    /// # Safety
    /// As [`run`](Self::run); the product is small.
    #[inline(always)]
    pub(super) unsafe fn small<I: Isa>(&self, isa: I, b: Rhs<'_>) {
        let ([_, m, n], lanes) = (self.shape, I::V::LANES);
        let floats = self.c.floats().filter(|_| self.is_plain() && self.c_strides[2] == 1);
        let direct = floats.is_some();
        scratch::with((self.k + m) * I::NR, |memory| {
            let (panel, sums) = memory.split_at_mut(self.k * I::NR);
            isa.run(
                #[inline(always)]
                || {
                    let b = match b {
                        Rhs::Packed(b) => b.panels().as_ptr(),
                        Rhs::Matrix(b) => {
                            // SAFETY: `panel` has room for k steps of NR floats.
                            unsafe {
                                pack_panel(isa, b.at(0), panel.as_mut_ptr(), n.next_multiple_of(lanes))
                            };
                            panel.as_ptr()
                        }
                        Rhs::Gated { .. } => unreachable!("a small product is not gated"),
                    };
                    let (out, stride) = match floats {
                        Some(c) => (c, self.c_strides[1]),
                        None => (sums.as_mut_ptr(), I::NR),
                    };
                    for j in (0..n).step_by(lanes) {
                        let live = if direct { lanes.min(n - j) } else { lanes };
                        // SAFETY: rows of C, or of `sums`, and the panel's vectors; see `run`.
                        unsafe {
                            let mut i = 0;
                            while i < m {
                                let (b, out) = (b.wrapping_add(j), out.add(i * stride + j));
                                i += match m - i {
                                    8.. => self.rows::<I, 8>(isa, i, b, out, stride, live),
                                    4.. => self.rows::<I, 4>(isa, i, b, out, stride, live),
                                    2.. => self.rows::<I, 2>(isa, i, b, out, stride, live),
                                    _ => self.rows::<I, 1>(isa, i, b, out, stride, live),
                                };
                            }
                        }
                    }
                    if !direct {
                        // SAFETY: all of C, which is this call's.
                        unsafe { self.finish::<I>(0, 0).rows(isa, sums, 0) };
                    }
                },
            );
        });
    }

    /// `live` sums of each of `R` rows of A from row `i` on: the same chains as the register tile's.
    /// Returns `R`. Eight rows hide the latency of a multiply-add and fit every instruction set.
    ///
    /// # Safety
    /// The rows are A's; `b` is valid for reads of a vector every `NR` floats, k times, `out` for writes
    /// of `live` floats, at most a vector, every `stride` floats, `R` times.
    #[inline(always)]
    unsafe fn rows<I: Isa, const R: usize>(
        &self,
        isa: I,
        i: usize,
        b: *const f32,
        out: *mut f32,
        stride: usize,
        live: usize,
    ) -> usize {
        let a = self.a.floats().expect("a small product is of floats");
        let [_, row_stride, step] = a.strides();
        let a = a.as_ptr().wrapping_add(i * row_stride);
        let mut acc = [I::V::splat(isa, 0.0); R];
        for p in 0..self.k {
            // SAFETY: k-step p < k of the rows and of the panel.
            unsafe {
                let b = I::V::load_ptr(isa, b.add(p * I::NR));
                for (r, sum) in acc.iter_mut().enumerate() {
                    *sum = I::V::splat(isa, *a.add(p * step + r * row_stride)).mul_add(b, *sum);
                }
            }
        }
        for (r, sum) in acc.into_iter().enumerate() {
            // SAFETY: the caller's.
            unsafe {
                let out = out.add(r * stride);
                if live == I::V::LANES {
                    sum.store_ptr(out);
                } else {
                    sum.store_partial(core::slice::from_raw_parts_mut(out, live));
                }
            }
        }
        R
    }
}

//! Small products: packing A and cutting tasks would take longer than the sums.

use super::pack::pack_panel;
use super::product::Product;
use super::rhs::Rhs;
use crate::isa::{Isa, Vector};
use crate::scratch;
use crate::view::AnyView;

/// Most rows of a small product: with [`MAX_K`] its sums take half a microsecond (AVX-512).
const MAX_M: usize = 16;

/// Most k-steps of a small product.
const MAX_K: usize = 32;

impl Product<'_> {
    /// True if [`small`](Self::small) computes this product, which is at most one panel wide.
    #[inline(always)]
    pub(super) fn is_small<I: Isa>(&self, b: Rhs<'_>) -> bool {
        let [batch, m, n] = self.shape;
        matches!(b, Rhs::Packed(_) | Rhs::Matrix(AnyView::F32(_)))
            && batch == 1
            && !self.gated
            && m <= MAX_M
            && n <= I::NR
            && self.k <= MAX_K
            && self.a.floats().is_some()
    }

    /// Computes C on the calling thread, and reads A where it stands.
    ///
    /// # Safety
    /// - the operands fit each other, `b` is packed for `I` if it is packed, and nothing else touches C;
    /// - [`is_small`](Self::is_small) holds; a packed `b` is of f32.
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
                        Rhs::Matrix(AnyView::F32(b)) => {
                            // SAFETY: `panel` has room for k steps of NR floats.
                            unsafe {
                                pack_panel(isa, b.at(0), panel.as_mut_ptr(), n.next_multiple_of(lanes))
                            };
                            panel.as_ptr()
                        }
                        _ => unreachable!("a small product is of f32 and not gated"),
                    };
                    let (out, stride) = match floats {
                        Some(c) => (c, self.c_strides[1]),
                        None => (sums.as_mut_ptr(), I::NR),
                    };
                    for j in (0..n).step_by(lanes) {
                        let live = if direct { lanes.min(n - j) } else { lanes };
                        // SAFETY: i < m rows of C or of `sums`, and one vector of each k-step of the panel; nothing else
                        // touches C (precondition of `small`).
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
                        // SAFETY: the rows and columns are all of C, which nothing else touches (precondition of `small`).
                        unsafe { self.finish::<I>(0, 0).rows(isa, sums, 0) };
                    }
                },
            );
        });
    }

    /// Stores `live` sums of each of `R` rows of A from row `i` on, and returns `R`. Each sum is the chain of the
    /// microkernel.
    ///
    /// Eight rows hide the latency of a multiply-add and fit the registers of each instruction set.
    ///
    /// # Safety
    /// - A has the rows `i .. i + R`;
    /// - `b + p * NR` is valid for reads of a vector for each p < k;
    /// - `out + r * stride` is valid for writes of `live <= LANES` floats for each r < R.
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
            // SAFETY: k-step p < k of the rows and of the panel (preconditions of `rows`).
            unsafe {
                let b = I::V::load_ptr(isa, b.add(p * I::NR));
                for (r, sum) in acc.iter_mut().enumerate() {
                    *sum = I::V::splat(isa, *a.add(p * step + r * row_stride)).mul_add(b, *sum);
                }
            }
        }
        for (r, sum) in acc.into_iter().enumerate() {
            // SAFETY: `live` floats of row r < R (precondition of `rows`).
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

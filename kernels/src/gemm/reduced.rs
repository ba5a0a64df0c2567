//! Products in reduced precision: packed weights that are not f32, by one of the variants of [`variant`].
//!
//! A k-block of a panel is dequantized, where its variant needs that, and multiplied with all strips of rows.
//! The first strip dequantizes it to f32 in registers and leaves it in L1 for the others. The small-M path
//! consists of one such strip, by several panels side by side. The types and the backend alone choose the
//! variant, and each sum is one chain with k ascending: a row's bits depend on nothing else.

mod path;
mod variant;

use super::dequantize::{panels_at_once, small_m_rows};
use super::format::Format;
use super::layout::{Order, PanelLayout};
use super::lhs::{Lhs, with_rows};
use super::pack::packed_a_len;
use super::packed::PackedB;
use super::product::Product;
use super::tasks::GemmTask;
use super::walk::{Blocking, PackedRows, Strips, walk};
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Isa, K_GROUPS, KC, L2_BYTES, Microkernel, Vector};
use crate::scratch;
use crate::view::AnyView;
use path::{ReducedGemv, ReducedStrips, SmallMPanels};
use variant::{Bf16Pairs, GemmVariant, I16Pairs, Int8Quads, RowQuantization, Slabs, Widened};

/// Operands of a product in reduced precision.
#[derive(Clone, Copy)]
struct Operands<'a, M> {
    b: &'a PackedB,
    variant: M,
    quantization: RowQuantization,
}

impl Product<'_> {
    /// Computes C with packed weights that are neither f32 nor multiplied group by group.
    ///
    /// # Safety
    /// As [`walk`], for all of C; `b` is packed for `I`.
    pub(super) unsafe fn reduced<I: Isa>(&self, isa: I, b: &PackedB) {
        let PanelLayout { format, order, .. } = b.layout();
        let quantization = match (self.a, format) {
            (Lhs::Rounded(_), Format::Int8) => RowQuantization::Symmetric,
            (Lhs::ZeroPoint(_), _) => RowQuantization::ZeroPoint,
            (Lhs::Rounded(_), _) => RowQuantization::Rounded(format),
            _ => RowQuantization::Exact,
        };
        let is_bf16 = matches!(self.a, Lhs::Exact(AnyView::Bf16(_)) | Lhs::Rounded(_));
        let is_int8 = matches!(quantization, RowQuantization::Symmetric | RowQuantization::ZeroPoint);
        // SAFETY: `b` is packed for `I`, and each variant reads its layout; C is the caller's (preconditions of
        // `reduced`).
        unsafe {
            match (format, order, isa.bf16(), isa.int8()) {
                (Format::Bf16, _, Some(pairs), _) if is_bf16 => {
                    self.reduced_by(isa, Operands { b, variant: Bf16Pairs(pairs), quantization });
                }
                (Format::Int8, Order::KGroups(_), _, Some(quads)) if is_int8 => {
                    self.reduced_by(isa, Operands { b, variant: Int8Quads(quads), quantization });
                }
                (Format::Int8, ..) if is_int8 => {
                    self.reduced_by(isa, Operands { b, variant: I16Pairs, quantization });
                }
                _ => self.reduced_by(isa, Operands { b, variant: Widened, quantization }),
            }
        }
    }

    /// Computes C by one variant.
    ///
    /// # Safety
    /// As [`reduced`](Self::reduced); the variant reads the layout of `b`.
    unsafe fn reduced_by<I: Isa, M: GemmVariant<I>>(&self, isa: I, operands: Operands<'_, M>) {
        let k = M::k_groups(self.k);
        let blocks = match M::DEQUANTIZED {
            true => self.row_blocks::<I>(L2_BYTES, 0, k),
            false => self.row_blocks_of_threads::<I>(k),
        };
        self.for_tasks::<I>(&self.grid::<I>(blocks), k, |task| {
            // SAFETY: tasks are disjoint blocks of C, which the caller of `reduced_by` owns.
            unsafe {
                if M::SMALL_M && task.rows.len() <= small_m_rows::<I>() {
                    self.reduced_small_m(isa, operands, &task);
                } else {
                    self.reduced_strips(isa, operands, &task);
                }
            }
        });
    }

    /// Computes one block of C, strip by strip; a single row by several panels that need no dequantizing.
    ///
    /// # Safety
    /// As [`reduced_by`](Self::reduced_by), for the task's block of C.
    unsafe fn reduced_strips<I: Isa, M: GemmVariant<I>>(
        &self,
        isa: I,
        operands: Operands<'_, M>,
        task: &GemmTask,
    ) {
        let (rows, k, Operands { b, variant, .. }) = (task.rows.len(), M::k_groups(self.k), operands);
        let dequantized = if M::DEQUANTIZED { KC.min(k) * I::NR } else { 0 };
        let scales = if M::INTEGERS { 2 * rows } else { 0 };
        let floats = [packed_a_len(rows, k), dequantized, scales, rows.max(STREAMS) * I::NR];
        let first = if M::SMALL_M { small_m_rows::<I>() } else { 0 };
        let blocking = Blocking {
            k,
            kc: KC,
            strips: Strips::after(first, rows, variant.microkernel().rows()),
            streams: 1,
            sum_rows: rows,
            bare_sums: b.format() != Format::Int8,
        };
        let streams = if rows == 1 && !M::DEQUANTIZED { STREAMS } else { usize::MAX };
        let [gemv, rest] = task.split_panels(streams, usize::MAX);
        scratch::with(floats.iter().sum::<usize>() + I::V::LANES, |memory| {
            let (a, memory) = memory.split_at_mut(floats[0]);
            let (dequantized, memory) = memory.split_at_mut(floats[1]);
            let (scales, sums) = memory.split_at_mut(floats[2]);
            // SAFETY: the memory has room for the task's rows.
            let a = unsafe { self.pack_reduced(isa, operands, task, rows, a, scales) };
            isa.run(
                #[inline(always)]
                // SAFETY: the memory has room for the task.
                || unsafe {
                    let path = ReducedStrips::new(variant, b, a, scales, (first, dequantized.as_mut_ptr()));
                    if !gemv.panels.is_empty() {
                        let blocking = Blocking { streams: STREAMS, ..blocking };
                        walk(isa, self, &gemv, blocking, sums, ReducedGemv(path));
                    }
                    if !rest.panels.is_empty() {
                        variant.microkernel().session(
                            #[inline(always)]
                            || walk(isa, self, &rest, blocking, sums, path),
                        );
                    }
                },
            );
        });
    }

    /// Computes one block of C with few rows, by several panels side by side. No dequantized weight goes to
    /// memory.
    ///
    /// # Safety
    /// As [`reduced_by`](Self::reduced_by), for the task's block of C of at most [`small_m_rows`] rows.
    unsafe fn reduced_small_m<I: Isa, M: GemmVariant<I>>(
        &self,
        isa: I,
        operands: Operands<'_, M>,
        task: &GemmTask,
    ) {
        let (m, k, Operands { b, variant, .. }) = (task.rows.len(), M::k_groups(self.k), operands);
        // Rows are padded with zeros to a power of two.
        let rows = m.next_power_of_two();
        let scales = if M::INTEGERS { 2 * rows } else { 0 };
        let floats = [packed_a_len(rows, k), scales, STREAMS * rows * I::NR];
        let streams = panels_at_once::<I>(b.format(), rows);
        let [whole, rest] = task.split_panels(streams, usize::MAX);
        scratch::with(floats.iter().sum::<usize>() + I::V::LANES, |memory| {
            let (a, memory) = memory.split_at_mut(floats[0]);
            let (scales, sums) = memory.split_at_mut(floats[1]);
            if rows > m {
                a.fill(0.0);
            }
            // SAFETY: the memory has room for a power of two of rows.
            let a = unsafe { self.pack_reduced(isa, operands, task, rows, a, scales) };
            isa.run(
                #[inline(always)]
                // SAFETY: the memory has room for a power of two of rows, and for sums of STREAMS panels.
                || unsafe {
                    for (task, streams) in [(&whole, streams), (&rest, 1)] {
                        let blocking = Blocking {
                            k,
                            kc: KC,
                            strips: Strips::of(m, m),
                            streams,
                            sum_rows: rows,
                            bare_sums: false,
                        };
                        walk(isa, self, task, blocking, sums, SmallMPanels::new(variant, b, a, streams));
                    }
                },
            );
        });
    }

    /// Packs the task's rows of A to slabs of `rows` rows, and fills them up with zeros to whole k-groups.
    ///
    /// A function of its own, whose loop owns the registers. It takes its values by `move`: the compiler reloads
    /// values behind references in each row.
    ///
    /// # Safety
    /// `to` has room for the slabs, and `scales` for two floats for each row of integers.
    unsafe fn pack_reduced<I: Isa, M: GemmVariant<I>>(
        &self,
        isa: I,
        Operands { variant, quantization, .. }: Operands<'_, M>,
        task: &GemmTask,
        rows: usize,
        to: &mut [f32],
        scales: &mut [f32],
    ) -> PackedRows {
        let (k, k_groups, to) = (self.k, M::k_groups(self.k), to.as_mut_ptr());
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        let live = task.rows.len();
        isa.run(
            #[inline(always)]
            move || {
                with_rows!(a, a => for i in 0..live {
                    let to = Slabs { row: to.wrapping_add(i * A_STRIDE), stride: rows * A_STRIDE };
                    // SAFETY: row i of every slab (precondition of `pack_reduced`).
                    unsafe {
                        if k_groups > k / M::STEPS {
                            for w in (k / M::STEPS / K_GROUPS * K_GROUPS..k_groups).step_by(I::V::LANES) {
                                I::V::splat(isa, 0.0).store_ptr(to.k_group(w));
                            }
                        }
                        let row_scale = variant.pack_row(isa, a.at(i), quantization, to);
                        if M::INTEGERS {
                            scales[2 * i] = row_scale.scale;
                            scales[2 * i + 1] = f32::from_bits(row_scale.zero.cast_unsigned());
                        }
                    }
                });
            },
        );
        PackedRows { first: to, rows }
    }
}

//! Products with packed weights that are not f32: the loops of [`gemm`](super) over words, by one of the
//! variants of [`variant`].
//!
//! A block of words of a panel is dequantized, if it has to be, and multiplied with all strips of rows. The first
//! strip dequantizes it to f32 in registers, and leaves it in L1 for the others; a few rows are nothing but such a
//! strip, of several panels side by side. Which variant it is depends on the types and the backend alone, and
//! each sum is one chain, k ascending, so that a row's bits depend on nothing else.

mod variant;

use super::dequantize::{Panels, SmallM, panels_at_once, small_m_rows};
use super::format::Format;
use super::layout::{Order, PanelLayout};
use super::lhs::{Lhs, with_rows};
use super::pack::packed_a_len;
use super::packed::PackedB;
use super::product::Product;
use super::tasks::GemmTask;
use crate::isa::KC;
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Isa, Multiply, Prefetch, Tile, Vector, WORDS};
use crate::parallel::part;
use crate::scratch;
use crate::view::AnyView;
use variant::{Bf16Pairs, GemmVariant, I16Pairs, Int8Quads, RowQuantization, Slabs, Widened};

impl Product<'_> {
    /// Computes C with packed weights that are not f32.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub(super) unsafe fn run_reduced<I: Isa>(&self, isa: I, b: &PackedB) {
        let PanelLayout { format, order, .. } = b.layout();
        let kind = match (self.a, format) {
            (Lhs::Rounded(_), Format::Int8) => RowQuantization::Symmetric,
            (Lhs::ZeroPoint(_), _) => RowQuantization::ZeroPoint,
            (Lhs::Rounded(_), _) => RowQuantization::Rounded(format),
            _ => RowQuantization::Exact,
        };
        if format.is_grouped() && matches!(self.a, Lhs::Rounded(_)) {
            // SAFETY: the caller's.
            return unsafe { self.run_grouped(isa, b) };
        }
        let is_bf16 = matches!(self.a, Lhs::Exact(AnyView::Bf16(_)) | Lhs::Rounded(_));
        // SAFETY: the caller's.
        unsafe {
            match (format, kind, isa.bf16(), isa.int8()) {
                (Format::Bf16, _, Some(pairs), _) if is_bf16 => self.by(isa, b, Bf16Pairs(pairs), kind),
                (Format::Int8, RowQuantization::Symmetric | RowQuantization::ZeroPoint, _, quads) => {
                    match (order, quads) {
                        (Order::Words(_), Some(quads)) => self.by(isa, b, Int8Quads(quads), kind),
                        _ => self.by(isa, b, I16Pairs, kind),
                    }
                }
                _ => self.by(isa, b, Widened, kind),
            }
        }
    }

    /// Computes C by one of the variants.
    ///
    /// # Safety
    /// As [`run`](Self::run); the variant is made for the layout.
    unsafe fn by<I: Isa, M: GemmVariant<I>>(&self, isa: I, b: &PackedB, variant: M, kind: RowQuantization) {
        let ([batch, ..], words) = (self.shape, M::words(self.k));
        let panels = 0..self.shape[2].div_ceil(self.width::<I>());
        let blocks = match M::DEQUANTIZED {
            true => self.row_blocks::<I>(0, words),
            false => self.row_blocks_of_threads::<I>(words),
        };
        self.for_tasks::<I>(0..batch, 0..blocks, blocks, panels, words, |task| {
            let rows = task.rows.len();
            let small_m = M::SMALL_M && rows <= small_m_rows::<I>();
            let rows = if small_m { rows.next_power_of_two() } else { rows };
            let dequantized = if M::DEQUANTIZED && !small_m { KC.min(words) * I::NR } else { 0 };
            let scales = if M::INTEGERS { 2 * rows } else { 0 };
            let sums = if small_m { STREAMS * rows } else { rows.max(STREAMS) } * I::NR;
            let floats = [packed_a_len(rows, words), dequantized, scales, sums];
            scratch::with(floats.iter().sum::<usize>() + I::V::LANES, |memory| {
                let (a, memory) = memory.split_at_mut(floats[0]);
                let (dequantized, memory) = memory.split_at_mut(floats[1]);
                let (scales, sums) = memory.split_at_mut(floats[2]);
                let memory = Memory { a, dequantized, scales, sums };
                // SAFETY: tasks are disjoint blocks of C, whose owner called `run`.
                isa.run(
                    #[inline(always)]
                    || unsafe {
                        if small_m {
                            self.small_m_block(isa, b, variant, kind, &task, memory);
                        } else {
                            self.reduced_block(isa, b, variant, kind, &task, memory);
                        }
                    },
                );
            });
        });
    }

    /// Computes one block of C.
    ///
    /// # Safety
    /// As [`by`](Self::by); no one else touches the block; the memory has room for the task.
    #[inline(always)]
    unsafe fn reduced_block<I: Isa, M: GemmVariant<I>>(
        &self,
        isa: I,
        b: &PackedB,
        variant: M,
        kind: RowQuantization,
        task: &GemmTask,
        memory: Memory<'_>,
    ) {
        let Memory { a: packed_a, dequantized, scales, sums } = memory;
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        let (m, width, words) = (task.rows.len(), self.width::<I>(), M::words(self.k));
        let multiply = variant.multiply();
        // SAFETY: `packed_a` and `scales` have room.
        unsafe { pack_rows(isa, variant, kind, (a, m), words, packed_a, scales) };
        let (dequantized, sums) = (dequantized.as_mut_ptr(), sums.as_mut_ptr());
        let first = if M::SMALL_M { small_m_rows::<I>() } else { 0 };
        let tiles = (m - first).div_ceil(multiply.rows());
        let strips = usize::from(first > 0) + tiles;
        let panel_words = b.panel_words();
        let first_panel = b.panels().as_ptr();
        // As in the loops of f32: bare sums of one block of words are made in C itself; and lines of C that lie
        // far off are fetched while the last block is summed up.
        let (c, c_strides) = (self.c.add(task.batch * self.c_strides[0]), self.c_strides);
        let plain = self.is_plain() && b.layout().format != Format::Int8 && words <= KC && c_strides[2] == 1;
        let mut panel = task.panels.start;
        while panel < task.panels.end {
            let side_by_side = m == 1 && !M::DEQUANTIZED && panel + STREAMS <= task.panels.end;
            let streams = if side_by_side { STREAMS } else { 1 };
            let at = first_panel.wrapping_add(panel * panel_words);
            let column = panel * width;
            let full = column + streams * width <= self.shape[2];
            let direct = c.floats().filter(|_| plain && full);
            let fetches_c = self.fetches_c(direct.is_some());
            let (out, out_stride) = match direct {
                Some(c) => {
                    let first = c.wrapping_add(task.rows.start * c_strides[1] + column);
                    (first, if streams > 1 { I::NR } else { c_strides[1] })
                }
                None => (sums, I::NR),
            };
            for pc in (0..words.max(1)).step_by(KC) {
                let kc = KC.min(words - pc);
                let slab = packed_a[pc / KC * m * A_STRIDE + pc % KC..].as_ptr();
                let b_at = if M::DEQUANTIZED {
                    // SAFETY: the words are the panel's, and `dequantized` has room for them.
                    unsafe { variant.dequantize(isa, at, pc..pc + kc, dequantized) };
                    dequantized.cast_const()
                } else {
                    at.wrapping_add(pc * I::NR)
                };
                // The next panel's words are prefetched by the strips that dequantize nothing.
                let [from, to] = [pc, pc + kc].map(|word| b.layout().panel_bytes(word * M::STEPS));
                let next = at.wrapping_add(panel_words).wrapping_byte_add(from);
                let next = (next, (to - from) / size_of::<f32>());
                for strip in 0..strips {
                    let tile = (strip + tiles).saturating_sub(strips);
                    let rows = match strip {
                        0 if first > 0 => 0..first,
                        _ => {
                            let rows = part(m - first, tiles, tile);
                            rows.start + first..rows.end + first
                        }
                    };
                    if pc + KC >= words && fetches_c {
                        let first = c.add((task.rows.start + rows.start) * c_strides[1] + column);
                        for row in 0..rows.len() {
                            first.add(row * c_strides[1]).prefetch(isa, width);
                        }
                    }
                    // SAFETY: rows of the slab, and rows of the sums, or of C; one row has `STREAMS` panels.
                    unsafe {
                        let tile = Tile {
                            rows: rows.len(),
                            k: kc,
                            a: slab.wrapping_add(rows.start * A_STRIDE),
                            b: b_at,
                            b_stride: I::NR,
                            c: out.add(rows.start * out_stride),
                            c_stride: out_stride,
                            accumulate: pc > 0,
                            prefetch: Prefetch::share::<I>(next, [rows.len().min(I::MR), kc], tile, tiles),
                        };
                        if rows.start < first {
                            let with = SmallM {
                                rows: rows.len(),
                                a: tile.a,
                                panels: 1,
                                at: Panels::one(at.cast()),
                                c: tile.c,
                                c_strides: [out_stride, 0],
                                accumulate: tile.accumulate,
                                keep: Some(dequantized),
                            };
                            variant.small_m(isa, b.layout(), pc..pc + kc, with);
                        } else if streams > 1 {
                            multiply.row(isa, tile, panel_words);
                        } else {
                            multiply.tile(isa, tile);
                        }
                    }
                    if pc + KC < words || direct.is_some() {
                        continue;
                    }
                    for q in 0..streams {
                        let finish = self.finish::<I>(task.batch, (panel + q) * width);
                        // SAFETY: the sums of the strip's rows, or of a row and this panel.
                        let sums = unsafe {
                            let first = sums.add((rows.start + q) * I::NR);
                            core::slice::from_raw_parts_mut(first, rows.len() * I::NR)
                        };
                        if let Some(columns) = b.columns(panel + q) {
                            let scales = if M::INTEGERS { &scales[2 * rows.start..] } else { &[] };
                            scale_sums::<I>(isa, columns, scales, sums);
                        }
                        // SAFETY: the strip's rows and columns of C.
                        unsafe { finish.rows(isa, sums, task.rows.start + rows.start) };
                    }
                }
            }
            panel += streams;
        }
    }

    /// Computes one block of C of a few rows: what is dequantized goes to no memory, and several panels are
    /// read side by side.
    ///
    /// # Safety
    /// As [`reduced_block`](Self::reduced_block), with memory for a power of two of rows, and for as many
    /// sums in each of `STREAMS` panels.
    #[inline(always)]
    unsafe fn small_m_block<I: Isa, M: GemmVariant<I>>(
        &self,
        isa: I,
        b: &PackedB,
        variant: M,
        kind: RowQuantization,
        task: &GemmTask,
        memory: Memory<'_>,
    ) {
        let Memory { a: packed_a, scales, sums, .. } = memory;
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        let (m, width, words) = (task.rows.len(), self.width::<I>(), M::words(self.k));
        let (rows, panel_words, layout) = (m.next_power_of_two(), b.panel_words(), b.layout());
        if rows > m {
            packed_a.fill(0.0);
        }
        // SAFETY: `packed_a` and `scales` have room.
        unsafe { pack_rows(isa, variant, kind, (a, rows), words, packed_a, scales) };
        let at_once = panels_at_once::<I>(layout.format, rows);
        let mut panel = task.panels.start;
        while panel < task.panels.end {
            let panels = if panel + at_once <= task.panels.end { at_once } else { 1 };
            for pc in (0..words.max(1)).step_by(KC) {
                let with = SmallM {
                    rows,
                    a: packed_a[pc / KC * rows * A_STRIDE..].as_ptr(),
                    panels,
                    at: Panels {
                        first: b.panels().as_ptr().wrapping_add(panel * panel_words).cast(),
                        stride: panel_words * size_of::<f32>(),
                    },
                    c: sums.as_mut_ptr(),
                    c_strides: [I::NR, rows * I::NR],
                    accumulate: pc > 0,
                    keep: None,
                };
                // SAFETY: the words are the panels' and the rows'.
                unsafe { variant.small_m(isa, layout, pc..words.min(pc + KC), with) };
            }
            for (q, sums) in sums.chunks_exact_mut(rows * I::NR).take(panels).enumerate() {
                let sums = &mut sums[..m * I::NR];
                if let Some(columns) = b.columns(panel + q) {
                    scale_sums::<I>(isa, columns, &[], sums);
                }
                // SAFETY: the task's rows and the panel's columns of C.
                unsafe { self.finish::<I>(task.batch, (panel + q) * width).rows(isa, sums, task.rows.start) };
            }
            panel += panels;
        }
    }
}

/// A task's memory.
struct Memory<'a> {
    /// Packed rows.
    a: &'a mut [f32],
    /// A block of dequantized words.
    dequantized: &'a mut [f32],
    /// The scale and the zero of each row, if it is quantised.
    scales: &'a mut [f32],
    /// Sums of each row, or of several panels for one.
    sums: &'a mut [f32],
}

/// Packs rows of A to slabs of so many rows, and fills them up with zeros.
///
/// # Safety
/// The memory has room for them.
#[inline(always)]
unsafe fn pack_rows<I: Isa, M: GemmVariant<I>>(
    isa: I,
    variant: M,
    kind: RowQuantization,
    (a, rows): (Lhs<'_, 2>, usize),
    words: usize,
    packed: &mut [f32],
    scales: &mut [f32],
) {
    let [m, k] = a.shape();
    let stride = rows * A_STRIDE;
    for i in 0..m {
        let to = Slabs { row: packed.as_mut_ptr().wrapping_add(i * A_STRIDE), stride };
        // SAFETY: row i of every slab.
        unsafe {
            if words > k / M::STEPS {
                for w in (k / M::STEPS / WORDS * WORDS..words).step_by(I::V::LANES) {
                    I::V::splat(isa, 0.0).store_ptr(to.word(w));
                }
            }
            let row_scale = with_rows!(a, v => variant.pack_row(isa, v.at(i), kind, to));
            if M::INTEGERS {
                scales[2 * i] = row_scale.scale;
                scales[2 * i + 1] = f32::from_bits(row_scale.zero.cast_unsigned());
            }
        }
    }
}

/// Sums of int8 become what they stand for: each is corrected by the zero of its row, and multiplied by
/// the scales of its row and of its column; sums of f32, of rows that were not quantised, by the latter.
#[inline(always)]
fn scale_sums<I: Isa>(isa: I, (scales, sums): (&[f32], &[i32]), rows: &[f32], of_rows: &mut [f32]) {
    let lanes = I::V::LANES;
    for (i, row) in of_rows.chunks_exact_mut(I::NR).enumerate() {
        let quantized = (!rows.is_empty()).then(|| (rows[2 * i], rows[2 * i + 1].to_bits()));
        for (j, sum) in row.chunks_exact_mut(lanes).enumerate() {
            let mut v = I::V::load(isa, sum);
            if let Some((scale, zero)) = quantized {
                let column_sums = load_integers(isa, &sums[j * lanes..][..lanes]);
                // Wrapping, like the sums: what they come to fits an i32.
                v = v.sub_bits(column_sums.mul_bits(I::V::splat_bits(isa, zero))).int_to_float();
                v = v * I::V::splat(isa, scale);
            }
            (v * I::V::load(isa, &scales[j * lanes..])).store(sum);
        }
    }
}

/// `LANES` integers.
#[inline(always)]
fn load_integers<I: Isa>(isa: I, from: &[i32]) -> I::V {
    assert!(from.len() >= I::V::LANES);
    // SAFETY: the length was checked, and an i32 is as large as an f32.
    unsafe { I::V::load_ptr(isa, from.as_ptr().cast()) }
}

//! Variants in reduced precision, chosen by the type of A, the format of B and the instruction set.
//!
//! ```text
//! variant      A is packed as     B                                 sums
//! Widened      f32                dequantized to f32 by k-blocks    f32
//! Bf16Pairs    pairs of bf16      as stored                         f32
//! Int8Quads    quads of int8      as stored                         i32
//! I16Pairs     pairs of i16       widened to i16 by k-blocks        i32
//! ```

use super::super::dequantize::{SmallM, small_m, widen_pairs};
use super::super::format::Format;
use super::super::layout::PanelLayout;
use super::super::pack::{rounded, row_vectors};
use super::super::quantize::Quantized;
use crate::element::Element;
use crate::isa::{F32, I16, Isa, K_GROUPS, KC, Microkernel, OuterProduct, Vector};
use crate::lanes::{GROUPS, accumulators, largest, read, total};
use crate::view::View;
use core::ops::Range;
use half::bf16;

/// Scale and zero point of a row of A, as packed.
#[derive(Clone, Copy)]
pub(super) struct RowScale {
    pub scale: f32,
    pub zero: i32,
}

/// Variant of a product in reduced precision: the k-groups of A and B, and the microkernel.
pub(super) trait GemmVariant<I: Isa>: Copy + Send + Sync {
    /// Microkernel of these k-groups.
    type Microkernel: Microkernel<I>;

    /// k-steps in a k-group.
    const STEPS: usize;

    /// True if B is dequantized or widened by k-blocks.
    const DEQUANTIZED: bool;

    /// True if sums are i32.
    const INTEGERS: bool;

    fn microkernel(self) -> Self::Microkernel;

    /// k-groups of `k` k-steps, padded for the microkernel.
    fn k_groups(k: usize) -> usize {
        k.div_ceil(Self::STEPS).next_multiple_of(K_GROUPS)
    }

    /// Packs one row of A to k-groups.
    ///
    /// # Safety
    /// `to` is valid for writes of KC k-groups in each slab.
    unsafe fn pack_row<T: Element>(
        self,
        isa: I,
        row: View<'_, 1, T>,
        kind: RowQuantization,
        to: Slabs,
    ) -> RowScale;

    /// Dequantizes or widens these k-groups of a panel.
    ///
    /// # Safety
    /// The preconditions of [`widen_pairs`] hold.
    #[inline(always)]
    unsafe fn dequantize(self, _: I, _: *const f32, _: Range<usize>, _: *mut f32) {}

    /// True if [`small_m`](Self::small_m) dequantizes, and [`dequantize`](Self::dequantize) does nothing.
    const SMALL_M: bool = false;

    /// Multiplies few rows with panels, dequantized in registers.
    ///
    /// # Safety
    /// The preconditions of [`dequantize::small_m`](super::super::dequantize::small_m) hold.
    #[inline(always)]
    unsafe fn small_m(self, _: I, _: PanelLayout, _: Range<usize>, _: SmallM) {}
}

/// Rounding or quantization of a row of A before the product.
#[derive(Clone, Copy)]
pub(super) enum RowQuantization {
    /// None.
    Exact,
    /// Rounded to the type of the weights.
    Rounded(Format),
    /// Quantized symmetrically, or with a zero point.
    Symmetric,
    ZeroPoint,
}

/// Memory of a packed row of A: KC k-groups in each slab.
#[derive(Clone, Copy)]
pub(super) struct Slabs {
    pub row: *mut f32,
    /// Floats from one slab to the next.
    pub stride: usize,
}

impl Slabs {
    /// Address of k-group `w`.
    #[inline(always)]
    pub fn k_group(self, w: usize) -> *mut f32 {
        self.row.wrapping_add(w / KC * self.stride + w % KC)
    }

    /// Calls `store(address, vector)` for the vectors of a row, where a k-group has `STEPS` k-steps.
    #[inline(always)]
    fn fill<I: Isa, T: Element, const STEPS: usize>(
        self,
        isa: I,
        row: View<'_, 1, T>,
        mut store: impl FnMut(*mut u8, I::V),
    ) {
        let ([k], mut first, mut slab) = (row.shape(), 0, self.row.cast::<u8>());
        // A loop without a division: `step_by` divides in each row, which shows where k is small.
        while first < k {
            let steps = (k - first).min(KC * STEPS);
            row_vectors::<I, T>(
                isa,
                row.slice(0, first..first + steps),
                #[inline(always)]
                |p, v| store(slab.wrapping_add(p * (size_of::<f32>() / STEPS)), v),
            );
            first += steps;
            slab = slab.wrapping_add(self.stride * size_of::<f32>());
        }
    }
}

/// f32 by f32, for weights of any format.
#[derive(Clone, Copy)]
pub(super) struct Widened;

impl<I: Isa> GemmVariant<I> for Widened {
    type Microkernel = OuterProduct<F32>;
    const STEPS: usize = 1;
    const DEQUANTIZED: bool = true;
    const INTEGERS: bool = false;
    const SMALL_M: bool = true;

    #[inline(always)]
    fn microkernel(self) -> OuterProduct<F32> {
        OuterProduct(F32)
    }

    #[inline(always)]
    fn k_groups(k: usize) -> usize {
        k
    }

    #[inline(always)]
    unsafe fn pack_row<T: Element>(
        self,
        isa: I,
        row: View<'_, 1, T>,
        kind: RowQuantization,
        to: Slabs,
    ) -> RowScale {
        // SAFETY: KC k-groups of each slab (precondition of `pack_row`). KC is a multiple of LANES; floats behind the
        // end of the row fall into the gap of the slab.
        unsafe {
            to.fill::<I, T, 1>(
                isa,
                row,
                #[inline(always)]
                |to, v| {
                    let v = match kind {
                        RowQuantization::Rounded(format) => rounded(isa, v, format),
                        _ => v,
                    };
                    v.store_ptr(to.cast());
                },
            );
        }
        RowScale { scale: 1.0, zero: 0 }
    }

    #[inline(always)]
    unsafe fn small_m(self, isa: I, layout: PanelLayout, steps: Range<usize>, with: SmallM) {
        // A function of its own keeps its sums in registers. Inlined into the loops around it, it lost registers to
        // their constants, and sums went to the stack and back.
        isa.run(
            #[inline(always)]
            // SAFETY: the function has the preconditions of this method.
            || unsafe { small_m(isa, layout, steps, with) },
        );
    }
}

/// Pairs of bf16, by the dot instruction or tiles of the CPU.
#[derive(Clone, Copy)]
pub(super) struct Bf16Pairs<M>(pub M);

impl<I: Isa, M: Microkernel<I>> GemmVariant<I> for Bf16Pairs<M> {
    type Microkernel = M;
    const STEPS: usize = 2;
    const DEQUANTIZED: bool = false;
    const INTEGERS: bool = false;

    #[inline(always)]
    fn microkernel(self) -> M {
        self.0
    }

    #[inline(always)]
    unsafe fn pack_row<T: Element>(
        self,
        isa: I,
        row: View<'_, 1, T>,
        _: RowQuantization,
        to: Slabs,
    ) -> RowScale {
        // SAFETY: KC k-groups of each slab (precondition of `pack_row`).
        unsafe {
            to.fill::<I, T, 2>(
                isa,
                row,
                #[inline(always)]
                |to, v| {
                    if T::IS_BF16 {
                        v.shr_bits::<16>().store_u16(to.cast());
                    } else {
                        bf16::store::<I>(isa, v, to.cast());
                    }
                },
            );
        }
        RowScale { scale: 1.0, zero: 0 }
    }
}

/// Least and largest number of a row, in chains that run side by side.
struct Extremes<V> {
    least: [V; GROUPS],
    largest: [V; GROUPS],
    /// NaN if a number of the chain is not finite.
    special: [V; GROUPS],
}

impl<V: Copy> Extremes<V> {
    #[inline(always)]
    fn add<I: Isa<V = V>>(&mut self, isa: I, group: usize, v: V)
    where
        V: Vector<I>,
    {
        self.least[group] = v.min(self.least[group]);
        self.largest[group] = v.max(self.largest[group]);
        self.special[group] = v.mul_add(I::V::splat(isa, 0.0), self.special[group]);
    }
}

/// The quantization of a row.
#[inline(always)]
fn quantized<I: Isa, T: Element>(isa: I, row: View<'_, 1, T>, kind: RowQuantization) -> Quantized {
    let zeros = accumulators(isa, 0.0);
    let mut extremes = Extremes { least: zeros, largest: zeros, special: zeros };
    if row.has_unit_rows() {
        read(
            isa,
            [row.row([0])],
            0.0,
            #[inline(always)]
            |group, [v]| extremes.add(isa, group, v),
        );
    } else {
        row_vectors::<I, T>(
            isa,
            row,
            #[inline(always)]
            |_, v| extremes.add(isa, 0, v),
        );
    }
    for least in &mut extremes.least {
        *least = -*least;
    }
    let (least, largest) = (-largest::<I>(extremes.least), largest::<I>(extremes.largest));
    let special = total::<I>(extremes.special);
    match kind {
        RowQuantization::ZeroPoint => Quantized::of_range(least, largest, special),
        _ => Quantized::of_magnitude(largest.max(-least), special),
    }
}

/// Calls `store(address, vector)` with the int8 of a row plus `offset`, as i32 lanes.
#[inline(always)]
fn quantize_row<I: Isa, T: Element, const STEPS: usize>(
    isa: I,
    row: View<'_, 1, T>,
    kind: RowQuantization,
    offset: i32,
    to: Slabs,
    mut store: impl FnMut(*mut u8, I::V),
) -> RowScale {
    let Quantized { inverse, scale, zero } = quantized::<I, T>(isa, row, kind);
    let inverse = I::V::splat(isa, inverse);
    // The bounds are whole numbers: clamping before rounding and adding the zero point changes nothing.
    let least = I::V::splat(isa, (-128 - zero) as f32);
    let most = I::V::splat(isa, (127 - zero) as f32);
    let zero = zero + offset;
    let added = I::V::splat_bits(isa, zero.cast_unsigned());
    to.fill::<I, T, STEPS>(
        isa,
        row,
        #[inline(always)]
        |to, v| store(to, (v * inverse).max(least).min(most).float_to_int().add_bits(added)),
    );
    RowScale { scale, zero }
}

/// Quads of int8, by the dot instruction or tiles of the CPU.
#[derive(Clone, Copy)]
pub(super) struct Int8Quads<M>(pub M);

/// Offset that makes the rows of A unsigned: u8 = i8 + 128.
const UNSIGNED: i32 = 128;

impl<I: Isa, M: Microkernel<I>> GemmVariant<I> for Int8Quads<M> {
    type Microkernel = M;
    const STEPS: usize = 4;
    const DEQUANTIZED: bool = false;
    const INTEGERS: bool = true;

    #[inline(always)]
    fn microkernel(self) -> M {
        self.0
    }

    #[inline(always)]
    unsafe fn pack_row<T: Element>(
        self,
        isa: I,
        row: View<'_, 1, T>,
        kind: RowQuantization,
        to: Slabs,
    ) -> RowScale {
        let offset = if M::SIGNED { 0 } else { UNSIGNED };
        // SAFETY: KC k-groups of each slab (precondition of `pack_row`).
        unsafe {
            quantize_row::<I, T, 4>(
                isa,
                row,
                kind,
                offset,
                to,
                #[inline(always)]
                |to, q| q.store_u8(to),
            )
        }
    }
}

/// Pairs of i16, for instruction sets without a dot instruction for int8.
#[derive(Clone, Copy)]
pub(super) struct I16Pairs;

impl<I: Isa> GemmVariant<I> for I16Pairs {
    type Microkernel = OuterProduct<I16>;
    const STEPS: usize = 2;
    const DEQUANTIZED: bool = true;
    const INTEGERS: bool = true;

    #[inline(always)]
    fn microkernel(self) -> OuterProduct<I16> {
        OuterProduct(I16)
    }

    #[inline(always)]
    unsafe fn pack_row<T: Element>(
        self,
        isa: I,
        row: View<'_, 1, T>,
        kind: RowQuantization,
        to: Slabs,
    ) -> RowScale {
        // SAFETY: KC k-groups of each slab (precondition of `pack_row`).
        unsafe {
            quantize_row::<I, T, 2>(
                isa,
                row,
                kind,
                0,
                to,
                #[inline(always)]
                |to, q| q.store_u16(to.cast()),
            )
        }
    }

    #[inline(always)]
    unsafe fn dequantize(self, isa: I, panel: *const f32, k_groups: Range<usize>, to: *mut f32) {
        // SAFETY: the panel has the k-groups, and `to` room for them (preconditions of `dequantize`).
        unsafe { widen_pairs(isa, panel.cast(), k_groups, to) }
    }
}

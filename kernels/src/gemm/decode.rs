//! Packed numbers become the words that a tile takes: floats, or pairs of i16.
//!
//! A block of k-steps of a panel is decoded to L1 and then read by all strips of rows, so that many rows
//! cost nothing more than f32 would.

use super::blocks::GROUP;
use super::format::{Format, Layout, Order};
use crate::element::Element;
use crate::isa::{Isa, Vector};
use core::ops::Range;
use half::{bf16, f16};

/// Writes k-steps of a panel to `to` as floats, NR to a step: int8 without its scale.
///
/// # Safety
/// `panel` is a panel of that layout, for `I`, which has the steps; `to` is valid for writes of NR floats
/// for each. Of words and groups, the steps begin with a whole one.
#[inline(always)]
pub(super) unsafe fn decode<I: Isa>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    steps: Range<usize>,
    to: *mut f32,
) {
    let lanes = I::V::LANES;
    let first = steps.start;
    // SAFETY: all of it lies in the panel, and in `to`.
    unsafe {
        match (layout.format, layout.order) {
            (Format::F32, _) => unreachable!("f32 is not decoded"),
            (Format::Bf16, Order::Steps) => each::<I>(
                steps,
                to,
                #[inline(always)]
                |p, j| bf16::load::<I>(isa, at::<I>(panel, p, j, 2).cast()),
            ),
            (Format::F16, _) => each::<I>(
                steps,
                to,
                #[inline(always)]
                |p, j| f16::load::<I>(isa, at::<I>(panel, p, j, 2).cast()),
            ),
            (Format::Int8, Order::Steps) => {
                each::<I>(
                    steps,
                    to,
                    #[inline(always)]
                    |p, j| I::V::load_i8(isa, at::<I>(panel, p, j, 1).cast()).int_to_float(),
                );
            }
            (Format::Bf16, Order::Words(1)) => {
                let high = I::V::splat_bits(isa, 0xffff_0000);
                for p in steps.clone().step_by(2) {
                    for j in (0..I::NR).step_by(lanes) {
                        let word = I::V::load_ptr(isa, at::<I>(panel, p / 2, j, 4).cast());
                        let to = to.add((p - first) * I::NR + j);
                        word.shl_bits::<16>().store_ptr(to);
                        if p + 1 < steps.end {
                            word.and_bits(high).store_ptr(to.add(I::NR));
                        }
                    }
                }
            }
            (Format::Int8, Order::Words(1)) => {
                for p in steps.clone().step_by(4) {
                    for j in (0..I::NR).step_by(lanes) {
                        let mut word = I::V::load_ptr(isa, at::<I>(panel, p / 4, j, 4).cast());
                        for i in 0..4.min(steps.end - p) {
                            low_byte(isa, word).store_ptr(to.add((p + i - first) * I::NR + j));
                            word = word.shr_bits::<8>();
                        }
                    }
                }
            }
            (Format::Bf16 | Format::Int8, Order::Words(_)) => {
                let panel = core::slice::from_raw_parts(panel, layout.panel_bytes(steps.end));
                for p in steps {
                    for j in 0..I::NR {
                        *to.add((p - first) * I::NR + j) = layout.read(panel, p, j);
                    }
                }
            }
            (Format::Q8_0 | Format::Q4_0 | Format::Q4_1, _) => {
                for p in steps.clone().step_by(GROUP) {
                    let group = panel.add(p / GROUP * layout.group_bytes());
                    let steps = GROUP.min(steps.end - p);
                    decode_group(isa, layout.format, group, steps, to.add((p - first) * I::NR));
                }
            }
        }
    }
}

/// Where the number of k-step `p` and column `j` stands among numbers of `size` bytes.
#[inline(always)]
fn at<I: Isa>(panel: *const u8, p: usize, j: usize, size: usize) -> *const u8 {
    panel.wrapping_add((p * I::NR + j) * size)
}

/// The lowest bytes of words, signed, as floats.
#[inline(always)]
fn low_byte<I: Isa>(isa: I, words: I::V) -> I::V {
    let biased = words.and_bits(I::V::splat_bits(isa, 0xff)).xor_bits(I::V::splat_bits(isa, 0x80));
    biased.int_to_float() - I::V::splat(isa, 128.0)
}

/// `to[p][j] = f(p, j)` for each vector.
///
/// # Safety
/// `to` is valid for writes of NR floats for each step.
#[inline(always)]
unsafe fn each<I: Isa>(steps: Range<usize>, to: *mut f32, f: impl Fn(usize, usize) -> I::V) {
    for (i, p) in steps.enumerate() {
        for j in (0..I::NR).step_by(I::V::LANES) {
            // SAFETY: a vector of step i.
            unsafe { f(p, j).store_ptr(to.add(i * I::NR + j)) };
        }
    }
}

/// The first `steps` k-steps of a group.
///
/// # Safety
/// A whole group stands at `group`; `to` is valid for writes of NR floats for each step.
#[inline(always)]
unsafe fn decode_group<I: Isa>(isa: I, format: Format, group: *const u8, steps: usize, to: *mut f32) {
    let halves = if format == Format::Q4_1 { 2 } else { 1 };
    // SAFETY: all of it lies in the group, and in `to`.
    unsafe {
        let numbers = group.add(2 * halves * I::NR);
        for j in (0..I::NR).step_by(I::V::LANES) {
            let scale = f16::load::<I>(isa, group.cast::<f16>().add(j));
            let min = match format {
                Format::Q4_1 => f16::load::<I>(isa, group.cast::<f16>().add(I::NR + j)),
                _ => I::V::splat(isa, 0.0),
            };
            if format == Format::Q8_0 {
                for p in 0..steps {
                    let q = I::V::load_i8(isa, numbers.add(p * I::NR + j).cast()).int_to_float();
                    (scale * q).store_ptr(to.add(p * I::NR + j));
                }
                continue;
            }
            let (four, eight) = (I::V::splat_bits(isa, 15), I::V::splat(isa, 8.0));
            for first in (0..steps).step_by(8) {
                let mut word = I::V::load_ptr(isa, numbers.cast::<f32>().add(first / 8 * I::NR + j));
                for p in first..steps.min(first + 8) {
                    let q = word.and_bits(four).int_to_float();
                    // A product of 15 bits is exact: only the sum rounds, fused or not.
                    let number = match format {
                        Format::Q4_1 => scale.mul_add(q, min),
                        _ => scale * (q - eight),
                    };
                    number.store_ptr(to.add(p * I::NR + j));
                    word = word.shr_bits::<4>();
                }
            }
        }
    }
}

/// Writes k-steps of a panel of int8 to `to` as words: pairs of i16, NR words to a pair.
///
/// # Safety
/// As [`decode`]; the order is that of k-steps, and there are as many as words.
#[inline(always)]
pub(super) unsafe fn decode_pairs<I: Isa>(isa: I, panel: *const i8, words: Range<usize>, to: *mut f32) {
    let low = I::V::splat_bits(isa, 0xffff);
    // SAFETY: two steps of the panel, and a word of `to`, for each vector.
    unsafe {
        each::<I>(
            words,
            to,
            #[inline(always)]
            |word, j| {
                let at = panel.add(2 * word * I::NR + j);
                let (first, second) = (I::V::load_i8(isa, at), I::V::load_i8(isa, at.add(I::NR)));
                first.and_bits(low).or_bits(second.shl_bits::<16>())
            },
        );
    }
}

//! One row by several panels: the time goes into reading these.

use super::super::dequantize::Panels;
use super::super::format::Format;
use super::super::layout::PanelLayout;
use super::variant::GroupVariant;
use crate::isa::LINE;
use crate::isa::{Isa, Vector};

/// Bytes ahead of what it multiplies that [`row`] prefetches of each panel: two groups of int8 at 32 columns,
/// twice what a row of f32 has ahead, for less is read in the time of a group. Twice as far is no better.
const AHEAD: usize = 2048;

/// d and m of a group of B, for all columns.
#[derive(Clone, Copy)]
struct Scales<V, const N: usize> {
    format: Format,
    d: [V; N],
    m: [V; N],
}

impl<V: Copy, const N: usize> Scales<V, N> {
    /// Those of a group.
    ///
    /// # Safety
    /// A group of that layout stands at `group`.
    #[inline(always)]
    unsafe fn load<I: Isa<V = V>>(isa: I, layout: PanelLayout, group: *const u8) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let group = Panels::one(group);
            let d = group.f16s::<I, N>(isa, 0);
            let m = match layout.format {
                Format::Q4_1 => group.f16s::<I, N>(isa, 1),
                _ => d,
            };
            Self { format: layout.format, d, m }
        }
    }

    /// acc + s (d I + m S), of the vectors of a group.
    #[inline(always)]
    fn add<I: Isa<V = V>>(&self, isa: I, [scale, sum]: [f32; 2], integers: [V; N], acc: &mut [V; N])
    where
        V: Vector<I>,
    {
        let eight = I::V::splat(isa, 8.0 * sum);
        let (scale, sum) = (I::V::splat(isa, scale), I::V::splat(isa, sum));
        for j in 0..N {
            let of_group = match self.format {
                Format::Q8_0 => self.d[j] * integers[j],
                Format::Q4_0 => self.d[j] * (integers[j] - eight),
                _ => self.d[j].mul_add(integers[j], self.m[j] * sum),
            };
            acc[j] = scale.mul_add(of_group, acc[j]);
        }
    }
}

/// Multiplies a row with `S` panels side by side, whose sums, NR each, follow each other; `of_row` has the
/// scale and the sum of each of its groups, `k-groups` says where a group's k-groups are.
///
/// # Safety
/// The k-groups are signed; as many panels of that layout stand at `panels`, so many bytes apart, and have
/// `N` vectors.
#[inline(always)]
pub(super) unsafe fn row<I: Isa, W: GroupVariant<I>, const N: usize, const S: usize>(
    isa: I,
    variant: W,
    layout: PanelLayout,
    of_row: &[f32],
    k_groups: impl Fn(usize) -> *const f32,
    (panels, stride): (*const u8, usize),
    sums: &mut [f32],
) {
    let mut acc = [[I::V::splat(isa, 0.0); N]; S];
    for (g, of_row) in of_row.as_chunks().0.iter().enumerate() {
        for (q, acc) in acc.iter_mut().enumerate() {
            let group = panels.wrapping_add(q * stride + g * layout.group_bytes());
            for line in (0..layout.group_bytes()).step_by(LINE) {
                isa.prefetch(group.wrapping_add(AHEAD + line).cast());
            }
            // SAFETY: group g of the row and of panel q.
            unsafe {
                let integers = variant.row::<N>(isa, group, k_groups(g), of_row[1]);
                Scales::<_, N>::load(isa, layout, group).add(isa, *of_row, integers, acc);
            }
        }
    }
    for (v, sum) in acc.as_flattened().iter().zip(sums.chunks_exact_mut(I::V::LANES)) {
        v.store(sum);
    }
}

//! GEMV with weights in groups: one row by several panels. The time goes into reading the panels.

use super::super::dequantize::Panels;
use super::super::format::Format;
use super::super::layout::PanelLayout;
use super::variant::GroupVariant;
use crate::isa::LINE;
use crate::isa::{Isa, Vector};

/// Prefetch distance of [`row`] in each panel, in bytes: two groups of int8 of 32 columns.
///
/// It is twice the distance of GEMV in f32, because each group takes longer to multiply. Twice as far is no
/// better.
const AHEAD: usize = 2048;

/// Scales d and minima m of a group of B, for all columns.
#[derive(Clone, Copy)]
struct Scales<V, const N: usize> {
    format: Format,
    d: [V; N],
    m: [V; N],
}

impl<V: Copy, const N: usize> Scales<V, N> {
    /// Loads the scales and minima of a group.
    ///
    /// # Safety
    /// A group of this layout, of `N` vectors, stands at `group`.
    #[inline(always)]
    unsafe fn load<I: Isa<V = V>>(isa: I, layout: PanelLayout, group: *const u8) -> Self {
        // SAFETY: a group of this layout stands at `group` (precondition of `load`).
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

    /// acc += s (d I + m S) for the vectors of a group; q4_0 stores q + 8, so 8 S is subtracted from I.
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

/// Multiplies a row with `S` panels side by side. `sums` receives NR sums of each panel. `of_row` has the
/// scale and the sum of each group of the row, and `k-groups` says where a group's k-groups are.
///
/// # Safety
/// - the row's k-groups are signed;
/// - `S` panels of this layout, of `N` vectors each, stand at `panels`, `stride` bytes apart.
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
            // SAFETY: group g of the row and of panel q < S (preconditions of `row`).
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

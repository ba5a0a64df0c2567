//! Keys on their way to panels: rows of k-groups first, which are then transposed.

use crate::element::Element;
use crate::gemm::pack_panels;
use crate::isa::{Isa, K_GROUPS};
use crate::view::View;

/// K-groups of a row that are staged at once, and floats between the rows: not a power of two.
const STAGED_K_GROUPS: usize = 256;
const STAGED_STRIDE: usize = STAGED_K_GROUPS + K_GROUPS;

/// Floats that staging a panel takes.
pub(super) const fn staged<I: Isa>() -> usize {
    I::NR * STAGED_STRIDE
}

/// Packs keys, of whose rows `stage(row, p, k-groups)` writes the k-groups from p on, by way of rows of k-groups.
#[inline(always)]
pub(super) fn pack_staged<I: Isa, T: Element>(
    isa: I,
    keys: View<'_, 2, T>,
    [k_groups, depth]: [usize; 2],
    panels: (&mut [f32], usize),
    memory: &mut [f32],
    stage: impl Fn(&[T], usize, &mut [f32]),
) {
    let n = keys.shape()[0];
    let (panels, panel_len) = panels;
    for (panel, first) in (0..n).step_by(I::NR).enumerate() {
        let rows = I::NR.min(n - first);
        for p in (0..k_groups).step_by(STAGED_K_GROUPS) {
            let len = STAGED_K_GROUPS.min(k_groups - p);
            for row in 0..rows {
                stage(keys.row([first + row, 0]), p, &mut memory[row * STAGED_STRIDE..][..len]);
            }
            let to = &mut panels[panel * panel_len + p * I::NR..];
            if depth == 1 {
                let staged = View::with_strides(memory, [rows, len], [STAGED_STRIDE, 1]);
                let staged = staged.expect("the memory has room");
                pack_panels(isa, staged.transpose(), to, len * I::NR);
                continue;
            }
            to[..len * I::NR].fill(0.0);
            for (row, k_group) in (0..rows).flat_map(|row| (0..len).map(move |k_group| (row, k_group))) {
                to[place(I::NR, k_group, row, depth)] = memory[row * STAGED_STRIDE + k_group];
            }
        }
    }
}

/// Where a k-group of a column stands in a panel of `nr` columns.
#[inline(always)]
pub(super) fn place(nr: usize, k_group: usize, column: usize, depth: usize) -> usize {
    (k_group / depth * nr + column) * depth + k_group % depth
}

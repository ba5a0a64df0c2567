//! Staging of keys on their way to panels: conversion to rows of k-groups, then their transpose.

use crate::element::Element;
use crate::gemm::pack_panels;
use crate::isa::{Isa, K_GROUPS};
use crate::view::View;

/// K-groups of a row that are staged at once.
const STAGED_K_GROUPS: usize = 256;

/// Floats from staged row to staged row: not a power of two, so that rows spread over the sets of the cache.
const STAGED_STRIDE: usize = STAGED_K_GROUPS + K_GROUPS;

/// Floats of working memory to stage a panel.
pub(super) const fn staged<I: Isa>() -> usize {
    I::NR * STAGED_STRIDE
}

/// Packs keys by way of rows of k-groups: `stage(row, p, to)` writes the k-groups of a row from p on to `to`.
///
/// `depth` is [`Microkernel::depth`](crate::isa::Microkernel::depth).
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

/// Index of a k-group of a column in a panel of `nr` columns.
#[inline(always)]
pub(super) fn place(nr: usize, k_group: usize, column: usize, depth: usize) -> usize {
    (k_group / depth * nr + column) * depth + k_group % depth
}

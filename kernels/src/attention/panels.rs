//! Panels of a cache: the place of each element, and the packing of appended tokens.
//!
//! ```text
//! one head    K^T panels            V panels of block 0, of block 1, ..
//!             +----+----+- .. -+    +----+----+   +----+----+
//!             | NR keys each,  |    | NR columns each, all  |
//!             | dk long        |    | keys of a block long  |
//!             +----+----+- .. -+    +----+----+   +----+----+
//! ```
//!
//! An [`AttentionVariant`] makes the k-groups and puts them where it would put those of a block. A k-group of keys
//! holds elements of one key. A k-group of values may hold elements of two keys, so an appended token writes only its
//! half. The values behind the last token, up to the end of its group, are zeros, as [`AttentionVariant::pack_values`]
//! leaves them: products multiply them with weights of 0. Other memory behind the last token is never used.

use super::blocks::BLOCK_KEYS;
use super::stage::{place, staged};
use super::variant::{AttentionVariant, with_variant};
use crate::backend::Kernel;
use crate::isa::{Isa, Microkernel, Vector};
use crate::view::{AnyView, with_any};
use core::ops::Range;

/// Layout of a cache's panels, which depends on the backend, the precision and dk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PanelFormat {
    /// True if elements are rounded to bf16.
    pub bf16: bool,
    /// Columns of a panel.
    pub nr: usize,
    /// [`AttentionVariant::ELEMENTS`].
    pub elements: usize,
    /// K-groups of a key.
    pub key_k_groups: usize,
    /// Distance between the keys whose values share a k-group: lanes of a vector.
    lanes: usize,
    /// [`Microkernel::depth`].
    depth: usize,
    /// Keys whose values are multiplied together: a power of two.
    pub group: usize,
}

/// Query for the panel format of a backend.
pub(super) struct FormatQuery {
    pub bf16: bool,
    pub dk: usize,
}

impl Kernel for FormatQuery {
    type Output = PanelFormat;

    crate::backend::compile_here!();

    /// The plain layout: keys row by row, values column by column, one element in each k-group.
    fn reference(self) -> PanelFormat {
        let Self { bf16, dk } = self;
        PanelFormat { bf16, nr: 1, elements: 1, key_k_groups: dk, lanes: 1, depth: 1, group: 1 }
    }

    fn eval<I: Isa>(self, isa: I) -> PanelFormat {
        PanelFormat::of(isa, self.bf16, self.dk)
    }
}

impl PanelFormat {
    /// Format of an instruction set, for keys of `dk` elements.
    pub fn of<I: Isa>(isa: I, bf16: bool, dk: usize) -> Self {
        fn of<I: Isa, M: AttentionVariant<I>>(variant: M, bf16: bool, dk: usize) -> PanelFormat {
            PanelFormat {
                bf16,
                nr: I::NR,
                elements: M::ELEMENTS,
                key_k_groups: M::k_groups(dk),
                lanes: I::V::LANES,
                depth: variant.microkernel().depth(),
                group: group::<I, M>(),
            }
        }
        with_variant!(isa, bf16, variant => of::<I, _>(variant, bf16, dk))
    }

    /// K-group of element `d` of a key in the panels of its head, and the element's index in that k-group.
    pub fn key(&self, key: usize, d: usize) -> (usize, usize) {
        let (k_group, column) = (d / self.elements, key % self.nr);
        let panel = key / self.nr * self.key_k_groups * self.nr;
        (panel + place(self.nr, k_group, column, self.depth), d % self.elements)
    }

    /// K-group of element `d` of the value of a key in the panels of its block, which are `panel_len` k-groups apart,
    /// and the element's index in that k-group.
    pub fn value(&self, key: usize, d: usize, panel_len: usize) -> (usize, usize) {
        let k_group = key / (self.elements * self.lanes) * self.lanes + key % self.lanes;
        let at = d / self.nr * panel_len + place(self.nr, k_group, d % self.nr, self.depth);
        (at, key / self.lanes % self.elements)
    }

    /// Element `half` of a k-group.
    pub fn get(&self, k_group: f32, half: usize) -> f32 {
        match (self.elements, half) {
            (1, _) => k_group,
            (_, 0) => f32::from_bits(k_group.to_bits() << 16),
            _ => f32::from_bits(k_group.to_bits() & 0xffff_0000),
        }
    }

    /// The k-group with its element `half` set to 0.
    pub fn without(&self, k_group: f32, half: usize) -> f32 {
        match (self.elements, half) {
            (1, _) => 0.0,
            (_, 0) => f32::from_bits(k_group.to_bits() & 0xffff_0000),
            _ => f32::from_bits(k_group.to_bits() & 0xffff),
        }
    }
}

/// Keys whose values are packed together.
fn group<I: Isa, M: AttentionVariant<I>>() -> usize {
    M::summed(&(0..1)).len()
}

/// Floats of working memory for [`append`].
pub(super) fn append_len<I: Isa>(format: &PanelFormat) -> usize {
    staged::<I>().max(format.key_k_groups)
}

/// Appends tokens to the `len` tokens in the panels of a head. Value panels have room for `block_keys` keys.
#[inline(always)]
pub(super) fn append<I: Isa, M: AttentionVariant<I>>(
    isa: I,
    variant: M,
    [k, v]: [AnyView<'_, 2>; 2],
    len: usize,
    (keys, values, block_keys): (&mut [f32], &mut [f32], usize),
    memory: &mut [f32],
) {
    let [tokens, dk] = k.shape();
    let k_groups = M::k_groups(dk);
    let depth = variant.microkernel().depth();
    // Tokens fill a panel or group that has begun one by one; the others are packed like those of a block.
    let begun = tokens.min(len.next_multiple_of(I::NR) - len);
    for token in 0..begun {
        let row = &mut memory[..k_groups];
        with_any!(k, k => variant.pack_row(isa, k.row([token, 0]), row));
        let panel = &mut keys[(len + token) / I::NR * k_groups * I::NR..][..k_groups * I::NR];
        for (k_group, x) in row.iter().enumerate() {
            panel[place(I::NR, k_group, (len + token) % I::NR, depth)] = *x;
        }
    }
    if begun < tokens {
        let panels = &mut keys[(len + begun) / I::NR * k_groups * I::NR..];
        variant.pack_keys(isa, k.slice(0, begun..tokens), panels, k_groups * I::NR, memory);
    }
    let panel_len = block_keys / M::ELEMENTS * I::NR;
    let block_len = panel_len * v.shape()[1].div_ceil(I::NR);
    let begun = tokens.min(len.next_multiple_of(group::<I, M>()) - len);
    for token in 0..begun {
        let key = len + token;
        let panels = (&mut values[key / BLOCK_KEYS * block_len..][..block_len], panel_len);
        with_any!(v, v => variant.put_value(isa, v.row([token, 0]), key % BLOCK_KEYS, panels));
    }
    let mut next = begun;
    while next < tokens {
        let key = len + next;
        let end = tokens.min(next + BLOCK_KEYS - key % BLOCK_KEYS);
        let block = &mut values[key / BLOCK_KEYS * block_len..][..block_len];
        let skipped = key % BLOCK_KEYS / M::ELEMENTS * I::NR;
        let of: Range<usize> = key % BLOCK_KEYS..key % BLOCK_KEYS + end - next;
        // A block of values without columns is empty.
        let panels = block.get_mut(skipped..).unwrap_or_default();
        variant.pack_values(isa, v.slice(0, next..end), of, (panels, panel_len));
        next = end;
    }
}

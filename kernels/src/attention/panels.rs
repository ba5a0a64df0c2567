//! Where numbers stand in the panels of a cache, and how tokens get there.
//!
//! ```text
//! of a head   K^T panels            V panels of block 0, of block 1, ..
//!             +----+----+- .. -+    +----+----+   +----+----+
//!             | NR keys each,  |    | NR columns each, all  |
//!             | dk long        |    | keys of a block long  |
//!             +----+----+- .. -+    +----+----+   +----+----+
//! ```
//!
//! K-groups are those that a [`AttentionVariant`] makes, at the places where it puts them for a block. A k-group of keys
//! holds numbers of one key, but one of values may hold those of two: a token that is appended writes only
//! its half. Behind the last token, the rest of its group of values is zeros, as
//! [`AttentionVariant::pack_values`] leaves it: these are multiplied, with weights of 0. Nothing else there is ever
//! used, whatever it holds.

use super::blocks::BLOCK_KEYS;
use super::stage::{place, staged};
use super::variant::{AttentionVariant, with_variant};
use crate::backend::Kernel;
use crate::isa::{Isa, Microkernel, Vector};
use crate::view::{AnyView, with_any};
use core::ops::Range;

/// The k-groups of an instruction set, and the sizes of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PanelFormat {
    /// True if numbers are rounded to bf16.
    pub bf16: bool,
    /// Columns of a panel.
    pub nr: usize,
    /// [`AttentionVariant::ELEMENTS`].
    pub numbers: usize,
    /// K-groups of a key.
    pub key_k_groups: usize,
    /// Keys whose values share k-groups are as far apart.
    lanes: usize,
    /// [`Microkernel::depth`].
    depth: usize,
    /// Keys that are multiplied together: a power of two.
    pub group: usize,
}

/// Asks a backend for its format.
pub(super) struct FormatQuery {
    pub bf16: bool,
    pub dk: usize,
}

impl Kernel for FormatQuery {
    type Output = PanelFormat;

    crate::backend::compile_here!();

    /// Rows of keys, columns of values.
    fn reference(self) -> PanelFormat {
        let Self { bf16, dk } = self;
        PanelFormat { bf16, nr: 1, numbers: 1, key_k_groups: dk, lanes: 1, depth: 1, group: 1 }
    }

    fn eval<I: Isa>(self, isa: I) -> PanelFormat {
        PanelFormat::of(isa, self.bf16, self.dk)
    }
}

impl PanelFormat {
    /// That of an instruction set, of keys of `dk` numbers.
    pub fn of<I: Isa>(isa: I, bf16: bool, dk: usize) -> Self {
        fn of<I: Isa, M: AttentionVariant<I>>(variant: M, bf16: bool, dk: usize) -> PanelFormat {
            PanelFormat {
                bf16,
                nr: I::NR,
                numbers: M::ELEMENTS,
                key_k_groups: M::k_groups(dk),
                lanes: I::V::LANES,
                depth: variant.microkernel().depth(),
                group: group::<I, M>(),
            }
        }
        with_variant!(isa, bf16, variant => of::<I, _>(variant, bf16, dk))
    }

    /// The k-group of number `d` of a key in its head's panels, and which of the k-group's numbers it is.
    pub fn key(&self, key: usize, d: usize) -> (usize, usize) {
        let (k_group, column) = (d / self.numbers, key % self.nr);
        let panel = key / self.nr * self.key_k_groups * self.nr;
        (panel + place(self.nr, k_group, column, self.depth), d % self.numbers)
    }

    /// The k-group of number `d` of the value of a key in its block's panels, `panel_len` k-groups apart, and
    /// which of the k-group's numbers it is.
    pub fn value(&self, key: usize, d: usize, panel_len: usize) -> (usize, usize) {
        let k_group = key / (self.numbers * self.lanes) * self.lanes + key % self.lanes;
        let at = d / self.nr * panel_len + place(self.nr, k_group, d % self.nr, self.depth);
        (at, key / self.lanes % self.numbers)
    }

    /// Number `half` of a k-group.
    pub fn get(&self, k_group: f32, half: usize) -> f32 {
        match (self.numbers, half) {
            (1, _) => k_group,
            (_, 0) => f32::from_bits(k_group.to_bits() << 16),
            _ => f32::from_bits(k_group.to_bits() & 0xffff_0000),
        }
    }

    /// A k-group whose number `half` is 0.
    pub fn without(&self, k_group: f32, half: usize) -> f32 {
        match (self.numbers, half) {
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

/// Floats of memory that [`append`] takes.
pub(super) fn append_len<I: Isa>(format: &PanelFormat) -> usize {
    staged::<I>().max(format.key_k_groups)
}

/// Appends tokens to the `len` that the panels of a head have. Those of values are of `block_keys` keys.
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
    // Panels and groups that have been begun are filled one by one, and others packed as a block's are.
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
        // Without columns there is nothing to skip.
        let panels = block.get_mut(skipped..).unwrap_or_default();
        variant.pack_values(isa, v.slice(0, next..end), of, (panels, panel_len));
        next = end;
    }
}

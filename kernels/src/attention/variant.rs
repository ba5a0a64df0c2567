//! How the numbers of a block become k-groups that a tile multiplies.
//!
//! ```text
//! variant   k-groups             queries         scores        weights
//! Floats   one f32           times scale     as they are   exp(s - m)
//! Pairs    two of bf16       as they are     times scale   exp(s - m), rounded to bf16
//! ```
//!
//! Pairs along the dimensions of a head are neighbours. Those along keys are of keys as far from each
//! other as a vector has lanes, so that two vectors of weights become one of k-groups lane by lane, on any
//! instruction set:
//!
//! ```text
//! keys      0 .. L-1 | L .. 2L-1          k-groups     0 .. L-1: (key 0, key L), (key 1, key L+1), ..
//! ```
//!
//! Sums of weights are of what is not yet rounded: so they, and the log-sum-exp, are as exact as those
//! of f32, and a weight's rounding, at most 2^-8 of it, is all that an output gains in error.

mod floats;
mod pairs;

use crate::element::Element;
use crate::isa::{Isa, Microkernel};
use crate::view::AnyView;
use core::f32::consts::LOG2_E;
use core::ops::Range;
pub(super) use floats::Floats;
pub(super) use pairs::Pairs;

/// A way to compute a block. A row of its scores, in memory, is of BLOCK_KEYS floats.
pub(super) trait AttentionVariant<I: Isa>: Copy + Send + Sync {
    /// Microkernel of the k-groups.
    type Microkernel: Microkernel<I>;

    /// Numbers in a k-group.
    const ELEMENTS: usize;

    /// True if scores are still to be multiplied by the scale.
    const SCALES_SCORES: bool;

    fn microkernel(self) -> Self::Microkernel;

    /// K-groups of `n` numbers.
    fn k_groups(n: usize) -> usize;

    /// The least range that holds all of `keys`, not none, and whose scores become weights at once.
    fn whole(keys: &Range<usize>) -> Range<usize>;

    /// The least range that holds all of `keys` and that a tile sums over.
    fn summed(keys: &Range<usize>) -> Range<usize>;

    /// Packs a part of a query to as many k-groups.
    fn pack_query<T: Element>(self, isa: I, query: &[T], scale: f32, to: &mut [f32]);

    /// Packs a part of a key to as many k-groups.
    fn pack_row<T: Element>(self, isa: I, row: &[T], to: &mut [f32]);

    /// Packs keys to panels, `panel_len` floats apart. `memory` has [`staged`](super::stage::staged) floats.
    fn pack_keys(
        self,
        isa: I,
        keys: AnyView<'_, 2>,
        panels: &mut [f32],
        panel_len: usize,
        memory: &mut [f32],
    );

    /// Packs the values of the keys `keys` to panels; `panels` is their memory and the floats between two. It fills all that
    /// [`summed`](Self::summed) makes of `keys`, with zeros for other keys.
    fn pack_values(self, isa: I, values: AnyView<'_, 2>, keys: Range<usize>, panels: (&mut [f32], usize));

    /// Writes the value of one key, counted from the panels' first, and leaves those of the others.
    fn put_value<T: Element>(self, isa: I, value: &[T], key: usize, panels: (&mut [f32], usize));

    /// The largest score of a row's `whole` keys, NaN aside; each is multiplied by `factor` first.
    fn largest(self, isa: I, row: &[f32], whole: Range<usize>, factor: f32) -> f32;

    /// Turns scores of a row's `whole` keys into k-groups of weights, in place, and returns the sum of
    /// weights. `max` is what [`largest`](Self::largest) returned, and becomes the natural one.
    fn weigh(self, isa: I, row: &mut [f32], whole: Range<usize>, max: &mut f32, factor: f32) -> f32;

    /// True if these k-groups of all panels of values are finite; `panels` is their memory and the floats between two.
    fn all_finite(self, isa: I, panels: (&[f32], usize), k_groups: Range<usize>) -> bool;

    /// Copies `from`, k-groups of a panel of values from the key `first` on, with zeros for the values of
    /// keys that are not `seen`.
    fn mask_values(self, isa: I, from: &[f32], first: usize, seen: impl Fn(usize) -> bool, to: &mut [f32]);
}

/// Runs an expression with the variant of an instruction set for bf16, or for f32.
macro_rules! with_variant {
    ($isa:expr, $bf16:expr, $variant:ident => $body:expr) => {
        match $isa.bf16() {
            Some(microkernel) if $bf16 => {
                let $variant = $crate::attention::variant::Pairs(microkernel);
                $body
            }
            _ => {
                let $variant = $crate::attention::variant::Floats { rounded: $bf16 };
                $body
            }
        }
    };
}
pub(super) use with_variant;

/// Factor of unscaled scores, so that powers of two are their exponentials.
#[inline(always)]
pub(super) fn factor(scale: f32) -> f32 {
    scale * LOG2_E
}

/// The least whole groups of `n` that hold all of `keys`; none for none.
#[inline(always)]
fn whole_groups(keys: &Range<usize>, n: usize) -> Range<usize> {
    if keys.is_empty() { keys.clone() } else { keys.start / n * n..keys.end.next_multiple_of(n) }
}

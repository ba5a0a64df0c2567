//! Variants of both products: the k-groups that a microkernel multiplies, and the softmax between.
//!
//! ```text
//! variant   k-group        queries          scores            weights
//! Floats    one f32        times scale      as computed       exp(s - m)
//! Pairs     two bf16       as stored        times scale       exp(s - m), rounded to bf16
//! ```
//!
//! A pair along dk holds two neighbours. A pair along keys holds two keys whose distance is the number of lanes L of
//! a vector: two vectors of weights then become one vector of k-groups lane by lane, on any instruction set.
//!
//! ```text
//! keys      0 .. L-1 | L .. 2L-1          k-groups     0 .. L-1: (key 0, key L), (key 1, key L+1), ..
//! ```
//!
//! The sum of weights takes them before they are rounded. The rounding of a weight, at most 2^-8 of it, therefore
//! changes outputs but not the log-sum-exp.

mod floats;
mod pairs;

use super::dropout::WeightLanes;
use crate::element::Element;
use crate::isa::{Isa, Microkernel};
use crate::view::AnyView;
use core::f32::consts::LOG2_E;
use core::ops::Range;
pub(super) use floats::{Floats, widened};
pub(super) use pairs::Pairs;

/// Packing and softmax of a block for the k-groups of one microkernel. A row of scores is BLOCK_KEYS floats.
pub(super) trait AttentionVariant<I: Isa>: Copy + Send + Sync {
    /// Type of the microkernel.
    type Microkernel: Microkernel<I>;

    /// Elements of a k-group.
    const ELEMENTS: usize;

    /// True if the scale multiplies scores; false if it multiplies queries.
    const SCALES_SCORES: bool;

    fn microkernel(self) -> Self::Microkernel;

    /// K-groups that hold `n` elements.
    fn k_groups(n: usize) -> usize;

    /// Least range of whole vectors of k-groups that holds `keys`; its scores become weights together.
    fn whole(keys: &Range<usize>) -> Range<usize>;

    /// Least range that holds `keys` and that the product with V can sum over.
    fn summed(keys: &Range<usize>) -> Range<usize>;

    /// Packs elements of a query to their k-groups, times `scale` unless scores are scaled.
    fn pack_query<T: Element>(self, isa: I, query: &[T], scale: f32, to: &mut [f32]);

    /// Packs elements of a key to their k-groups.
    fn pack_row<T: Element>(self, isa: I, row: &[T], to: &mut [f32]);

    /// Packs keys to panels, `panel_len` floats apart. `memory` holds [`staged`](super::stage::staged) floats.
    fn pack_keys(
        self,
        isa: I,
        keys: AnyView<'_, 2>,
        panels: &mut [f32],
        panel_len: usize,
        memory: &mut [f32],
    );

    /// Packs the values of the keys `keys` to `panels`: their memory, and the floats from panel to panel. Fills the
    /// range [`summed`](Self::summed) of `keys`, with zeros for other keys.
    fn pack_values(self, isa: I, values: AnyView<'_, 2>, keys: Range<usize>, panels: (&mut [f32], usize));

    /// Writes the value of one key, counted from the first of the panels, and keeps the values of other keys.
    fn put_value<T: Element>(self, isa: I, value: &[T], key: usize, panels: (&mut [f32], usize));

    /// Largest score of the keys `whole` of a row, NaN aside. `Pairs` multiplies each by `factor` first.
    fn largest(self, isa: I, row: &[f32], whole: Range<usize>, factor: f32) -> f32;

    /// Replaces the scores of the keys `whole` of a row by k-groups of weights, and returns the sum of weights.
    /// `max` holds the result of [`largest`](Self::largest), and then m, the largest score in natural units.
    fn weigh(self, isa: I, row: &mut [f32], whole: Range<usize>, max: &mut f32, factor: f32) -> f32;

    /// Replaces the weights of the keys `whole` of a row by 0, unless `bits`, the bits of the row's keys, keep them.
    fn drop(self, isa: I, row: &mut [f32], whole: Range<usize>, bits: &[f32], lanes: &WeightLanes<I>);

    /// True if these k-groups of all value panels are finite. `panels` is their memory, and the floats from panel to
    /// panel.
    fn all_finite(self, isa: I, panels: (&[f32], usize), k_groups: Range<usize>) -> bool;

    /// Copies `from`, the k-groups of a value panel from key `first` on, with zeros for keys that are not `seen`.
    fn mask_values(self, isa: I, from: &[f32], first: usize, seen: impl Fn(usize) -> bool, to: &mut [f32]);
}

/// Runs an expression with the variant for bf16 or f32 that an instruction set has.
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

/// Factor that takes unscaled scores to base 2: exp(scale s) = 2^(factor s).
#[inline(always)]
pub(super) fn factor(scale: f32) -> f32 {
    scale * LOG2_E
}

/// Least range of whole groups of `n` keys that holds `keys`; empty if `keys` is.
#[inline(always)]
pub(super) fn whole_groups(keys: &Range<usize>, n: usize) -> Range<usize> {
    if keys.is_empty() { keys.clone() } else { keys.start / n * n..keys.end.next_multiple_of(n) }
}

//! Dropout of attention weights: the element of [`DropoutMask`] that each weight is.
//!
//! ```text
//! row = sequence * heads + head      column = query * 2^16 + key
//! ```
//! Queries and keys count from the first of their sequence, the sequences of a call from 0. So a weight's element does
//! not depend on the lengths of other sequences, on padding, or on the way in which sequences are packed. Rows of part
//! of a batch follow [`DropoutMask::first_row`].

use super::blocks::BLOCK_KEYS;
use crate::dropout::{DropoutLanes, DropoutMask};
use crate::error::Error;
use crate::isa::{Isa, Vector};
use crate::philox::SPAN;
use core::ops::Range;

/// Keys of a query's columns, and most queries and keys of a sequence.
const QUERY_COLUMNS: usize = 1 << 16;
const _: () = assert!(QUERY_COLUMNS.is_multiple_of(SPAN) && BLOCK_KEYS.is_multiple_of(SPAN));

/// Weights of a call that dropout keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightDropout {
    mask: DropoutMask,
    heads: usize,
}

impl WeightDropout {
    /// Dropout of \[sequences, heads, queries, keys\] weights, of the longest sequence. Returns an error if the probability
    /// is none, or if weights have no elements.
    pub fn new(mask: DropoutMask, [sequences, heads, queries, keys]: [usize; 4]) -> Result<Self, Error> {
        const WHAT: &str = "Attention.dropout";
        mask.check(WHAT, [sequences.saturating_mul(heads), 0])?;
        if queries.max(keys) > QUERY_COLUMNS {
            let why = format!(
                "expected sequences of at most {QUERY_COLUMNS} queries and keys, found {queries} and {keys}"
            );
            return Err(Error::Invalid { what: WHAT, why });
        }
        Ok(Self { mask, heads })
    }

    /// True if the weight of a key is kept.
    pub fn keeps(self, [sequence, head, query, key]: [usize; 4]) -> bool {
        let (row, column) = (sequence * self.heads + head, query * QUERY_COLUMNS + key);
        self.mask.keeps(row as u32, column as u32)
    }

    /// 1 / (1 - p), the factor of kept weights; 0 if none is kept.
    pub fn scale(self) -> f64 {
        self.mask.scale()
    }

    /// Prepares vectors for the weights of rows.
    #[inline(always)]
    pub fn lanes<I: Isa>(self, isa: I) -> WeightLanes<I> {
        // If all weights are dropped, `lanes` may keep one, and its factor is 0.
        WeightLanes { lanes: self.mask.lanes(isa), heads: self.heads }
    }
}

/// [`WeightDropout`] for vectors.
pub(super) struct WeightLanes<I: Isa> {
    lanes: DropoutLanes<I>,
    heads: usize,
}

impl<I: Isa> WeightLanes<I> {
    /// Writes the bits of the weights of a query for the keys `keys` of the block from key `start` on, and of other keys
    /// of their spans, for [`kept`](Self::kept).
    #[inline(always)]
    pub fn bits(
        &self,
        isa: I,
        [sequence, head, query]: [usize; 3],
        start: usize,
        keys: Range<usize>,
        out: &mut [f32; BLOCK_KEYS],
    ) {
        let row = sequence * self.heads + head;
        let first = (query * QUERY_COLUMNS + start) / SPAN;
        let (spans, _) = out.as_chunks_mut::<SPAN>();
        let seen = keys.start / SPAN..keys.end.div_ceil(SPAN);
        for (span, bits) in seen.clone().zip(&mut spans[seen]) {
            self.lanes.span(isa, row, first + span, bits);
        }
    }

    /// Writes the factors of the weights of a query for the keys `keys` of the block from key `start` on: 0 for a dropped
    /// weight, 1 / (1 - p) for a kept one. `keys` are whole vectors.
    #[inline(always)]
    pub fn factors(
        &self,
        isa: I,
        at: [usize; 3],
        start: usize,
        keys: Range<usize>,
        out: &mut [f32; BLOCK_KEYS],
    ) {
        self.bits(isa, at, start, keys.clone(), out);
        for factors in out[keys].chunks_exact_mut(I::V::LANES) {
            self.kept(isa, I::V::load(isa, factors), self.lanes.scale).store(factors);
        }
    }

    /// Lanes of x whose bits say that they are kept, and 0 elsewhere.
    #[inline(always)]
    pub fn kept(&self, isa: I, bits: I::V, x: I::V) -> I::V {
        self.lanes.kept(isa, bits, x)
    }
}

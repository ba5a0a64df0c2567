//! Sequences, positions and windows: the keys that a query may see, always one contiguous range.

use core::ops::Range;

/// Keys that a query sees around its position. Positions count the keys of a sequence from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number of keys before the position; `None` for all.
    pub before: Option<usize>,
    /// Number of keys after the position; `None` for all.
    pub after: Option<usize>,
}

impl Window {
    /// All keys.
    pub const ALL: Self = Self { before: None, after: None };
    /// The position and all keys before it.
    pub const CAUSAL: Self = Self { before: None, after: Some(0) };
}

/// The position of a sequence's first query; the others follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// This key, in every sequence. 0 aligns a causal mask top-left; the length of a KV prefix continues the prefix.
    At(usize),
    /// A key for each sequence: \[sequences\].
    Each(&'a [usize]),
    /// The key that puts the last query at the last key of the sequence (bottom-right alignment). With more
    /// queries than keys, the first queries stand before all keys.
    End,
}

/// Division of the batch into sequences.
#[derive(Clone, Copy, Debug)]
pub enum Sequences<'a> {
    /// Each batch row is a sequence, with all of its keys.
    Rows,
    /// Each batch row is a sequence; row b has keys `0..lengths[b]`, and its other keys are padding.
    KeyLengths(&'a [usize]),
    /// The only batch row holds sequences end to end: sequence s has the queries `q[s]..q[s + 1]`
    /// and the keys `k[s]..k[s + 1]`.
    Packed {
        /// \[sequences + 1\], ascending from 0 to the number of queries.
        q: &'a [usize],
        /// \[sequences + 1\], ascending from 0 to the number of keys.
        k: &'a [usize],
    },
}

/// One sequence: its place in the views, and the position of its first query.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    /// Index of the sequence, and first index of its bias.
    pub index: usize,
    /// Batch row in the views.
    pub batch: usize,
    /// Rows of q and out in the batch row.
    pub queries: Range<usize>,
    /// Rows of k and v in the batch row.
    pub keys: Range<usize>,
    /// Position of the first query; negative if it stands before all keys.
    pub start: isize,
    /// Keys that a query sees around its position.
    pub window: Window,
}

impl Sequence {
    /// Range of the distances `key - position`.
    #[inline(always)]
    pub fn distances(&self) -> Range<isize> {
        let past = self.start + self.queries.len() as isize;
        1 - past..self.keys.len() as isize - self.start
    }

    /// Keys that query `i` of this sequence sees, counted from the first key of the sequence. Neither end
    /// decreases as `i` grows.
    #[inline(always)]
    pub fn visible(&self, i: usize) -> Range<usize> {
        let n = self.keys.len() as isize;
        let position = self.start + i as isize;
        // Not `clamp`, which is not always inlined.
        let from = match self.window.before {
            None => 0,
            Some(before) => position.saturating_sub_unsigned(before).max(0).min(n),
        };
        let to = match self.window.after {
            None => n,
            Some(after) => position.saturating_add_unsigned(after).saturating_add(1).max(0).min(n),
        };
        from as usize..from.max(to) as usize
    }
}

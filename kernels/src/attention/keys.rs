//! Which keys a query may see: always one contiguous range.

use core::ops::Range;

/// Keys around a query's position that it sees; positions count keys of its sequence from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many keys before the position; `None` for all.
    pub before: Option<usize>,
    /// How many keys after the position; `None` for all.
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
pub enum Start {
    /// At this key: 0 aligns a causal mask top-left, the length of a KV prefix continues it.
    At(usize),
    /// Where the last query stands at the last key of the sequence (bottom-right alignment); with
    /// more queries than keys, the first ones stand before all keys.
    End,
}

/// Division of the batch into sequences.
#[derive(Clone, Copy, Debug)]
pub enum Sequences<'a> {
    /// Each batch row is a sequence, with all of its keys.
    Rows,
    /// Each batch row is a sequence; row b has keys `0..lengths[b]`, and what follows is padding.
    KeyLengths(&'a [usize]),
    /// The one batch row holds sequences end to end: sequence s has the queries `q[s]..q[s + 1]`
    /// and the keys `k[s]..k[s + 1]`. Both start at 0 and end at the number of rows.
    Packed {
        /// \[sequences + 1\], ascending
        q: &'a [usize],
        /// \[sequences + 1\], ascending
        k: &'a [usize],
    },
}

/// One sequence: its place in the views, and where its first query stands.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    /// Its number; the first index of the bias.
    pub index: usize,
    /// Its batch row in the views.
    pub batch: usize,
    /// Rows of q and out, in their batch row.
    pub queries: Range<usize>,
    /// Rows of k and v, in their batch row.
    pub keys: Range<usize>,
    /// Position of the first query, below 0 if it stands before all keys.
    pub start: isize,
    /// Keys around a position that it sees.
    pub window: Window,
}

impl Sequence {
    /// Keys that query `i` of this sequence sees, counted from the sequence's first. Neither end
    /// ever decreases with `i`.
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

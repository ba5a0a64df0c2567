//! Which keys a query may see: always one contiguous range.

use super::source::Source;
use crate::error::{Error, expect_shape};
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

/// Positions up to here can be added and subtracted without overflow.
const FARTHEST: usize = usize::MAX >> 3;

/// What belongs together in the batch.
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
    window: Window,
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

/// The checked sequences of a call, with their positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    source: Source<'a>,
    start: Start,
    window: Window,
    batch: usize,
    queries: usize,
    keys: usize,
}

/// Refuses ends of sequences that do not divide `rows` rows.
fn check_ends(what: &'static str, ends: &[usize], rows: usize) -> Result<(), Error> {
    if ends.first() == Some(&0) && ends.last() == Some(&rows) && ends.is_sorted() {
        return Ok(());
    }
    Err(Error::Invalid { what, why: format!("expected ascending numbers from 0 to {rows}, found {ends:?}") })
}

impl<'a> Layout<'a> {
    /// Refuses lengths that do not fit the batch, its rows of queries and its rows of keys.
    pub fn new(
        source: Source<'a>,
        start: Start,
        window: Window,
        [batch, queries]: [usize; 2],
    ) -> Result<Self, Error> {
        if let Start::At(position) = start
            && position > FARTHEST
        {
            let why = format!("expected a position of at most {FARTHEST}, found {position}");
            return Err(Error::Invalid { what: "Attention.start", why });
        }
        let (sequences, keys) = match source {
            Source::Views { k, sequences, .. } => (sequences, k.shape()[2]),
            Source::Caches { caches, starts } => {
                expect_shape("Attention.q", &[batch], &[1])?;
                expect_shape("CachedAttention.starts", &[starts.len()], &[caches.len() + 1])?;
                check_ends("CachedAttention.starts", starts, queries)?;
                return Ok(Self { source, start, window, batch, queries, keys: 0 });
            }
        };
        match sequences {
            Sequences::Rows => {}
            Sequences::KeyLengths(lengths) => {
                expect_shape("Attention.sequences", &[lengths.len()], &[batch])?;
                if let Some(&long) = lengths.iter().find(|&&n| n > keys) {
                    let why = format!("expected at most {keys} keys, found {long}");
                    return Err(Error::Invalid { what: "Attention.sequences", why });
                }
            }
            Sequences::Packed { q, k } => {
                expect_shape("Attention.q", &[batch], &[1])?;
                expect_shape("Attention.sequences.k", &[k.len()], &[q.len()])?;
                check_ends("Attention.sequences.q", q, queries)?;
                check_ends("Attention.sequences.k", k, keys)?;
            }
        }
        Ok(Self { source, start, window, batch, queries, keys })
    }

    /// Number of sequences in the whole batch.
    pub fn len(&self) -> usize {
        self.query_ends().map_or(self.batch, |ends| ends.len() - 1)
    }

    /// Where the queries of sequences end, if these stand end to end.
    #[inline]
    fn query_ends(&self) -> Option<&'a [usize]> {
        match self.source {
            Source::Views { sequences: Sequences::Packed { q, .. }, .. } => Some(q),
            Source::Views { .. } => None,
            Source::Caches { starts, .. } => Some(starts),
        }
    }

    /// Sequence `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Sequence {
        let (batch, queries) = match self.query_ends() {
            Some(ends) => (0, ends[index]..ends[index + 1]),
            None => (index, 0..self.queries),
        };
        let keys = match self.source {
            Source::Views { sequences: Sequences::Rows, .. } => 0..self.keys,
            Source::Views { sequences: Sequences::KeyLengths(lengths), .. } => 0..lengths[index],
            Source::Views { sequences: Sequences::Packed { k, .. }, .. } => k[index]..k[index + 1],
            Source::Caches { caches, .. } => 0..caches[index].len(),
        };
        let start = match self.start {
            Start::At(position) => position as isize,
            Start::End => keys.len() as isize - queries.len() as isize,
        };
        Sequence { index, batch, queries, keys, start, window: self.window }
    }

    /// The sequences that have any of the query rows `rows` of a batch row.
    #[inline]
    pub fn of_rows(&self, batch: usize, rows: &Range<usize>) -> Range<usize> {
        match self.query_ends() {
            Some(q) => {
                let first = q.partition_point(|&end| end <= rows.start).max(1) - 1;
                let last = q.partition_point(|&end| end < rows.end);
                first..last.clamp(first, self.len())
            }
            None => batch..batch + 1,
        }
    }

    /// Queries and keys of the longest sequence; of all batch rows, where these are sequences.
    pub fn longest(&self) -> [usize; 2] {
        let most = |ends: &[usize]| ends.windows(2).map(|e| e[1] - e[0]).max().unwrap_or(0);
        let keys = match self.source {
            Source::Views { sequences: Sequences::Packed { k, .. }, .. } => most(k),
            Source::Views { .. } => self.keys,
            Source::Caches { caches, .. } => caches.iter().map(|cache| cache.len()).max().unwrap_or(0),
        };
        [self.query_ends().map_or(self.queries, most), keys]
    }

    /// All distances `key - position` that any sequence has.
    pub fn distances(&self) -> Range<isize> {
        let of = |s: Sequence| {
            let past = s.start + s.queries.len() as isize;
            1 - past..s.keys.len() as isize - s.start
        };
        let join = |a: Range<isize>, b: Range<isize>| a.start.min(b.start)..a.end.max(b.end);
        (0..self.len()).map(|s| of(self.get(s))).reduce(join).unwrap_or(0..0)
    }
}

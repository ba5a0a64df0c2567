//! Layout of the sequences of a call: queries, keys and positions of each.

use super::keys::{Sequence, Sequences, Start, Window};
use super::kv_source::KvSource;
use crate::error::{Error, expect_shape};
use core::ops::Range;

/// Largest position: sums and differences of a few positions do not overflow `isize`.
const FARTHEST: usize = usize::MAX >> 3;

/// Checked sequences of a call, with their positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct SequenceLayout<'a> {
    source: KvSource<'a>,
    start: Start,
    window: Window,
    batch: usize,
    queries: usize,
    keys: usize,
}

/// Returns an error if `ends` do not divide `rows` rows into sequences.
fn check_ends(what: &'static str, ends: &[usize], rows: usize) -> Result<(), Error> {
    if ends.first() == Some(&0) && ends.last() == Some(&rows) && ends.is_sorted() {
        return Ok(());
    }
    Err(Error::Invalid { what, why: format!("expected ascending numbers from 0 to {rows}, found {ends:?}") })
}

impl<'a> SequenceLayout<'a> {
    /// Returns an error if the sequences do not fit the batch, its queries or its keys.
    pub fn new(
        source: KvSource<'a>,
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
            KvSource::Views { k, sequences, .. } => (sequences, k.shape()[2]),
            KvSource::Caches { caches, starts } => {
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

    /// Number of sequences in the batch.
    pub fn len(&self) -> usize {
        self.query_ends().map_or(self.batch, |ends| ends.len() - 1)
    }

    /// Ends of the query ranges, if sequences stand end to end in one batch row.
    #[inline]
    fn query_ends(&self) -> Option<&'a [usize]> {
        match self.source {
            KvSource::Views { sequences: Sequences::Packed { q, .. }, .. } => Some(q),
            KvSource::Views { .. } => None,
            KvSource::Caches { starts, .. } => Some(starts),
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
            KvSource::Views { sequences: Sequences::Rows, .. } => 0..self.keys,
            KvSource::Views { sequences: Sequences::KeyLengths(lengths), .. } => 0..lengths[index],
            KvSource::Views { sequences: Sequences::Packed { k, .. }, .. } => k[index]..k[index + 1],
            KvSource::Caches { caches, .. } => 0..caches[index].len(),
        };
        let start = match self.start {
            Start::At(position) => position as isize,
            Start::End => keys.len() as isize - queries.len() as isize,
        };
        Sequence { index, batch, queries, keys, start, window: self.window }
    }

    /// Sequences that hold any of the query rows `rows` of a batch row.
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

    /// Most queries and most keys of a sequence; if each batch row is a sequence, all queries and keys of a row.
    pub fn longest(&self) -> [usize; 2] {
        let most = |ends: &[usize]| ends.windows(2).map(|e| e[1] - e[0]).max().unwrap_or(0);
        let keys = match self.source {
            KvSource::Views { sequences: Sequences::Packed { k, .. }, .. } => most(k),
            KvSource::Views { .. } => self.keys,
            KvSource::Caches { caches, .. } => caches.iter().map(|cache| cache.len()).max().unwrap_or(0),
        };
        [self.query_ends().map_or(self.queries, most), keys]
    }

    /// Range of the distances `key - position` in all sequences.
    pub fn distances(&self) -> Range<isize> {
        let of = |s: Sequence| {
            let past = s.start + s.queries.len() as isize;
            1 - past..s.keys.len() as isize - s.start
        };
        let join = |a: Range<isize>, b: Range<isize>| a.start.min(b.start)..a.end.max(b.end);
        (0..self.len()).map(|s| of(self.get(s))).reduce(join).unwrap_or(0..0)
    }
}

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
    start: Start<'a>,
    window: Window,
    batch: usize,
    queries: usize,
    keys: usize,
}

/// Distances `key - position` that a table of biases holds, in ascending order.
#[derive(Clone, Copy, Debug)]
pub(super) enum DistanceSpan {
    /// The distances of all sequences, from `first` on.
    Joined { first: isize, len: usize },
    /// The distances of each sequence by themselves, `most` entries for each: positions of sequences may be far
    /// apart.
    Apart { most: usize, sequences: usize },
}

impl DistanceSpan {
    /// Number of entries.
    pub fn len(&self) -> usize {
        match *self {
            Self::Joined { len, .. } => len,
            Self::Apart { most, sequences } => sequences * most,
        }
    }

    /// Calls `fill(entry, distances)` for each run of entries.
    pub fn for_each(&self, layout: &SequenceLayout<'_>, mut fill: impl FnMut(usize, Range<isize>)) {
        match *self {
            Self::Joined { first, len } => fill(0, first..first + len as isize),
            Self::Apart { most, sequences } => {
                let all = (0..sequences).map(|s| (s * most, layout.get(s).distances()));
                all.filter(|(_, distances)| !distances.is_empty())
                    .for_each(|(at, distances)| fill(at, distances));
            }
        }
    }

    /// Entry of a distance in `sequence`.
    #[inline(always)]
    pub fn entry(&self, sequence: &Sequence, distance: isize) -> usize {
        match *self {
            Self::Joined { first, .. } => (distance - first) as usize,
            Self::Apart { most, .. } => {
                sequence.index * most + (distance - sequence.distances().start) as usize
            }
        }
    }
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
        start: Start<'a>,
        window: Window,
        [batch, queries]: [usize; 2],
    ) -> Result<Self, Error> {
        let layout = Self::of_source(source, start, window, [batch, queries])?;
        let positions = match &start {
            Start::At(position) => core::slice::from_ref(position),
            Start::Each(positions) => {
                expect_shape("Attention.start", &[positions.len()], &[layout.len()])?;
                positions
            }
            Start::End => &[],
        };
        if let Some(position) = positions.iter().find(|&&position| position > FARTHEST) {
            let why = format!("expected a position of at most {FARTHEST}, found {position}");
            return Err(Error::Invalid { what: "Attention.start", why });
        }
        Ok(layout)
    }

    /// As [`new`](Self::new), with `start` unchecked.
    fn of_source(
        source: KvSource<'a>,
        start: Start<'a>,
        window: Window,
        [batch, queries]: [usize; 2],
    ) -> Result<Self, Error> {
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

    /// True if sequences stand end to end in one batch row.
    pub fn is_packed(&self) -> bool {
        self.query_ends().is_some()
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
            Start::Each(positions) => positions[index] as isize,
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

    /// Distances of all sequences, as one table of biases holds them.
    pub fn distances(&self) -> DistanceSpan {
        let all = (0..self.len()).map(|s| self.get(s).distances());
        let join = |a: Range<isize>, b: Range<isize>| a.start.min(b.start)..a.end.max(b.end);
        let joined = all.clone().reduce(join).unwrap_or(0..0);
        let most = all.map(|distances| distances.len()).max().unwrap_or(0);
        if joined.len() <= self.len().saturating_mul(most) {
            return DistanceSpan::Joined { first: joined.start, len: joined.len() };
        }
        DistanceSpan::Apart { most, sequences: self.len() }
    }
}

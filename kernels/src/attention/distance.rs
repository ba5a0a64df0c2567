//! Biases that depend only on the head and the distance from query to key.
//!
//! S x S scores need a table of about 2 S entries per head: entry `key - position` is added to the score of that
//! key for a query at that position. The keys of a row of scores follow each other, so the row reads a contiguous
//! part of the table.

use super::sequence_layout::{DistanceSpan, SequenceLayout};
use crate::error::{Error, expect_shape};
use crate::view::View;
use core::ops::Range;

/// Bias that [`Attention`](super::Attention) adds to a score, by head and distance from query to key.
#[derive(Clone, Copy, Debug)]
pub enum DistanceBias<'a> {
    /// `-slopes[head] * |key - position|`: Press et al., "Train Short, Test Long" (ALiBi, 2022).
    Alibi {
        /// \[heads\].
        slopes: &'a [f32],
    },
    /// `table[bucket(key - position), head]`: Raffel et al., "Exploring the Limits of Transfer
    /// Learning" (T5, 2020). Half of a direction's buckets hold one distance each. The other half grow
    /// logarithmically up to `max_distance`; all larger distances share the last bucket.
    T5 {
        /// \[buckets, heads\], as in a checkpoint's `relative_attention_bias.weight`.
        table: View<'a, 2>,
        /// True if keys after the query have half of the buckets (encoders); false if they share bucket 0.
        bidirectional: bool,
        /// Distance from which on all distances share the last bucket.
        max_distance: usize,
    },
}

impl DistanceBias<'_> {
    /// Returns an error if slopes or table do not fit `heads`, or if the buckets are not defined.
    pub(super) fn check(&self, heads: usize) -> Result<(), Error> {
        match *self {
            Self::Alibi { slopes } => expect_shape("Attention.distance.slopes", &[slopes.len()], &[heads]),
            Self::T5 { table, bidirectional, max_distance } => {
                let buckets = table.shape()[0];
                expect_shape("Attention.distance.table", &table.shape(), &[buckets, heads])?;
                let least = if bidirectional { 4 } else { 2 };
                if buckets < least || max_distance <= exact(buckets, bidirectional) {
                    let why = format!(
                        "expected at least {least} buckets, and half of a direction's buckets below \
                         max_distance; found {buckets} and {max_distance}"
                    );
                    return Err(Error::Invalid { what: "Attention.distance", why });
                }
                Ok(())
            }
        }
    }

    /// The bias of one distance, `key - position`.
    pub(super) fn get(&self, head: usize, distance: isize) -> f32 {
        match *self {
            Self::Alibi { slopes } => -slopes[head] * distance.unsigned_abs() as f32,
            Self::T5 { table, bidirectional, max_distance } => {
                table.get([bucket(distance, table.shape()[0], bidirectional, max_distance), head])
            }
        }
    }

    /// The row of T5's table that holds the bias of one distance; 0 for ALiBi.
    pub(super) fn bucket(&self, distance: isize) -> usize {
        match *self {
            Self::Alibi { .. } => 0,
            Self::T5 { table, bidirectional, max_distance } => {
                bucket(distance, table.shape()[0], bidirectional, max_distance)
            }
        }
    }

    /// Writes the biases of all distances of `span` to one table for each head, `stride` floats apart. Zeros fill the
    /// rest.
    pub(super) fn fill_tables(
        &self,
        layout: &SequenceLayout<'_>,
        span: DistanceSpan,
        tables: &mut [f32],
        stride: usize,
    ) {
        for (head, table) in tables.chunks_exact_mut(stride).enumerate() {
            table.fill(0.0);
            span.for_each(layout, |at, distances| {
                let table = &mut table[at..][..distances.len()];
                self.fill(head, distances, table);
            });
        }
    }

    /// Writes the biases of all `distances` to `out`.
    fn fill(&self, head: usize, distances: Range<isize>, out: &mut [f32]) {
        // T5's bias is constant beyond max_distance on either side.
        let varies = match *self {
            Self::Alibi { .. } => distances.clone(),
            Self::T5 { max_distance, .. } => {
                // Positions fit isize; max_distance may not.
                let most = isize::try_from(max_distance).unwrap_or(isize::MAX);
                let start = distances.start.max(-most).min(distances.end);
                start..distances.end.min(most.saturating_add(1)).max(start)
            }
        };
        let (before, rest) = out.split_at_mut((varies.start - distances.start) as usize);
        let (varying, after) = rest.split_at_mut(varies.len());
        before.fill(self.get(head, distances.start));
        for (x, distance) in varying.iter_mut().zip(varies) {
            *x = self.get(head, distance);
        }
        after.fill(self.get(head, distances.end - 1));
    }
}

/// Buckets of one direction that hold a single distance.
fn exact(buckets: usize, bidirectional: bool) -> usize {
    if bidirectional { buckets / 4 } else { buckets / 2 }
}

/// T5's bucket of a distance: `_relative_position_bucket` of the original code. Its logarithm is f32, and so is this
/// one, because its rounding decides on the boundary between two buckets.
fn bucket(distance: isize, buckets: usize, bidirectional: bool, max_distance: usize) -> usize {
    let (first, direction, magnitude) = if bidirectional {
        let half = buckets / 2;
        (if distance > 0 { half } else { 0 }, half, distance.unsigned_abs())
    } else {
        (0, buckets, distance.min(0).unsigned_abs())
    };
    let exact = exact(buckets, bidirectional);
    if magnitude < exact {
        return first + magnitude;
    }
    let octaves = (max_distance as f64 / exact as f64).ln() as f32;
    let steps = (magnitude as f32 / exact as f32).ln() / octaves * (direction - exact) as f32;
    first + (exact + steps as usize).min(direction - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 buckets up to 128 begin at the distances of `T5Attention._relative_position_bucket` in
    /// `transformers` 5.23.
    #[test]
    fn buckets_are_those_of_t5() {
        let both = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        let (exact, growing) = (0..16, [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]);
        let backward: Vec<usize> = exact.chain(growing).collect();
        let find = |begins: &[usize], magnitude| begins.partition_point(|&begin| begin <= magnitude) - 1;
        for magnitude in 0..=150 {
            let distance = magnitude as isize;
            assert_eq!(bucket(-distance, 32, true, 128), find(&both, magnitude), "{distance} back");
            assert_eq!(bucket(-distance, 32, false, 128), find(&backward, magnitude), "{distance} back");
            if magnitude > 0 {
                assert_eq!(bucket(distance, 32, true, 128), 16 + find(&both, magnitude), "{distance} on");
            }
            assert_eq!(bucket(distance, 32, false, 128), 0, "{distance} on");
        }
    }

    /// The table that tasks read equals the definition, wherever it begins and ends.
    #[test]
    fn tables_are_the_definition() {
        let table: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let table = View::new(&table, [32, 2]).unwrap();
        for bidirectional in [true, false] {
            let t5 = |max_distance| DistanceBias::T5 { table, bidirectional, max_distance };
            let far = [isize::MAX as usize, isize::MAX as usize + 1, usize::MAX].map(t5);
            for bias in [t5(128), far[0], far[1], far[2], DistanceBias::Alibi { slopes: &[0.5, 0.25] }] {
                for distances in [-300..301, -5..3, -400..-200, 129..300, -128..1, 7..7] {
                    let mut out = vec![f32::NAN; distances.len()];
                    bias.fill(1, distances.clone(), &mut out);
                    for (x, distance) in out.iter().zip(distances) {
                        assert_eq!(*x, bias.get(1, distance), "{bias:?} {distance}");
                    }
                }
            }
        }
    }
}

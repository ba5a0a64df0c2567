//! Parameters of attention cases, and the strategy that draws them.

use super::super::stored::Stored;
use super::super::tensor::{Layout, Random, Values, extent, seed};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels as kernels;
use tilewright_kernels::{DistanceBias, DropoutMask, Precision, RandomBits, View, Window};

/// Arguments of one attention.
#[derive(Clone, Debug)]
pub struct Params {
    /// batch, kv heads, query heads for each kv head, queries, keys, dk, dv.
    pub(super) extents: [usize; 7],
    /// True if rows come before heads in memory, for q, for k and v, and for out.
    pub(super) rows_first: [bool; 3],
    pub(super) layouts: [Layout<4>; 4],
    pub(super) sequences: SequenceDivision,
    pub(super) start: Start,
    pub(super) window: Window,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
    pub(super) bias: Option<Layout<4>>,
    pub(super) mask: Option<Layout<4>>,
    /// True if bias and mask each hide one key in four; otherwise the mask hides none.
    pub(super) hides: bool,
    pub(super) distance: Distance,
    pub(super) lse: bool,
    /// Probability of dropout.
    pub(super) dropout: Option<f32>,
    /// The type of q, k and v, and the type of out.
    pub(super) stored: [Stored; 2],
    pub(super) precision: Precision,
    /// Index of a key whose elements and value are NaN, from the first key of its batch row.
    pub(super) poison: Option<usize>,
    pub(super) values: Values,
    pub(super) seed: u64,
}

/// Division of batch rows into sequences. The seed determines the lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceDivision {
    Rows,
    KeyLengths,
    /// Sequences end to end, with their number.
    Packed(usize),
}

/// Position of the first query of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Start {
    At(usize),
    /// A position for each sequence, from the seed.
    Each,
    End,
}

/// A bias by distance. The seed determines its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Distance {
    None,
    Alibi,
    T5 { bidirectional: bool },
}

/// Upper bound of the multiply-adds of a case: the reference takes a few milliseconds.
const MOST_WORK: usize = 1 << 19;

/// T5's number of buckets, and the distance beyond which all distances share a bucket, as in the published models.
pub(in super::super) const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

pub(super) fn strategy() -> BoxedStrategy<Params> {
    let heads = (prop_oneof![3 => Just(1), 1 => 0..4usize], 1..4usize, 1..4usize);
    // Widths beyond a slab of 384 dimensions are rare.
    let width = || prop_oneof![8 => extent(70), 1 => extent(450)];
    let extents = (heads, extent(100), extent(800), width(), width())
        .prop_map(|((batch, kv_heads, group), queries, keys, dk, dv)| {
            [batch, kv_heads, group, queries, keys, dk, dv]
        })
        .prop_filter("takes too long", |e| e[..5].iter().product::<usize>() * (e[5] + e[6]) <= MOST_WORK);
    let sequences = prop_oneof![
        2 => Just(SequenceDivision::Rows),
        1 => Just(SequenceDivision::KeyLengths),
        2 => (1..6usize).prop_map(SequenceDivision::Packed),
    ];
    let side = || prop::option::weighted(0.5, prop_oneof![2 => Just(0), 1 => 0..20usize, 1 => 0..400usize]);
    let window = (side(), side()).prop_map(|(before, after)| Window { before, after });
    let scores = (
        select(vec![0.125, 1.0, -0.3]),
        prop::option::weighted(0.2, select(vec![0.5, 30.0])),
        [(); 2].map(|()| prop::option::weighted(0.3, Layout::repeated_rows())),
        any::<bool>(),
        Distance::any(),
    );
    let stored = || prop_oneof![2 => Just(Stored::F32), 2 => Just(Stored::Bf16), 1 => Just(Stored::F16)];
    let precision = prop_oneof![
        3 => Just(Precision::Stored),
        1 => Just(Precision::F32),
        2 => Just(Precision::Bf16),
    ];
    let types = prop_oneof![
        1 => Just(([Stored::F32; 2], Precision::Stored)),
        2 => ([stored(), stored()], precision),
    ];
    let layouts = [(); 4].map(|()| Layout::rows());
    let results = (any::<bool>(), prop::option::weighted(0.25, select(vec![0.0, 0.1, 0.5, 0.9, 1.0])));
    let data = (layouts, any::<[bool; 3]>(), prop::option::weighted(0.3, 0..800usize), Values::any(), seed());
    (extents, sequences, (Start::any(), window), scores, (results, types), data)
        .prop_map(
            |(extents, sequences, (start, window), scores, ((lse, dropout), (stored, precision)), data)| {
                let (scale, softcap, [bias, mask], hides, distance) = scores;
                let (layouts, rows_first, poison, values, seed) = data;
                let mut extents = extents;
                if let SequenceDivision::Packed(_) = sequences {
                    extents[0] = 1;
                }
                Params {
                    extents,
                    rows_first,
                    layouts,
                    sequences,
                    start,
                    window,
                    scale,
                    softcap,
                    bias,
                    mask,
                    hides,
                    distance,
                    lse,
                    dropout,
                    stored,
                    precision,
                    poison,
                    // The values of `Large` exceed the range of f16.
                    values: if stored.contains(&Stored::F16) && values == Values::Large {
                        Values::Wide
                    } else {
                        values
                    },
                    seed,
                }
            },
        )
        .boxed()
}

impl Start {
    /// Draws any start, most often the end.
    pub(in super::super) fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            1 => Just(Self::At(0)),
            1 => (0..300usize).prop_map(Self::At),
            1 => Just(Self::Each),
            3 => Just(Self::End),
        ]
        .boxed()
    }

    /// Positions for `n` sequences. One in eight is so far from the others that no table holds both distances.
    pub(in super::super) fn positions(self, n: usize, random: &mut Random) -> Vec<usize> {
        let position =
            |random: &mut Random| random.below(300) + [0, 1 << 20][usize::from(random.below(8) == 0)];
        match self {
            Self::At(at) => vec![at; n],
            Self::Each => (0..n).map(|_| position(random)).collect(),
            Self::End => vec![],
        }
    }

    /// The start as kernels take it, for the positions of [`positions`](Self::positions).
    pub(in super::super) fn kernel(self, positions: &[usize]) -> kernels::Start<'_> {
        match self {
            Self::At(at) => kernels::Start::At(at),
            Self::Each => kernels::Start::Each(positions),
            Self::End => kernels::Start::End,
        }
    }
}

impl Distance {
    /// Draws any bias by distance, or none.
    pub(in super::super) fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            2 => Just(Self::None),
            1 => Just(Self::Alibi),
            1 => any::<bool>().prop_map(|bidirectional| Self::T5 { bidirectional }),
        ]
        .boxed()
    }

    /// The kernel's argument, made of a slope for each head and a table \[BUCKETS, heads\].
    pub(in super::super) fn bias<'a>(self, slopes: &'a [f32], table: &'a [f32]) -> Option<DistanceBias<'a>> {
        match self {
            Self::None => None,
            Self::Alibi => Some(DistanceBias::Alibi { slopes }),
            Self::T5 { bidirectional } => Some(DistanceBias::T5 {
                table: View::new(table, [BUCKETS, slopes.len()]).expect("as long as its shape"),
                bidirectional,
                max_distance: MAX_DISTANCE,
            }),
        }
    }
}

impl Params {
    /// The mask of dropout of a call whose first weights are in row `first_row`.
    pub(super) fn dropout_mask(&self, first_row: u32) -> Option<DropoutMask> {
        let random = RandomBits { seed: self.seed, step: 5, site: 7 };
        self.dropout.map(|probability| DropoutMask { probability, random, first_row })
    }

    /// 1 / (1 - p), the factor of kept weights: 1 without dropout, 0 if none is kept.
    pub(super) fn dropout_factor(&self) -> f64 {
        match self.dropout {
            None => 1.0,
            Some(1.0) => 0.0,
            Some(p) => 1.0 / (1.0 - f64::from(p)),
        }
    }

    /// True if the kernel may multiply in bf16.
    pub(super) fn is_bf16(&self) -> bool {
        match self.precision {
            Precision::Stored => self.stored[0] == Stored::Bf16,
            Precision::F32 => false,
            Precision::Bf16 => true,
        }
    }
}

//! Random arguments: extents, strides and values that provoke errors in kernels.
//!
//! A [`Layout`] maps the elements of a tensor of any shape to places in its slice. Shape and layout are drawn, and
//! shrink, independently. [`GAP`] fills the places between elements. It is a NaN, so it shows in every result that
//! read it, and its bits show whether it was overwritten.

pub use tilewright_kernels::random::Random;

use super::Failure;
use core::fmt;
use proptest::array::uniform;
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{Element, View, ViewMut};

/// Filler of the places in a slice that hold no element. Slices of other types hold this number converted.
pub const GAP: f32 = f32::from_bits(0x7fda_9a9a);

/// Extents up to `max`, most of them within one of a multiple of some lane count, tile or block.
pub fn extent(max: usize) -> BoxedStrategy<usize> {
    // Lanes 4, 8, 16; tile sides 6, 12, 14, 24, 32, 48; key and k blocks from 64 up.
    let edges = [4, 6, 8, 12, 14, 16, 24, 28, 32, 48, 64, 96, 128, 256, 384, 512, 768, 1024];
    let edges: Vec<usize> = edges.into_iter().filter(|&e| e <= max).collect();
    let near = if edges.is_empty() { Just(max).boxed() } else { select(edges).boxed() };
    prop_oneof![
        4 => 1..=max.min(9),
        4 => (near, 0..3usize).prop_map(move |(e, d)| (e + d - 1).min(max)),
        2 => 1..=max,
        1 => Just(0),
    ]
    .boxed()
}

/// Distributions of the floats that a tensor is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Uniform in [-1, 1).
    Unit,
    /// Either sign, magnitudes uniform over 2^-12 .. 2^12, for sums that cancel.
    Wide,
    /// Denormals and the smallest normal numbers.
    Tiny,
    /// 2^50 .. 2^58: products of two numbers and sums of 2048 such products are finite.
    Large,
    /// As `Unit`, but one number in sixteen is a NaN, an infinity or a zero of either sign.
    Special,
}

impl Values {
    /// Draws any distribution, most often `Unit`.
    pub fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            4 => Just(Self::Unit),
            2 => Just(Self::Wide),
            1 => Just(Self::Tiny),
            1 => Just(Self::Large),
            2 => Just(Self::Special),
        ]
        .boxed()
    }

    /// Draws any distribution without NaN and infinities.
    pub fn finite() -> BoxedStrategy<Self> {
        Self::any().prop_map(|v| if v == Self::Special { Self::Unit } else { v }).boxed()
    }

    /// Draws the next number of this distribution.
    pub fn draw(self, random: &mut Random) -> f32 {
        let sign = |x: f32, random: &mut Random| if random.bits() & 1 == 0 { x } else { -x };
        match self {
            Self::Unit => random.unit(),
            Self::Wide => sign((random.unit() * 12.0).exp2(), random),
            Self::Tiny => sign(f32::from_bits(random.below(0x0100_0000) as u32), random),
            Self::Large => sign((random.unit() * 4.0 + 54.0).exp2(), random),
            Self::Special if random.below(16) == 0 => {
                [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0][random.below(5)]
            }
            Self::Special => random.unit(),
        }
    }
}

/// A seed for the values of a tensor. It does not shrink.
pub fn seed() -> impl Strategy<Value = u64> {
    any::<u64>().no_shrink()
}

/// Strides and offset of a tensor of `D` dimensions in its slice.
#[derive(Clone)]
pub struct Layout<const D: usize> {
    /// The dimensions from outermost to innermost in memory.
    order: [usize; D],
    /// Elements skipped between neighbours of each dimension.
    pads: [usize; D],
    /// Dimensions of stride 0.
    repeat: [bool; D],
    /// Elements before the first one, counted from a cache line.
    offset: usize,
}

impl<const D: usize> fmt::Debug for Layout<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, pads, repeat, offset } = self;
        write!(f, "{order:?} pads {pads:?} repeat {repeat:?} offset {offset}")
    }
}

impl<const D: usize> Layout<D> {
    /// A row-major layout without gaps.
    pub fn row_major() -> Self {
        Self { order: core::array::from_fn(|d| d), pads: [0; D], repeat: [false; D], offset: 0 }
    }

    /// Draws any order of dimensions, with gaps and misalignment, for outputs.
    pub fn distinct() -> BoxedStrategy<Self> {
        // Dimensions are sorted by random keys. Keys shrink to equal keys, which give row-major order.
        let keys = prop_oneof![2 => Just([0; D]), 1 => uniform(0..D)];
        (keys, uniform(pad()), 0..17usize)
            .prop_map(|(keys, pads, offset)| {
                let mut order: [usize; D] = core::array::from_fn(|d| d);
                order.sort_by_key(|&d| keys[d]);
                Self { order, pads, repeat: [false; D], offset }
            })
            .boxed()
    }

    /// As [`distinct`](Self::distinct), but any dimension may have stride 0, for inputs.
    pub fn any() -> BoxedStrategy<Self> {
        (Self::distinct(), uniform(prop::bool::weighted(0.1)))
            .prop_map(|(layout, repeat)| Self { repeat, ..layout })
            .boxed()
    }

    /// Draws row-major layouts with unit-stride rows, gaps between rows, and misalignment, for row kernels.
    pub fn rows() -> BoxedStrategy<Self> {
        (uniform(pad()), 0..17usize)
            .prop_map(|(mut pads, offset): ([usize; D], _)| {
                pads[D - 1] = 0;
                Self { pads, offset, ..Self::row_major() }
            })
            .boxed()
    }

    /// As [`rows`](Self::rows), with unit-stride columns, for the weight of a linear layer, which is a transposed
    /// matrix.
    pub fn columns() -> BoxedStrategy<Self> {
        Self::rows()
            .prop_map(|mut layout| {
                layout.order.swap(D - 2, D - 1);
                layout.pads.swap(D - 2, D - 1);
                layout
            })
            .boxed()
    }

    /// Draws row-major layouts with gaps and misalignment, where any dimension may have stride 0, for biases.
    pub fn repeated_rows() -> BoxedStrategy<Self> {
        (Self::rows(), uniform(prop::bool::weighted(0.3)))
            .prop_map(|(layout, repeat)| Self { repeat, ..layout })
            .boxed()
    }

    /// The strides for `shape`.
    pub fn strides(&self, shape: [usize; D]) -> [usize; D] {
        let mut strides = [0; D];
        let mut span = 1;
        for &d in self.order.iter().rev() {
            if !self.repeat[d] {
                strides[d] = span + self.pads[d];
                span = shape[d].max(1) * strides[d];
            }
        }
        strides
    }
}

/// Draws the size of a gap: most often zero, else a few elements or a cache line.
fn pad() -> BoxedStrategy<usize> {
    prop_oneof![6 => Just(0), 1 => 1..4usize, 1 => 15..18usize].boxed()
}

/// All indices of `shape` in row-major order.
pub fn indices<const D: usize>(shape: [usize; D]) -> impl Iterator<Item = [usize; D]> {
    (0..shape.iter().product()).map(move |mut flat| {
        let mut index = [0; D];
        for d in (0..D).rev() {
            index[d] = flat % shape[d];
            flat /= shape[d];
        }
        index
    })
}

/// A slice with a view into it.
#[derive(Clone)]
pub struct Tensor<const D: usize, T = f32> {
    data: Vec<T>,
    start: usize,
    offset: usize,
    shape: [usize; D],
    strides: [usize; D],
}

impl<const D: usize> Tensor<D> {
    /// A tensor of elements drawn from `values`.
    pub fn random(shape: [usize; D], layout: &Layout<D>, values: Values, random: &mut Random) -> Self {
        Self::new(shape, layout, |_| values.draw(random))
    }

    /// Returns this tensor with each element `x` replaced by `f(x)`.
    #[must_use]
    pub fn map(&self, f: impl Fn(f32) -> f32) -> Self {
        let data = self.data.iter().map(|&x| if x.to_bits() == GAP.to_bits() { x } else { f(x) }).collect();
        Self { data, ..*self }
    }

    /// Returns this tensor with each element rounded to the type `T`, in the same layout.
    pub fn cast<T: Element>(&self) -> Tensor<D, T> {
        let value = |index| T::from_f32(self.data[self.start + dot(index, self.strides)]);
        Tensor::at(self.shape, self.strides, self.offset, value)
    }
}

impl<const D: usize, T: Element> Tensor<D, T> {
    /// A tensor of the elements `value(index)`, called in row-major order.
    pub fn new(shape: [usize; D], layout: &Layout<D>, value: impl FnMut([usize; D]) -> T) -> Self {
        Self::at(shape, layout.strides(shape), layout.offset, value)
    }

    /// As [`new`](Self::new), with these strides, and the first element `offset` elements behind a cache line boundary.
    fn at(
        shape: [usize; D],
        strides: [usize; D],
        offset: usize,
        mut value: impl FnMut([usize; D]) -> T,
    ) -> Self {
        const LINE: usize = 64;
        let reach: usize = shape.iter().zip(strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        let mut data = vec![T::from_f32(GAP); 2 * LINE + offset + reach];
        let start = data.as_ptr().align_offset(LINE) + offset;
        for index in indices(shape) {
            data[start + dot(index, strides)] = value(index);
        }
        Self { data, start, offset, shape, strides }
    }

    /// Extent of each dimension.
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// The elements for reading.
    pub fn view(&self) -> View<'_, D, T> {
        View::with_strides(&self.data[self.start..], self.shape, self.strides).expect("the layout fits")
    }

    /// The elements for writing.
    ///
    /// # Panics
    /// If a dimension has stride 0.
    pub fn view_mut(&mut self) -> ViewMut<'_, D, T> {
        ViewMut::with_strides(&mut self.data[self.start..], self.shape, self.strides)
            .expect("the layout fits and repeats nothing")
    }

    /// The elements in row-major order.
    pub fn elements(&self) -> Vec<T> {
        indices(self.shape).map(|index| self.data[self.start + dot(index, self.strides)]).collect()
    }

    /// Checks that only elements were written.
    ///
    /// # Errors
    /// A [`Failure`] that names the first overwritten gap.
    pub fn gaps_intact(&self) -> Result<(), Failure> {
        let mut element = vec![false; self.data.len()];
        for index in indices(self.shape) {
            element[self.start + dot(index, self.strides)] = true;
        }
        let bits = |x: T| x.to_f32().to_bits();
        let written = |i: &usize| !element[*i] && bits(self.data[*i]) != bits(T::from_f32(GAP));
        match (0..self.data.len()).find(written) {
            None => Ok(()),
            Some(i) => Err(Failure::new(format!(
                "wrote outside the view: {:e} at {} from its first element",
                self.data[i].to_f32(),
                i as isize - self.start as isize
            ))),
        }
    }
}

/// Booleans of a mask at the places of a layout.
#[derive(Clone)]
pub struct Booleans<const D: usize> {
    data: Vec<bool>,
    shape: [usize; D],
    strides: [usize; D],
}

impl<const D: usize> Booleans<D> {
    /// Fills the elements with `value(index)`, called in row-major order, and the places between them with true.
    pub fn new(shape: [usize; D], layout: &Layout<D>, mut value: impl FnMut([usize; D]) -> bool) -> Self {
        let strides = layout.strides(shape);
        let reach: usize = shape.iter().zip(strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        let mut data = vec![true; reach + 1];
        for index in indices(shape) {
            data[dot(index, strides)] = value(index);
        }
        Self { data, shape, strides }
    }

    /// The elements for reading.
    pub fn view(&self) -> View<'_, D, bool> {
        View::with_strides(&self.data, self.shape, self.strides).expect("the layout fits")
    }
}

fn dot<const D: usize>(index: [usize; D], strides: [usize; D]) -> usize {
    index.iter().zip(strides).map(|(i, s)| i * s).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest! {
        #[test]
        fn layouts_hold_their_tensors(
            shape in uniform::<_, 3>(extent(20)), any in Layout::any(), out in Layout::distinct(), bits in seed()
        ) {
            let mut random = Random::new(bits);
            let tensor = Tensor::random(shape, &any, Values::Special, &mut random);
            prop_assert_eq!(tensor.view().shape(), shape);
            let mut copy = Tensor::new(shape, &out, |index| tensor.view().get(index));
            super::super::bound::identical(&copy.elements(), &tensor.elements()).unwrap();
            prop_assert_eq!(copy.view_mut().shape(), shape);
            prop_assert!(copy.gaps_intact().is_ok());
        }
    }

    #[test]
    fn a_write_into_a_gap_is_found() {
        let mut tensor = Tensor::new([2, 2], &Layout { pads: [1, 0], ..Layout::row_major() }, |_| 1.0);
        tensor.data[tensor.start + 2] = 1.0;
        assert!(tensor.gaps_intact().is_err());
    }
}

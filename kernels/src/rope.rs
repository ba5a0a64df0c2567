//! Rotary position embedding (Su et al., "RoFormer", 2021, arXiv:2104.09864, section 3.4.2).
//!
//! ```text
//! (a, b)   -> (a cos - b sin, b cos + a sin),  angle = position * base^(-2i / d),  i = 0 .. d/2
//! backward:   (a cos + b sin, b cos - a sin)   of the gradient: the transposed rotation
//!
//! half split    a = x[i], b = x[i + d/2]     Hugging Face's rotate_half, NeoX
//! interleaved   a = x[2i], b = x[2i + 1]     the paper, GPT-J, GGUF
//! ```
//!
//! Rows are tokens \[tokens, heads * head_dim\]. The first d columns of each head are rotated; the others are copied. A
//! table holds the cosines and sines, computed once in f64 and rounded to f32. NaN and infinities propagate within a
//! pair (a, b). Without rows or columns nothing is written.

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::map;
use crate::rows::{self, RowTask, Rows};
use crate::view::View;

/// Pairs of columns that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Column i with i + d/2.
    HalfSplit,
    /// Column 2i with 2i + 1.
    Interleaved,
}

/// Cosines and sines of all positions.
#[derive(Clone, Debug)]
pub struct RopeTable {
    layout: RopeLayout,
    /// d/2.
    pairs: usize,
    positions: usize,
    /// Cosines \[positions, width\]. The width is d/2 for half split, and d for interleaved: one factor per column.
    cos: Vec<f32>,
    /// Sines, like `cos`. Interleaved sines carry the sign of their term.
    sin: Vec<f32>,
}

impl RopeTable {
    /// Table of positions `0..positions` for `dims` rotated columns, with frequencies base^(-2i / dims). An odd last
    /// column is not rotated.
    pub fn new(layout: RopeLayout, positions: usize, dims: usize, base: f64) -> Self {
        let frequencies: Vec<f64> =
            (0..dims / 2).map(|i| base.powf(-((2 * i) as f64) / dims as f64)).collect();
        Self::with_frequencies(layout, positions, &frequencies, 1.0)
    }

    /// Table of given frequencies, one per pair of columns, in radians per position. `magnitude` multiplies all cosines
    /// and sines. Methods that extend the context (linear, NTK, YaRN) choose these two.
    pub fn with_frequencies(
        layout: RopeLayout,
        positions: usize,
        frequencies: &[f64],
        magnitude: f64,
    ) -> Self {
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let factors = angles.map(|angle| {
            let (sin, cos) = angle.sin_cos();
            ((cos * magnitude) as f32, (sin * magnitude) as f32)
        });
        Self::of_pairs(layout, positions, frequencies.len(), factors)
    }

    /// Table of given cosines and sines, \[positions, d/2\] each.
    ///
    /// # Errors
    /// [`Error::Shape`] if their shapes differ.
    pub fn from_cos_sin(layout: RopeLayout, cos: View<'_, 2>, sin: View<'_, 2>) -> Result<Self, Error> {
        let [positions, pairs] = cos.shape();
        expect_shape("RopeTable.sin", &sin.shape(), &[positions, pairs])?;
        let angles = (0..positions).flat_map(|p| (0..pairs).map(move |i| [p, i]));
        Ok(Self::of_pairs(layout, positions, pairs, angles.map(|index| (cos.get(index), sin.get(index)))))
    }

    /// Table of cosines and sines in the order of positions, then pairs.
    fn of_pairs(
        layout: RopeLayout,
        positions: usize,
        pairs: usize,
        angles: impl Iterator<Item = (f32, f32)>,
    ) -> Self {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for (c, s) in angles {
            match layout {
                RopeLayout::HalfSplit => {
                    cos.push(c);
                    sin.push(s);
                }
                RopeLayout::Interleaved => {
                    cos.extend([c, c]);
                    sin.extend([-s, s]);
                }
            }
        }
        Self { layout, pairs, positions, cos, sin }
    }

    /// Number of columns of a head that are rotated.
    pub fn dims(&self) -> usize {
        2 * self.pairs
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Pairs of columns that are rotated together.
    pub fn layout(&self) -> RopeLayout {
        self.layout
    }

    /// Cosines and sines of the pairs at a position.
    fn cos_sin(&self, position: u32) -> [Vec<f64>; 2] {
        let (cos, sin) = self.factors(position);
        let step = if self.layout == RopeLayout::Interleaved { 2 } else { 1 };
        // Of an interleaved pair, the second sine has the plain sign.
        let of_pairs =
            |factors: &[f32]| factors.iter().skip(step - 1).step_by(step).map(|&x| f64::from(x)).collect();
        [of_pairs(cos), of_pairs(sin)]
    }

    /// Cosines and sines of a position, as the kernel reads them.
    #[inline(always)]
    fn factors(&self, position: u32) -> (&[f32], &[f32]) {
        let width = match self.layout {
            RopeLayout::HalfSplit => self.pairs,
            RopeLayout::Interleaved => 2 * self.pairs,
        };
        let range = position as usize * width..(position as usize + 1) * width;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Definition of the rotation of one row by the cosines and sines of its pairs.
pub fn rope(x: &[f64], head_dim: usize, layout: RopeLayout, cos: &[f64], sin: &[f64]) -> Vec<f64> {
    let mut y = x.to_vec();
    for (a, b, i) in pairs(x.len(), head_dim, layout, cos.len()) {
        y[a] = x[a] * cos[i] - x[b] * sin[i];
        y[b] = x[b] * cos[i] + x[a] * sin[i];
    }
    y
}

/// Definition of the gradient of [`rope`]: dx.
pub fn rope_backward(dy: &[f64], head_dim: usize, layout: RopeLayout, cos: &[f64], sin: &[f64]) -> Vec<f64> {
    let mut dx = dy.to_vec();
    for (a, b, i) in pairs(dy.len(), head_dim, layout, cos.len()) {
        dx[a] = dy[a] * cos[i] + dy[b] * sin[i];
        dx[b] = dy[b] * cos[i] - dy[a] * sin[i];
    }
    dx
}

/// Columns a and b of each rotated pair of a row, and the number of the pair.
fn pairs(
    columns: usize,
    head_dim: usize,
    layout: RopeLayout,
    pairs: usize,
) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..columns).step_by(head_dim.max(1)).flat_map(move |head| {
        (0..pairs).map(move |i| match layout {
            RopeLayout::HalfSplit => (head + i, head + i + pairs, i),
            RopeLayout::Interleaved => (head + 2 * i, head + 2 * i + 1, i),
        })
    })
}

/// Rotates the columns of each head by the angles of the position of its row.
///
/// With `backward`, the kernel makes dx of dy: it rotates by the negative angles. (A `magnitude` of the table multiplies
/// both directions.)
///
/// # Errors
/// [`Error::Shape`] if the numbers of positions and rows differ; [`Error::Invalid`] if a row is not contiguous or is
/// not made of whole heads, if a head has fewer columns than the table rotates, or if a position is not in the table.
///
/// # Numerics
/// With the cosines and sines of the table, the error of a cos - b sin is at most 2 u (|a cos| + |b sin|), u = 2^-24.
///
/// ```
/// use tilewright_kernels::{Backend, Rope, RopeLayout, RopeTable, Rows, ViewMut};
/// let table = RopeTable::with_frequencies(RopeLayout::HalfSplit, 2, &[core::f64::consts::FRAC_PI_2], 1.);
/// let mut x = [3., 4., 3., 4.]; // two tokens, one head of two columns
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [2, 2])?);
/// Backend::best().run(Rope::new(rows, 2, &[0, 1], &table))?;
/// assert_eq!(x, [3., 4., -4., 3.]); // by a quarter turn at position 1
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [2, 2])?);
/// Backend::best().run(Rope { backward: true, ..Rope::new(rows, 2, &[0, 1], &table) })?;
/// assert_eq!(x, [3., 4., 3., 4.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Rope<'a, T = f32> {
    /// x and y, \[tokens, heads * head_dim\].
    pub rows: Rows<'a, T>,
    /// Columns of a head.
    pub head_dim: usize,
    /// Position of each row, \[tokens\].
    pub positions: &'a [u32],
    /// Cosines and sines.
    pub table: &'a RopeTable,
    /// True for the gradient: x and y are dy and dx.
    pub backward: bool,
}

impl<'a, T> Rope<'a, T> {
    /// The rotation of the forward pass.
    pub fn new(rows: Rows<'a, T>, head_dim: usize, positions: &'a [u32], table: &'a RopeTable) -> Self {
        Self { rows, head_dim, positions, table, backward: false }
    }
}

impl<T> Rope<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let [rows, cols] = self.rows.check("Rope.rows")?;
        let invalid = |what, why| Err(Error::Invalid { what, why });
        if self.head_dim < self.table.dims() {
            let (d, found) = (self.table.dims(), self.head_dim);
            return invalid("Rope.head_dim", format!("the table rotates {d} columns of heads of {found}"));
        }
        if cols > 0 && cols.checked_rem(self.head_dim) != Some(0) {
            return invalid("Rope.rows", format!("{cols} columns are not whole heads of {}", self.head_dim));
        }
        expect_shape("Rope.positions", &[self.positions.len()], &[rows])?;
        match self.positions.iter().position(|&p| p as usize >= self.table.positions) {
            None => Ok(()),
            Some(row) => {
                let (position, end) = (self.positions[row], self.table.positions);
                let why = format!("position {position} of row {row} is outside a table of {end}");
                invalid("Rope.positions", why)
            }
        }
    }
}

impl<T: Element> Kernel for Rope<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::rope);

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { rows, head_dim, positions, table, backward } = self;
        let definition = if backward { rope_backward } else { rope };
        for (mut row, &position) in rows.into_iter().zip(positions) {
            let [cos, sin] = table.cos_sin(position);
            let x = row.input().to_vec();
            from_f64(&definition(&to_f64(&x), head_dim, table.layout, &cos, &sin), row.output());
            // Unrotated columns are copied, not rounded: bits of NaN are kept.
            for j in (0..x.len()).filter(|j| j % head_dim >= table.dims()) {
                row.output()[j] = x[j];
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

impl<T: Element> RowTask for Rope<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_positions, high_positions) = self.positions.split_at(mid);
        (
            Self { rows: low, positions: low_positions, ..self },
            Self { rows: high, positions: high_positions, ..self },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { rows, head_dim, positions, table, backward } = self;
        // Flips the sign of all sines.
        let flip = I::V::splat(isa, if backward { -0.0 } else { 0.0 });
        for (mut row, &position) in rows.into_iter().zip(positions) {
            let (cos, sin) = table.factors(position);
            for head in (0..row.input().len()).step_by(head_dim.max(1)) {
                let head = row.slice(head..head + head_dim);
                let (mut rotated, mut rest) = head.split_at(table.dims());
                match table.layout {
                    RopeLayout::HalfSplit => {
                        let (mut a, mut b) = rotated.split_at(table.pairs);
                        map(
                            isa,
                            [&mut a, &mut b],
                            [cos, sin],
                            0.0,
                            #[inline(always)]
                            |_, [a, b], [cos, sin]| {
                                let sin = sin.xor_bits(flip);
                                [a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin)]
                            },
                        );
                    }
                    RopeLayout::Interleaved => map(
                        isa,
                        [&mut rotated],
                        [cos, sin],
                        0.0,
                        #[inline(always)]
                        |_, [x], [cos, sin]| [x.mul_add(cos, x.swap_pairs() * sin.xor_bits(flip))],
                    ),
                }
                rest.copy();
            }
        }
    }
}

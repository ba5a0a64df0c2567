//! Views of any type, so that the algorithm is compiled once for all of them.

use crate::view::{View, ViewMut};
use core::ops::Range;
use half::{bf16, f16};

/// A view for reading.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a, const D: usize> {
    F32(View<'a, D>),
    Bf16(View<'a, D, bf16>),
    F16(View<'a, D, f16>),
}

/// A view for writing.
#[derive(Debug)]
pub enum StoredMut<'a, const D: usize> {
    F32(ViewMut<'a, D>),
    Bf16(ViewMut<'a, D, bf16>),
    F16(ViewMut<'a, D, f16>),
}

/// Runs an expression on the view, whatever its type.
macro_rules! with_stored {
    ($stored:expr, $view:ident => $body:expr) => {
        match $stored {
            $crate::attention::operand::Stored::F32($view) => $body,
            $crate::attention::operand::Stored::Bf16($view) => $body,
            $crate::attention::operand::Stored::F16($view) => $body,
        }
    };
}
pub(super) use with_stored;

/// The same of a view for writing.
macro_rules! with_stored_mut {
    ($stored:expr, $view:ident => $body:expr) => {
        match $stored {
            $crate::attention::operand::StoredMut::F32($view) => $body,
            $crate::attention::operand::StoredMut::Bf16($view) => $body,
            $crate::attention::operand::StoredMut::F16($view) => $body,
        }
    };
}
pub(super) use with_stored_mut;

/// Another view of the same type.
macro_rules! map {
    ($enum:ident, $stored:expr, $view:ident => $body:expr) => {
        match $stored {
            Self::F32($view) => $enum::F32($body),
            Self::Bf16($view) => $enum::Bf16($body),
            Self::F16($view) => $enum::F16($body),
        }
    };
}

impl<'a, const D: usize> Stored<'a, D> {
    /// Extent of each dimension.
    #[inline(always)]
    pub(super) fn shape(&self) -> [usize; D] {
        with_stored!(self, v => v.shape())
    }

    /// Whether the elements of the last dimension are neighbours in memory.
    pub(super) fn has_unit_rows(&self) -> bool {
        with_stored!(self, v => v.has_unit_rows())
    }

    /// The sub-range of a dimension.
    #[inline(always)]
    pub(super) fn slice(self, dim: usize, range: Range<usize>) -> Self {
        map!(Stored, self, v => v.slice(dim, range))
    }

    /// The value at `index`.
    pub(super) fn get(&self, index: [usize; D]) -> f32 {
        match self {
            Self::F32(v) => v.get(index),
            Self::Bf16(v) => v.get(index).to_f32(),
            Self::F16(v) => v.get(index).to_f32(),
        }
    }
}

impl<'a> Stored<'a, 4> {
    /// The sub-view at `i` of the first dimension.
    #[inline(always)]
    pub(super) fn at(self, i: usize) -> Stored<'a, 3> {
        map!(Stored, self, v => v.at(i))
    }
}

impl<'a> Stored<'a, 3> {
    /// The sub-view at `i` of the first dimension.
    #[inline(always)]
    pub(super) fn at(self, i: usize) -> Stored<'a, 2> {
        map!(Stored, self, v => v.at(i))
    }
}

impl<'a, const D: usize> StoredMut<'a, D> {
    /// Extent of each dimension.
    #[inline(always)]
    pub(super) fn shape(&self) -> [usize; D] {
        with_stored_mut!(self, v => v.shape())
    }

    /// Whether the elements of the last dimension are neighbours in memory.
    pub(super) fn has_unit_rows(&self) -> bool {
        with_stored_mut!(self, v => v.has_unit_rows())
    }

    /// The parts before and from `mid` on along dimension `dim`.
    pub(super) fn split_at(self, dim: usize, mid: usize) -> (Self, Self) {
        macro_rules! split {
            ($variant:ident, $v:expr) => {{
                let (low, high) = $v.split_at(dim, mid);
                (Self::$variant(low), Self::$variant(high))
            }};
        }
        match self {
            Self::F32(v) => split!(F32, v),
            Self::Bf16(v) => split!(Bf16, v),
            Self::F16(v) => split!(F16, v),
        }
    }

    /// Stores the nearest to `value` at `index`.
    pub(super) fn set(&mut self, index: [usize; D], value: f32) {
        match self {
            Self::F32(v) => v.set(index, value),
            Self::Bf16(v) => v.set(index, bf16::from_f32(value)),
            Self::F16(v) => v.set(index, f16::from_f32(value)),
        }
    }
}

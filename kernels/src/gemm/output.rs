//! Outputs of a product: pointers to f32, bf16 or f16.

use crate::isa::{Isa, LINE};
use crate::view::AnyViewMut;
use half::{bf16, f16};

/// Pointer to an element of C.
#[derive(Clone, Copy, Debug)]
pub(super) enum CPointer {
    F32(*mut f32),
    Bf16(*mut bf16),
    F16(*mut f16),
}

impl CPointer {
    /// Pointer to the first element of a view.
    pub(super) fn of<const D: usize>(view: &mut AnyViewMut<'_, D>) -> Self {
        match view {
            AnyViewMut::F32(v) => Self::F32(v.as_mut_ptr()),
            AnyViewMut::Bf16(v) => Self::Bf16(v.as_mut_ptr()),
            AnyViewMut::F16(v) => Self::F16(v.as_mut_ptr()),
        }
    }

    /// Pointer to the element `offset` elements further on.
    #[inline(always)]
    pub(super) fn add(self, offset: usize) -> Self {
        match self {
            Self::F32(p) => Self::F32(p.wrapping_add(offset)),
            Self::Bf16(p) => Self::Bf16(p.wrapping_add(offset)),
            Self::F16(p) => Self::F16(p.wrapping_add(offset)),
        }
    }

    /// Bytes of an element.
    #[inline(always)]
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32(_) => 4,
            Self::Bf16(_) | Self::F16(_) => 2,
        }
    }

    /// Prefetches the cache lines of `n` elements, `n > 0`.
    #[inline(always)]
    pub(super) fn prefetch<I: Isa>(self, isa: I, n: usize) {
        let per_line = LINE / self.size();
        for at in (0..n).step_by(per_line).chain([n - 1]) {
            isa.prefetch(match self.add(at) {
                Self::F32(p) => p,
                Self::Bf16(p) => p.cast(),
                Self::F16(p) => p.cast(),
            });
        }
    }

    /// The pointer, if C is f32.
    #[inline(always)]
    pub(super) fn floats(self) -> Option<*mut f32> {
        match self {
            Self::F32(p) => Some(p),
            _ => None,
        }
    }
}

/// An output of three dimensions that tasks write in disjoint blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct COutput {
    first: CPointer,
    /// Strides of batch, row and column.
    pub strides: [usize; 3],
}

impl COutput {
    /// The elements of a view.
    pub(super) fn of(view: &mut AnyViewMut<'_, 3>) -> Self {
        Self { strides: view.strides(), first: CPointer::of(view) }
    }

    /// The element at `index`.
    #[inline(always)]
    pub(super) fn at(self, [batch, row, column]: [usize; 3]) -> CPointer {
        let [batch_stride, row_stride, column_stride] = self.strides;
        self.first.add(batch * batch_stride + row * row_stride + column * column_stride)
    }
}

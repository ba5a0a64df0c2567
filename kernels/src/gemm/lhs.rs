//! A of a product.

use crate::element::Element;
use crate::view::{AnyView, View};

/// A of a [`Gemm`](super::Gemm): \[batch, m, k\], or \[1, m, k\] for all products.
///
/// | A | weights | arithmetic |
/// |---|---|---|
/// | `Exact` of f32 or f16, or of bf16 with weights of another type | any | exact products of the stored values, summed in f32 |
/// | `Exact` of bf16, or `Rounded`, with weights of bf16 | bf16 | products of bf16, summed in f32 |
/// | `Rounded` | f16 | A is rounded to f16, then as `Exact` |
/// | `Rounded`, `ZeroPoint` | int8 | A is quantized row by row, products and sums of integers: exact |
/// | `Rounded` | groups of int8 or int4 | A is quantized in the same groups of 32, products and sums of a group are exact, groups are summed in f32 |
/// | `Rounded` | f32 | as `Exact` |
///
/// The type of weights is the [`Format`](super::Format) of a packed B, or the element type of a matrix. bf16 that is
/// stored on both sides asks for the bf16 instruction of the CPU: its products are exact, and its sums are f32.
///
/// Errors: quantization and rounding of A are part of the definition, with the same bits on every backend. Sums
/// of int8 are exact, and a result has three roundings. Sums of bf16 pairs have at most 2 k roundings and may
/// treat numbers below 2^-126 as zeros. All other sums have k roundings, as in f32.
///
/// ```
/// use tilewright_kernels::{Backend, View, ViewMut};
/// use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
/// let (x, w) = ([0.5, -1., 0.25, 1.], [1., 2., 3., 4.]);
/// let (x, w) = (View::new(&x, [1, 2, 2])?, View::new(&w, [2, 2])?.transpose());
/// for format in Format::ALL {
///     let b = PackedB::in_format(Backend::best(), format, w)?;
///     let mut y = [0.; 4];
///     Backend::best().run(Gemm {
///         alpha: 1.,
///         a: Lhs::Rounded(x), // to the type of the weights: bf16, f16 or int8
///         b: Rhs::Packed(&b),
///         beta: 0.,
///         c: ViewMut::new(&mut y, [2, 2])?.into(),
///         epilogue: Epilogue::default(),
///     })?;
///     // Exact arithmetic gives -1.5, -2.5, 2.25 and 4.75; int4 is within one step.
///     assert!((y[0] + 1.5).abs() < 0.3 && (y[3] - 4.75).abs() < 0.6, "{}: {y:?}", format.name());
/// }
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Lhs<'a, const D: usize = 3> {
    /// Values used as they are stored.
    Exact(AnyView<'a, D>),
    /// f32, rounded to the type of the weights during packing.
    ///
    /// bf16 and f16: to nearest, ties to even. int8, row by row, and groups, group by group: by
    /// [`symmetric`](super::Quantized::symmetric).
    Rounded(View<'a, D>),
    /// f32, quantized row by row by [`zero_point`](super::Quantized::zero_point); the weights must be int8.
    ZeroPoint(View<'a, D>),
}

/// Evaluates an expression on the view inside an [`Lhs`] of any element type.
macro_rules! with_rows {
    ($operand:expr, $view:ident => $body:expr) => {
        match $operand {
            $crate::gemm::Lhs::Exact($crate::view::AnyView::F32($view))
            | $crate::gemm::Lhs::Rounded($view)
            | $crate::gemm::Lhs::ZeroPoint($view) => $body,
            $crate::gemm::Lhs::Exact($crate::view::AnyView::Bf16($view)) => $body,
            $crate::gemm::Lhs::Exact($crate::view::AnyView::F16($view)) => $body,
        }
    };
}
pub(super) use with_rows;

impl<'a, const D: usize> Lhs<'a, D> {
    /// Extent of each dimension.
    #[inline(always)]
    pub fn shape(&self) -> [usize; D] {
        with_rows!(self, v => v.shape())
    }

    /// The operand restricted to a range of one dimension.
    #[inline(always)]
    pub(super) fn slice(self, dim: usize, range: core::ops::Range<usize>) -> Self {
        match self {
            Self::Exact(v) => Self::Exact(v.slice(dim, range)),
            Self::Rounded(v) => Self::Rounded(v.slice(dim, range)),
            Self::ZeroPoint(v) => Self::ZeroPoint(v.slice(dim, range)),
        }
    }

    /// The stored value at `index`, before any rounding to the type of the weights.
    pub(super) fn get(&self, index: [usize; D]) -> f32 {
        with_rows!(self, v => v.get(index).to_f32())
    }

    /// The view, if A is f32 and exact.
    #[inline(always)]
    pub(super) fn floats(self) -> Option<View<'a, D>> {
        match self {
            Lhs::Exact(AnyView::F32(v)) => Some(v),
            _ => None,
        }
    }
}

impl<'a> Lhs<'a> {
    /// A of one product of the batch.
    #[inline(always)]
    pub(super) fn of_batch(self, batch: usize) -> Lhs<'a, 2> {
        let batch = if self.shape()[0] == 1 { 0 } else { batch };
        match self {
            Self::Exact(v) => Lhs::Exact(v.at(batch)),
            Self::Rounded(v) => Lhs::Rounded(v.at(batch)),
            Self::ZeroPoint(v) => Lhs::ZeroPoint(v.at(batch)),
        }
    }
}

impl<'a> From<AnyView<'a, 3>> for Lhs<'a> {
    fn from(v: AnyView<'a, 3>) -> Self {
        Self::Exact(v)
    }
}

impl<'a, T: Element> From<View<'a, 3, T>> for Lhs<'a> {
    fn from(v: View<'a, 3, T>) -> Self {
        Self::Exact(v.into())
    }
}

impl<'a, T: Element> From<View<'a, 2, T>> for Lhs<'a> {
    fn from(v: View<'a, 2, T>) -> Self {
        View::<3, T>::from(v).into()
    }
}

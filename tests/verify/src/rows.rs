//! Rows as arguments of the checks of row kernels: in place or from one tensor to another, in any type.

pub use super::stored::Stored;

use super::bound::compare;
use super::tensor::{Layout, Random, Tensor, Values, extent};
use super::{Failure, Worst};
use half::{bf16, f16};
use proptest::prelude::*;
use tilewright_kernels::{Backend, Element, Error, Rows};

/// Calls `$f::<T>(..)`, a function generic over the element type, with the type that `$stored` names.
macro_rules! of_type {
    ($stored:expr, $f:ident($($argument:expr),* $(,)?)) => {
        match $stored {
            $crate::rows::Stored::F32 => $f::<f32>($($argument),*),
            $crate::rows::Stored::Bf16 => $f::<half::bf16>($($argument),*),
            $crate::rows::Stored::F16 => $f::<half::f16>($($argument),*),
        }
    };
}
pub(super) use of_type;

impl Stored {
    /// Draws any type, f32 in half of the cases.
    pub fn any() -> BoxedStrategy<Self> {
        prop_oneof![2 => Just(Self::F32), 1 => Just(Self::Bf16), 1 => Just(Self::F16)].boxed()
    }

    /// The nearest number of the type, after scaling `x` into the range of the type if it is outside.
    pub fn number(self, x: f32) -> f32 {
        // f16 ends at 2^16: the numbers of `Values::Large` are scaled to 2^6 .. 2^14.
        let large = self == Self::F16 && x.is_finite() && x.abs() > 6e4;
        self.round(if large { x * 2f32.powi(-44) } else { x })
    }

    /// Largest error of rounding a result of magnitude `y` and error `error` to the type: half a unit of the last
    /// place, infinite if the result may overflow.
    fn rounding(self, y: f64, error: f64) -> f64 {
        let (roundoff, denormal, most) = match self {
            Self::F32 => return 0.0,
            Self::Bf16 => (2f64.powi(-9), 2f64.powi(-134), f64::from(bf16::MAX)),
            Self::F16 => (2f64.powi(-12), 2f64.powi(-25), f64::from(f16::MAX)),
        };
        let y = y + error;
        if y >= most { f64::INFINITY } else { 2.0 * roundoff * y + denormal }
    }
}

/// Compares a kernel with its definition. `apply(stored, backend)` runs the kernel in a type. In f32, results must be
/// within `bound(i, expected)`. In another type, they must equal the rounded f32 result of the same numbers bit by
/// bit, on the backend and for the definition.
///
/// # Errors
/// A [`Failure`] that names an element.
pub fn conforms(
    stored: Stored,
    backend: Backend,
    apply: impl Fn(Stored, Backend) -> Result<Vec<f32>, Failure>,
    bound: impl Fn(usize, &[f32]) -> f64,
) -> Result<Worst, Failure> {
    conforms_coarsely(stored, backend, apply, bound, None::<fn(usize, &[f32]) -> f64>)
}

/// As [`conforms`], for a kernel whose bf16 results may have fewer digits: `coarse`, if any, bounds their error before
/// the rounding.
///
/// # Errors
/// A [`Failure`] that names an element.
pub fn conforms_coarsely(
    stored: Stored,
    backend: Backend,
    apply: impl Fn(Stored, Backend) -> Result<Vec<f32>, Failure>,
    bound: impl Fn(usize, &[f32]) -> f64,
    coarse: Option<impl Fn(usize, &[f32]) -> f64>,
) -> Result<Worst, Failure> {
    let (wide, expected) = (apply(Stored::F32, backend)?, apply(Stored::F32, Backend::REFERENCE)?);
    let worst = compare(&wide, &expected, |i| bound(i, &expected))?;
    if stored == Stored::F32 {
        return Ok(worst);
    }
    let coarse = coarse.filter(|_| stored == Stored::Bf16);
    for (backend, wide) in [(backend, &wide), (Backend::REFERENCE, &expected)] {
        let found = apply(stored, backend)?;
        if let Some(coarse) = coarse.as_ref().filter(|_| backend != Backend::REFERENCE) {
            compare(&found, &expected, |i| {
                let bound = coarse(i, &expected);
                bound + stored.rounding(f64::from(expected[i].abs()), bound)
            })?;
            continue;
        }
        for (i, (found, &wide)) in found.iter().zip(wide).enumerate() {
            let nearest = stored.round(wide);
            if found.to_bits() != nearest.to_bits() && !(found.is_nan() && nearest.is_nan()) {
                return Err(Failure::new(format!(
                    "element {i} in {stored:?}: found {found:e}, expected the nearest to {wide:e}, {nearest:e}"
                )));
            }
        }
        let share = compare(&found, &expected, |i| {
            let bound = bound(i, &expected);
            bound + stored.rounding(f64::from(expected[i].abs()), bound)
        })?;
        debug_assert!(share.share <= 1.0);
    }
    Ok(worst)
}

/// The rows of a case.
#[derive(Clone, Debug)]
pub struct RowsParams {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Type of the elements.
    pub stored: Stored,
    in_place: bool,
    x: Layout<2>,
    out: Layout<2>,
}

impl RowsParams {
    /// Draws up to 9 rows of up to `columns` columns, in place or not.
    pub fn any(columns: usize) -> BoxedStrategy<Self> {
        (
            prop_oneof![8 => 1..10usize, 1 => Just(0)],
            extent(columns),
            Stored::any(),
            any::<bool>(),
            Layout::rows(),
            Layout::rows(),
        )
            .prop_map(|(rows, columns, stored, in_place, x, out)| Self {
                shape: [rows, columns],
                stored,
                in_place,
                x,
                out,
            })
            .boxed()
    }

    /// Draws an input from `values`, rounded to the type.
    pub fn input(&self, values: Values, random: &mut Random) -> Tensor<2> {
        self.input_with(|_| values.draw(random))
    }

    /// An input with the elements `value(index)`, rounded to the type.
    pub fn input_with(&self, mut value: impl FnMut([usize; 2]) -> f32) -> Tensor<2> {
        Tensor::new(self.shape, &self.x, |index| self.stored.number(value(index)))
    }

    /// Runs `kernel` on rows of `x` in the type; returns its result in row-major order.
    ///
    /// # Errors
    /// If the kernel refuses the rows, or writes outside of them.
    pub fn run<T: Element>(
        &self,
        x: &Tensor<2>,
        kernel: impl FnOnce(Rows<'_, T>) -> Result<(), Error>,
    ) -> Result<Vec<f32>, Failure> {
        let x = x.cast::<T>();
        let nan = T::from_f32(f32::NAN);
        let mut out = if self.in_place { x.clone() } else { Tensor::new(self.shape, &self.out, |_| nan) };
        kernel(if self.in_place {
            Rows::InPlace(out.view_mut())
        } else {
            Rows::Into(x.view(), out.view_mut())
        })?;
        out.gaps_intact()?;
        Ok(values(&out))
    }
}

/// The values of a tensor's elements, in row-major order.
pub fn values<T: Element>(tensor: &Tensor<2, T>) -> Vec<f32> {
    tensor.elements().into_iter().map(T::to_f32).collect()
}

/// Draws `n` numbers if `given`.
pub fn parameter(given: bool, n: usize, values: Values, random: &mut Random) -> Option<Vec<f32>> {
    given.then(|| (0..n).map(|_| values.draw(random)).collect())
}

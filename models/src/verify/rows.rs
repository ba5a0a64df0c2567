//! What the checks of row kernels have in common: rows in place or from one tensor to another.

use super::Failure;
use super::tensor::{Layout, Random, Tensor, Values, extent};
use proptest::prelude::*;
use tilewright_kernels::{Error, Rows};

/// The rows of a case.
#[derive(Clone, Debug)]
pub struct RowsParams {
    /// Rows and columns.
    pub shape: [usize; 2],
    in_place: bool,
    x: Layout<2>,
    out: Layout<2>,
}

impl RowsParams {
    /// Up to 9 rows of up to `columns`, in place or not.
    pub fn any(columns: usize) -> BoxedStrategy<Self> {
        (
            prop_oneof![8 => 1..10usize, 1 => Just(0)],
            extent(columns),
            any::<bool>(),
            Layout::rows(),
            Layout::rows(),
        )
            .prop_map(|(rows, columns, in_place, x, out)| Self { shape: [rows, columns], in_place, x, out })
            .boxed()
    }

    /// Input of these values.
    pub fn input(&self, values: Values, random: &mut Random) -> Tensor<2> {
        Tensor::random(self.shape, &self.x, values, random)
    }

    /// Input whose element at an index is `value(index)`.
    pub fn input_with(&self, value: impl FnMut([usize; 2]) -> f32) -> Tensor<2> {
        Tensor::new(self.shape, &self.x, value)
    }

    /// What `kernel` makes of rows of `x`, in row-major order.
    ///
    /// # Errors
    /// If the kernel refuses them, or writes elsewhere.
    pub fn run(
        &self,
        x: &Tensor<2>,
        kernel: impl FnOnce(Rows<'_>) -> Result<(), Error>,
    ) -> Result<Vec<f32>, Failure> {
        let mut out =
            if self.in_place { x.clone() } else { Tensor::new(self.shape, &self.out, |_| f32::NAN) };
        kernel(if self.in_place {
            Rows::InPlace(out.view_mut())
        } else {
            Rows::Into(x.view(), out.view_mut())
        })?;
        out.gaps_intact()?;
        Ok(out.elements())
    }
}

/// `n` numbers of these values, or none.
pub fn parameter(given: bool, n: usize, values: Values, random: &mut Random) -> Option<Vec<f32>> {
    given.then(|| (0..n).map(|_| values.draw(random)).collect())
}

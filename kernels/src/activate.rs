//! Activation functions over rows, and their gated products.
//!
//! ```text
//! Activate  y = f(x)                  f: GELU, SiLU, ReLU, tanh, identity
//! Gated     y = f(gate) * up          f = SiLU: SwiGLU, f = GELU: GEGLU
//! ```
//!
//! Gated products: Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202. [`Activation`] defines f, lane
//! by lane. x, y, gate and up are \[rows, n\]; without rows or columns nothing is written.

mod backward;

pub use backward::{ActivateBackward, GatedBackward, activate_backward, gated_backward};

use crate::activation::{Activation, for_activation};
use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::each;
use crate::rows::{self, RowTask, Rows, expect_unit_rows};
use crate::view::{View, ViewMut};

/// y = f(x), for each element.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// x is widened to f32 exactly, f errs as [`Activation`] states, and y is rounded once to its type. The bits of y
/// depend only on x and the backend.
///
/// ```
/// use tilewright_kernels::{Activate, Activation, Backend, Rows, ViewMut};
/// let mut x = [-1., 0., 1.];
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [1, 3])?);
/// Backend::best().run(Activate { rows, activation: Activation::Relu })?;
/// assert_eq!(x, [0., 0., 1.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Activate<'a, T = f32> {
    /// x and y, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// f.
    pub activation: Activation,
}

/// y = f(gate) * up, for each element.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// gate and up are widened to f32 exactly. Three roundings follow:
///
/// 1. f(gate) is an f32, with the error that [`Activation`] states.
/// 2. f(gate) * up is rounded to f32.
/// 3. y is that product, rounded to its type if this is bf16 or f16. f(gate) itself is never rounded to the type.
///
/// [`Backend::REFERENCE`](crate::Backend::REFERENCE) computes f(gate) * up in f64, and rounds the product to f32 and
/// then to the type. An f(gate) that underflows f32 is 0 on other backends, so an infinite up makes NaN of it.
///
/// ```
/// use tilewright_kernels::{Activation, Backend, Gated, View, ViewMut};
/// let halves = [-1., 2., 10., 20.]; // [gate | up] of one row
/// let mut y = [0.; 2];
/// let gated = Gated::halves(View::new(&halves, [1, 4])?, ViewMut::new(&mut y, [1, 2])?, Activation::Relu)?;
/// Backend::best().run(gated)?;
/// assert_eq!(y, [0., 40.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Gated<'a, T = f32> {
    /// Gate and y, \[rows, n\].
    pub gate: Rows<'a, T>,
    /// \[rows, n\].
    pub up: View<'a, 2, T>,
    /// f.
    pub activation: Activation,
}

impl<'a, T> Gated<'a, T> {
    /// The gated product of rows \[gate | up\], \[rows, 2 n\], into `out`, \[rows, n\].
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not have twice the columns of `out`.
    pub fn halves(x: View<'a, 2, T>, out: ViewMut<'a, 2, T>, activation: Activation) -> Result<Self, Error> {
        let [rows, n] = out.shape();
        expect_shape("Gated.x", &x.shape(), &[rows, 2 * n])?;
        let gate = Rows::Into(x.slice(1, 0..n), out);
        Ok(Self { gate, up: x.slice(1, n..2 * n), activation })
    }
}

/// Definition of [`Activate`].
pub fn activate(activation: Activation, x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| activation.definition(x)).collect()
}

/// Definition of [`Gated`].
pub fn gated(activation: Activation, gate: &[f64], up: &[f64]) -> Vec<f64> {
    activate(activation, gate).iter().zip(up).map(|(gate, up)| gate * up).collect()
}

impl<T: Element> Kernel for Activate<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::activate);

    fn reference(self) -> Self::Output {
        self.rows.check("Activate.rows")?;
        for mut row in self.rows.into_iter() {
            let y = activate(self.activation, &to_f64(row.input()));
            from_f64(&y, row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.rows.check("Activate.rows")?;
        rows::run(isa, self);
        Ok(())
    }
}

impl<T> Gated<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let shape = self.gate.check("Gated.gate")?;
        expect_unit_rows("Gated.up", self.up.has_unit_rows(), self.up.strides())?;
        expect_shape("Gated.up", &self.up.shape(), &shape)
    }
}

impl<T: Element> Kernel for Gated<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::gated);

    fn reference(self) -> Self::Output {
        self.check()?;
        for (mut row, up) in self.gate.into_iter().zip(self.up.rows()) {
            let y = gated(self.activation, &to_f64(row.input()), &to_f64(up));
            from_f64(&y, row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

impl<T: Element> RowTask for Activate<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        (Self { rows: low, ..self }, Self { rows: high, ..self })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        for_activation!(self.activation, F => for mut row in self.rows.into_iter() {
            each(
                isa,
                &mut row,
                [],
                #[inline(always)]
                |x, []| F.apply_for::<I, T>(isa, x),
            );
        });
    }
}

impl<T: Element> RowTask for Gated<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.gate.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.gate.split_at(mid);
        let (low_up, high_up) = self.up.split_at(0, mid);
        (Self { gate: low, up: low_up, ..self }, Self { gate: high, up: high_up, ..self })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        for_activation!(self.activation, F => for (mut row, up) in self.gate.into_iter().zip(self.up.rows()) {
            each(
                isa,
                &mut row,
                [up],
                #[inline(always)]
                |gate, [up]| F.apply_for::<I, T>(isa, gate) * up,
            );
        });
    }
}

//! Gradients of activations and gated products.
//!
//! ```text
//! Activate  dx    = dy f'(x)
//! Gated     dgate = dy f'(gate) up,    dup = dy f(gate)
//! ```
//! Both need the arguments of the forward pass, and none of its results. x, gate, up and the gradients are \[rows, n\];
//! without rows or columns nothing is written.

use crate::activation::{Activation, for_activation};
use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::{each, each_of};
use crate::rows::{self, RowTask, Rows, expect_unit_rows};
use crate::view::View;

/// dx = dy f'(x), for each element: the backward of [`Activate`](crate::Activate).
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// dy and x are widened to f32 exactly, f' errs as [`Activation`] states, the product is rounded to f32, and dx is that
/// product rounded to its type. 0 times an infinity is NaN, for ReLU too.
///
/// ```
/// use tilewright_kernels::{ActivateBackward, Activation, Backend, Rows, View, ViewMut};
/// let (x, mut dy) = ([-1., 2.], [5., 5.]);
/// let rows = Rows::InPlace(ViewMut::new(&mut dy, [1, 2])?);
/// let x = View::new(&x, [1, 2])?;
/// Backend::best().run(ActivateBackward { rows, x, activation: Activation::Relu })?;
/// assert_eq!(dy, [0., 5.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct ActivateBackward<'a, T = f32> {
    /// dy and dx, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Argument of the forward pass, \[rows, n\].
    pub x: View<'a, 2, T>,
    /// f.
    pub activation: Activation,
}

/// dgate = dy f'(gate) up and dup = dy f(gate), for each element: the backward of [`Gated`](crate::Gated).
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// gate, up and dy are widened to f32 exactly; f and f' err as [`Activation`] states.
///
/// 1. dy f'(gate) is rounded to f32, then its product with up, then dgate to its type. A dy f'(gate) below the normal
///    range keeps an absolute error of 2^-150, which up multiplies.
/// 2. dy f(gate) is rounded to f32, then dup to its type.
///
/// ```
/// use tilewright_kernels::{Activation, Backend, GatedBackward, Rows, View, ViewMut};
/// let mut halves = [-1., 2., 10., 20.]; // [gate | up] of one row
/// let dy = [1., 3.];
/// let rows = Rows::InPlace(ViewMut::new(&mut halves, [1, 4])?);
/// let gated = GatedBackward::halves(rows, View::new(&dy, [1, 2])?, Activation::Relu)?;
/// Backend::best().run(gated)?;
/// assert_eq!(halves, [0., 60., 0., 6.]); // [dgate | dup]
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct GatedBackward<'a, T = f32> {
    /// Gate and dgate, \[rows, n\].
    pub gate: Rows<'a, T>,
    /// Up and dup, \[rows, n\].
    pub up: Rows<'a, T>,
    /// \[rows, n\].
    pub dy: View<'a, 2, T>,
    /// f.
    pub activation: Activation,
}

impl<'a, T> GatedBackward<'a, T> {
    /// The backward for rows \[gate | up\], \[rows, 2 n\], whose results are rows \[dgate | dup\].
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not have twice the columns of `dy`, or if its input and output differ in shape.
    pub fn halves(x: Rows<'a, T>, dy: View<'a, 2, T>, activation: Activation) -> Result<Self, Error> {
        let [rows, n] = dy.shape();
        expect_shape("GatedBackward.x", &x.shape(), &[rows, 2 * n])?;
        let (gate, up) = match x {
            Rows::InPlace(x) => {
                let (gate, up) = x.split_at(1, n);
                (Rows::InPlace(gate), Rows::InPlace(up))
            }
            Rows::Into(x, out) => {
                expect_shape("GatedBackward.x", &out.shape(), &x.shape())?;
                let (gate, up) = out.split_at(1, n);
                (Rows::Into(x.slice(1, 0..n), gate), Rows::Into(x.slice(1, n..2 * n), up))
            }
        };
        Ok(Self { gate, up, dy, activation })
    }
}

/// Definition of [`ActivateBackward`]: dx.
pub fn activate_backward(activation: Activation, x: &[f64], dy: &[f64]) -> Vec<f64> {
    x.iter().zip(dy).map(|(&x, dy)| dy * activation.definition_derivative(x)).collect()
}

/// Definition of [`GatedBackward`]: dgate and dup.
pub fn gated_backward(activation: Activation, gate: &[f64], up: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let dgate = activate_backward(activation, gate, dy).iter().zip(up).map(|(d, up)| d * up).collect();
    let dup = gate.iter().zip(dy).map(|(&gate, dy)| dy * activation.definition(gate)).collect();
    (dgate, dup)
}

impl<T: Element> ActivateBackward<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let shape = self.rows.check("ActivateBackward.rows")?;
        expect_unit_rows("ActivateBackward.x", self.x.has_unit_rows(), self.x.strides())?;
        expect_shape("ActivateBackward.x", &self.x.shape(), &shape)
    }
}

impl<T: Element> Kernel for ActivateBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::activate_backward);

    fn reference(self) -> Self::Output {
        self.check()?;
        for (mut row, x) in self.rows.into_iter().zip(self.x.rows()) {
            let dx = activate_backward(self.activation, &to_f64(x), &to_f64(row.input()));
            from_f64(&dx, row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

impl<T: Element> GatedBackward<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let shape = self.gate.check("GatedBackward.gate")?;
        expect_shape("GatedBackward.up", &self.up.check("GatedBackward.up")?, &shape)?;
        expect_unit_rows("GatedBackward.dy", self.dy.has_unit_rows(), self.dy.strides())?;
        expect_shape("GatedBackward.dy", &self.dy.shape(), &shape)
    }
}

impl<T: Element> Kernel for GatedBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::gated_backward);

    fn reference(self) -> Self::Output {
        self.check()?;
        let rows = self.gate.into_iter().zip(self.up.into_iter()).zip(self.dy.rows());
        for ((mut gate, mut up), dy) in rows {
            let (dgate, dup) =
                gated_backward(self.activation, &to_f64(gate.input()), &to_f64(up.input()), &to_f64(dy));
            from_f64(&dgate, gate.output());
            from_f64(&dup, up.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

impl<T: Element> RowTask for ActivateBackward<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_x, high_x) = self.x.split_at(0, mid);
        (Self { rows: low, x: low_x, ..self }, Self { rows: high, x: high_x, ..self })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        for_activation!(self.activation, F => for (mut row, x) in self.rows.into_iter().zip(self.x.rows()) {
            each(
                isa,
                &mut row,
                [x],
                #[inline(always)]
                |dy, [x]| dy * F.derivative(isa, x),
            );
        });
    }
}

impl<T: Element> RowTask for GatedBackward<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.gate.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low_gate, high_gate) = self.gate.split_at(mid);
        let (low_up, high_up) = self.up.split_at(mid);
        let (low_dy, high_dy) = self.dy.split_at(0, mid);
        (
            Self { gate: low_gate, up: low_up, dy: low_dy, ..self },
            Self { gate: high_gate, up: high_up, dy: high_dy, ..self },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let rows = self.gate.into_iter().zip(self.up.into_iter()).zip(self.dy.rows());
        for_activation!(self.activation, F => for ((mut gate, mut up), dy) in rows {
            each_of(
                isa,
                [&mut gate, &mut up],
                [dy],
                #[inline(always)]
                |[gate, up], [dy]| {
                    let (value, derivative) = F.apply_with_derivative::<I, T>(isa, gate);
                    [dy * derivative * up, dy * value]
                },
            );
        });
    }
}

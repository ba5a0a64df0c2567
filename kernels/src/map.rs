//! Elementwise functions on any backend, for tests and programs.
//!
//! ```text
//! out[i] = function(x[i])
//! ```

use crate::activation::Activation;
use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::{self, RowSlices};
use crate::math::{erf, exp, exp_fast, exp2_coarse, log, tanh};

/// Function that [`Map`] applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// [`exp`].
    Exp,
    /// [`exp_fast`]; the definition is that of [`exp`].
    ExpFast,
    /// [`exp2_coarse`].
    Exp2Coarse,
    /// [`log`].
    Log,
    /// [`erf`].
    Erf,
    /// [`tanh`].
    Tanh,
    /// An activation.
    Activation(Activation),
    /// Derivative of an activation.
    Derivative(Activation),
}

impl Function {
    /// All functions for tests and tables. Activations and derivatives without roundings are left out.
    pub const ALL: [Self; 24] = [
        Self::Exp,
        Self::ExpFast,
        Self::Exp2Coarse,
        Self::Log,
        Self::Erf,
        Self::Tanh,
        Self::Activation(Activation::Elu),
        Self::Activation(Activation::GeluErf),
        Self::Activation(Activation::GeluTanh),
        Self::Activation(Activation::HardSwish),
        Self::Activation(Activation::Mish),
        Self::Activation(Activation::QuickGelu),
        Self::Activation(Activation::Sigmoid),
        Self::Activation(Activation::Silu),
        Self::Activation(Activation::Softplus),
        Self::Derivative(Activation::Elu),
        Self::Derivative(Activation::GeluErf),
        Self::Derivative(Activation::GeluTanh),
        Self::Derivative(Activation::HardSwish),
        Self::Derivative(Activation::Mish),
        Self::Derivative(Activation::QuickGelu),
        Self::Derivative(Activation::Sigmoid),
        Self::Derivative(Activation::Silu),
        Self::Derivative(Activation::Tanh),
    ];

    /// The definition, to f64 accuracy.
    pub fn definition(self, x: f64) -> f64 {
        match self {
            Self::Exp | Self::ExpFast => x.exp(),
            Self::Exp2Coarse => x.exp2(),
            Self::Log => x.ln(),
            Self::Erf => libm::erf(x),
            Self::Tanh => x.tanh(),
            Self::Activation(activation) => activation.definition(x),
            Self::Derivative(activation) => activation.definition_derivative(x),
        }
    }

    /// Applies the function to each lane.
    #[inline(always)]
    pub fn apply<I: Isa>(self, isa: I, x: I::V) -> I::V {
        match self {
            Self::Exp => exp(isa, x),
            Self::ExpFast => exp_fast(isa, x),
            Self::Exp2Coarse => exp2_coarse(isa, x),
            Self::Log => log(isa, x),
            Self::Erf => erf(isa, x),
            Self::Tanh => tanh(isa, x),
            Self::Activation(activation) => activation.apply(isa, x),
            Self::Derivative(activation) => activation.derivative(isa, x),
        }
    }
}

/// out\[i\] = function(x\[i\]), on the calling thread. NaN stays NaN.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ.
///
/// ```
/// use tilewright_kernels::{Backend, Function, Map};
/// let mut out = [0.0; 3];
/// Backend::best().run(Map { function: Function::Exp, x: &[f32::NEG_INFINITY, 0.0, 1.0], out: &mut out })?;
/// assert_eq!(out, [0.0, 1.0, core::f32::consts::E]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Map<'a> {
    /// Function to apply.
    pub function: Function,
    /// Arguments \[n\].
    pub x: &'a [f32],
    /// Results \[n\].
    pub out: &'a mut [f32],
}

impl Map<'_> {
    fn check(&self) -> Result<(), Error> {
        expect_shape("Map.x", &[self.x.len()], &[self.out.len()])
    }
}

impl Kernel for Map<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Self::Output {
        self.check()?;
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = self.function.definition(f64::from(x)) as f32;
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        let Self { function, x, out } = self;
        isa.run(
            #[inline(always)]
            || {
                lanes::map(
                    isa,
                    [&mut RowSlices::Into(x, out)],
                    lanes::NONE,
                    0.0,
                    #[inline(always)]
                    |_, [x], []| [function.apply(isa, x)],
                );
            },
        );
        Ok(())
    }
}

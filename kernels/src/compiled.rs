//! Which kernels are compiled here for which element types.
//!
//! A function that is generic over a type is compiled in the crate that names the type, and kernels
//! would be compiled again in every crate that runs them. [`Kernel::run_on`](crate::Kernel::run_on) of
//! a kernel over an [`Element`](crate::Element) therefore calls a function of the element's, and there
//! is one for each type and kernel, of this crate.

use crate::backend::Backend;
use crate::error::Error;
use crate::{Activate, Embedding, Gated, L2Normalize, LayerNorm, Pool, RmsNorm, Rope, Softmax};
use half::{bf16, f16};

macro_rules! compiled {
    ([$($type:ty),*] $kernels:tt) => {
        compiled!(@trait $kernels);
        $(compiled!(@impl $type, $kernels);)*
    };
    (@trait { $($name:ident: $kernel:ident),* $(,)? }) => {
        /// The kernels over elements of a type.
        pub trait Compiled: Sized {
            $(
                /// Runs the kernel.
                fn $name(kernel: $kernel<'_, Self>, backend: Backend) -> Result<(), Error>;
            )*
        }
    };
    (@impl $type:ty, { $($name:ident: $kernel:ident),* $(,)? }) => {
        impl Compiled for $type {
            $(fn $name(kernel: $kernel<'_, Self>, backend: Backend) -> Result<(), Error> {
                backend.dispatch(kernel)
            })*
        }
    };
}

compiled! {
    [f32, bf16, f16]
    {
        activate: Activate,
        gated: Gated,
        layer_norm: LayerNorm,
        rms_norm: RmsNorm,
        l2_normalize: L2Normalize,
        softmax: Softmax,
        rope: Rope,
        embedding: Embedding,
        pool: Pool,
    }
}

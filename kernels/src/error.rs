//! Errors of kernel calls.

use core::fmt;

/// Reason why a view was not made or a kernel did not run. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An argument's shape does not fit the others.
    Shape {
        /// Name of the argument, as `Kernel.field`.
        what: &'static str,
        /// Shape that the other arguments require.
        expected: Vec<usize>,
        /// Shape of the argument.
        found: Vec<usize>,
    },
    /// A view reaches past the end of its slice.
    OutOfBounds {
        /// Shape of the view.
        shape: Vec<usize>,
        /// Strides of the view, in elements.
        strides: Vec<usize>,
        /// Elements in the slice.
        len: usize,
    },
    /// Two indices of a mutable view may name the same element.
    Overlap {
        /// Shape of the view.
        shape: Vec<usize>,
        /// Strides of the view, in elements.
        strides: Vec<usize>,
    },
    /// An argument has a value that the kernel does not accept.
    Invalid {
        /// Name of the argument, as `Kernel.field`.
        what: &'static str,
        /// Expected and found value.
        why: String,
    },
    /// The named backend does not exist or cannot run here.
    Backend {
        /// Requested name.
        asked: String,
        /// Names of the available backends.
        available: Vec<&'static str>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { what, expected, found } => {
                write!(f, "{what}: expected shape {expected:?}, found {found:?}")
            }
            Self::OutOfBounds { shape, strides, len } => write!(
                f,
                "a view of shape {shape:?} and strides {strides:?} reaches past its slice of {len} elements"
            ),
            Self::Overlap { shape, strides } => write!(
                f,
                "a mutable view of shape {shape:?} and strides {strides:?} would name an element twice"
            ),
            Self::Invalid { what, why } => write!(f, "{what}: {why}"),
            Self::Backend { asked, available } => {
                write!(f, "no backend {asked:?} on this CPU; available: {}", available.join(", "))
            }
        }
    }
}

impl core::error::Error for Error {}

/// Returns [`Error::Shape`] unless `found == expected`.
#[inline(always)]
pub(crate) fn expect_shape(what: &'static str, found: &[usize], expected: &[usize]) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected: expected.to_vec(), found: found.to_vec() })
}

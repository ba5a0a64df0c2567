//! Macros for vector methods that are one intrinsic or one expression.

/// Operators by one intrinsic each.
macro_rules! operators {
    ($vector:ident: $($trait:ident::$method:ident by $intrinsic:ident),*) => {$(
        impl core::ops::$trait for $vector {
            type Output = Self;

            #[inline(always)]
            fn $method(self, b: Self) -> Self {
                // SAFETY: a value of this type proves its instruction set.
                Self(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    )*};
}
pub(super) use operators;

/// Methods that are one expression over intrinsics; a value or a token of the instruction set is at hand.
macro_rules! intrinsics {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty { $body:expr })*) => {$(
        #[inline(always)]
        fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: a token or a value of this type proves the instruction set.
            unsafe { $body }
        }
    )*};
}
pub(super) use intrinsics;

//! Macros that define vector methods of one intrinsic or one expression each.

/// Implements operators, each by one intrinsic.
macro_rules! operators {
    ($vector:ident: $($trait:ident::$method:ident by $intrinsic:ident),*) => {$(
        impl core::ops::$trait for $vector {
            type Output = Self;

            #[inline(always)]
            fn $method(self, b: Self) -> Self {
                // SAFETY: `self` is a value of this type, which proves the instruction set of the intrinsic.
                Self(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    )*};
}
pub(super) use operators;

/// Defines methods of one expression over intrinsics. Each method takes a token or a value of its instruction set.
macro_rules! intrinsics {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty { $body:expr })*) => {$(
        #[inline(always)]
        fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: an argument is a token or a value of this type, which proves the instruction set.
            unsafe { $body }
        }
    )*};
}
pub(super) use intrinsics;

//! The row kernels: their checks, and the promises of the numerics contract.

/// One test per kernel, so that each is named and they run side by side.
macro_rules! conforms {
    ($($kernel:ident)*) => {$(
        #[test]
        fn $kernel() {
            tilewright_suite::conforms(stringify!($kernel));
        }
    )*};
}
conforms!(layer_norm rms_norm l2_normalize softmax activate gated rope embedding pool);

//! The matrix product.

#[test]
fn conforms() {
    tilewright_suite::conforms("gemm");
}

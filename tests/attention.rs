//! Fused attention.

#[test]
fn conforms() {
    tilewright_suite::conforms("attention");
}

//! What the fuzz targets share.
#![forbid(unsafe_code)]

use tilewright::verify::Entry;
use tilewright_kernels::Backend;

/// Runs the case of `check` that `bytes` choose on every backend.
///
/// # Panics
/// If it fails on one.
pub fn run(check: &Entry, bytes: &[u8]) {
    for &backend in Backend::available() {
        if let Err(failure) = check.case_of_bytes(backend, bytes) {
            panic!("{failure}");
        }
    }
}

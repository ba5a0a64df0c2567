//! Readable reference transformers on `tilewright-kernels`.
#![forbid(unsafe_code)]

#[cfg(feature = "verify")]
pub mod verify;

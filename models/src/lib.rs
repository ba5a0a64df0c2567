//! Readable reference transformers on `tilewright-kernels`.
#![forbid(unsafe_code)]

#[cfg(feature = "command")]
pub mod cpu;
#[cfg(feature = "command")]
pub mod probe;
#[cfg(feature = "verify")]
pub mod verify;

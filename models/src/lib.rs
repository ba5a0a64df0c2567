//! Readable reference transformers on `tilewright-kernels`.
#![forbid(unsafe_code)]

//! Definitions in f64: forward and backward of each kernel as plain functions of f64 slices.
//!
//! `Kernel::reference` widens its arguments, calls one of them, and rounds the result. Tests hold the backward functions
//! to finite differences of the forward ones, so that a wrong formula cannot hide in both a kernel and its definition.

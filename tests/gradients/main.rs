//! Definitions of gradients against finite differences of the forward definitions, in f64.
#![forbid(unsafe_code)]

mod attention;
mod elementwise;
mod linear;
mod loss;
mod norms;

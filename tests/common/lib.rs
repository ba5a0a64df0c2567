//! Helpers of tests and benches: the checks of a kernel on every backend, and notes on standard error about backends
//! that the CPU lacks.

pub mod golden;

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The example of the README of `tilewright-kernels`.
#[cfg(doctest)]
#[doc = include_str!("../../kernels/README.md")]
struct KernelsReadme;

use std::io::Write;
use tilewright::{ActivationQuantization, Arithmetic};
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;

/// Cases per kernel and backend; `TILEWRIGHT_CASES` sets another number.
const CASES: u64 = 150;

/// Seed of the first case; `TILEWRIGHT_SEED` sets another.
const SEED: u64 = 0;

/// Runs all checks of `kernel` on every backend but the reference.
///
/// # Panics
/// If `kernel` has no check, if a case fails, or if [`all_backends`] panics.
pub fn conforms(kernel: &str) {
    let (seed, cases) = (number("TILEWRIGHT_SEED", SEED), number("TILEWRIGHT_CASES", CASES));
    assert!(tilewright_verify::checks(Some(kernel)).next().is_some(), "no check of the kernel {kernel:?}");
    for backend in all_backends().into_iter().filter(|b| !b.is_plain() || kernel == "gemm") {
        for check in tilewright_verify::checks(Some(kernel)) {
            if let Err(failure) = check.run(backend, seed, cases, || ()) {
                panic!("{failure}");
            }
        }
    }
}

/// Prints on standard error that `what` is not tested.
pub fn skipped(what: &str) {
    // The test harness captures `eprintln`.
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}");
}

/// Every available backend except the reference, limited to the names in `TILEWRIGHT_ONLY` (separated by commas) if it
/// is set. Prints the backends that this CPU lacks on standard error.
///
/// # Panics
/// If a backend that `TILEWRIGHT_REQUIRE` lists is not available.
pub fn all_backends() -> Vec<Backend> {
    let all = Backend::available().iter().copied().filter(|&b| b != Backend::REFERENCE);
    let mut found: Vec<Backend> = all.collect();
    let has = |name: &str| name == "reference" || found.iter().any(|b| b.name() == name);
    for name in Backend::NAMES.iter().filter(|name| !has(name)) {
        skipped(&format!("{name}: not on this CPU"));
    }
    for name in names("TILEWRIGHT_REQUIRE") {
        assert!(has(&name), "TILEWRIGHT_REQUIRE asks for {name}, which this CPU cannot run");
    }
    let only = names("TILEWRIGHT_ONLY");
    found.retain(|b| only.is_empty() || only.iter().any(|name| name == b.name()));
    found
}

/// The names in an environment variable.
fn names(variable: &str) -> Vec<String> {
    let list = std::env::var(variable).unwrap_or_default();
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Backends with f32 kernels of their own; `amx` shares the f32 kernels of `avx512`.
pub fn backends() -> Vec<Backend> {
    all_backends().into_iter().filter(|backend| !backend.is_plain() && backend.name() != "amx").collect()
}

/// Every type of linear layers on every backend except the reference, with the default activation quantization. Weights
/// in groups appear with rounded inputs too.
pub fn arithmetics() -> impl Iterator<Item = Arithmetic> {
    let usual = |backend| Format::ALL.map(|dtype| Arithmetic::new(backend, dtype));
    let all = all_backends().into_iter().flat_map(usual);
    all.flat_map(|on| {
        let rounded = Arithmetic { inputs: ActivationQuantization::Rounded, ..on };
        core::iter::once(on).chain((rounded != on).then_some(rounded))
    })
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => default,
    }
}

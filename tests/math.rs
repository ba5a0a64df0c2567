//! The elementary functions and activations.

use tilewright_kernels::{Backend, Error, Function, Map};
use tilewright_suite::{backends, conforms};
use tilewright_verify::math::{Claim, walk};

#[test]
fn conforms_to_its_definition() {
    conforms("math");
}

/// Tests every 4099th float and the floats near powers of two; `tilewright verify --exhaustive` tests all floats.
#[test]
fn claims_hold_over_the_whole_range() {
    let backends = backends();
    for function in Function::ALL {
        let allowed = Claim::of(function).ulp;
        for (backend, worst) in backends.iter().zip(walk(function, &backends, 4099, |_| ())) {
            assert!(
                worst.ulp <= allowed,
                "{function:?} on {}: {:.3} ULP at {:e}, {allowed} allowed",
                backend.name(),
                worst.ulp,
                worst.x
            );
        }
    }
}

#[test]
fn edges_are_exact() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for backend in backends() {
        let check = |function, cases: &[(f32, f32)]| {
            for &(x, expected) in cases {
                let mut out = [7.0];
                backend.run(Map { function, x: &[x], out: &mut out }).unwrap();
                let same = out[0].to_bits() == expected.to_bits() || (out[0].is_nan() && expected.is_nan());
                assert!(same, "{function:?}({x:e}) on {}: {:e}, not {expected:e}", backend.name(), out[0]);
            }
        };
        check(Function::Exp, &[(0.0, 1.0), (-0.0, 1.0), (inf, inf), (-inf, 0.0), (89.0, inf), (nan, nan)]);
        check(Function::ExpFast, &[(0.0, 1.0), (-0.0, 1.0), (-inf, 0.0), (-88.0, 0.0), (nan, nan)]);
        check(Function::Exp2Coarse, &[(0.0, 1.0), (-0.0, 1.0), (-inf, 0.0), (-127.0, 0.0), (nan, nan)]);
        check(Function::Log, &[(1.0, 0.0), (0.0, -inf), (-0.0, -inf), (inf, inf), (-1.0, nan), (nan, nan)]);
        for function in [Function::Erf, Function::Tanh] {
            check(function, &[(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (nan, nan)]);
            check(function, &[(20.0, 1.0), (-20.0, -1.0)]);
        }
    }
}

#[test]
fn lengths_must_agree() {
    for backend in backends().into_iter().chain([Backend::REFERENCE]) {
        let refused = backend.run(Map { function: Function::Exp, x: &[0.0; 3], out: &mut [0.0; 2] });
        assert!(matches!(refused, Err(Error::Shape { .. })));
    }
}

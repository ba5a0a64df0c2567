//! The matrix product.

use tilewright_kernels::gemm::{Derivative, Epilogue, Gemm, PackedB, Rhs};
use tilewright_kernels::{Activation, Backend, Error, LinearBackward, View, ViewMut};
use tilewright_peers::product_f64;
use tilewright_suite::{backends, conforms};
use tilewright_verify::bound::{U, gamma};
use tilewright_verify::gemm::product;
use tilewright_verify::tensor::Random;

#[test]
fn conforms_to_its_definition() {
    conforms("gemm");
}

#[test]
fn pre_activations_and_derivatives_conform_to_their_definition() {
    conforms("gemm_backward");
}

#[test]
fn column_sums_conform_to_their_definition() {
    conforms("column_sums");
}

#[test]
fn gradients_of_a_linear_layer_conform_to_their_definition() {
    conforms("linear_backward");
}

/// Compares products of sizes for which the definition is too slow with the `gemm` crate in f64.
#[test]
fn agrees_with_another_library_at_large_sizes() {
    for (m, k, n) in [(512, 768, 1000), (1, 4096, 4096), (1000, 1000, 257), (37, 5000, 300)] {
        let mut random = Random::new(1);
        let a: Vec<f32> = (0..m * k).map(|_| random.unit()).collect();
        let b: Vec<f32> = (0..k * n).map(|_| random.unit()).collect();
        let wide = |v: &[f32], f: fn(f64) -> f64| v.iter().map(|&x| f(f64::from(x))).collect::<Vec<_>>();
        let exact = product_f64([m, k, n], &wide(&a, |x| x), &wide(&b, |x| x));
        let magnitude = product_f64([m, k, n], &wide(&a, f64::abs), &wide(&b, f64::abs));
        let (a, b) = (View::new(&a, [m, k]).unwrap(), View::new(&b, [k, n]).unwrap());
        for backend in backends() {
            let packed = PackedB::new(backend, b);
            for rhs in [Rhs::Packed(&packed), Rhs::Matrix(b.into())] {
                let c = product(backend, a, rhs, n).unwrap();
                for (i, &c) in c.iter().enumerate() {
                    // The error of the f64 product is 2^-29 of the first term.
                    let bound = gamma(k + 1) * magnitude[i] + U * exact[i].abs();
                    let error = (f64::from(c) - exact[i]).abs();
                    assert!(
                        error <= bound,
                        "{} {m}x{k}x{n} element {i}: found {c:e}, expected {:e} within {bound:.2e}",
                        backend.name(),
                        exact[i]
                    );
                }
            }
        }
    }
}

/// The definition and every backend refuse operands that do not fit, with the same error.
#[test]
fn refuses_what_does_not_fit() {
    let data = vec![1.0; 1000];
    let (two, four) = ([0.0; 2], [0.0; 4]);
    let view = |shape| View::new(&data, shape).unwrap();
    let (a, b) = (view([1, 2, 3]), view([1, 3, 4]));
    fn none<'a>() -> Epilogue<'a> {
        Epilogue::default()
    }
    let matrix = |shape| Rhs::Matrix(view(shape).into());
    let pair = |gate, up| Rhs::Gated { gate: view(gate).into(), up: view(up).into() };
    let (plain, gated) = (matrix([1, 3, 4]), pair([1, 3, 4], [1, 3, 4]));
    let cases = || -> [(&str, View<'_, 3>, Rhs<'_>, f32, Epilogue<'_>); 10] {
        [
            ("Gemm.a", view([1, 3, 3]), plain, 0.0, none()),
            ("Gemm.a", view([2, 2, 3]), plain, 0.0, none()),
            ("Gemm.b", a, matrix([1, 4, 4]), 0.0, none()),
            ("Gemm.b", a, matrix([3, 3, 4]), 0.0, none()),
            ("Gemm.b.up", a, pair([1, 3, 4], [1, 3, 5]), 0.0, none()),
            ("Gemm.b.gate", a, pair([1, 2, 4], [1, 3, 4]), 0.0, none()),
            ("Gemm.beta", a, gated, 1.0, none()),
            ("Epilogue.row_bias", a, plain, 0.0, Epilogue { row_bias: Some(&four), ..none() }),
            ("Epilogue.column_bias", a, gated, 0.0, Epilogue { column_bias: Some(&four), ..none() }),
            ("Epilogue.residual", a, plain, 0.0, Epilogue { residual: Some(a), ..none() }),
        ]
    };
    for &backend in Backend::available() {
        for (what, a, b, beta, epilogue) in cases() {
            let mut c = [7.0; 8];
            let view = ViewMut::new(&mut c, [1, 2, 4]).unwrap();
            let (a, view) = (a.into(), view.into());
            let error = backend.run(Gemm { alpha: 1.0, a, b, beta, c: view, epilogue }).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{what}: expected")), "{what}: {error}");
            assert_eq!(c, [7.0; 8], "{what}: refused, but C was written");
        }
        let (at, activation) = (view([1, 2, 4]).into(), Activation::Relu);
        let narrow = view([1, 2, 3]).into();
        let (mut aux, mut dup) = ([7.0; 6], [7.0; 6]);
        let [aux, dup] = [&mut aux, &mut dup].map(|v| ViewMut::<3>::new(v, [1, 2, 3]).unwrap().into());
        let derivative = |derivative| Epilogue { derivative: Some(derivative), ..none() };
        for (what, epilogue) in [
            ("Epilogue.aux", Epilogue { aux: Some(aux), ..none() }),
            ("Derivative.aux", derivative(Derivative::Of { activation, aux: narrow })),
            ("Derivative.dup", derivative(Derivative::OfGated { activation, gate: at, up: at, dup })),
        ] {
            let mut c = [7.0; 8];
            let to = ViewMut::new(&mut c, [1, 2, 4]).unwrap().into();
            let error = backend.run(Gemm { alpha: 1.0, a: a.into(), b: plain, beta: 0.0, c: to, epilogue });
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{what}: expected")), "{what}: {error}");
            assert_eq!(c, [7.0; 8], "{what}: refused, but C was written");
        }
        // The weight is packed, so the error blames a C of another width.
        let packed = PackedB::new(backend, b.at(0));
        let mut c = [7.0; 10];
        let wide = ViewMut::new(&mut c, [1, 2, 5]).unwrap().into();
        let (x, b_packed) = (a.into(), Rhs::Packed(&packed));
        let error = backend.run(Gemm { alpha: 1.0, a: x, b: b_packed, beta: 0.0, c: wide, epilogue: none() });
        assert!(error.unwrap_err().to_string().starts_with("Gemm.c: expected shape [1, 2, 4]"));
        let mut c = [0.0; 8];
        let c = ViewMut::new(&mut c, [1, 2, 4]).unwrap();
        let fits = Epilogue {
            row_bias: Some(&two),
            column_bias: Some(&four),
            activation: Some(Activation::Relu),
            residual: Some(view([1, 2, 4])),
            ..none()
        };
        let (a, b, c) = (a.into(), plain, c.into());
        assert_eq!(backend.run(Gemm { alpha: 1.0, a, b, beta: 0.0, c, epilogue: fits }), Ok(()));
    }
}

#[test]
fn refuses_weights_packed_for_another_tile() {
    let data = [1.0; 16];
    let b = View::new(&data, [4, 4]).unwrap();
    let tiles = |b: &Backend| b.f32_tile().1;
    for backend in backends() {
        for other in backends().iter().filter(|other| tiles(other) != tiles(&backend)) {
            let packed = PackedB::new(*other, b);
            let error = product(backend, b, Rhs::Packed(&packed), 4).unwrap_err();
            assert!(error.to_string().contains("Gemm.b: expected panels"), "{error}");
        }
    }
}

/// All arguments of a backward pass are checked before anything is written.
#[test]
fn refuses_gradients_that_do_not_fit() {
    let data = [1.0; 64];
    let view = |shape| View::new(&data, shape).unwrap();
    let (dy, x) = (view([2, 4]), view([2, 3]));
    let weight = |shape| Rhs::Matrix(View::<3>::new(&data, shape).unwrap().into());
    let fits = weight([1, 4, 3]);
    let pair = Rhs::Gated { gate: view([4, 3]).into(), up: view([4, 3]).into() };
    let cases = [
        ("LinearBackward.x: expected shape [2, 3]", dy, view([3, 3]), fits, 4),
        ("LinearBackward.weight: expected shape [1, 4, 3]", dy, x, weight([1, 3, 4]), 4),
        ("LinearBackward.weight: expected one matrix", dy, x, pair, 4),
        ("LinearBackward.dbias: expected shape [4]", dy, x, fits, 3),
        ("LinearBackward.dy: expected rows with unit stride", view([4, 2]).transpose(), x, fits, 4),
    ];
    for &backend in Backend::available() {
        for (expected, dy, x, weight, outputs) in cases {
            let (mut dx, mut dweight, mut dbias) = ([7.0; 6], [7.0; 12], [7.0; 4]);
            let run = backend.run(LinearBackward {
                dy: dy.into(),
                x: x.into(),
                weight,
                dx: Some(ViewMut::new(&mut dx, [2, 3]).unwrap().into()),
                dweight: Some(ViewMut::new(&mut dweight, [4, 3]).unwrap()),
                dbias: Some(&mut dbias[..outputs]),
            });
            let error = run.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{}: {error}, not {expected}", backend.name());
            assert_eq!((dx, dweight, dbias), ([7.0; 6], [7.0; 12], [7.0; 4]), "{expected}: yet written");
        }
    }
}

/// A view that names an element twice cannot be an output.
#[test]
fn refuses_overlapping_outputs() {
    let mut data = [0.0; 100];
    for strides in [[0, 4, 1], [16, 0, 1], [16, 4, 0], [16, 3, 1], [4, 4, 1]] {
        let refused = ViewMut::with_strides(&mut data, [2, 4, 4], strides);
        assert!(matches!(refused, Err(Error::Overlap { .. })), "{strides:?}");
    }
}

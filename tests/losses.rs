//! The losses: cross-entropies and their gradients.

use tilewright_kernels::random::Random;
use tilewright_kernels::{
    Backend, BceWithLogits, CrossEntropy, CrossEntropyBackward, Error, LinearCrossEntropy, LossSum,
    NegativeLogLikelihood, Rows, Targets, View, ViewMut,
};
use tilewright_suite::backends;
use tilewright_verify::bound::identical;

/// One test per kernel, so that each is named and they run side by side.
macro_rules! conforms {
    ($($kernel:ident)*) => {$(
        #[test]
        fn $kernel() {
            tilewright_suite::conforms(stringify!($kernel));
        }
    )*};
}
conforms!(cross_entropy cross_entropy_backward linear_cross_entropy bce_with_logits bce_with_logits_backward);

/// Asks every backend, and the definition, for an error that starts like this.
fn refused(expected: &str, run: impl Fn(Backend) -> Result<LossSum, Error>) {
    for &backend in Backend::available() {
        let error = run(backend).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{}: {error}, not {expected}", backend.name());
    }
}

/// A call of the forward kernel.
fn forward<'a>(logits: View<'a, 2>, targets: Targets<'a>) -> impl Fn(Backend) -> Result<LossSum, Error> + 'a {
    move |backend| backend.run(CrossEntropy { logits, targets, losses: None })
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let x = [1.0; 8];
    let logits = View::new(&x, [2, 4]).unwrap();
    let plain = Targets::new(&[0, 1]);
    for (label, labels) in [("4", [0, 4]), ("-1", [3, -1]), ("-100", [3, -100])] {
        refused(
            &format!("Targets.labels: label {label} of row 1 is outside of 4 classes"),
            forward(logits, Targets { labels: &labels, ignored: -5, ..plain }),
        );
    }
    refused("Targets.labels: expected shape [2], found [1]", forward(logits, Targets::new(&[0])));
    refused("Targets.weights: expected shape [4], found [3]", {
        forward(logits, Targets { weights: Some(&x[..3]), ..plain })
    });
    for (smoothing, found) in [(-0.5, "-0.5"), (1.5, "1.5"), (f32::NAN, "NaN")] {
        refused(
            &format!("Targets.smoothing: expected a number from 0 to 1, found {found}"),
            forward(logits, Targets { smoothing, ..plain }),
        );
    }
    refused("CrossEntropy.logits: expected rows with unit stride, found strides [1, 2]", |backend| {
        let logits = View::new(&x, [4, 2])?.transpose();
        backend.run(CrossEntropy { logits, targets: plain, losses: None })
    });
    refused("CrossEntropy.losses: expected shape [2], found [3]", |backend| {
        backend.run(CrossEntropy { logits, targets: plain, losses: Some(&mut [0.0; 3]) })
    });
    refused("CrossEntropyBackward.losses: expected shape [2], found [1]", |backend| {
        let mut dx = x;
        let rows = Rows::InPlace(ViewMut::new(&mut dx, [2, 4])?);
        let losses = Some(&mut [0.0][..]);
        let result = backend.run(CrossEntropyBackward { rows, targets: plain, scale: 1.0, losses });
        assert_eq!(dx, x, "refused, and yet written");
        result
    });
    refused("Targets.smoothing: expected 0 for a negative log-likelihood, found 0.1", |backend| {
        let targets = Targets { smoothing: 0.1, ..plain };
        backend.run(NegativeLogLikelihood { log_probabilities: logits, targets, losses: None })
    });
    refused("BceWithLogits.targets: expected shape [2, 4], found [2, 3]", |backend| {
        let targets = View::new(&x, [2, 3])?;
        backend.run(BceWithLogits { logits, targets, positive_weight: None })
    });
    refused("BceWithLogits.positive_weight: expected shape [4], found [2]", |backend| {
        backend.run(BceWithLogits { logits, targets: logits, positive_weight: Some(&x[..2]) })
    });
}

/// Losses, their sums and all gradients have equal bits in pools of 1 to 4 threads; so has each token's loss and
/// gradient among other tokens.
#[test]
fn losses_do_not_depend_on_threads() {
    let [tokens, d, vocabulary] = [301, 40, 2100];
    let random = &mut Random::new(5);
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| random.unit()).collect() };
    let (x, w, old) = (numbers(tokens * d), numbers(vocabulary * d), numbers(vocabulary * d));
    let labels: Vec<i64> = (0..tokens as i64).map(|t| if t % 3 == 0 { -100 } else { t * 7 }).collect();
    for backend in backends() {
        let project = |first: usize, count: usize| {
            let (mut dx, mut dw, mut db) =
                (vec![f32::NAN; count * d], old.clone(), old[..vocabulary].to_vec());
            let mut losses = vec![f32::NAN; count];
            let targets = Targets { smoothing: 0.1, ..Targets::new(&labels[first..first + count]) };
            let x = View::new(&x[first * d..], [count, d]).unwrap();
            let weight = View::new(&w, [vocabulary, d]).unwrap();
            let sum = backend
                .run(LinearCrossEntropy {
                    bias: Some(&w[..vocabulary]),
                    losses: Some(&mut losses),
                    dx: Some(ViewMut::new(&mut dx, [count, d]).unwrap()),
                    dweight: Some(ViewMut::new(&mut dw, [vocabulary, d]).unwrap()),
                    dbias: Some(&mut db),
                    ..LinearCrossEntropy::new(x, weight, targets)
                })
                .unwrap();
            [losses, dx, dw, db, vec![sum.sum as f32]]
        };
        let in_pool = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let z = View::new(&w, [1, vocabulary * d]).unwrap();
                let bce = BceWithLogits { logits: z, targets: z, positive_weight: None };
                let rows = View::new(&x, [tokens, d]).unwrap();
                let many = BceWithLogits { logits: rows, targets: rows, positive_weight: None };
                let sums = [backend.run(bce), backend.run(many)].map(|sum| sum.unwrap().sum as f32);
                [&project(0, tokens).concat()[..], &sums].concat()
            })
        };
        let one = in_pool(1);
        for threads in 2..=4 {
            identical(&in_pool(threads), &one)
                .unwrap_or_else(|e| panic!("{} on {threads} threads: {e}", backend.name()));
        }
        let together = project(0, tokens);
        for t in [0, 1, 95, 144, 145, 300] {
            let [loss, dx, ..] = project(t, 1);
            identical(&loss, &together[0][t..=t]).unwrap();
            identical(&dx, &together[1][t * d..][..d]).unwrap();
        }
    }
}

#[test]
fn rows_without_a_label_are_zero_and_do_not_count() {
    for &backend in Backend::available() {
        let x = [f32::NAN, f32::INFINITY, 0.0, 0.0];
        let targets = Targets { weights: Some(&[2.0, 8.0]), ..Targets::new(&[-100, 1]) };
        let (mut dx, mut losses) = ([7.0; 4], [7.0; 2]);
        let rows = Rows::Into(View::new(&x, [2, 2]).unwrap(), ViewMut::new(&mut dx, [2, 2]).unwrap());
        let kernel = CrossEntropyBackward { rows, targets, scale: 1.0, losses: Some(&mut losses) };
        let loss = backend.run(kernel).unwrap();
        assert_eq!((dx, losses[0]), ([0.0, 0.0, 4.0, -4.0], 0.0), "{}", backend.name());
        // The definition sums losses before it rounds them.
        assert_eq!((loss.weight, loss.sum as f32), (8.0, losses[1]), "{}", backend.name());
        // No row has a label: PyTorch's mean is NaN, the sum 0.
        let logits = View::new(&x, [2, 2]).unwrap();
        let none = backend.run(CrossEntropy { logits, targets: Targets::new(&[-100; 2]), losses: None });
        assert_eq!(none, Ok(LossSum::default()), "{}", backend.name());
    }
}

/// Losses and gradients far below 1 keep their digits.
#[test]
fn confident_predictions_keep_their_digits() {
    for &backend in Backend::available() {
        let (x, z) = ([-40.0f32, 40.0], [0.0, 1.0]);
        let loss = backend
            .run(BceWithLogits {
                logits: View::new(&x, [1, 2]).unwrap(),
                targets: View::new(&z, [1, 2]).unwrap(),
                positive_weight: None,
            })
            .unwrap();
        let expected = 2.0 * (-40f64).exp().ln_1p();
        assert!((loss.sum / expected - 1.0).abs() < 1e-6, "{}: {}", backend.name(), loss.sum);
    }
}

//! Gradients of losses.

use tilewright_kernels::definition::{
    bce_with_logits, bce_with_logits_backward, cross_entropy, cross_entropy_backward, linear_cross_entropy,
    linear_cross_entropy_backward,
};
use tilewright_kernels::{Targets, random::Random};
use tilewright_verify::finite_difference::check;

#[test]
fn cross_entropy_of_logits() {
    let random = &mut Random::new(1);
    for [rows, classes] in [[1, 2], [5, 7], [40, 300]] {
        let labels: Vec<i64> =
            (0..rows).map(|i| if i % 4 == 3 { -100 } else { random.below(classes) as i64 }).collect();
        let weights: Vec<f32> = (0..classes).map(|_| random.unit().abs()).collect();
        for (smoothing, weights) in
            [(0.0, None), (0.1, None), (0.0, Some(&weights[..])), (0.3, Some(&weights))]
        {
            let targets = Targets { smoothing, weights, ..Targets::new(&labels) };
            let x: Vec<f64> = (0..rows * classes).map(|_| f64::from(random.normal())).collect();
            check(
                &[x],
                |inputs| cross_entropy(&inputs[0], &targets),
                |inputs, dlosses| vec![cross_entropy_backward(&inputs[0], &targets, dlosses)],
                random,
            )
            .unwrap();
        }
    }
}

#[test]
fn cross_entropy_of_a_projection() {
    let random = &mut Random::new(3);
    for [tokens, d, vocabulary] in [[1, 1, 2], [5, 3, 7], [40, 20, 60]] {
        let labels: Vec<i64> =
            (0..tokens).map(|i| if i % 4 == 3 { -100 } else { random.below(vocabulary) as i64 }).collect();
        let targets = Targets { smoothing: 0.1, ..Targets::new(&labels) };
        let inputs = [tokens * d, vocabulary * d, vocabulary]
            .map(|n| (0..n).map(|_| f64::from(random.normal())).collect::<Vec<f64>>());
        check(
            &inputs,
            |inputs| linear_cross_entropy(&inputs[0], &inputs[1], Some(&inputs[2]), &targets),
            |inputs, dlosses| {
                linear_cross_entropy_backward(&inputs[0], &inputs[1], Some(&inputs[2]), &targets, dlosses)
                    .into()
            },
            random,
        )
        .unwrap();
    }
}

#[test]
fn binary_cross_entropy_of_logits() {
    let random = &mut Random::new(2);
    let (z, weight) = ([0.0, 1.0, 0.25, 1.0, 0.0, 0.5], [1.0, 1.0, 3.0, 0.5, 2.0, 1.0]);
    let x: Vec<f64> = (0..z.len()).map(|_| 3.0 * f64::from(random.normal())).collect();
    let each = |f: fn(f64, f64, f64) -> f64, x: &[f64]| -> Vec<f64> {
        x.iter().zip(z).zip(weight).map(|((&x, z), weight)| f(x, z, weight)).collect()
    };
    check(
        &[x],
        |inputs| each(bce_with_logits, &inputs[0]),
        |inputs, dlosses| {
            let gradients = each(bce_with_logits_backward, &inputs[0]);
            vec![gradients.iter().zip(dlosses).map(|(g, d)| g * d).collect()]
        },
        random,
    )
    .unwrap();
}

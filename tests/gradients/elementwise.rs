//! Activations, gated products, dropout and RoPE.

use tilewright_kernels::definition::{
    activate, activate_backward, dropout, gated, gated_backward, rope, rope_backward,
};
use tilewright_kernels::{Activation, RopeLayout};
use tilewright_verify::finite_difference::check;
use tilewright_verify::tensor::Random;

/// `n` numbers in [-1, 1).
fn unit(n: usize, random: &mut Random) -> Vec<f64> {
    (0..n).map(|_| f64::from(random.unit())).collect()
}

/// Arguments of an activation from -8 to 8, away from the corners of ReLU, ELU and hard swish.
fn arguments() -> Vec<f64> {
    let corners = [-3.0, 0.0, 3.0];
    let near = |x: &f64| corners.iter().any(|corner| (x - corner).abs() < 0.02);
    (-59..59).map(|i| 0.137 * f64::from(i)).filter(|x| !near(x)).collect()
}

#[test]
fn activations() {
    let random = &mut Random::new(1);
    for activation in Activation::ALL {
        check(
            &[arguments()],
            |inputs| activate(activation, &inputs[0]),
            |inputs, dy| vec![activate_backward(activation, &inputs[0], dy)],
            random,
        )
        .unwrap_or_else(|e| panic!("{activation:?}: {e}"));
    }
}

#[test]
fn gated_products() {
    let random = &mut Random::new(2);
    for activation in Activation::ALL {
        let gate = arguments();
        let up = unit(gate.len(), random);
        check(
            &[gate, up],
            |inputs| gated(activation, &inputs[0], &inputs[1]),
            |inputs, dy| {
                let (dgate, dup) = gated_backward(activation, &inputs[0], &inputs[1], dy);
                vec![dgate, dup]
            },
            random,
        )
        .unwrap_or_else(|e| panic!("{activation:?}: {e}"));
    }
}

#[test]
fn dropout_is_its_own_gradient() {
    let random = &mut Random::new(3);
    let kept: Vec<bool> = (0..50).map(|_| random.below(3) > 0).collect();
    check(
        &[unit(50, random)],
        |inputs| dropout(&inputs[0], &kept, 0.3),
        |_, dy| vec![dropout(dy, &kept, 0.3)],
        random,
    )
    .unwrap();
}

#[test]
fn rotations() {
    let random = &mut Random::new(4);
    for layout in [RopeLayout::HalfSplit, RopeLayout::Interleaved] {
        for (head_dim, pairs) in [(8, 4), (8, 3), (7, 3), (5, 0)] {
            // Factors that are no cosines and sines: a table may hold any.
            let (cos, sin) = (unit(pairs, random), unit(pairs, random));
            check(
                &[unit(3 * head_dim, random)],
                |inputs| rope(&inputs[0], head_dim, layout, &cos, &sin),
                |_, dy| vec![rope_backward(dy, head_dim, layout, &cos, &sin)],
                random,
            )
            .unwrap_or_else(|e| panic!("{layout:?}, {pairs} pairs of {head_dim} columns: {e}"));
        }
    }
}

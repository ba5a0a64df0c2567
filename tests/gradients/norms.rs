//! Norms, softmax, pooling and embedding.

use tilewright_kernels::Pooling;
use tilewright_kernels::definition::*;
use tilewright_verify::finite_difference::check;
use tilewright_verify::tensor::Random;

/// Rows and columns: small, with a whole Jacobian, and large, along random directions.
const SHAPES: [[usize; 2]; 3] = [[1, 1], [3, 5], [6, 70]];

fn numbers(n: usize, random: &mut Random) -> Vec<f64> {
    (0..n).map(|_| f64::from(random.unit())).collect()
}

/// Sums gradients of the same parameter over the rows.
fn add(sum: &mut [f64], more: &[f64]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[test]
fn layer_norm_gradients() {
    let random = &mut Random::new(1);
    for [rows, n] in SHAPES {
        let inputs = [numbers(rows * n, random), numbers(n, random), numbers(n, random)];
        let norm = |x: &[f64], inputs: &[Vec<f64>]| layer_norm(x, Some(&inputs[1]), Some(&inputs[2]), 0.1);
        let forward =
            |inputs: &[Vec<f64>]| inputs[0].chunks(n).flat_map(|x| norm(x, inputs).0).collect::<Vec<_>>();
        let backward = |inputs: &[Vec<f64>], dy: &[f64]| {
            let mut gradients = vec![Vec::new(), vec![0.0; n], vec![0.0; n]];
            for (x, dy) in inputs[0].chunks(n).zip(dy.chunks(n)) {
                let (dx, dweight) = layer_norm_backward(x, Some(&inputs[1]), norm(x, inputs).2, dy);
                gradients[0].extend(dx);
                add(&mut gradients[1], &dweight);
                add(&mut gradients[2], dy);
            }
            gradients
        };
        check(&inputs, forward, backward, random).unwrap();
        let plain = |inputs: &[Vec<f64>]| {
            inputs[0].chunks(n).flat_map(|x| layer_norm(x, None, None, 0.1).0).collect()
        };
        let backward = |inputs: &[Vec<f64>], dy: &[f64]| {
            let rows = inputs[0].chunks(n).zip(dy.chunks(n));
            vec![
                rows.flat_map(|(x, dy)| layer_norm_backward(x, None, layer_norm(x, None, None, 0.1).2, dy).0)
                    .collect(),
            ]
        };
        check(&inputs[..1], plain, backward, random).unwrap();
    }
}

#[test]
fn rms_norm_gradients() {
    let random = &mut Random::new(2);
    for [rows, n] in SHAPES {
        let inputs = [numbers(rows * n, random), numbers(n, random)];
        let norm = |x: &[f64], inputs: &[Vec<f64>]| rms_norm(x, Some(&inputs[1]), 0.1);
        let forward =
            |inputs: &[Vec<f64>]| inputs[0].chunks(n).flat_map(|x| norm(x, inputs).0).collect::<Vec<_>>();
        let backward = |inputs: &[Vec<f64>], dy: &[f64]| {
            let mut gradients = vec![Vec::new(), vec![0.0; n]];
            for (x, dy) in inputs[0].chunks(n).zip(dy.chunks(n)) {
                let (dx, dweight) = rms_norm_backward(x, Some(&inputs[1]), norm(x, inputs).1, dy);
                gradients[0].extend(dx);
                add(&mut gradients[1], &dweight);
            }
            gradients
        };
        check(&inputs, forward, backward, random).unwrap();
    }
}

#[test]
fn l2_normalize_gradients() {
    let random = &mut Random::new(3);
    for [rows, n] in SHAPES {
        // Rows of unit scale, whose norm exceeds the first eps and is below the second.
        for eps in [1e-3, 100.0] {
            let x: Vec<f64> =
                (0..rows * n).map(|i| f64::from(random.unit()) + (-1f64).powi(i as i32)).collect();
            let forward = |inputs: &[Vec<f64>]| {
                inputs[0].chunks(n).flat_map(|x| l2_normalize(x, eps)).collect::<Vec<_>>()
            };
            let backward = |inputs: &[Vec<f64>], dy: &[f64]| {
                let rows = inputs[0].chunks(n).zip(dy.chunks(n));
                vec![rows.flat_map(|(x, dy)| l2_normalize_backward(x, eps, dy)).collect()]
            };
            check(&[x], forward, backward, random).unwrap();
        }
    }
}

#[test]
fn softmax_gradients() {
    let random = &mut Random::new(4);
    for n in [1, 7, 300] {
        for log in [false, true] {
            let x = numbers(n, random);
            let biases = [vec![0.0; n], numbers(n, random)];
            for (scale, bias) in [1.0, -0.7].into_iter().zip(biases) {
                let forward = |inputs: &[Vec<f64>]| softmax(&inputs[0], scale, &bias, log);
                let backward = |inputs: &[Vec<f64>], dy: &[f64]| {
                    vec![softmax_backward(&softmax(&inputs[0], scale, &bias, log), dy, scale, &bias, log)]
                };
                check(core::slice::from_ref(&x), forward, backward, random).unwrap();
            }
        }
    }
}

/// Masked columns have no gradient, and take no part in the gradients of the others.
#[test]
fn softmax_gradients_under_a_mask() {
    let random = &mut Random::new(5);
    let bias = [0.3, f64::NEG_INFINITY, 0.0, -1.0, f64::NEG_INFINITY];
    let kept = [0, 2, 3];
    for log in [false, true] {
        // A masked logarithm is -inf, of which there are no differences.
        let forward = |inputs: &[Vec<f64>]| {
            let y = softmax(&inputs[0], 0.5, &bias, log);
            kept.iter().map(|&j| y[j]).collect::<Vec<_>>()
        };
        let backward = |inputs: &[Vec<f64>], kept_dy: &[f64]| {
            let mut dy = [f64::NAN; 5];
            kept.iter().zip(kept_dy).for_each(|(&j, &x)| dy[j] = x);
            vec![softmax_backward(&softmax(&inputs[0], 0.5, &bias, log), &dy, 0.5, &bias, log)]
        };
        check(&[numbers(5, random)], forward, backward, random).unwrap();
    }
}

#[test]
fn pool_gradients() {
    let random = &mut Random::new(6);
    for [rows, n] in [[1, 1], [3, 5], [40, 70]] {
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let forward = |inputs: &[Vec<f64>]| pool(&inputs[0], n, pooling);
            let backward = |_: &[Vec<f64>], dy: &[f64]| vec![pool_backward(dy, rows, pooling)];
            check(&[numbers(rows * n, random)], forward, backward, random).unwrap();
        }
    }
}

#[test]
fn embedding_gradients() {
    let random = &mut Random::new(7);
    for (n, tables) in [(1, [2, 1]), (5, [4, 3]), (70, [30, 20])] {
        let ids: [Vec<u32>; 2] =
            tables.map(|entries| (0..40).map(|_| random.below(entries) as u32).collect());
        let inputs = tables.map(|entries| numbers(entries * n, random));
        let forward = |inputs: &[Vec<f64>]| {
            let row = |t: usize, l: usize| inputs[l][ids[l][t] as usize * n..][..n].to_vec();
            (0..40).flat_map(|t| embedding(&[row(t, 0), row(t, 1)], n)).collect::<Vec<_>>()
        };
        let backward = |inputs: &[Vec<f64>], dy: &[f64]| {
            let mut tables: Vec<Vec<f64>> = inputs.iter().map(|table| vec![0.0; table.len()]).collect();
            tables.iter_mut().zip(&ids).for_each(|(dtable, ids)| embedding_backward(dy, ids, None, dtable));
            tables
        };
        check(&inputs, forward, backward, random).unwrap();
    }
}

//! Linear layers.

use tilewright_kernels::definition::{linear, linear_backward};
use tilewright_verify::finite_difference::check;
use tilewright_verify::tensor::Random;

#[test]
fn linear_backward_is_the_gradient_of_linear() {
    for shape @ [rows, inputs, out] in [[3, 5, 4], [1, 1, 1], [40, 30, 20]] {
        let mut random = Random::new(1);
        let mut draw = |n: usize| (0..n).map(|_| f64::from(random.unit())).collect::<Vec<_>>();
        let inputs = [draw(rows * inputs), draw(out * inputs), draw(out)];
        check(
            &inputs,
            |v| linear(&v[0], &v[1], &v[2]),
            |v, dy| linear_backward(dy, &v[0], &v[1], shape).to_vec(),
            &mut Random::new(2),
        )
        .unwrap();
    }
}

//! Gradients against finite differences, all in f64.
//!
//! ```text
//! df/dx ~ (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / (12 h)
//! ```
//!
//! This is the central difference of fourth order (Abramowitz and Stegun, *Handbook of Mathematical Functions*,
//! 25.3.6). Its truncation error is h^4 f^(5) / 30, and rounding adds about 2^-52 |f| / h. With h = 2^-10 max(1, |x|),
//! both errors stay below 1e-11 for functions of moderate derivatives, far below the tolerance.

use super::Failure;
use super::tensor::Random;

/// Largest error of a gradient, relative to the largest element of the Jacobian's row.
const TOLERANCE: f64 = 1e-6;

/// Largest number of elements of a Jacobian that is compared whole. A larger Jacobian is compared along random
/// directions.
const WHOLE: usize = 1 << 16;

/// Random directions that stand for a larger Jacobian. A wrong element can be small along one of them by chance.
const DIRECTIONS: usize = 8;

/// Checks the gradient of a function against finite differences.
///
/// `forward` maps `inputs` to the outputs. `backward(inputs, dy)` returns the gradient of `sum(dy * forward(inputs))`
/// with respect to each input. The Jacobian is compared whole if it has at most 2^16 elements, else along eight
/// random directions of the outputs and the inputs.
///
/// The function must be smooth within 2^-9 max(1, |x|) of the inputs.
///
/// # Errors
/// A [`Failure`] that names the first input, element and output whose derivative differs by more than 1e-6 of the
/// largest derivative of its output.
pub fn check(
    inputs: &[Vec<f64>],
    forward: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    backward: impl Fn(&[Vec<f64>], &[f64]) -> Vec<Vec<f64>>,
    random: &mut Random,
) -> Result<(), Failure> {
    let outputs = forward(inputs).len();
    let elements = inputs.iter().map(Vec::len).sum::<usize>();
    if outputs * elements <= WHOLE {
        return check_jacobian(inputs, outputs, forward, backward);
    }
    (0..DIRECTIONS).try_for_each(|_| check_direction(inputs, outputs, &forward, &backward, random))
}

/// Compares the derivative of a random combination of the outputs along a random direction of the inputs.
fn check_direction(
    inputs: &[Vec<f64>],
    outputs: usize,
    forward: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    backward: impl Fn(&[Vec<f64>], &[f64]) -> Vec<Vec<f64>>,
    random: &mut Random,
) -> Result<(), Failure> {
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(random.unit())).collect() };
    let dy = draw(outputs);
    let direction: Vec<Vec<f64>> = inputs.iter().map(|input| draw(input.len())).collect();
    let along = |t: f64| {
        let moved = |(x, d): (&Vec<f64>, &Vec<f64>)| x.iter().zip(d).map(|(x, d)| x + t * d).collect();
        let moved: Vec<Vec<f64>> = inputs.iter().zip(&direction).map(moved).collect();
        forward(&moved).iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
    };
    let expected = central(2f64.powi(-10), along);
    let gradients = shaped(inputs, backward(inputs, &dy))?;
    let products = || gradients.iter().flatten().zip(direction.iter().flatten()).map(|(g, d)| g * d);
    let found: f64 = products().sum();
    // The scale of a sum of independent terms.
    let scale = products().map(|x| x * x).sum::<f64>().sqrt();
    if (found - expected).abs() <= TOLERANCE * scale.max(expected.abs()) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "derivative along a direction: found {found:e}, by finite differences {expected:e}"
    )))
}

/// Compares all derivatives of all outputs.
fn check_jacobian(
    inputs: &[Vec<f64>],
    outputs: usize,
    forward: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    backward: impl Fn(&[Vec<f64>], &[f64]) -> Vec<Vec<f64>>,
) -> Result<(), Failure> {
    // expected[input][element][output]
    let mut expected: Vec<Vec<Vec<f64>>> = Vec::new();
    let mut moved = inputs.to_vec();
    for (i, input) in inputs.iter().enumerate() {
        let mut columns = Vec::new();
        for (j, &x) in input.iter().enumerate() {
            let h = 2f64.powi(-10) * x.abs().max(1.0);
            let mut at = |t: f64| {
                moved[i][j] = x + t;
                let y = forward(&moved);
                moved[i][j] = x;
                y
            };
            let [far_low, low, high, far_high] = [-2.0 * h, -h, h, 2.0 * h].map(&mut at);
            let column = (0..outputs)
                .map(|o| (8.0 * (high[o] - low[o]) - (far_high[o] - far_low[o])) / (12.0 * h))
                .collect();
            columns.push(column);
        }
        expected.push(columns);
    }
    for output in 0..outputs {
        let mut dy = vec![0.0; outputs];
        dy[output] = 1.0;
        let gradients = shaped(inputs, backward(inputs, &dy))?;
        let magnitudes = expected.iter().flatten().map(|column| column[output].abs());
        let scale = magnitudes.fold(0.0, f64::max).max(TOLERANCE);
        for (i, gradient) in gradients.iter().enumerate() {
            for (j, &found) in gradient.iter().enumerate() {
                let expected = expected[i][j][output];
                let error = (found - expected).abs();
                if error.is_nan() || error > TOLERANCE * scale {
                    return Err(Failure::new(format!(
                        "derivative of output {output} by element {j} of input {i}: found {found:e}, by finite \
                         differences {expected:e}"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// The derivative of `f` at 0 from four values at multiples of `h`.
fn central(h: f64, f: impl Fn(f64) -> f64) -> f64 {
    (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)
}

/// Returns the gradients, or an error if one differs from its input in length.
fn shaped(inputs: &[Vec<f64>], gradients: Vec<Vec<f64>>) -> Result<Vec<Vec<f64>>, Failure> {
    let lengths = |of: &[Vec<f64>]| of.iter().map(Vec::len).collect::<Vec<_>>();
    let (expected, found) = (lengths(inputs), lengths(&gradients));
    if expected == found {
        return Ok(gradients);
    }
    Err(Failure::new(format!("gradients of lengths {found:?}, expected {expected:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// y = a x + x^3 b for two inputs, x and (a, b).
    fn cubic(inputs: &[Vec<f64>]) -> Vec<f64> {
        inputs[0].iter().map(|x| inputs[1][0] * x + x.powi(3) * inputs[1][1]).collect()
    }

    fn gradient(inputs: &[Vec<f64>], dy: &[f64]) -> Vec<Vec<f64>> {
        let (x, [a, b]) = (&inputs[0], [inputs[1][0], inputs[1][1]]);
        let dx = x.iter().zip(dy).map(|(x, dy)| dy * (a + 3.0 * x * x * b)).collect();
        let da = x.iter().zip(dy).map(|(x, dy)| dy * x).sum();
        let db = x.iter().zip(dy).map(|(x, dy)| dy * x.powi(3)).sum();
        vec![dx, vec![da, db]]
    }

    #[test]
    fn right_gradients_pass_and_wrong_ones_do_not() {
        for n in [3, 400] {
            let x: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
            let inputs = [x, vec![0.7, -1.3]];
            let random = &mut Random::new(1);
            check(&inputs, cubic, gradient, random).unwrap();
            let wrong = |inputs: &[Vec<f64>], dy: &[f64]| {
                let mut gradients = gradient(inputs, dy);
                gradients[1][1] *= 1.0 + 1e-4;
                gradients
            };
            check(&inputs, cubic, wrong, random).unwrap_err();
            let short = |inputs: &[Vec<f64>], dy: &[f64]| gradient(inputs, dy)[..1].to_vec();
            check(&inputs, cubic, short, random).unwrap_err();
        }
    }
}

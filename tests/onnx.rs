//! ONNX's backend tests of training operators, from the wheel `onnx==1.22.0`, through our kernels.
//! `golden/onnx_training.py` makes the fixture.

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::BTreeMap;
use tilewright_kernels::optimizer::{Adam, AdamOptions, Sgd, SgdOptions, Trainable, WeightDecay};
use tilewright_kernels::{
    Backend, ColumnMask, CrossEntropy, LossSum, NegativeLogLikelihood, Rows, Softmax, Targets, View, ViewMut,
};
use tilewright_suite::golden::golden;
use tilewright_suite::{backends, skipped};

/// A case: one operator with its inputs and expected outputs, names of tensors.
#[derive(Deserialize)]
struct Case {
    name: String,
    op: String,
    attributes: BTreeMap<String, serde_json::Value>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Case {
    /// A number of the operator, or its default.
    fn number(&self, name: &str, default: f64) -> f64 {
        self.attributes.get(name).map_or(default, |value| value.as_f64().expect("a number"))
    }

    fn text(&self, name: &str) -> &str {
        self.attributes[name].as_str().expect("a text")
    }
}

/// The tensors of the fixture.
struct Tensors(Vec<u8>);

impl Tensors {
    fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        let values = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (tensor.shape().to_vec(), values)
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    fn values(&self, names: &[String]) -> Vec<Vec<f32>> {
        names.iter().map(|name| self.floats(name).1).collect()
    }
}

/// Runs a case on a backend; returns its outputs, or the reason why no kernel computes it.
fn run(case: &Case, tensors: &Tensors, backend: Backend) -> Result<Vec<Vec<f32>>, &'static str> {
    match &case.op[..] {
        "Adam" => Ok(adam(case, tensors, backend)),
        "Momentum" => Ok(momentum(case, tensors, backend)),
        "NegativeLogLikelihoodLoss" => Ok(negative_log_likelihood(case, tensors, backend)),
        "SoftmaxCrossEntropyLoss" => Ok(cross_entropy(case, tensors, backend)),
        "Adagrad" => Err("no model here trains with Adagrad"),
        "Dropout" => Err("our masks are Philox4x32-10's; these are those of numpy's generator"),
        other => panic!("{}: unexpected operator {other}", case.name),
    }
}

/// Splits the inputs behind R and T into `kinds` lists of equal length: parameters, gradients, states.
fn kinds(case: &Case, tensors: &Tensors, kinds: usize) -> (f64, u64, Vec<Vec<Vec<f32>>>) {
    let rate = f64::from(tensors.floats(&case.inputs[0]).1[0]);
    let step = tensors.integers(&case.inputs[1])[0] as u64;
    let rest = tensors.values(&case.inputs[2..]);
    (rate, step, rest.chunks(rest.len() / kinds).map(<[_]>::to_vec).collect())
}

/// ONNX adds epsilon to sqrt(v) before the correction of the bias, we after it, and its regularisation is L2.
fn adam(case: &Case, tensors: &Tensors, backend: Backend) -> Vec<Vec<f32>> {
    let (learning_rate, step, mut lists) = kinds(case, tensors, 4);
    assert_eq!(case.number("norm_coefficient_post", 0.0), 0.0, "{}", case.name);
    let betas = [case.number("alpha", 0.9), case.number("beta", 0.999)];
    let correction = if step == 0 { 1.0 } else { (1.0 - betas[1].powi(step as i32)).sqrt() };
    let options = AdamOptions {
        learning_rate,
        betas,
        epsilon: case.number("epsilon", 1e-6) / correction,
        weight_decay: WeightDecay::L2(case.number("norm_coefficient", 0.0)),
        bias_correction: (step > 0).then_some(step),
    };
    let [x, gradients, m, v] = &mut lists[..] else { panic!("{}", case.name) };
    for (i, x) in x.iter_mut().enumerate() {
        let of = Trainable::new(x, &gradients[i]);
        backend.run(Adam { of, m: &mut m[i], v: &mut v[i], options }).unwrap();
    }
    [&x[..], &m[..], &v[..]].concat()
}

fn momentum(case: &Case, tensors: &Tensors, backend: Backend) -> Vec<Vec<f32>> {
    let (learning_rate, step, mut lists) = kinds(case, tensors, 3);
    let of_gradient = if step > 0 { case.number("beta", 1.0) } else { 1.0 };
    let options = SgdOptions {
        learning_rate,
        momentum: case.number("alpha", 0.9),
        dampening: 1.0 - of_gradient,
        nesterov: case.text("mode") == "nesterov",
        weight_decay: case.number("norm_coefficient", 0.0),
    };
    let [x, gradients, v] = &mut lists[..] else { panic!("{}", case.name) };
    for (i, x) in x.iter_mut().enumerate() {
        let of = Trainable::new(x, &gradients[i]);
        backend.run(Sgd { of, momentum: Some(&mut v[i]), options }).unwrap();
    }
    [&x[..], &v[..]].concat()
}

/// x \[N, C, positions\] and the targets \[N, positions\] of a loss.
struct LossInputs {
    shape: [usize; 3],
    x: Vec<f32>,
    labels: Vec<i64>,
    weights: Option<Vec<f32>>,
    ignored: i64,
}

impl LossInputs {
    fn of(case: &Case, tensors: &Tensors) -> Self {
        let (shape, x) = tensors.floats(&case.inputs[0]);
        Self {
            shape: [shape[0], shape[1], shape[2..].iter().product()],
            x,
            labels: tensors.integers(&case.inputs[1]),
            weights: case.inputs.get(2).map(|name| tensors.floats(name).1),
            ignored: case
                .attributes
                .get("ignore_index")
                .map_or(i64::MIN, |v| v.as_i64().expect("an integer")),
        }
    }

    fn targets<'a>(&'a self, labels: &'a [i64]) -> Targets<'a> {
        Targets { labels, ignored: self.ignored, smoothing: 0.0, weights: self.weights.as_deref() }
    }

    /// One row of classes for each position, as kernels over rows take them.
    fn rows(&self) -> Vec<f32> {
        let [_, classes, positions] = self.shape;
        let sample = |x: &[f32]| -> Vec<f32> {
            (0..positions).flat_map(|p| (0..classes).map(move |c| x[c * positions + p])).collect()
        };
        self.x.chunks(classes * positions).flat_map(sample).collect()
    }
}

/// The output of a reduction.
fn reduced(case: &Case, losses: Vec<f32>, sum: LossSum) -> Vec<f32> {
    match case.text("reduction") {
        "none" => losses,
        "sum" => vec![sum.sum as f32],
        "mean" => vec![sum.mean() as f32],
        other => panic!("{}: unexpected reduction {other}", case.name),
    }
}

/// Classes are the middle dimension: a view of each sample has them as its strided rows.
fn negative_log_likelihood(case: &Case, tensors: &Tensors, backend: Backend) -> Vec<Vec<f32>> {
    let inputs = LossInputs::of(case, tensors);
    let [_, classes, positions] = inputs.shape;
    let mut losses = vec![f32::NAN; inputs.labels.len()];
    let mut sum = LossSum::default();
    let samples = inputs.x.chunks(classes * positions).zip(inputs.labels.chunks(positions));
    for ((x, labels), losses) in samples.zip(losses.chunks_mut(positions)) {
        let log_probabilities = View::with_strides(x, [positions, classes], [1, positions]).unwrap();
        let (targets, losses) = (inputs.targets(labels), Some(losses));
        sum = sum + backend.run(NegativeLogLikelihood { log_probabilities, targets, losses }).unwrap();
    }
    vec![reduced(case, losses, sum)]
}

fn cross_entropy(case: &Case, tensors: &Tensors, backend: Backend) -> Vec<Vec<f32>> {
    let inputs = LossInputs::of(case, tensors);
    let [_, classes, positions] = inputs.shape;
    let (mut x, mut losses) = (inputs.rows(), vec![f32::NAN; inputs.labels.len()]);
    let shape = [losses.len(), classes];
    let (logits, targets) = (View::new(&x, shape).unwrap(), inputs.targets(&inputs.labels));
    let sum = backend.run(CrossEntropy { logits, targets, losses: Some(&mut losses) }).unwrap();
    let mut outputs = vec![reduced(case, losses, sum)];
    if case.outputs.len() > 1 {
        let rows = Rows::InPlace(ViewMut::new(&mut x, shape).unwrap());
        backend.run(Softmax { rows, scale: 1.0, mask: ColumnMask::None, log: true }).unwrap();
        let sample = |x: &[f32]| -> Vec<f32> {
            (0..classes).flat_map(|c| (0..positions).map(move |p| x[p * classes + c])).collect()
        };
        outputs.push(x.chunks(classes * positions).flat_map(sample).collect());
    }
    outputs
}

/// ONNX's own expectations are f32 results of numpy, compared with 1e-3; this is a hundredth of that.
const TOLERANCE: f32 = 1e-5;

#[test]
fn training_cases_pass() {
    let dir = golden("onnx-training");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap();
    let tensors = Tensors(std::fs::read(dir.join("tensors.safetensors")).unwrap());
    let mut passed = BTreeMap::new();
    for case in &cases {
        for backend in backends() {
            let outputs = match run(case, &tensors, backend) {
                Ok(outputs) => outputs,
                Err(why) => {
                    skipped(&format!("ONNX's {}: {why}", case.name));
                    break;
                }
            };
            *passed.entry((backend.name(), &case.op[..])).or_insert(0) += 1;
            let expected = tensors.values(&case.outputs);
            assert_eq!(outputs.len(), expected.len(), "{}", case.name);
            for (found, expected) in outputs.iter().zip(&expected) {
                assert_eq!(found.len(), expected.len(), "{}", case.name);
                for (i, (f, e)) in found.iter().zip(expected).enumerate() {
                    let close = (f - e).abs() <= TOLERANCE * e.abs().max(1.0);
                    assert!(close, "{}, {}: element {i} is {f}, expected {e}", case.name, backend.name());
                }
            }
        }
    }
    for backend in backends() {
        let counts = ["Adam", "Momentum", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]
            .map(|op| passed[&(backend.name(), op)]);
        assert_eq!(counts, [2, 3, 18, 34], "{}", backend.name());
    }
}

//! Gradients of models against transformers: loss and gradient of every parameter, for every architecture and head.
//!
//! `tests/golden/gradients.py` made labels and gradients, in f64.
#![forbid(unsafe_code)]

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tilewright::Arithmetic;
use tilewright::architectures::{ARCHITECTURES, Architecture};
use tilewright::checkpoint::arena::Arena;
use tilewright::checkpoint::weights::Weights;
use tilewright::exchange::{TrainingInputs, write_gradients};
use tilewright::labels::Loss;
use tilewright::model::Model;
use tilewright_kernels::Backend;
use tilewright_suite::backends;
use tilewright_suite::golden::{assert_close, golden, tensor};

/// Largest error of a gradient, as a share of the tensor's largest gradient.
const TOLERANCE: f32 = 1e-5;

/// Largest error for the fixture `t5`, whose unscaled scores amplify roundings: the error of transformers in f32.
/// The largest measured error is 4.7e-5.
const T5_TOLERANCE: f32 = 6.1e-5;

/// Error that gradients of any size may have, as a share of the largest gradient of all tensors: two units of f32. The
/// gradient of a softmax subtracts a mean, so behind sharp scores a gradient is a small difference of large numbers. The
/// largest measured error of such a gradient is 5.2e-8.
const CANCELLED: f32 = 1.2e-7;

/// Error of gradients that are 0, such as that of a key's bias: a sum of these differences over the tokens.
const ZERO: f32 = 1e-6;

/// Golden checkpoints with gradients.
fn checkpoints() -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = dirs.filter(|dir| dir.join("gradients.safetensors").exists()).collect();
    found.sort();
    found
}

/// A model in training, its parameters, and the step of its checkpoint.
struct Trained {
    model: Box<dyn Model>,
    arena: Arena,
    inputs: TrainingInputs,
}

impl Trained {
    fn open(dir: &Path, backend: Backend) -> Self {
        let weights = Weights::open(dir).unwrap().trainable();
        let architecture = Architecture::of(dir).unwrap();
        let model = architecture.open(dir, weights.clone(), Arithmetic::f32(backend)).unwrap();
        let inputs = TrainingInputs::open(&dir.join("training.safetensors"), &*model).unwrap();
        Self { model, arena: weights.into_arena(), inputs }
    }

    fn gradients(&self) -> (Loss, Vec<f32>) {
        let mut gradients = vec![0.0; self.arena.values().len()];
        let loss = self.inputs.gradients(&*self.model, &self.arena, &mut gradients).unwrap();
        (loss, gradients)
    }
}

#[test]
fn every_class_with_a_loss_has_golden_gradients() {
    let tested: Vec<_> = checkpoints().iter().map(|dir| Architecture::of(dir).unwrap().class).collect();
    for Architecture { class, .. } in ARCHITECTURES {
        let bare = class.ends_with("Model") && *class != "GPT2LMHeadModel" && *class != "MarianMTModel";
        assert_eq!(tested.contains(class), !bare, "{class}");
    }
}

#[test]
fn losses_and_gradients_are_those_of_transformers() {
    for backend in backends() {
        for dir in checkpoints() {
            let what = format!("{} on {}", dir.display(), backend.name());
            let trained = Trained::open(&dir, backend);
            let (loss, gradients) = trained.gradients();
            let expected = dir.join("gradients.safetensors");
            assert_close(&what, &[loss.total as f32], &tensor(&expected, "loss").1, TOLERANCE);
            let bytes = std::fs::read(&expected).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let all: Vec<_> = trained.arena.tensors().iter().collect();
            assert_eq!(all.len() + 1, file.len(), "{what}: expected {:?}", file.names());
            let tolerance = if dir.ends_with("t5") { T5_TOLERANCE } else { TOLERANCE };
            let largest = gradients.iter().fold(0.0, |most: f32, g| most.max(g.abs()));
            for of in all {
                let (shape, values) = tensor(&expected, &of.name);
                assert_eq!(shape, of.shape, "{what}: {}", of.name);
                let found = &gradients[of.range.clone()];
                let scale = values.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
                let cancelled = if scale < 1e-9 * largest { ZERO } else { CANCELLED };
                for (i, (f, e)) in found.iter().zip(&values).enumerate() {
                    let name = &of.name;
                    // The comparison fails for NaN.
                    assert!(
                        (f - e).abs() <= tolerance * scale + cancelled * largest,
                        "{what}: {name}: element {i} is {f}, expected {e} (scale {scale}, {largest} of all)"
                    );
                }
            }
        }
    }
}

/// The kernels split larger work among threads; the order of sums must not follow.
#[test]
fn gradients_have_the_same_bits_on_any_number_of_threads() {
    for dir in checkpoints() {
        let trained = Trained::open(&dir, Backend::best());
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| trained.gradients())
        };
        let (loss, gradients) = on(1);
        for threads in [2, 3, 7] {
            let (other_loss, other) = on(threads);
            assert_eq!(loss, other_loss, "{}: {threads} threads", dir.display());
            let same = gradients.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}: {threads} threads", dir.display());
        }
    }
}

/// bf16 has 8 bits: a loss changes by less than two units of the last.
const BF16_LOSS: f64 = 1.0 / 128.0;

/// Largest error of gradients in bf16, as a share of transformers' own on the same inputs (`tests/golden/bf16.py`). Both
/// round the operands of every linear layer once; transformers rounds outputs and attention too. Each error is one draw:
/// where few sequences decide, two draws differ by this factor (the largest measured is 1.85). Over all checkpoints ours
/// must be the smaller ones.
const BF16_SHARE: f64 = 2.5;

#[test]
fn gradients_in_bf16_are_as_near_as_those_of_transformers() {
    let theirs: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("bf16.json")).unwrap()).unwrap();
    for backend in backends() {
        let mut shares = Vec::new();
        for dir in checkpoints() {
            let what = format!("{} on {}", dir.display(), backend.name());
            let Trained { model, arena, inputs } = Trained::open(&dir, backend);
            let mut exact = vec![0.0; arena.values().len()];
            let loss = inputs.gradients(&*model, &arena, &mut exact).unwrap().total;
            let arena = arena.with_bf16();
            let mut rounded = vec![0.0; exact.len()];
            let in_bf16 = inputs.gradients(&*model, &arena, &mut rounded).unwrap().total;
            let error = norm(exact.iter().zip(&rounded).map(|(a, b)| a - b)) / norm(exact.iter().copied());
            let name = dir.file_name().and_then(|name| name.to_str()).unwrap();
            let of_theirs = theirs[name]["gradients"].as_f64().unwrap();
            assert!(error > 0.0, "{what}: nothing was rounded");
            assert!(error <= BF16_SHARE * of_theirs, "{what}: error {error}, of transformers {of_theirs}");
            assert!((loss - in_bf16).abs() <= BF16_LOSS * loss, "{what}: loss {in_bf16}, in f32 {loss}");
            shares.push(error / of_theirs);
        }
        let mean = (shares.iter().map(|share| share.ln()).sum::<f64>() / shares.len() as f64).exp();
        assert!(mean < 1.0, "{}: geometric mean {mean} of {shares:?}", backend.name());
    }
}

fn norm(x: impl Iterator<Item = f32>) -> f64 {
    x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_file_of_gradients_has_every_parameter_once() {
    let dir = golden("bert-pre-training");
    let trained = Trained::open(&dir, Backend::PORTABLE);
    let (loss, gradients) = trained.gradients();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    write_gradients(&path, &loss, &trained.arena, &gradients).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = std::fs::read(dir.join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    assert!(file.tensor("loss").unwrap().shape().is_empty());
    assert_eq!(file.len(), stored.len() + 1);
    for (name, tensor) in stored.tensors() {
        assert_eq!(file.tensor(&name).unwrap().shape(), tensor.shape(), "{name}");
    }
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    for (name, label) in [("bert-multiple-choice", 4), ("bert-sequence-classification", 1), ("gpt2", 0)] {
        let mut trained = Trained::open(&golden(name), Backend::PORTABLE);
        let labels = &mut trained.inputs.labels.labels;
        labels.truncate(label);
        labels.resize(label, 0);
        let mut gradients = vec![0.0; trained.arena.values().len()];
        let refused = trained.inputs.gradients(&*trained.model, &trained.arena, &mut gradients);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("labels: expected "), "{name}: {refused}");
    }
}

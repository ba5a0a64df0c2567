//! Training: steps against PyTorch, dropout, micro-batches, threads.
//!
//! `tests/golden/steps.py` made losses and weights of 20 steps, in f64.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use tilewright::Arithmetic;
use tilewright::architectures::Architecture;
use tilewright::checkpoint::weights::Weights;
use tilewright::exchange::TrainingInputs;
use tilewright::train::{
    AdamSettings, Decay, MicroBatch, OptimizerKind, Schedule, StepReport, Trainer, TrainerSettings,
};
use tilewright_kernels::Backend;
use tilewright_suite::backends;
use tilewright_suite::golden::{assert_close, golden, tensor};

/// Settings of steps.py.
const SETTINGS: TrainerSettings = TrainerSettings {
    optimizer: OptimizerKind::AdamW(AdamSettings {
        betas: [0.9, 0.999],
        epsilon: 1e-6,
        weight_decay: 0.01,
        bias_correction: true,
    }),
    schedule: Schedule { peak: 1e-3, warmup: 5, steps: 20, decay: Decay::Linear },
    clip: Some(1.0),
    dropout: false,
    recompute: false,
    seed: 7,
    skip_not_finite: 0,
};

/// Golden checkpoints with steps.
fn checkpoints() -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = dirs.filter(|dir| dir.join("steps.safetensors").exists()).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// A trainer of a golden checkpoint, and its step.
fn open(dir: &Path, backend: Backend, settings: TrainerSettings) -> (Trainer, MicroBatch) {
    let weights = Weights::open(dir).unwrap().trainable();
    let architecture = Architecture::of(dir).unwrap();
    let model = architecture.open(dir, weights.clone(), Arithmetic::f32(backend)).unwrap();
    let TrainingInputs { inputs, labels } =
        TrainingInputs::open(&dir.join("training.safetensors"), &*model).unwrap();
    let decoder = inputs.decoder.map(|decoder| decoder.batch);
    let step = MicroBatch { batch: inputs.tokens.batch, decoder, labels };
    (Trainer::new(model, weights.into_arena(), backend, settings), step)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A bias of the keys adds one number to all scores of a query, which softmax cancels: its gradient is rounding, and Adam
/// makes steps of it.
fn cancels(tensor: &str) -> bool {
    tensor.ends_with("key.bias") || tensor.ends_with("k_proj.bias")
}

#[test]
fn steps_are_those_of_pytorch() {
    for backend in backends() {
        for dir in checkpoints() {
            let what = format!("{} on {}", dir.display(), backend.name());
            let (mut trainer, step) = open(&dir, backend, SETTINGS);
            let expected = dir.join("steps.safetensors");
            let [losses, norms] = ["losses", "norms"].map(|name| tensor(&expected, name).1);
            for (i, (&loss, &norm)) in losses.iter().zip(&norms).enumerate() {
                let report = trainer.step(std::slice::from_ref(&step)).unwrap();
                assert_eq!(report.step, i as u64 + 1);
                let what = format!("{what}: step {}", i + 1);
                assert_close(&format!("{what}: loss"), &[report.loss as f32], &[loss], 1e-5);
                assert_close(&format!("{what}: norm"), &[report.gradient_norm as f32], &[norm], 1e-3);
            }
            for of in trainer.arena().tensors().iter().filter(|of| !cancels(&of.name)) {
                let found = &trainer.arena().values()[of.range.clone()];
                assert_close(&format!("{what}: {}", of.name), found, &tensor(&expected, &of.name).1, 1e-4);
            }
        }
    }
}

/// Losses and weights of `steps` steps with dropout on two micro-batches.
fn train(dir: &Path, steps: usize, threads: usize) -> (Vec<StepReport>, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let (mut trainer, step) = open(dir, Backend::best(), TrainerSettings { dropout: true, ..SETTINGS });
        let parts = [step.clone(), step.clone(), step];
        let reports = (0..steps).map(|_| trainer.step(&parts).unwrap()).collect();
        (reports, trainer.arena().values().to_vec())
    })
}

#[test]
fn training_has_the_same_bits_on_any_number_of_threads() {
    for dir in checkpoints() {
        let (reports, weights) = train(&dir, 3, 1);
        for threads in [2, 3, 7] {
            let (other_reports, other) = train(&dir, 3, threads);
            assert_eq!(reports, other_reports, "{}: {threads} threads", dir.display());
            assert!(bits(&weights) == bits(&other), "{}: {threads} threads", dir.display());
        }
    }
}

/// The loss is a mean over all tokens of a step, so equal parts have the gradients of one of them.
#[test]
fn equal_micro_batches_make_the_step_of_one() {
    for dir in checkpoints() {
        let (mut one, step) = open(&dir, Backend::best(), SETTINGS);
        let (mut four, _) = open(&dir, Backend::best(), SETTINGS);
        let parts = vec![step.clone(); 4];
        let [a, b] = [one.step(&[step]).unwrap(), four.step(&parts).unwrap()];
        assert!((a.loss - b.loss).abs() <= 1e-6 * a.loss, "{}: {} and {}", dir.display(), a.loss, b.loss);
        let norms = [a.gradient_norm, b.gradient_norm];
        assert!((norms[0] - norms[1]).abs() <= 1e-5 * norms[0], "{}: {norms:?}", dir.display());
    }
}

/// The last step of an epoch can have fewer micro-batches than the others.
#[test]
fn steps_may_differ_in_their_micro_batches() {
    let dir = &checkpoints()[0];
    let (mut trainer, part) = open(dir, Backend::best(), SETTINGS);
    for parts in [3, 2, 1, 4] {
        let step = vec![part.clone(); parts];
        trainer.step(&step).unwrap();
    }
    // A step that fails leaves no gradients to the next one.
    let mut damaged = part.clone();
    damaged.labels.labels.pop();
    trainer.step(&[part.clone(), damaged, part.clone(), part.clone()]).unwrap_err();
    let (before, step) = (trainer.arena().values().to_vec(), vec![part; 4]);
    let report = trainer.step(&step).unwrap();
    assert_eq!(report.step, 5);
    assert_ne!(bits(&before), bits(trainer.arena().values()));
}

#[test]
fn steps_that_are_not_finite_are_skipped_or_end_the_run() {
    let dir = &checkpoints()[0];
    let (mut strict, part) = open(dir, Backend::best(), SETTINGS);
    let (mut trainer, _) = open(dir, Backend::best(), TrainerSettings { skip_not_finite: 2, ..SETTINGS });
    let step = [part];
    let report = trainer.step(&step).unwrap();
    assert!(!report.skipped && report.operations > 0.0);
    let weights = trainer.arena().values().to_vec();
    let states = trainer.states().to_vec();
    let name = trainer.arena().tensors()[0].name.clone();
    for trainer in [&mut strict, &mut trainer] {
        trainer.arena_mut().set_values(&vec![f32::NAN; weights.len()]);
    }
    let refused = strict.step(&step).unwrap_err().to_string();
    assert!(refused.contains("step 1: the loss is NaN") && refused.contains(&name), "{refused}");
    assert_eq!(strict.steps(), 0);
    for number in [2, 3] {
        let report = trainer.step(&step).unwrap();
        assert!(report.skipped && report.step == number && report.loss.is_nan(), "{report:?}");
    }
    assert!(trainer.states() == states);
    let refused = trainer.step(&step).unwrap_err().to_string();
    assert!(refused.contains("step 4: the loss is NaN") && trainer.steps() == 3, "{refused}");
    trainer.arena_mut().set_values(&weights);
    let report = trainer.step(&step).unwrap();
    assert!((report.skipped, report.step, trainer.skipped()) == (false, 4, 0), "{report:?}");
    assert_ne!(bits(&weights), bits(trainer.arena().values()));
}

/// Directional derivatives of the loss with dropout: masks of the backward pass are those of the forward pass.
#[test]
fn gradients_with_dropout_are_those_of_the_loss_with_the_same_masks() {
    for dir in checkpoints() {
        let settings = TrainerSettings { dropout: true, ..SETTINGS };
        let (mut trainer, step) = open(&dir, Backend::best(), settings);
        let gradients = trainer.gradients(&step).unwrap();
        let norm = gradients.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let values = trainer.arena().values().to_vec();
        // The loss along the gradient changes by the gradient's norm for each unit.
        let mut loss_at = |distance: f64| {
            let moved = values.iter().zip(&gradients);
            let moved: Vec<f32> =
                moved.map(|(&v, &g)| (f64::from(v) + distance * f64::from(g) / norm) as f32).collect();
            trainer.arena_mut().set_values(&moved);
            trainer.loss(&step).unwrap().total
        };
        let mut slope_at = |h: f64| (loss_at(h) - loss_at(-h)) / (2.0 * h);
        // Richardson's extrapolation removes the error in h^2.
        let slope = (4.0 * slope_at(5e-4) - slope_at(1e-3)) / 3.0;
        assert!((slope - norm).abs() <= 2e-3 * norm, "{}: slope {slope}, norm {norm}", dir.display());
        // Their configs drop nothing here.
        if ["albert-masked-lm", "llama"].iter().any(|name| dir.ends_with(name)) {
            continue;
        }
        let (mut without, step) = open(&dir, Backend::best(), SETTINGS);
        assert_ne!(bits(&gradients), bits(&without.gradients(&step).unwrap()), "{}", dir.display());
    }
}

/// Computing layers again changes no bit, masks of dropout included.
#[test]
fn recomputation_has_the_same_bits() {
    for dir in checkpoints() {
        let train = |recompute| {
            let settings = TrainerSettings { dropout: true, recompute, ..SETTINGS };
            let (mut trainer, step) = open(&dir, Backend::best(), settings);
            let parts = [step.clone(), step];
            let reports: Vec<_> = (0..3).map(|_| trainer.step(&parts).unwrap()).collect();
            (reports, bits(trainer.arena().values()))
        };
        let (expected, found) = (train(false), train(true));
        assert_eq!(found.0, expected.0, "{}", dir.display());
        assert!(found.1 == expected.1, "{}", dir.display());
    }
}

//! Models in reduced precision: errors of golden checkpoints in relation to f32, on every backend.
#![forbid(unsafe_code)]

use tilewright::accuracy::{OutputComparison, least_cosine};
use tilewright::{ActivationQuantization, Arithmetic};
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;
use tilewright_suite::all_backends;
use tilewright_suite::golden::{golden, inputs, load};

/// Unit roundoff: the largest error of a rounding, as a share of the number, or of the largest number that shares its
/// scale.
fn unit(dtype: Format) -> f64 {
    match dtype {
        Format::F32 => 2f64.powi(-24),
        Format::F16 => 2f64.powi(-11),
        Format::Bf16 => 2f64.powi(-8),
        // Half a step; 127 steps reach the largest magnitude.
        Format::Int8 | Format::Q8_0 => 1.0 / 254.0,
        // Half a step; 8 steps reach the largest magnitude, or 15 steps lie between the extremes.
        Format::Q4_0 | Format::Q4_1 => 1.0 / 16.0,
    }
}

/// Largest allowed error of an output, in units of its largest magnitude. Errors grow with the unit, because every type
/// runs the same operations. The largest measured error is 71 units in f32, where every operation rounds, and 24 units
/// in the other types, where only linear layers round.
const WORST: f64 = 48.0;

/// Share of the limits that a type may use: bf16 stays within a half.
fn share(dtype: Format) -> f64 {
    if dtype == Format::Bf16 { 0.5 } else { 1.0 }
}

/// Factor of the limits for large scores. T5 does not divide dot products by the square root of the head's width, which
/// is 5 here, so the errors of scores are larger by that factor. Softmax turns them into relative errors of weights.
fn scale_of_scores(name: &str) -> f64 {
    if name.starts_with("t5") { 5f64.sqrt() } else { 1.0 }
}

/// Largest allowed mean error; the largest measured mean error is 3.7 units.
const MEAN: f64 = 7.5;

const CHECKPOINTS: [&str; 18] = [
    "bert-model",
    "bert-masked-lm",
    "bert-pre-training",
    "bert-sequence-classification",
    "roberta-model",
    "roberta-masked-lm",
    "roberta-sequence-classification",
    "albert-model",
    "albert-masked-lm",
    "electra-model",
    "electra-masked-lm",
    "electra-pre-training",
    "gpt2",
    "llama",
    "t5",
    "t5-v1_1",
    "bart",
    "marian",
];

#[test]
fn golden_checkpoints_are_as_near_to_f32_as_their_type_allows() {
    for name in CHECKPOINTS {
        let dir = golden(name);
        let inputs = inputs(&dir);
        let run = |on| inputs.run(&mut *load(&dir, on)).unwrap();
        let expected = run(Arithmetic::f32(Backend::REFERENCE));
        for backend in all_backends().into_iter().chain([Backend::REFERENCE]) {
            // `tests/encoders.rs` tests f32.
            for on in Format::ALL.into_iter().filter(|&dtype| dtype != Format::F32).flat_map(|dtype| {
                let inputs = if dtype.is_grouped() {
                    &ActivationQuantization::ALL[..]
                } else {
                    &[ActivationQuantization::Rounded]
                };
                inputs.iter().map(move |&inputs| Arithmetic { backend, dtype, inputs })
            }) {
                let Arithmetic { dtype, .. } = on;
                let mut seen = OutputComparison::default();
                seen.add(&inputs.tokens.batch, &run(on), &expected);
                for of in seen.deviations() {
                    let (worst, mean) = (of.worst / unit(dtype), of.mean / unit(dtype));
                    let (backend, how) = (backend.name(), on.inputs.name());
                    let what = format!("{name} {} on {backend} in {}, inputs {how}", of.name, dtype.name());
                    println!("{what}: {worst:.1} units at worst, {mean:.2} on average");
                    let (worst, mean) = (worst / share(dtype), mean / share(dtype));
                    let most = WORST * scale_of_scores(name);
                    assert!(of.finite && worst <= most && mean <= MEAN, "{what}: {worst}, {mean}");
                    // A smaller error would mean that the weights were not rounded.
                    assert!(worst > 1.0 / 16.0, "{what} was not rounded: {worst}");
                }
                if let Some((worst, _)) = seen.cosine() {
                    assert!(worst >= least_cosine(dtype), "{name} in {}: {worst}", dtype.name());
                }
            }
        }
    }
}

//! Golden checkpoints: tiny models, their inputs, and their outputs by transformers.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use tilewright::architectures::Architecture;
use tilewright::checkpoint::weights::Weights;
use tilewright::exchange::ModelInputs;
use tilewright::model::Model;
use tilewright::output::Output;
use tilewright::{Arithmetic, Error};

/// The directory `name` of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The inputs of a checkpoint.
///
/// # Panics
/// If the checkpoint has no file of inputs, or the file is damaged.
pub fn inputs(dir: &Path) -> ModelInputs {
    ModelInputs::open(&dir.join("inputs.safetensors")).unwrap()
}

/// Loads the model of the class that the checkpoint names.
///
/// # Panics
/// If the model cannot be loaded.
pub fn load(dir: &Path, on: Arithmetic) -> Box<dyn Model> {
    Architecture::of(dir).unwrap().load(dir, on).unwrap()
}

/// Shape and values of an f32 tensor.
///
/// # Panics
/// If the file does not have the tensor.
pub fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let values = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (tensor.shape().to_vec(), values)
}

/// Asserts that `found` equals `expected` within `tolerance` times the largest magnitude of `expected`.
///
/// # Panics
/// If an element is beyond the tolerance.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        // The comparison fails for NaN.
        assert!(
            (f - e).abs() <= tolerance * scale,
            "{what}: element {i} is {f}, expected {e} (scale {scale})"
        );
    }
}

/// Asserts that `outputs` are exactly the tensors of the file `expected`, within the tolerance.
///
/// # Panics
/// If an output is missing, unexpected, or beyond the tolerance.
pub fn assert_outputs(what: &str, inputs: &ModelInputs, outputs: &[Output], expected: &Path, tolerance: f32) {
    let bytes = std::fs::read(expected).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(outputs.len(), file.len(), "{what}: expected {:?}", file.names());
    for output in outputs {
        let what = format!("{what}: {}", output.name);
        let (shape, values) = tensor(expected, output.name);
        assert_eq!(inputs.padded_shape(output), shape, "{what}");
        assert_close(&what, &inputs.pad(output), &values, tolerance);
    }
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Name of the tensor. A tensor without a name is not written.
    pub name: String,
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Shape, for a matrix \[rows, columns\].
    pub shape: Vec<usize>,
    /// Bytes of the numbers, row-major.
    pub data: Vec<u8>,
}

impl Stored {
    /// Makes an f32 tensor.
    pub fn floats(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), data }
    }

    /// Converts an f32 tensor to `dtype`; `bytes` converts each number.
    pub fn store(&mut self, dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) {
        let values = self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        self.data = values.flat_map(bytes).collect();
        self.dtype = dtype;
    }
}

/// The bytes of a golden checkpoint's weights file after `change` of its list of tensors.
///
/// # Panics
/// If the changed tensors do not make a file.
pub fn rewrite(dir: &Path, change: impl FnOnce(&mut Vec<Stored>)) -> Vec<u8> {
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, t): (String, TensorView<'_>)| Stored {
        name,
        dtype: t.dtype(),
        shape: t.shape().to_vec(),
        data: t.data().to_vec(),
    };
    let mut tensors = file.tensors().into_iter().map(stored).collect();
    change(&mut tensors);
    let views = tensors.iter().filter(|t| !t.name.is_empty());
    let views = views.map(|t| (t.name.clone(), TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Loads the golden checkpoint `dir` with these bytes as its weights file. Errors call this file `changed.safetensors`.
///
/// # Errors
/// Errors of loading the model.
pub fn open(dir: &Path, bytes: Vec<u8>, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
    let weights = Weights::from_bytes("changed.safetensors".into(), bytes)?;
    Architecture::of(dir)?.open(dir, weights, on)
}

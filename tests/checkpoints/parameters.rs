//! The parameters that a model lists: names, shapes and values of its checkpoint's tensors.

use super::{ON, checkpoints, families, unread};
use safetensors::SafeTensors;
use std::collections::BTreeSet;
use tilewright::Arithmetic;
use tilewright::layers::{LinearRole, MatrixOrder};
use tilewright::model::Part;
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;
use tilewright_suite::all_backends;
use tilewright_suite::golden::{golden, load};

/// Parameters have the names, shapes and bits of the file, also if layers fuse, gate, transpose or tie tensors. A tied
/// tensor is listed once.
#[test]
fn parameters_are_those_of_the_file() {
    let backends: Vec<_> = all_backends().into_iter().chain([Backend::REFERENCE]).collect();
    for name in checkpoints() {
        let bytes = std::fs::read(golden(&name).join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let used: BTreeSet<&str> =
            file.names().into_iter().filter(|tensor| !unread(&name).contains(tensor)).collect();
        for &backend in &backends {
            let what = format!("{name} on {}", backend.name());
            let model = load(&golden(&name), Arithmetic::f32(backend));
            let parameters = model.parameters();
            for parameter in &parameters {
                let stored = file.tensor(parameter.name).unwrap();
                assert_eq!(parameter.shape, stored.shape(), "{what}: {}", parameter.name);
                let bits: Vec<u8> = parameter.values(&[]).iter().flat_map(|v| v.to_le_bytes()).collect();
                assert!(bits == stored.data(), "{what}: {} has other values", parameter.name);
            }
            let names: BTreeSet<&str> = parameters.iter().map(|parameter| parameter.name).collect();
            assert_eq!(names.len(), parameters.len(), "{what}: a tensor is listed twice");
            assert_eq!(names, used, "{what}");
            let stored: usize =
                used.iter().map(|t| file.tensor(t).unwrap().shape().iter().product::<usize>()).sum();
            assert_eq!(model.parts().iter().map(Part::count).sum::<usize>(), stored, "{what}");
        }
    }
}

/// In a reduced format, parameters have the values that the layer computes with, for example rounded to bf16.
#[test]
fn parameters_of_reduced_formats_are_dequantized() {
    for name in families() {
        let [exact, rounded] =
            [Format::F32, Format::Bf16].map(|dtype| load(&golden(&name), Arithmetic::new(ON.backend, dtype)));
        let mut differ = false;
        for (exact, rounded) in exact.parameters().into_iter().zip(rounded.parameters()) {
            assert_eq!((exact.name, exact.shape), (rounded.name, rounded.shape), "{name}");
            for (x, found) in exact.values(&[]).into_iter().zip(rounded.values(&[])) {
                let expected = half::bf16::from_f32(x).to_f32();
                assert!(found == x || found == expected, "{name}: {}: {found} of {x}", exact.name);
                differ |= found != x;
            }
        }
        assert!(differ, "{name}: nothing is rounded");
    }
}

/// Every output of a fused weight belongs to one tensor, and every output of a fused bias to one tensor.
#[test]
fn tensors_of_a_linear_layer_cover_its_outputs() {
    for name in checkpoints() {
        let model = load(&golden(&name), ON);
        for layer in model.linear_layers() {
            let cover = |wanted: &dyn Fn(LinearRole) -> bool| {
                let mut end = 0;
                for tensor in layer.linear.tensors().iter().filter(|tensor| wanted(tensor.role)) {
                    let out = match tensor.role {
                        LinearRole::Weight(MatrixOrder::InOut) => tensor.shape[1],
                        LinearRole::Bias => tensor.shape.iter().product(),
                        _ => tensor.shape[0],
                    };
                    assert_eq!(tensor.outputs, end..end + out, "{name}: {tensor:?}");
                    end += out;
                }
                end
            };
            let weight = cover(&|role| matches!(role, LinearRole::Weight(_) | LinearRole::Gate));
            let bias = cover(&|role| role == LinearRole::Bias);
            let up = cover(&|role| role == LinearRole::Up);
            assert_eq!(weight, layer.linear.width(), "{name}");
            assert!([0, weight].contains(&bias) && [0, weight].contains(&up), "{name}");
        }
    }
}

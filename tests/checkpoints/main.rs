//! Checkpoints of every family: every tensor is needed, other spellings give the same model, and errors about damage
//! name the file and the fault.
//!
//! The directories of `tests/golden` are the table of cases: the tests damage every golden checkpoint in every way.
#![forbid(unsafe_code)]

mod parameters;

use safetensors::Dtype;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tilewright::architectures::{ARCHITECTURES, Architecture};
use tilewright::checkpoint::config::{Fields, ModelKind};
use tilewright::checkpoint::weights::Weights;
use tilewright::output::Output;
use tilewright::{ActivationQuantization, Arithmetic, Error};
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;
use tilewright_suite::golden::{Stored, golden, inputs, load, open, rewrite};

const ON: Arithmetic =
    Arithmetic { backend: Backend::PORTABLE, dtype: Format::F32, inputs: ActivationQuantization::Rounded };

/// The names of all golden checkpoints. Every family has at least one.
fn checkpoints() -> Vec<String> {
    let mut names = Vec::new();
    let mut families = BTreeSet::new();
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let dir = entry.unwrap().path();
        if ["config.json", "model.safetensors", "inputs.safetensors"].iter().all(|f| dir.join(f).exists()) {
            families.insert(ModelKind::read(&dir).unwrap().1.model_type.unwrap());
            names.push(dir.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    names.sort();
    assert_eq!(families, ARCHITECTURES.iter().map(|a| a.model_type.to_owned()).collect());
    names
}

/// The first golden checkpoint of each family.
fn families() -> Vec<String> {
    let mut seen = BTreeSet::new();
    let family = |name: &String| ModelKind::read(&golden(name)).unwrap().1.model_type;
    checkpoints().into_iter().filter(|name| seen.insert(family(name))).collect()
}

/// Outputs of a golden checkpoint whose weights file has these bytes.
fn run(dir: &Path, bytes: Vec<u8>) -> Result<Vec<Output>, Error> {
    let mut model = open(dir, bytes, ON)?;
    Ok(inputs(dir).run(&mut *model).unwrap())
}

/// The bytes of a golden checkpoint with one tensor changed.
fn with(dir: &Path, tensor: &str, change: impl FnOnce(&mut Stored)) -> Vec<u8> {
    rewrite(dir, |all| change(all.iter_mut().find(|t| t.name == tensor).unwrap()))
}

/// Asserts that loading these bytes fails with an error that names the file and contains all of `parts`.
fn refused(what: &str, dir: &Path, bytes: Vec<u8>, parts: &[&str]) {
    let error = open(dir, bytes, ON).map(drop).expect_err(what).to_string();
    for part in ["changed.safetensors: "].iter().chain(parts) {
        assert!(error.contains(part), "{what}: expected {part:?} in {error:?}");
    }
}

/// Tensors that no output of the checkpoint's class depends on.
fn unread(name: &str) -> &[&str] {
    match name {
        // An untied decoder has a separate bias.
        "albert-pre-training" => &["predictions.bias"],
        _ => &[],
    }
}

/// True if a tensor changes outputs only by roundings: a bias of the keys adds one number to all scores of a query,
/// which softmax cancels.
fn cancels(tensor: &str) -> bool {
    tensor.ends_with("key.bias") || tensor.ends_with("k_proj.bias")
}

/// True if a checkpoint is valid without the tensor. Bare encoders may lack the pooler, and BART the bias of logits. An
/// untied decoder may have the tied decoder's bias instead of its own. T5 may use the embedding as its head, unless its
/// config excludes that.
fn may_lack(name: &str, tensor: &str) -> bool {
    let tied = || Fields::open(&golden(name)).unwrap().get("tie_word_embeddings", true).unwrap();
    name.ends_with("model") && tensor.starts_with("pooler")
        || name == "albert-pre-training" && tensor == "predictions.decoder.bias"
        || tensor == "final_logits_bias"
        || name.starts_with("t5") && tensor == "lm_head.weight" && tied()
}

#[test]
fn every_tensor_is_needed_by_its_name_and_shape() {
    for name in checkpoints() {
        let dir = golden(&name);
        let weights = Weights::open(&dir).unwrap();
        Architecture::of(&dir).unwrap().open(&dir, weights.clone(), ON).unwrap();
        assert_eq!(weights.unread().collect::<Vec<_>>(), unread(&name), "{name}");
        let expected = run(&dir, rewrite(&dir, |_| {})).unwrap();
        for tensor in weights.names() {
            let what = format!("{name}: {tensor}");
            let other = |t: &mut Stored| t.store(Dtype::F32, |v| (v * 1.5 + 0.25).to_le_bytes().to_vec());
            let changed = run(&dir, with(&dir, tensor, other)).unwrap();
            if unread(&name).contains(&tensor) {
                assert!(changed == expected, "{what} changes the outputs");
                continue;
            }
            assert!(changed != expected || cancels(tensor), "{what} is ignored");
            let nan = |t: &mut Stored| t.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            refused(&what, &dir, with(&dir, tensor, nan), &[tensor, "element 0 is NaN"]);
            let longer = |t: &mut Stored| t.shape.push(1);
            refused(&what, &dir, with(&dir, tensor, longer), &[tensor, "expected shape", ", 1]"]);
            if !may_lack(&name, tensor) {
                refused(&what, &dir, with(&dir, tensor, |t| t.name.clear()), &["missing; expected shape"]);
            }
        }
    }
}

#[test]
fn tensors_that_the_config_does_not_speak_of_are_named() {
    for name in checkpoints() {
        let dir = golden(&name);
        let expected = run(&dir, rewrite(&dir, |_| {})).unwrap();
        // A layer beyond the last layer of the model.
        let layer = |t: &Stored| {
            let number = t.name.split('.').find(|part| part.parse::<usize>().is_ok())?.to_owned();
            Some(Stored { name: t.name.replacen(&format!(".{number}."), ".99.", 1), ..t.clone() })
        };
        let mut extra = String::new();
        let bytes = rewrite(&dir, |all| {
            let more = all.iter().find_map(layer).unwrap();
            extra.clone_from(&more.name);
            all.push(more);
            all.push(Stored { dtype: Dtype::I32, ..Stored::floats("position_ids", &[1], &[0.0]) });
        });
        let weights = Weights::from_bytes("changed.safetensors".into(), bytes).unwrap();
        let mut model = Architecture::of(&dir).unwrap().open(&dir, weights.clone(), ON).unwrap();
        assert!(inputs(&dir).run(&mut *model).unwrap() == expected, "{name}");
        // Integers are a buffer of transformers, not a weight.
        let mut names: Vec<&str> = unread(&name).iter().copied().chain([&*extra]).collect();
        names.sort_unstable();
        assert_eq!(weights.unread().collect::<Vec<_>>(), names, "{name}");
    }
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    for name in checkpoints() {
        let dir = golden(&name);
        let sound = rewrite(&dir, |_| {});
        let header = u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
        let patched = |at: usize, bytes: &[u8]| {
            let mut damaged = sound.clone();
            damaged[at..at + bytes.len()].copy_from_slice(bytes);
            damaged
        };
        let of_header = |json: &str, data: usize| {
            [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()
        };
        let no_safetensors = |what: &str, bytes| {
            refused(&format!("{name}: {what}"), &dir, bytes, &["not a safetensors file: "]);
        };
        for end in [0, 1, 7, 8, 9, 8 + header / 2, 7 + header, 8 + header, sound.len() - 1] {
            no_safetensors(&format!("cut to {end} bytes"), sound[..end].to_vec());
        }
        no_safetensors("longer", [&sound[..], &[0]].concat());
        for size in [0, 1, header + 1, sound.len() - 8, sound.len() - 7, 100 << 20, 1 << 40, usize::MAX] {
            no_safetensors(&format!("header of {size} bytes"), patched(0, &size.to_le_bytes()));
        }
        no_safetensors("not UTF-8", patched(8 + header / 2, &[0xff]));
        no_safetensors("not JSON", patched(8, b"]"));
        no_safetensors("no object", of_header("[]", 0));
        for (what, tensor) in [
            ("huge", r#""dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]"#),
            ("long", r#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#),
            ("backwards", r#""dtype":"F32","shape":[1],"data_offsets":[4,0]"#),
            ("negative", r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#),
            ("of no type", r#""dtype":"F33","shape":[1],"data_offsets":[0,4]"#),
        ] {
            no_safetensors(what, of_header(&format!("{{\"x\":{{{tensor}}}}}"), 4));
        }
        // A valid file of another model.
        refused(&name, &dir, of_header("{}", 0), &["missing; expected shape"]);

        let weights = Weights::open(&dir).unwrap();
        let tensor = weights.names().find(|tensor| !unread(&name).contains(tensor)).unwrap();
        let integers = with(&dir, tensor, |t| t.dtype = Dtype::I32);
        refused(&name, &dir, integers, &[tensor, "expected F32, F16 or BF16, found I32"]);
        let infinite = with(&dir, tensor, |t| t.data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes()));
        refused(&name, &dir, infinite, &[tensor, "element 0 is inf"]);
    }
}

/// For every value in a field of config.json, the model is refused or runs.
#[test]
fn damaged_configs_are_errors_that_name_a_file() {
    let values = [
        "null",
        "0",
        "1",
        "2",
        "3",
        "-1",
        "0.5",
        "1e99",
        "65537",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "18446744073709551615",
        "true",
        "false",
        "\"x\"",
        "\"\"",
        "[]",
        "[0]",
        "{}",
        r#"{"0": "x"}"#,
    ];
    let folder = tempfile::tempdir().unwrap();
    for name in families() {
        let dir = golden(&name);
        let bytes = rewrite(&dir, |_| {});
        let sound: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        let inputs = inputs(&dir);
        for field in sound.keys() {
            for value in values {
                let mut config = sound.clone();
                config[field] = serde_json::from_str(value).unwrap();
                let path = folder.path().join("config.json");
                std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
                let what = format!("{name}: {field} of {value}");
                let run = || {
                    // An id may be outside a table that is now smaller.
                    open(folder.path(), bytes.clone(), ON).map(|mut model| inputs.run(&mut *model).map(drop))
                };
                let found = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("{what}"));
                if let Err(error) = found {
                    let error = error.to_string();
                    let named = error.contains("config.json: ") || error.contains("changed.safetensors: ");
                    assert!(named, "{what}: {error}");
                }
            }
        }
    }
}

#[test]
fn other_spellings_of_the_same_checkpoint_are_the_same_model() {
    for name in families() {
        let dir = golden(&name);
        let of_all = |change: &dyn Fn(&mut Stored)| {
            run(&dir, rewrite(&dir, |all| all.iter_mut().for_each(change))).unwrap()
        };
        let expected = of_all(&|_| {});
        let old = |t: &mut Stored| {
            t.name = t.name.replace("LayerNorm.weight", "LayerNorm.gamma");
            t.name = t.name.replace("LayerNorm.bias", "LayerNorm.beta");
        };
        assert!(of_all(&old) == expected, "{name}");
        let family = name.split('-').next().unwrap();
        for prefix in [family, "model", "transformer"].map(|prefix| format!("{prefix}.")) {
            let bare = |t: &mut Stored| t.name = t.name.trim_start_matches(&prefix).to_owned();
            assert!(of_all(&bare) == expected, "{name} without {prefix}");
        }

        // A file in bf16 gives the model of the rounded values.
        let bf16 = |v: f32| half::bf16::from_f32(v);
        let f16 = |v: f32| half::f16::from_f32(v);
        let as_f32 = |round: &dyn Fn(f32) -> f32| {
            of_all(&|t| t.store(Dtype::F32, |v| round(v).to_le_bytes().to_vec()))
        };
        let rounded = as_f32(&|v| bf16(v).to_f32());
        assert!(rounded != expected, "{name}");
        assert!(of_all(&|t| t.store(Dtype::BF16, |v| bf16(v).to_le_bytes().to_vec())) == rounded, "{name}");
        let rounded = as_f32(&|v| f16(v).to_f32());
        assert!(of_all(&|t| t.store(Dtype::F16, |v| f16(v).to_le_bytes().to_vec())) == rounded, "{name}");
    }
}

#[test]
fn shards_are_one_checkpoint() {
    for name in families() {
        let (whole, folder) = (golden(&name), tempfile::tempdir().unwrap());
        let dir = folder.path();
        let in_first = |name: &str| name.contains(".0.");
        let write = |file: &str, first: bool| {
            let bytes = rewrite(&whole, |all| all.retain(|t| in_first(&t.name) == first));
            std::fs::write(dir.join(file), bytes).unwrap();
        };
        write("a.safetensors", true);
        write("b.safetensors", false);
        std::fs::copy(whole.join("config.json"), dir.join("config.json")).unwrap();
        let weights = Weights::open(&whole).unwrap();
        let path: PathBuf = dir.join("model.safetensors.index.json");
        let index = |names: &mut dyn Iterator<Item = &str>| {
            let file = |n: &str| if in_first(n) { "a.safetensors" } else { "b.safetensors" };
            let map: serde_json::Map<_, _> = names.map(|n| (n.to_owned(), file(n).into())).collect();
            std::fs::write(&path, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
        };
        let refused = |parts: &[&str]| {
            let error = Weights::open(dir).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{name}: {error}");
        };
        index(&mut weights.names());
        let run = |dir: &Path| inputs(&whole).run(&mut *load(dir, ON)).unwrap();
        assert!(run(dir) == run(&whole), "{name}");

        index(&mut weights.names().chain(["layer.0.nothing"]));
        refused(&["tensor layer.0.nothing: missing", "a.safetensors"]);
        index(&mut weights.names());
        std::fs::write(dir.join("b.safetensors"), rewrite(&whole, |_| {})).unwrap();
        refused(&["b.safetensors: tensor ", ": also in ", "a.safetensors"]);
        std::fs::write(dir.join("b.safetensors"), b"").unwrap();
        refused(&["b.safetensors: not a safetensors file"]);
        std::fs::remove_file(dir.join("b.safetensors")).unwrap();
        refused(&["b.safetensors: "]);
        for (json, part) in [
            (r#"{"weight_map": {"x": "../x.safetensors"}}"#, "weight_map.x"),
            (r#"{"weight_map": {"x": "/x.safetensors"}}"#, "weight_map.x"),
            (r#"{"weight_map": {"x": 1}}"#, "line 1"),
            ("{}", "weight_map"),
            ("", "line 1"),
        ] {
            std::fs::write(&path, json).unwrap();
            refused(&["index.json: ", part]);
        }
    }
}

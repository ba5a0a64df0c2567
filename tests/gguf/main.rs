//! GGUF files as checkpoints: tensors, config and tokenizer against the format's own Python package,
//! transformers' files and SentencePiece; damaged files.
//!
//! `tests/golden/generate_gguf.py` made the fixtures.
#![forbid(unsafe_code)]

mod damaged;
mod tokenizer;
mod write;

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tilewright::architectures::Architecture;
use tilewright::checkpoint::gguf::Gguf;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::checkpoint::weights::Weights;
use tilewright::exchange::ModelInputs;
use tilewright::layers::{Linear, Run, Slot, Workspace};
use tilewright::sentence::{Embedder, Sentence};
use tilewright::{Arithmetic, checkpoint::config};
use tilewright_kernels::gemm::{Format, PackedB};
use tilewright_kernels::{Activation, Backend};
use tilewright_suite::skipped;
use write::{Change, File};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The directory of real checkpoints, if TILEWRIGHT_MODELS names one.
fn models() -> Option<PathBuf> {
    let models = std::env::var_os("TILEWRIGHT_MODELS");
    if models.is_none() {
        skipped("a real GGUF file: TILEWRIGHT_MODELS is not set");
    }
    models.map(PathBuf::from)
}

/// Asserts that the tensors of a GGUF file equal those of a safetensors file to the bit.
fn assert_same_tensors(gguf: &Path, safetensors: &Path) {
    let bytes = std::fs::read(safetensors).unwrap();
    let weights = Weights::open(gguf).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(weights.names().count(), expected.len());
    for (name, tensor) in expected.tensors() {
        let found = weights.get(&name, tensor.shape()).unwrap();
        let expected = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).to_bits());
        assert!(found.iter().map(|v| v.to_bits()).eq(expected), "{name}");
    }
}

#[test]
fn tensors_are_what_the_formats_own_package_makes_of_them() {
    for name in ["blocks", "llama"] {
        assert_same_tensors(
            &golden(&format!("gguf/{name}.gguf")),
            &golden(&format!("gguf/{name}.safetensors")),
        );
    }
}

#[test]
fn smollm2_has_the_tensors_and_the_config_that_transformers_reads() {
    let Some(models) = models() else { return };
    let dir = models.join("smollm2-135m-instruct");
    let file = dir.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    assert_same_tensors(&file, &dir.join("model.safetensors"));
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&config::config_json(path).unwrap().1).unwrap()
    };
    let (found, mut expected) = (read(&file), read(&dir));
    expected["rope_theta"] = expected["rope_parameters"]["rope_theta"].take();
    for (key, value) in found.as_object().unwrap() {
        assert!(value == &expected[key], "{key}: {value}, expected {}", expected[key]);
    }
}

#[test]
fn groups_are_packed_as_they_are_stored() {
    let weights = Weights::open(&golden("gguf/llama.gguf")).unwrap();
    let mut packed = Vec::new();
    for name in weights.names() {
        let rows = if name.contains("k_proj") || name.contains("v_proj") { 16 } else { 32 };
        for format in Format::ALL {
            let Some(groups) = weights.groups(name, [rows, 32], format).unwrap() else { continue };
            let values = weights.get(name, &[rows, 32]).unwrap();
            for &backend in Backend::available() {
                let b = PackedB::from_groups(backend, format, &groups, [rows, 32]).unwrap();
                for (i, &value) in values.iter().enumerate() {
                    assert_eq!(b.get(false, i % 32, i / 32), f64::from(value), "{name} {i}");
                }
            }
            packed.push((name.contains("q_proj") || name.contains("k_proj"), format));
        }
    }
    // All three formats occur, and so does a tensor of permuted rows (`q_proj` or `k_proj`).
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4_1] {
        assert!(packed.iter().any(|p| p.1 == format));
    }
    assert!(packed.iter().any(|p| p.0));
}

#[test]
fn linear_layers_keep_groups_of_the_type_they_compute_in() {
    let blocks = Gguf::open(&golden("gguf/blocks.gguf")).unwrap();
    let all = std::fs::read(blocks.path()).unwrap();
    let stored = |name: &str| all[blocks.tensors()[name].bytes.clone()].to_vec();
    for (format, number) in [(Format::Q8_0, 8), (Format::Q4_0, 2), (Format::Q4_1, 3)] {
        let name = format.name().to_uppercase();
        let mut file = File::new("bert");
        for part in ["q", "k"] {
            file.tensor(&format!("blk.0.attn_{part}.weight"), &[64, 3], number, stored(&name));
            file.floats(&format!("blk.0.attn_{part}.bias"), &[3], &[0.5, -1.0, 0.0]);
        }
        let weights = Weights::from_gguf("test.gguf".into(), file.bytes()).unwrap();
        let names = ["query", "key"].map(|part| format!("bert.encoder.layer.0.attention.self.{part}"));
        let parts = names.clone().map(|name| (name, 3));
        let values = weights.get(&format!("{}.weight", names[0]), &[3, 64]).unwrap();
        for &backend in Backend::available() {
            let on = Arithmetic::new(backend, format);
            let one = Linear::open(&weights, &names[0], [3, 64], on).unwrap();
            let two = Linear::open_fused(&weights, &parts, 64, true, on).unwrap();
            // The product with the identity matrix gives the weights, which must not be rounded again.
            let mut x = vec![0.0; 64 * 64];
            (0..64).for_each(|i| x[i * 65] = 1.0);
            let mut work = Workspace::default();
            let mut run = Run::new(&mut work);
            run.set(Slot::X, [64, 64], &x);
            one.forward(&mut run, Slot::X, Slot::Y).unwrap();
            two.forward(&mut run, Slot::X, Slot::WIDE).unwrap();
            let [y, z] = [Slot::Y, Slot::WIDE].map(|slot| run.matrix(slot).values().to_vec());
            let pair = names.clone().map(|name| format!("{name}.weight"));
            let gated = Linear::open_gated(&weights, [&pair[0], &pair[1]], [3, 64], on).unwrap();
            let mut run = Run::new(&mut work);
            run.set(Slot::X, [64, 64], &x);
            gated.activated(&mut run, Slot::X, Activation::Relu, Slot::Y).unwrap();
            for (at, &found) in run.matrix(Slot::Y).values().iter().enumerate() {
                let value = values[at % 3 * 64 + at / 3];
                assert_eq!(found, value.max(0.0) * value, "{name} {at} gated on {}", backend.name());
            }
            for i in 0..64 {
                for (j, bias) in [0.5, -1.0, 0.0].into_iter().enumerate() {
                    let expected = values[j * 64 + i] + bias;
                    for found in [y[i * 3 + j], z[i * 6 + j], z[i * 6 + 3 + j]] {
                        // The rounding of the sum with the bias depends on the order of the sum.
                        let close = (found - expected).abs() <= 1e-6 * expected.abs().max(1.0);
                        assert!(close, "{name} [{i}, {j}] on {}: {found}, {expected}", backend.name());
                    }
                }
            }
        }
    }
}

#[test]
fn of_a_file_beside_safetensors_nothing_is_read() {
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (gguf, json, weights) = (dir.join("other.gguf"), dir.join("tokenizer.json"), dir.join(name));
        std::fs::copy(golden("gguf/smollm.gguf"), &gguf).unwrap();
        std::fs::copy(golden("bert-model/tokenizer.json"), &json).unwrap();
        let template = || Tokenizer::open(dir).unwrap().chat_template().map(str::to_owned);
        assert_eq!(template().as_deref(), Some("{{ messages }}"));
        std::fs::write(&weights, "").unwrap();
        assert_eq!(template(), None);
        std::fs::remove_file(&json).unwrap();
        let refused = [
            (Tokenizer::open(dir).err(), "tokenizer.json"),
            (config::config_json(dir).err(), "config.json"),
            (Weights::open(dir).err(), name),
        ];
        for (error, file) in refused {
            let error = error.unwrap().to_string();
            assert!(error.starts_with(dir.join(file).to_str().unwrap()), "{error}");
        }

        // This file names its pooling, and normalises its vectors.
        std::fs::copy(golden("gguf/bert-model.gguf"), &gguf).unwrap();
        assert!(!Sentence::open(dir).unwrap().normalize);
        std::fs::remove_file(&weights).unwrap();
        assert!(Sentence::open(dir).unwrap().normalize);
    }
}

#[test]
fn bert_computes_the_same_from_either_file() {
    let (file, dir) = (golden("gguf/bert-model.gguf"), golden("bert-model"));
    let batch = ModelInputs::open(&dir.join("inputs.safetensors")).unwrap().tokens.batch;
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&file, folder.path().join("any-name.GGUF")).unwrap();
    for path in [&file, folder.path()] {
        for &backend in Backend::available() {
            let on = Arithmetic::f32(backend);
            let architecture = Architecture::of(path).unwrap();
            assert_eq!(architecture.class, "BertModel");
            let found = architecture.load(path, on).unwrap().forward(&batch).unwrap();
            let expected = Architecture::of(&dir).unwrap().load(&dir, on).unwrap().forward(&batch).unwrap();
            // The file has no pooler.
            assert!(found == expected[..1], "{}", backend.name());
        }
        // Short texts: the limit of 16 tokens in the directory has no counterpart in GGUF.
        let texts = ["The cat sat on the mat.", "A dog ran!"];
        let on = Arithmetic::f32(Backend::best());
        let [found, expected] = [path, &dir].map(|p| Embedder::open(p, on).unwrap().embed(&texts).unwrap());
        assert!(found == expected);
        assert_eq!(Embedder::open(path, on).unwrap().max_length(), 40);
    }
    std::fs::copy(&file, folder.path().join("another.gguf")).unwrap();
    let error = Weights::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    let error = Weights::open(&folder.path().join("no.gguf")).unwrap_err().to_string();
    assert!(error.contains("no.gguf:"), "{error}");
}

#[test]
fn metadata_becomes_the_config_of_hugging_face() {
    let config = |bytes: &[u8]| -> Result<serde_json::Value, String> {
        let gguf = Gguf::from_bytes(Path::new("test.gguf"), bytes).map_err(|e| e.to_string())?;
        let json = gguf.config_json().map_err(|e| e.to_string())?;
        Ok(serde_json::from_slice(&json).unwrap())
    };
    let found = config(&std::fs::read(golden("gguf/llama.gguf")).unwrap()).unwrap();
    let expected = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": f64::from(1e-5f32), "rope_theta": 5e5,
        "rope_scaling": null, "max_position_embeddings": 64, "vocab_size": 40, "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(found, expected);

    let llama = |change: &dyn Fn(&mut File)| {
        let mut file = File::new("llama");
        for (key, value) in [
            ("embedding_length", 64),
            ("feed_forward_length", 96),
            ("block_count", 1),
            ("attention.head_count", 4),
            ("context_length", 128),
        ] {
            file.u32(&format!("llama.{key}"), value);
        }
        file.f32("llama.attention.layer_norm_rms_epsilon", 1e-6);
        file.floats("token_embd.weight", &[64, 5], &[0.0; 320]);
        change(&mut file);
        config(&file.bytes())
    };
    let least = llama(&|_| {}).unwrap();
    assert_eq!((&least["head_dim"], &least["num_key_value_heads"]), (&16.into(), &4.into()));
    assert_eq!(least["rope_theta"], 10_000.0);
    let linear = llama(&|f| f.f32("llama.rope.scaling.factor", 4.0)).unwrap();
    assert_eq!(
        (&linear["rope_scaling"]["rope_type"], &linear["rope_scaling"]["factor"]),
        (&"linear".into(), &4.0.into())
    );
    let untied = llama(&|f| f.floats("output.weight", &[64, 5], &[0.0; 320])).unwrap();
    assert_eq!(untied["tie_word_embeddings"], false);
    let turns = llama(&|f| {
        f.u32("tokenizer.ggml.eos_token_id", 3);
        f.u32("tokenizer.ggml.eot_token_id", 4);
    });
    assert_eq!(turns.unwrap()["eos_token_id"], serde_json::json!([3, 4]));

    // By transformers' formula, a theta of 10^4 and heads of 16 give wavelengths of 6.3, 19.9, 62.8, 199, 628, 1987,
    // 6283 and 19869 tokens. Wavelengths up to 2048 stay; wavelengths from 8192 on are multiplied by 8.
    let mut factors = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 8.0];
    let share = (8192.0 / (std::f64::consts::TAU * 1000.0) - 1.0) / 3.0;
    factors[6] = (1.0 / ((1.0 - share) / 8.0 + share)) as f32;
    let scaled = llama(&|f| f.floats("rope_freqs.weight", &[8], &factors));
    // The reader takes the factors from the file, which does not exist here.
    assert!(scaled.unwrap_err().contains("test.gguf"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let on_disk = |factors: &[f32]| {
        let write = |f: &mut File| {
            f.floats("rope_freqs.weight", &[8], factors);
            std::fs::write(&path, f.bytes()).unwrap();
        };
        llama(&write).unwrap_err();
        config::config_json(&path).map(|c| serde_json::from_slice::<serde_json::Value>(&c.1).unwrap())
    };
    assert_eq!(
        on_disk(&factors).unwrap()["rope_scaling"],
        serde_json::json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        })
    );
    factors[6] *= 1.01;
    let error = on_disk(&factors).unwrap_err().to_string();
    assert!(error.contains("tensor rope_freqs.weight: expected the factors of LLaMA 3"), "{error}");

    let refused: [(&str, &Change); 7] = [
        ("llama.expert_count: expected 0, found 8", &|f| f.u32("llama.expert_count", 8)),
        ("llama.rope.dimension_count: expected 32, found 16", &|f| {
            f.u32("llama.attention.key_length", 32);
            f.u32("llama.rope.dimension_count", 16);
        }),
        ("llama.attention.value_length: expected 16, found 32", &|f| {
            f.u32("llama.attention.value_length", 32)
        }),
        ("llama.attention.head_count_kv: expected an integer from 0 up, found 1", &|f| {
            f.numbers("llama.attention.head_count_kv", &[4.0]);
        }),
        ("llama.rope.freq_base: expected a finite float, found NaN", &|f| {
            f.f32("llama.rope.freq_base", f32::NAN)
        }),
        ("llama.block_count: missing", &|f| f.keys.retain(|k| k.0 != "llama.block_count")),
        ("tensor token_embd.weight: missing", &|f| f.tensors.clear()),
    ];
    for (part, change) in refused {
        let error = llama(change).unwrap_err();
        assert!(error.starts_with("test.gguf: ") && error.contains(part), "{error}");
    }
    let error = config(&File::new("mamba").bytes()).unwrap_err();
    assert_eq!(error, "test.gguf: general.architecture: expected llama or bert, found \"mamba\"");
}

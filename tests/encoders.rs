//! Encoders against transformers: golden outputs on every backend, and the promises about batches.
//!
//! `tests/golden/generate.py` made the checkpoints and what transformers computes with them in f64.
#![forbid(unsafe_code)]

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tilewright::bert::Config;
use tilewright::config::Fields;
use tilewright::exchange::Inputs;
use tilewright::model::{Architecture, Each, Model, Output};
use tilewright::sentence::Embedder;
use tilewright::weights::Weights;
use tilewright::{Arithmetic, Batch, Error, albert, electra, roberta};
use tilewright_kernels::Backend;
use tilewright_suite::arithmetics;

/// Largest error as a share of an output's largest magnitude. f32 leaves about 2^-24 = 6e-8 in each
/// of some dozen operations in a row; the worst measured of all backends and outputs is 3.2e-6.
const TOLERANCE: f32 = 1e-5;

/// The families, their encoders' prefixes, and the checkpoints of their classes.
const FAMILIES: [(&str, &[&str]); 4] = [
    (
        "bert",
        &[
            "model",
            "masked-lm",
            "next-sentence",
            "pre-training",
            "sequence-classification",
            "token-classification",
            "question-answering",
            "multiple-choice",
        ],
    ),
    (
        "roberta",
        &[
            "model",
            "masked-lm",
            "sequence-classification",
            "token-classification",
            "question-answering",
            "multiple-choice",
        ],
    ),
    (
        "albert",
        &[
            "model",
            "masked-lm",
            "pre-training",
            "sequence-classification",
            "token-classification",
            "question-answering",
            "multiple-choice",
        ],
    ),
    (
        "electra",
        &[
            "model",
            "model-wide",
            "masked-lm",
            "pre-training",
            "sequence-classification",
            "token-classification",
            "question-answering",
            "multiple-choice",
        ],
    ),
];

fn checkpoints() -> impl Iterator<Item = String> {
    FAMILIES.iter().flat_map(|(family, kinds)| kinds.iter().map(move |kind| format!("{family}-{kind}")))
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn inputs(dir: &Path) -> Inputs {
    Inputs::open(&dir.join("inputs.safetensors")).unwrap()
}

fn load(dir: &Path, backend: Backend) -> Box<dyn Model> {
    load_in(dir, Arithmetic::f32(backend))
}

fn load_in(dir: &Path, on: Arithmetic) -> Box<dyn Model> {
    Architecture::of(dir).unwrap().load(dir, on).unwrap()
}

/// Shape and values of a tensor of f32.
fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let values = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (tensor.shape().to_vec(), values)
}

/// Fails unless `found` is `expected` to the tolerance.
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        // Written so that NaN fails.
        assert!(
            (f - e).abs() <= tolerance * scale,
            "{what}: element {i} is {f}, expected {e} (scale {scale})"
        );
    }
}

#[test]
fn every_backend_computes_what_transformers_does() {
    for name in checkpoints() {
        let dir = golden(&name);
        let inputs = inputs(&dir);
        let expected = std::fs::read(dir.join("outputs.safetensors")).unwrap();
        let names = SafeTensors::deserialize(&expected).unwrap().len();
        for &backend in Backend::available() {
            let outputs = load(&dir, backend).forward(&inputs.tokens.batch).unwrap();
            assert_eq!(outputs.len(), names, "{name}");
            for output in &outputs {
                let what = format!("{name} {} on {}", output.name, backend.name());
                let (shape, values) = tensor(&dir.join("outputs.safetensors"), output.name);
                assert_eq!(inputs.padded_shape(output), shape, "{what}");
                assert_close(&what, &inputs.pad(output), &values, TOLERANCE);
            }
        }
    }
}

/// The part of `output` that belongs to one sequence of `batch`.
fn of_sequence<'a>(output: &'a Output, batch: &Batch, sequence: usize) -> &'a [f32] {
    let rows = match output.each {
        Each::Token => batch.starts()[sequence]..batch.starts()[sequence + 1],
        Each::Sequence => sequence..sequence + 1,
        Each::DecoderToken => unreachable!("an encoder"),
    };
    &output.values[rows.start * output.width..rows.end * output.width]
}

#[test]
fn a_sequence_has_the_same_bits_alone_in_a_batch_and_padded() {
    // Few tokens of few ids each, so that the batch needs other blocks than a sequence alone.
    let texts: Vec<Vec<u32>> =
        (0..20).map(|n| (0..1 + n * 3 / 2).map(|i| 5 + (i * 7 + n) % 45).collect()).collect();
    let columns = texts.iter().map(Vec::len).max().unwrap();
    let (mut batch, mut ids, mut mask) = (Batch::default(), Vec::new(), Vec::new());
    for text in &texts {
        batch.push(text, &vec![0; text.len()]).unwrap();
        let padded = |v: &dyn Fn(usize) -> i64| (0..columns).map(v).collect::<Vec<_>>();
        ids.extend(padded(&|i| text.get(i).map_or(0, |&id| id.into())));
        mask.extend(padded(&|i| i64::from(i < text.len())));
    }
    let padded = Batch::from_padded([texts.len(), columns], &ids, Some(&mask), None).unwrap();
    assert_eq!(padded, batch);

    for name in checkpoints() {
        for on in arithmetics() {
            let mut model = load_in(&golden(&name), on);
            let together = model.forward(&batch).unwrap();
            for (i, text) in texts.iter().enumerate() {
                let mut alone = Batch::default();
                alone.push(text, &vec![0; text.len()]).unwrap();
                for (one, all) in model.forward(&alone).unwrap().iter().zip(&together) {
                    let all = of_sequence(all, &batch, i);
                    let same = one.values.iter().map(|v| v.to_bits()).eq(all.iter().map(|v| v.to_bits()));
                    assert!(same, "{name} {} on {on:?}: sequence {i} differs alone", one.name);
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let pools: Vec<_> =
        (1..=4).map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()).collect();
    for name in checkpoints() {
        let dir = golden(&name);
        let batch = inputs(&dir).tokens.batch;
        for on in arithmetics() {
            let mut model = load_in(&dir, on);
            let mut results = pools.iter().map(|pool| pool.install(|| model.forward(&batch).unwrap()));
            let first = results.next().unwrap();
            assert!(results.all(|other| other == first), "{name} on {on:?}");
        }
    }
}

#[test]
fn sentence_embeddings_follow_the_sentence_transformers_files() {
    let dir = golden("bert-model");
    let texts: Vec<String> = serde_json::from_slice(&std::fs::read(dir.join("texts.json")).unwrap()).unwrap();
    let (shape, expected) = tensor(&dir.join("embeddings.safetensors"), "embeddings");
    for &backend in Backend::available() {
        let mut embedder = Embedder::open(&dir, Arithmetic::f32(backend)).unwrap();
        assert_eq!(embedder.max_length(), 16);
        let (batch, width, vectors) = embedder.embed(&texts).unwrap();
        assert_eq!([batch.len(), width], shape[..]);
        assert_eq!(batch.starts().last(), Some(&(9 + 6 + 16)));
        assert_close(backend.name(), &vectors, &expected, TOLERANCE);
    }
}

/// Without the checkpoint (TILEWRIGHT_MODELS unset) only the fixture itself is checked.
#[test]
fn all_minilm_l6_v2_embeds_as_in_transformers() {
    let dir = golden("all-minilm-l6-v2");
    let texts: Vec<String> = serde_json::from_slice(&std::fs::read(dir.join("texts.json")).unwrap()).unwrap();
    let (shape, expected) = tensor(&dir.join("embeddings.safetensors"), "embeddings");
    assert_eq!(shape, [texts.len(), 384]);
    for vector in expected.chunks(384) {
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    }
    let Some(models) = std::env::var_os("TILEWRIGHT_MODELS") else {
        eprintln!("TILEWRIGHT_MODELS is not set: all-minilm-l6-v2 itself was not run");
        return;
    };
    let dir = Path::new(&models).join("all-minilm-l6-v2");
    for &backend in Backend::available().iter().filter(|&&b| b != Backend::REFERENCE) {
        let (_, _, vectors) = Embedder::open(&dir, Arithmetic::f32(backend)).unwrap().embed(&texts).unwrap();
        assert_close(backend.name(), &vectors, &expected, TOLERANCE);
    }
}

/// The bytes of a golden checkpoint with each tensor's name, type, shape and data changed.
fn rewrite(name: &str, change: impl Fn(&mut Stored)) -> Vec<u8> {
    let bytes = std::fs::read(golden(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Stored> = file
        .tensors()
        .into_iter()
        .map(|(name, t)| Stored {
            name,
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            data: t.data().to_vec(),
        })
        .collect();
    tensors.iter_mut().for_each(change);
    let views = tensors.iter().filter(|t| !t.name.is_empty()).map(|t| {
        (t.name.clone(), safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A tensor as a file holds it; one without a name is left out.
struct Stored {
    name: String,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Stored {
    fn values(&self) -> Vec<f32> {
        self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn store(&mut self, dtype: safetensors::Dtype, bytes: impl Fn(f32) -> Vec<u8>) {
        self.data = self.values().into_iter().flat_map(bytes).collect();
        self.dtype = dtype;
    }
}

/// The model of the golden checkpoint `name` with these bytes as its weights.
fn open(name: &str, bytes: Vec<u8>, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
    let weights = Weights::from_bytes("changed.safetensors".into(), bytes)?;
    Architecture::of(&golden(name))?.open(&golden(name), weights, on)
}

fn open_best(name: &str, bytes: Vec<u8>) -> Result<Box<dyn Model>, Error> {
    open(name, bytes, Arithmetic::f32(Backend::best()))
}

#[test]
fn other_spellings_of_the_same_checkpoint_are_the_same_model() {
    for (family, _) in FAMILIES {
        other_spellings(&format!(
            "{family}-{}",
            if family == "roberta" { "masked-lm" } else { "pre-training" }
        ));
    }
}

fn other_spellings(name: &str) {
    let batch = inputs(&golden(name)).tokens.batch;
    let run = |bytes| open_best(name, bytes).unwrap().forward(&batch).unwrap();
    let expected = run(rewrite(name, |_| {}));

    let old = |t: &mut Stored| {
        t.name =
            t.name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    };
    let prefix = format!("{}.", name.split('-').next().unwrap());
    let bare = |t: &mut Stored| t.name = t.name.trim_start_matches(&prefix).to_owned();
    assert!(run(rewrite(name, old)) == expected);
    assert!(run(rewrite(name, bare)) == expected);

    // Stored in half the bytes, the model is that of the rounded values.
    let bf16 = |v: f32| half::bf16::from_f32(v);
    let f16 = |v: f32| half::f16::from_f32(v);
    let rounded =
        run(rewrite(name, |t| t.store(safetensors::Dtype::F32, |v| bf16(v).to_f32().to_le_bytes().to_vec())));
    assert!(
        run(rewrite(name, |t| t.store(safetensors::Dtype::BF16, |v| bf16(v).to_le_bytes().to_vec())))
            == rounded
    );
    assert!(rounded != expected);
    let rounded =
        run(rewrite(name, |t| t.store(safetensors::Dtype::F32, |v| f16(v).to_f32().to_le_bytes().to_vec())));
    assert!(
        run(rewrite(name, |t| t.store(safetensors::Dtype::F16, |v| f16(v).to_le_bytes().to_vec())))
            == rounded
    );
}

#[test]
fn shards_are_one_checkpoint() {
    let (name, folder) = ("bert-model", tempfile::tempdir().unwrap());
    let dir = folder.path();
    let in_first = |name: &str| name.contains("layer.0");
    let keep = |first: bool| {
        rewrite(name, |t| {
            if in_first(&t.name) != first {
                t.name.clear()
            }
        })
    };
    std::fs::write(dir.join("a.safetensors"), keep(true)).unwrap();
    std::fs::write(dir.join("b.safetensors"), keep(false)).unwrap();
    std::fs::copy(golden(name).join("config.json"), dir.join("config.json")).unwrap();
    let whole = Weights::open(&golden(name)).unwrap();
    let index = |names: &mut dyn Iterator<Item = &str>| {
        let map: serde_json::Map<_, _> = names
            .map(|n| (n.to_owned(), if in_first(n) { "a.safetensors" } else { "b.safetensors" }.into()))
            .collect();
        std::fs::write(
            dir.join("model.safetensors.index.json"),
            serde_json::json!({ "weight_map": map }).to_string(),
        )
        .unwrap();
    };
    index(&mut whole.names());
    let batch = inputs(&golden(name)).tokens.batch;
    let run = |dir: &Path| load(dir, Backend::best()).forward(&batch).unwrap();
    assert!(run(dir) == run(&golden(name)));

    index(&mut whole.names().chain(["encoder.layer.0.nothing"]));
    let error = Weights::open(dir).unwrap_err().to_string();
    assert!(error.contains("encoder.layer.0.nothing") && error.contains("a.safetensors"), "{error}");
    std::fs::write(dir.join("model.safetensors.index.json"), r#"{"weight_map": {"x": "../x.safetensors"}}"#)
        .unwrap();
    let error = Weights::open(dir).unwrap_err().to_string();
    assert!(error.contains("weight_map.x"), "{error}");
}

#[test]
fn damaged_checkpoints_are_errors_that_name_file_and_tensor() {
    let name = "bert-masked-lm";
    let key = "bert.encoder.layer.1.attention.self.key.weight";
    let only = |change: &dyn Fn(&mut Stored)| {
        rewrite(name, |t| {
            if t.name == key {
                change(t)
            }
        })
    };
    let sound = rewrite(name, |_| {});
    let header = u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let patched = |at: usize, bytes: &[u8]| {
        let mut damaged = sound.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let cases = [
        ("missing", only(&|t| t.name.clear()), vec![key, "missing", "[36, 36]"]),
        ("misshapen", only(&|t| t.shape = vec![18, 72]), vec![key, "[36, 36]", "[18, 72]"]),
        ("integers", only(&|t| t.dtype = safetensors::Dtype::I32), vec![key, "I32"]),
        (
            "NaN",
            only(&|t| t.data[40..44].copy_from_slice(&f32::NAN.to_le_bytes())),
            vec![key, "element 10 is NaN"],
        ),
        (
            "infinite",
            only(&|t| t.data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes())),
            vec![key, "element 0 is inf"],
        ),
        ("truncated", sound[..sound.len() - 1].to_vec(), vec![]),
        ("longer", [&sound[..], &[0]].concat(), vec![]),
        ("header cut", sound[..100].to_vec(), vec![]),
        ("empty", Vec::new(), vec![]),
        ("absurd header size", patched(0, &u64::MAX.to_le_bytes()), vec![]),
        ("not UTF-8", patched(8 + header / 2, &[0xff]), vec!["utf-8"]),
        ("not JSON", patched(8, b"]"), vec![]),
    ];
    for (what, bytes, parts) in cases {
        let error = open_best(name, bytes).expect_err(what).to_string();
        for part in ["changed.safetensors"].iter().chain(&parts) {
            assert!(error.contains(part), "{what}: {error}");
        }
    }
}

/// Whether a tensor of the file `name` has no part in the outputs of its class.
fn is_unread(name: &str, tensor: &str) -> bool {
    match name {
        // An untied decoder has a bias of its own.
        "albert-pre-training" => tensor == "predictions.bias",
        _ => false,
    }
}

/// Whether a tensor is read, but cancels: what a key's bias adds to the scores of a query is the same for
/// all keys, so that softmax does not see it.
fn cancels(tensor: &str) -> bool {
    tensor.ends_with("key.bias")
}

/// Whether a checkpoint without the tensor is one as well: bare models may have no pooler, and an untied
/// decoder the bias that a tied one has.
fn may_lack(name: &str, tensor: &str) -> bool {
    name.ends_with("model") && tensor.starts_with("pooler")
        || name == "albert-pre-training" && tensor == "predictions.decoder.bias"
}

#[test]
fn no_weight_can_be_ignored() {
    let on = Arithmetic::f32(Backend::named("portable").unwrap());
    for name in checkpoints() {
        let batch = inputs(&golden(&name)).tokens.batch;
        let names: Vec<String> = Weights::open(&golden(&name)).unwrap().names().map(str::to_owned).collect();
        let run = |bytes| open(&name, bytes, on).map(|mut model| model.forward(&batch).unwrap());
        let expected = run(rewrite(&name, |_| {})).unwrap();
        for tensor in names {
            let with = |change: &dyn Fn(&mut Stored)| {
                rewrite(&name, |t| {
                    if t.name == tensor {
                        change(t)
                    }
                })
            };
            let changed =
                run(with(&|t| t.store(safetensors::Dtype::F32, |v| (v + 0.5).to_le_bytes().to_vec())));
            if is_unread(&name, &tensor) {
                assert!(changed.unwrap() == expected, "{name}: {tensor} has a part in the outputs");
                continue;
            }
            if !cancels(&tensor) {
                assert!(changed.unwrap() != expected, "{name}: {tensor} is ignored");
            }
            // Whatever is read is asked for by name and shape.
            let error = |bytes| run(bytes).map(drop).expect_err(&format!("{name}: {tensor}")).to_string();
            let nan = error(with(&|t| t.data[..4].copy_from_slice(&f32::NAN.to_le_bytes())));
            assert!(nan.contains(&tensor) && nan.contains("element 0 is NaN"), "{name}: {nan}");
            let misshapen = error(with(&|t| t.shape.push(1)));
            assert!(
                misshapen.contains(&tensor) && misshapen.contains("expected shape"),
                "{name}: {misshapen}"
            );
            if !may_lack(&name, &tensor) {
                let missing = error(with(&|t| t.name.clear()));
                assert!(missing.contains("missing") && missing.contains("changed"), "{name}: {missing}");
            }
        }
    }
}

#[test]
fn bare_models_without_pooler_have_no_output_of_it() {
    for name in ["bert-model", "roberta-model", "albert-model"] {
        let batch = inputs(&golden(name)).tokens.batch;
        let without = rewrite(name, |t| {
            if t.name.starts_with("pooler") {
                t.name.clear()
            }
        });
        let outputs = open_best(name, without).unwrap().forward(&batch).unwrap();
        assert_eq!(outputs.iter().map(|o| o.name).collect::<Vec<_>>(), ["last_hidden_state"], "{name}");
    }
}

#[test]
fn parameters_are_those_of_the_file() {
    for name in checkpoints() {
        let parts = load(&golden(&name), Backend::best()).parameters();
        let bytes = std::fs::read(golden(&name).join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let used = file.iter().filter(|(tensor, _)| !is_unread(&name, tensor));
        let stored: usize = used.map(|(_, t)| t.shape().iter().product::<usize>()).sum();
        assert_eq!(parts.iter().map(|(_, n)| n).sum::<usize>(), stored, "{name}: {parts:?}");
    }
}

#[test]
fn roberta_counts_positions_from_padding_and_without_it() {
    let mut model = load(&golden("roberta-model"), Backend::best());
    assert_eq!(model.max_length(), 40 - 2);
    let mut run = |ids: &[u32]| {
        let mut batch = Batch::default();
        batch.push(ids, &vec![0; ids.len()]).unwrap();
        model.forward(&batch)
    };
    assert!(run(&[5; 38]).is_ok());
    assert_eq!(run(&[5; 39]).unwrap_err().to_string(), "position: 40 is not below 40");
    // Padding that a mask shows takes no position from the others.
    assert!(run(&[&[5; 38][..], &[1; 4]].concat()).is_ok());
}

#[test]
fn configs_that_are_not_supported_are_errors_that_name_the_field() {
    let cases = [
        (r#"{"hidden_act": "mish"}"#, "mish"),
        (r#"{"position_embedding_type": "relative_key"}"#, "relative_key"),
        (r#"{"num_attention_heads": 7}"#, "num_attention_heads 7"),
        (r#"{"num_attention_heads": 0}"#, "num_attention_heads is 0"),
        (r#"{"vocab_size": 0}"#, "vocab_size is 0"),
        (r#"{"vocab_size": -1}"#, "vocab_size: invalid value: integer `-1`"),
        (r#"{"num_labels": 1000000}"#, "num_labels"),
        (r#"{"num_hidden_layers": 1000000000000}"#, "num_hidden_layers"),
        (r#"{"pruned_heads": {"1": [0]}}"#, "pruned_heads"),
        ("[]", "map"),
        (r#"{"layer_norm_eps": -1}"#, "layer_norm_eps"),
        (r#"{"is_decoder": true}"#, "is_decoder"),
        (r#"{"hidden_size": 1e99"#, "line 1"),
        ("\u{feff}", "line 1"),
    ];
    for (json, part) in cases {
        let error = Config::from_bytes(Path::new("config.json"), json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("config.json: ") && error.contains(part), "{json}: {error}");
    }
    let not_utf8 = Config::from_bytes(Path::new("config.json"), b"{\"hidden_act\": \"\xff\"}").unwrap_err();
    assert!(not_utf8.to_string().starts_with("config.json: "), "{not_utf8}");

    // What the others add, and of every family what none computes.
    let cases = [
        ("roberta", r#"{"pad_token_id": 600}"#, "pad_token_id 600"),
        ("roberta", r#"{"pad_token_id": -1}"#, "pad_token_id: "),
        ("roberta", r#"{"add_cross_attention": true}"#, "add_cross_attention"),
        ("albert", r#"{"embedding_size": 0}"#, "embedding_size is 0"),
        ("albert", r#"{"num_hidden_groups": 0}"#, "num_hidden_groups is 0"),
        ("albert", r#"{"inner_group_num": 0}"#, "inner_group_num is 0"),
        ("albert", r#"{"inner_group_num": 1000000000000}"#, "inner_group_num 1000000000000"),
        ("albert", r#"{"net_structure_type": 1}"#, "net_structure_type"),
        ("albert", r#"{"hidden_act": "mish"}"#, "hidden_act: activation \"mish\""),
        ("electra", r#"{"embedding_size": 0}"#, "embedding_size is 0"),
        ("electra", r#"{"summary_type": "mean"}"#, "summary_type"),
        ("electra", r#"{"summary_use_proj": false}"#, "summary_use_proj"),
        ("electra", r#"{"summary_activation": "mish"}"#, "summary_activation"),
        ("electra", r#"{"position_embedding_type": "relative_key"}"#, "position_embedding_type"),
    ];
    for (family, json, part) in cases {
        let fields = Fields::from_bytes(Path::new("config.json"), json.as_bytes()).unwrap();
        let error = match family {
            "roberta" => roberta::Config::read(&fields).unwrap_err(),
            "albert" => albert::Config::read(&fields).unwrap_err(),
            _ => electra::Config::read(&fields).unwrap_err(),
        };
        let error = error.to_string();
        assert!(error.starts_with("config.json: ") && error.contains(part), "{family} {json}: {error}");
    }

    let folder = tempfile::tempdir().unwrap();
    for (json, part) in [
        (r#"{"architectures": ["GPT5"]}"#, "GPT5"),
        (r#"{"model_type": "mamba"}"#, "mamba"),
        ("{}", "model_type"),
    ] {
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        let error = Architecture::of(folder.path()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("BertForMaskedLM"), "{json}: {error}");
    }
}

#[test]
fn inputs_outside_of_the_tables_are_errors_that_name_them() {
    let mut model = load(&golden("bert-model"), Backend::best());
    let mut error = |ids: &[u32], types: &[u32]| {
        let mut batch = Batch::default();
        batch.push(ids, types).unwrap();
        model.forward(&batch).unwrap_err().to_string()
    };
    assert_eq!(error(&[5, 89], &[0, 0]), "input_ids: 89 is not below 89");
    assert_eq!(error(&[5], &[2]), "token_type_ids: 2 is not below 2");
    assert_eq!(error(&[5; 41], &[0; 41]), "position: 40 is not below 40");

    let padded = |ids: &[i64], mask: &[i64]| {
        Batch::from_padded([1, 2], ids, Some(mask), None).unwrap_err().to_string()
    };
    assert_eq!(padded(&[5, -1], &[1, 1]), "input_ids: [0, 1] is -1");
    assert_eq!(padded(&[5, 5], &[1, 2]), "attention_mask: [0, 1] is 2, not 0 or 1");
    assert_eq!(padded(&[5, 5], &[0, 0]), "attention_mask: hides all of sequence 0");
    assert_eq!(padded(&[5, 5], &[1]), "attention_mask: expected shape [1, 2], found 1 values");
    assert_eq!(padded(&[5], &[1, 1]), "input_ids: expected shape [1, 2], found 1 values");
    assert!(Batch::default().push(&[], &[]).is_err());
    assert!(Batch::default().push(&[5], &[]).is_err());
}

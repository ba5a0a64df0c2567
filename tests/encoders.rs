//! Encoders against transformers: golden outputs on every backend, and the promises about batches.
//!
//! `tests/golden/generate.py` made the checkpoints, and their outputs by transformers in f64.
#![forbid(unsafe_code)]

use std::path::Path;
use tilewright::architectures::Architecture;
use tilewright::bert::Config;
use tilewright::checkpoint::config::Fields;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::model::Model;
use tilewright::output::{Each, Output};
use tilewright::sentence::Embedder;
use tilewright::{Arithmetic, Batch, albert, electra, roberta};
use tilewright_kernels::Backend;
use tilewright_suite::golden::{self, assert_close, assert_outputs, golden, inputs, rewrite, tensor};
use tilewright_suite::{arithmetics, skipped};

/// Largest error as a share of an output's largest magnitude. Each of some dozen successive f32 operations adds about
/// 2^-24 = 6e-8. The largest measured error of all backends and outputs is 3.2e-6.
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

fn load(dir: &Path, backend: Backend) -> Box<dyn Model> {
    golden::load(dir, Arithmetic::f32(backend))
}

#[test]
fn every_backend_computes_what_transformers_does() {
    for name in checkpoints() {
        let dir = golden(&name);
        let inputs = inputs(&dir);
        for &backend in Backend::available() {
            let outputs = load(&dir, backend).forward(&inputs.tokens.batch).unwrap();
            let what = format!("{name} on {}", backend.name());
            assert_outputs(&what, &inputs, &outputs, &dir.join("outputs.safetensors"), TOLERANCE);
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
    // The batch has more tokens than a block, and each sequence alone has fewer.
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
            let mut model = golden::load(&golden(&name), on);
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
            let mut model = golden::load(&dir, on);
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

/// A copy of `bert-model` with `change` applied to each of its files.
fn changed(change: impl Fn(&str, &mut serde_json::Value)) -> tempfile::TempDir {
    let (from, to) = (golden("bert-model"), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("model.safetensors"), to.path().join("model.safetensors")).unwrap();
    for name in ["config.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let mut json = serde_json::from_slice(&std::fs::read(from.join(name)).unwrap()).unwrap();
        change(name, &mut json);
        std::fs::write(to.path().join(name), json.to_string()).unwrap();
    }
    to
}

#[test]
fn texts_are_read_in_lower_case_where_sentence_transformers_does() {
    let ids = |lowercase: bool| {
        let dir = changed(|name, json| match name {
            "sentence_bert_config.json" => json["do_lower_case"] = lowercase.into(),
            "tokenizer.json" => json["normalizer"]["lowercase"] = false.into(),
            _ => {}
        });
        let mut embedder = Embedder::open(dir.path(), Arithmetic::f32(Backend::best())).unwrap();
        assert_eq!(embedder.sentence().lowercase, lowercase);
        let [upper, lower] =
            ["THE CAT SAT", "the cat sat"].map(|text| embedder.embed(&[text]).unwrap().0.ids().to_vec());
        (upper, lower)
    };
    let (upper, lower) = ids(false);
    assert_ne!(upper, lower);
    assert_eq!(ids(true), (lower.clone(), lower));
}

#[test]
fn texts_are_cut_on_the_side_that_files_say() {
    let cut = |in_config: Option<&str>, in_json: Option<&str>| -> Result<&'static str, String> {
        let dir = changed(|name, json| match (name, in_config, in_json) {
            ("tokenizer_config.json", Some(side), _) => json["truncation_side"] = side.into(),
            ("tokenizer.json", _, Some(side)) => {
                json["truncation"] = serde_json::json!({
                    "direction": side, "max_length": 8, "strategy": "LongestFirst", "stride": 0,
                });
            }
            _ => {}
        });
        let mut tokenizer = Tokenizer::open(dir.path()).map_err(|e| e.to_string())?;
        let all = tokenizer.encode(&["the cat sat on the mat and the dog ran"]).unwrap().ids().to_vec();
        tokenizer.truncate(5).unwrap();
        let few = tokenizer.encode(&["the cat sat on the mat and the dog ran"]).unwrap().ids().to_vec();
        let (first, last, n) = (all[0], all[all.len() - 1], all.len());
        assert!(n > 8);
        let [start, end] =
            [&all[1..4], &all[n - 4..n - 1]].map(|kept| [&[first][..], kept, &[last]].concat());
        assert_ne!(start, end);
        assert!(few == start || few == end, "{few:?} of {all:?}");
        Ok(if few == start { "right" } else { "left" })
    };
    assert_eq!(cut(None, None), Ok("right"));
    assert_eq!(cut(None, Some("Left")), Ok("left"));
    assert_eq!(cut(Some("left"), None), Ok("left"));
    assert_eq!(cut(Some("left"), Some("Right")), Ok("left"));
    assert_eq!(cut(Some("right"), Some("Left")), Ok("right"));
    let refused = cut(Some("middle"), None).unwrap_err();
    assert!(refused.contains("tokenizer_config.json") && refused.contains("middle"), "{refused}");
}

/// Without the checkpoint (TILEWRIGHT_MODELS unset), the test checks only the fixture.
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
        skipped("all-minilm-l6-v2 itself: TILEWRIGHT_MODELS is not set");
        return;
    };
    let dir = Path::new(&models).join("all-minilm-l6-v2");
    for &backend in Backend::available().iter().filter(|&&b| b != Backend::REFERENCE) {
        let (_, _, vectors) = Embedder::open(&dir, Arithmetic::f32(backend)).unwrap().embed(&texts).unwrap();
        assert_close(backend.name(), &vectors, &expected, TOLERANCE);
    }
}

#[test]
fn bare_models_without_pooler_have_no_output_of_it() {
    for name in ["bert-model", "roberta-model", "albert-model"] {
        let batch = inputs(&golden(name)).tokens.batch;
        let without = rewrite(&golden(name), |all| all.retain(|t| !t.name.starts_with("pooler")));
        let mut model = golden::open(&golden(name), without, Arithmetic::f32(Backend::best())).unwrap();
        let outputs = model.forward(&batch).unwrap();
        assert_eq!(outputs.iter().map(|o| o.name).collect::<Vec<_>>(), ["last_hidden_state"], "{name}");
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
    // Padding takes no position, visible or hidden. Another hidden token takes one, as in transformers.
    assert!(run(&[&[5; 38][..], &[1; 4]].concat()).is_ok());
    let mut masked = |hidden: &[i64], half: usize| {
        let ids = [&[5].repeat(half)[..], hidden, &[6].repeat(half)].concat();
        let mask = [[1].repeat(half), [0].repeat(hidden.len()), [1].repeat(half)].concat();
        let batch = Batch::from_padded([1, ids.len()], &ids, Some(&mask), None).unwrap();
        model.forward(&batch).map(|outputs| outputs[0].values.clone())
    };
    assert_eq!(masked(&[7], 19).unwrap_err().to_string(), "position: 40 is not below 40");
    assert!(masked(&[1], 19).is_ok());
    let whole = masked(&[], 2).unwrap();
    assert!(masked(&[1, 1], 2).unwrap() == whole);
    let shifted = masked(&[7, 1], 2).unwrap();
    assert!(shifted != whole && shifted == masked(&[1, 8], 2).unwrap());
}

#[test]
fn configs_that_are_not_supported_are_errors_that_name_the_field() {
    let cases = [
        (r#"{"hidden_act": "laplace"}"#, "laplace"),
        (r#"{"position_embedding_type": "relative_key"}"#, "relative_key"),
        (r#"{"num_attention_heads": 7}"#, "num_attention_heads 7"),
        (r#"{"num_attention_heads": 0}"#, "num_attention_heads: expected at least 1, found 0"),
        (r#"{"vocab_size": 0}"#, "vocab_size: expected at least 1, found 0"),
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

    // Fields that other families add, and settings that no family supports.
    let cases = [
        ("roberta", r#"{"pad_token_id": 600}"#, "pad_token_id 600"),
        ("roberta", r#"{"pad_token_id": -1}"#, "pad_token_id: "),
        ("roberta", r#"{"add_cross_attention": true}"#, "add_cross_attention"),
        ("albert", r#"{"embedding_size": 0}"#, "embedding_size: expected at least 1, found 0"),
        ("albert", r#"{"num_hidden_groups": 0}"#, "num_hidden_groups: expected at least 1, found 0"),
        ("albert", r#"{"inner_group_num": 0}"#, "inner_group_num: expected at least 1, found 0"),
        ("albert", r#"{"inner_group_num": 1000000000000}"#, "inner_group_num 1000000000000"),
        ("albert", r#"{"net_structure_type": 1}"#, "net_structure_type"),
        ("albert", r#"{"hidden_act": "laplace"}"#, "hidden_act: activation \"laplace\""),
        ("electra", r#"{"embedding_size": 0}"#, "embedding_size: expected at least 1, found 0"),
        ("electra", r#"{"summary_type": "mean"}"#, "summary_type"),
        ("electra", r#"{"summary_use_proj": false}"#, "summary_use_proj"),
        ("electra", r#"{"summary_activation": "laplace"}"#, "summary_activation"),
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
    for (json, parts) in [
        (r#"{"architectures": ["GPT5"]}"#, ["architectures: expected one of BertModel, ", "found GPT5"]),
        (r#"{"model_type": "mamba"}"#, ["model_type: expected one of bert, ", "found mamba"]),
        ("{}", ["expected architectures or model_type", "found neither"]),
    ] {
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        let error = Architecture::of(folder.path()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{json}: {error}");
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
    assert_eq!(
        padded(&[5, -1], &[1, 1]),
        "input_ids: [0, 1]: expected a number from 0 to 4294967295, found -1"
    );
    assert_eq!(padded(&[5, 5], &[1, 2]), "attention_mask: [0, 1] is 2, not 0 or 1");
    assert_eq!(padded(&[5, 5], &[0, 0]), "attention_mask: hides all of sequence 0");
    assert_eq!(padded(&[5, 5], &[1]), "attention_mask: expected shape [1, 2], found 1 values");
    assert_eq!(padded(&[5], &[1, 1]), "input_ids: expected shape [1, 2], found 1 values");
    assert!(Batch::default().push(&[], &[]).is_err());
    assert!(Batch::default().push(&[5], &[]).is_err());
}

//! Runs of the command: output, files, exit status.
#![forbid(unsafe_code)]

mod answer;
mod bench;
mod classify;
mod finetune;
mod generate;
mod pretrain;
mod tokenize;

use safetensors::SafeTensors;
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn golden(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join("tests/golden");
    root.join(name).to_str().unwrap().to_owned()
}

fn run(arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tilewright"))
        .args(arguments)
        .env_remove("TILEWRIGHT_ISA")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A failing command may end before it reads stdin.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// The JSON that `arguments` print, which must be all of stdout.
fn json(arguments: &[&str], stdin: &str) -> Value {
    let output = run(arguments, stdin);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert!(stderr.contains("tilewright 0") && stderr.contains("isa portable"), "header on stderr: {stderr}");
    serde_json::from_slice(&output.stdout).expect("stdout is JSON")
}

/// The message of `arguments`, which must fail with status 1 and print nothing but the header.
fn error(arguments: &[&str]) -> String {
    let output = run(arguments, "");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(String::from_utf8_lossy(&output.stdout).lines().count() <= 1, "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn embed_reads_arguments_or_lines_and_prints_a_table_or_json() {
    let dir = golden("bert-model");
    let common = ["embed", "--model", &dir, "--isa", "portable", "--threads", "1"];
    let from_lines = json(&[&common[..], &["--json"]].concat(), "the cat sat\na dog\n");
    let from_arguments = json(&[&common[..], &["--json", "the cat sat", "a dog"]].concat(), "");
    assert_eq!(from_lines, from_arguments);
    assert_eq!(from_lines["run"]["isa"], "portable");
    assert_eq!(from_lines["run"]["threads"], 1);
    assert_eq!((&from_lines["pooling"], &from_lines["normalized"]), (&"mean".into(), &true.into()));
    let [cat, dog] = &from_lines["embeddings"].as_array().unwrap()[..] else { panic!("two embeddings") };
    assert_eq!((&cat["text"], &cat["tokens"]), (&"the cat sat".into(), &5.into()));
    assert_eq!(dog["embedding"].as_array().unwrap().len(), 36);

    let table = String::from_utf8(run(&[&common[..], &["a dog"]].concat(), "").stdout).unwrap();
    assert!(
        table.lines().count() == 3 && table.contains("isa portable") && table.contains("a dog"),
        "{table}"
    );
}

#[test]
fn fill_mask_ranks_words_for_each_mask() {
    let dir = golden("bert-masked-lm");
    let text = "the [MASK] sat on the [MASK]";
    let common = ["fill-mask", "--model", &dir, "--isa", "portable", "--top-k", "3", text];
    let found = json(&[&common[..], &["--json"]].concat(), "");
    let masks = found["masks"].as_array().unwrap();
    assert_eq!(masks.iter().map(|m| m["position"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 6]);
    for mask in masks {
        let words = mask["words"].as_array().unwrap();
        let probabilities: Vec<f64> = words.iter().map(|w| w["probability"].as_f64().unwrap()).collect();
        assert!(probabilities.len() == 3 && probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
    }
    let table = String::from_utf8(run(&common, "").stdout).unwrap();
    assert!(table.contains("mask 1 of 2") && table.contains("mask 2 of 2"), "{table}");

    assert!(error(&["fill-mask", "--model", &dir, "no mask"]).contains("no [MASK]"));
    let long = format!("[MASK]{}", " the".repeat(100));
    assert!(
        error(&["fill-mask", "--model", &dir, &long]).contains("the text has 103 tokens; the model takes")
    );
    let missing = format!("{dir}/none/such");
    let refused = error(&["fill-mask", "--model", &missing, text]);
    assert!(refused.contains(&format!("the directory {dir}/none does not exist")), "{refused}");
}

/// A golden checkpoint with one of the golden tokenizers.
fn with_tokenizer(name: &str, tokenizer: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(format!("{}/{file}", golden(name)), folder.path().join(file)).unwrap();
    }
    let tokenizer = golden(&format!("tokenizers/{tokenizer}.json"));
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    folder
}

/// The JSON that a subcommand prints for the checkpoint of [`with_tokenizer`].
fn ask(command: &str, [name, tokenizer]: [&str; 2], more: &[&str]) -> Value {
    let folder = with_tokenizer(name, tokenizer);
    let common = [command, "--model", folder.path().to_str().unwrap(), "--isa", "portable", "--json"];
    json(&[&common[..], more].concat(), "")
}

fn numbers(values: &Value, key: &str) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|v| v[key].as_f64().unwrap()).collect()
}

#[test]
fn fill_mask_knows_the_masks_of_all_families() {
    for (of, mask) in [
        (["roberta-masked-lm", "roberta"], "<mask>"),
        (["albert-masked-lm", "bert"], "[MASK]"),
        (["electra-masked-lm", "bert"], "[MASK]"),
    ] {
        let found = ask("fill-mask", of, &[&format!("the cat {mask} on the {mask}."), "--top-k", "50"]);
        let masks = found["masks"].as_array().unwrap();
        assert_eq!(masks.len(), 2, "{of:?}");
        for mask in masks {
            let sum: f64 = numbers(&mask["words"], "probability").iter().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{of:?}: {sum}");
        }
    }
}

#[test]
fn detect_replaced_marks_tokens() {
    let of = ["electra-pre-training", "bert"];
    let found = ask("detect-replaced", of, &["the cat sat on the mat."]);
    let tokens = found["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 7);
    for token in tokens {
        assert_eq!(token["replaced"], token["probability"].as_f64().unwrap() > 0.5, "{token}");
    }
    let marked = tokens.iter().filter(|token| token["replaced"] == true).count();
    let folder = with_tokenizer(of[0], of[1]);
    let dir = folder.path().to_str().unwrap();
    let arguments = ["detect-replaced", "--model", dir, "--isa", "portable", "the cat sat on the mat."];
    let table = String::from_utf8(run(&arguments, "").stdout).unwrap();
    assert_eq!(table.lines().filter(|line| line.ends_with("replaced")).count(), marked, "{table}");
}

#[test]
fn embed_takes_the_encoders_of_all_families() {
    for of in [
        ["roberta-model", "roberta"],
        ["roberta-masked-lm", "roberta"],
        ["albert-model", "bert"],
        ["electra-pre-training", "bert"],
    ] {
        let found = ask("embed", of, &["the cat sat"]);
        let width = if of[0].starts_with("albert") { 18 } else { 24 };
        assert_eq!(found["embeddings"][0]["embedding"].as_array().unwrap().len(), width, "{of:?}");
    }
}

#[test]
fn forward_writes_the_outputs_of_the_class_beside_nothing_else() {
    let (dir, out) = (golden("bert-pre-training"), tempfile::tempdir().unwrap());
    let (inputs, path) = (format!("{dir}/inputs.safetensors"), out.path().join("out.safetensors"));
    let arguments = ["forward", "--model", &dir, "--inputs", &inputs, "--out", path.to_str().unwrap()];
    let about = json(&[&arguments[..], &["--isa", "portable", "--json"]].concat(), "");
    assert_eq!(about["outputs"]["prediction_logits"], serde_json::json!([4, 23, 89]));
    let bytes = std::fs::read(&path).unwrap();
    let mut names =
        SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["prediction_logits", "seq_relationship_logits"]);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
}

#[test]
fn forward_computes_in_the_type_that_is_asked_for() {
    let (dir, out) = (golden("bert-sequence-classification"), tempfile::tempdir().unwrap());
    let (inputs, path) = (format!("{dir}/inputs.safetensors"), out.path().join("out.safetensors"));
    let path = path.to_str().unwrap();
    let arguments = ["forward", "--model", &dir, "--inputs", &inputs, "--out", path, "--isa", "portable"];
    let logits = |more: &[&str]| {
        let output = run(&[&arguments[..], more].concat(), "");
        let header = String::from_utf8(output.stdout).unwrap();
        let bytes = std::fs::read(path).unwrap();
        (header, SafeTensors::deserialize(&bytes).unwrap().tensor("logits").unwrap().data().to_vec())
    };
    let (header, exact) = logits(&[]);
    assert!(header.contains("isa portable | f32 |"), "{header}");
    assert_eq!(logits(&["--dtype", "f32"]).1, exact);
    let mut seen = vec![exact];
    for dtype in ["bf16", "f16", "int8", "q8_0", "q4_0", "q4_1"] {
        let (header, rounded) = logits(&["--dtype", dtype]);
        assert!(header.contains(&format!("isa portable | {dtype} |")), "{header}");
        assert!(!seen.contains(&rounded), "{dtype} computes what another type does");
        seen.push(rounded);
    }
    assert_eq!(json(&[&arguments[..], &["--dtype", "int8", "--json"]].concat(), "")["run"]["dtype"], "int8");
    for command in [&["embed", "--model", &dir, "x"], &["fill-mask", "--model", &dir, "x"], &["bench"; 4][..]]
    {
        let refused = run(&[command, &["--dtype", "fp8"]].concat(), "");
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(message.contains("fp8") && message.contains("f32, bf16, f16, int8"), "{message}");
    }
}

#[test]
fn layer_inputs_are_rounded_where_that_is_asked_for() {
    let (dir, out) = (golden("bert-sequence-classification"), tempfile::tempdir().unwrap());
    let (inputs, path) = (format!("{dir}/inputs.safetensors"), out.path().join("out.safetensors"));
    let path = path.to_str().unwrap();
    let arguments = ["forward", "--model", &dir, "--inputs", &inputs, "--out", path, "--isa", "portable"];
    let logits = |more: &[&str]| -> Vec<f32> {
        json(&[&arguments[..], &["--json"], more].concat(), "");
        let bytes = std::fs::read(path).unwrap();
        let logits = SafeTensors::deserialize(&bytes).unwrap().tensor("logits").unwrap().data().to_vec();
        logits.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let expected = logits(&[]);
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    // The default loses the accuracy that the help states; with int4, mostly by the rounding of weights.
    for (dtype, default, most) in
        [("q8_0", "exact", 0.05), ("q4_0", "exact", 0.4), ("q4_1", "exact", 0.4), ("bf16", "rounded", 0.05)]
    {
        let [exact, rounded] =
            ["exact", "rounded"].map(|how| logits(&["--dtype", dtype, "--layer-inputs", how]));
        assert!(exact != rounded, "{dtype}: inputs are the same");
        assert_eq!(logits(&["--dtype", dtype]), if default == "exact" { &exact[..] } else { &rounded });
        for found in [exact, rounded] {
            let off = found.iter().zip(&expected).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(off > 0.0 && off <= most * largest, "{dtype}: off by {off} of {largest}");
        }
    }
    let refused = run(&[&arguments[..], &["--layer-inputs", "fuzzy"]].concat(), "");
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(message.contains("'fuzzy'") && message.contains("exact, rounded"), "{message}");
}

#[test]
fn verify_tells_how_far_a_checkpoint_is_from_itself_in_f32() {
    let common = ["verify", "--isa", "portable", "--model"];
    let (dir, out) = (golden("bert-masked-lm"), tempfile::tempdir().unwrap());
    let texts = out.path().join("texts");
    std::fs::write(&texts, "the cat sat\n\na dog\n").unwrap();
    let arguments = [&common[..], &[&dir, "--texts", texts.to_str().unwrap(), "--json"]].concat();
    let found = json(&arguments, "");
    assert_eq!((&found["texts"], &found["reference"]), (&2.into(), &"reference".into()));
    let results = found["results"].as_array().unwrap();
    let dtypes: Vec<_> = results.iter().map(|row| row["dtype"].as_str().unwrap()).collect();
    assert_eq!(dtypes, ["f32", "bf16", "f16", "int8", "q8_0", "q4_0", "q4_1"]);
    for row in results {
        assert_eq!((&row["passed"], &row["outputs"][0]["name"]), (&true.into(), &"logits".into()), "{row}");
        let number = |value: &Value| value.as_f64().unwrap();
        assert!(number(&row["outputs"][0]["worst"]) > number(&row["outputs"][0]["mean"]), "{row}");
        assert!(number(&row["cosine"]["worst"]) > 0.9 && number(&row["outputs"][0]["top_1"]) > 0.0, "{row}");
    }

    // A checkpoint without a tokenizer takes ids.
    let dir = golden("bert-sequence-classification");
    let inputs = format!("{dir}/inputs.safetensors");
    let with_ids = [&common[..], &[&dir, "--inputs", &inputs, "--dtype", "int8,bf16"]].concat();
    let table = String::from_utf8(run(&with_ids, "").stdout).unwrap();
    assert!(
        table.contains("BertForSequenceClassification") && table.contains("last_hidden_state"),
        "{table}"
    );
    assert!(table.contains("int8") && !table.contains("q8_0"), "{table}");
    assert!(error(&[&common[..], &[&dir]].concat()).contains("--inputs"));
    assert_eq!(run(&["verify", "--dtype", "int8"], "").status.code(), Some(2), "a type without a model");
}

#[test]
fn tensors_that_no_one_reads_are_noted() {
    let stderr = |name: &str| {
        String::from_utf8(run(&["info", "--model", &golden(name), "--isa", "portable"], "").stderr).unwrap()
    };
    let noted = stderr("albert-pre-training");
    assert!(
        noted.ends_with(": tensors that AlbertForPreTraining does not read: predictions.bias\n"),
        "{noted}"
    );
    assert_eq!(stderr("llama"), "");
}

#[test]
fn failures_say_what_and_where_and_exit_with_1() {
    let dir = golden("bert-model");
    assert!(error(&["embed", "--model", "/nowhere", "x"]).contains("/nowhere"));
    assert!(error(&["embed", "--model", &dir, "--isa", "avx1024", "x"]).contains("available: "));
    let refused = error(&["fill-mask", "--model", &golden("bert-sequence-classification"), "x [MASK]"]);
    assert!(refused.contains("tokenizer.json"), "{refused}");
    let outputs = golden("bert-model/outputs.safetensors");
    let refused = error(&["forward", "--model", &dir, "--inputs", &outputs, "--out", "/nowhere/x"]);
    assert!(refused.contains("outputs.safetensors") && refused.contains("expected input_ids"), "{refused}");
    let inputs = golden("bert-model/inputs.safetensors");
    let refused = error(&["forward", "--model", &dir, "--inputs", &inputs, "--out", "/nowhere/x"]);
    assert!(refused.contains("/nowhere"), "{refused}");
    #[cfg(not(feature = "hub"))]
    for command in ["info", "verify"] {
        let refused = error(&[command, "--model", "acme/tiny"]);
        assert!(
            refused.contains("acme/tiny: no such file") && refused.contains("--features hub"),
            "{refused}"
        );
    }
    // clap reports usage errors, with status 2.
    assert_eq!(run(&["embed"], "").status.code(), Some(2));
    assert_eq!(run(&["embed", "--model", &dir, "--threads", "0", "x"], "").status.code(), Some(2));
}

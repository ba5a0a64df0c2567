//! The command as a user runs it: output, files, exit status.
#![forbid(unsafe_code)]
#![cfg(feature = "command")]

use safetensors::SafeTensors;
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn golden(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/golden");
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
    // A command that fails may be gone before it has read anything.
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

    let refused = error(&[&arguments[..], &["--dtype", "bf16"]].concat());
    assert!(refused.contains("--dtype bf16") && refused.contains("f32 only"), "{refused}");
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
    // Usage errors are clap's, with status 2.
    assert_eq!(run(&["embed"], "").status.code(), Some(2));
    assert_eq!(run(&["embed", "--model", &dir, "--threads", "0", "x"], "").status.code(), Some(2));
}

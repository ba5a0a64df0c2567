//! `tilewright tokenizer train` and `tilewright tokenize`.

use super::{error, json, run};
use std::path::Path;

/// A directory of text: 60 documents of 3 lines, half of them in `a.txt`, half in JSON Lines.
fn corpus(dir: &Path) -> String {
    let line = |i: usize| format!("The {} sea rose {} times.", ["old", "grey", "calm"][i % 3], i % 17);
    let document = |i: usize| (3 * i..3 * i + 3).map(line).collect::<Vec<_>>().join("\n");
    let texts = dir.join("texts");
    std::fs::create_dir(&texts).unwrap();
    let plain: Vec<_> = (0..30).map(document).collect();
    std::fs::write(texts.join("a.txt"), plain.join("\n\n")).unwrap();
    let lines: Vec<_> =
        (30..60).map(|i| serde_json::json!({ "id": i, "body": document(i) }).to_string()).collect();
    std::fs::write(texts.join("b.jsonl"), lines.join("\n")).unwrap();
    texts.to_str().unwrap().to_owned()
}

fn bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    let mut files: Vec<_> = entries.map(read).collect();
    files.sort();
    files
}

#[test]
fn text_becomes_a_tokenizer_and_shards() {
    let folder = tempfile::tempdir().unwrap();
    let texts = corpus(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut made = Vec::new();
    for threads in ["1", "3"] {
        let [tokenizer, out] = ["tokenizer", "shards"].map(|name| path(&format!("{name}-{threads}")));
        let common = ["--field", "body", "--isa", "portable", "--threads", threads, "--json", &texts];
        let train = [
            "tokenizer",
            "train",
            "--family",
            "bert",
            "--lowercase",
            "--vocab-size",
            "90",
            "--out",
            &tokenizer,
        ];
        let trained = json(&[&train[..], &common].concat(), "");
        assert!((40..=90).contains(&trained["vocab_size"].as_u64().unwrap()), "{trained}");
        let tokenize = ["tokenize", "--tokenizer", &tokenizer, "--out", &out];
        let counts = json(&[&tokenize[..], &common].concat(), "");
        assert_eq!((&counts["documents"], &counts["sentences"]), (&60.into(), &180.into()), "{counts}");
        assert_eq!((&counts["unknown_share"], &counts["shards"]), (&0.0.into(), &1.into()), "{counts}");
        assert!(counts["tokens"].as_u64().unwrap() >= 6 * 180, "{counts}");
        assert_eq!(counts["vocab_size"], trained["vocab_size"]);
        made.push((bytes(tokenizer.as_ref()), bytes(out.as_ref())));
    }
    let names: Vec<_> = made[0].0.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]);
    assert!(made[0] == made[1], "files depend on the number of threads");

    let tokenizer = format!("{}/tokenizer.json", path("tokenizer-1"));
    let again =
        ["tokenize", "--tokenizer", &tokenizer, "--out", &path("shards-1"), "--field", "body", &texts];
    let refused = error(&again);
    assert!(refused.contains("already holds token shards: --overwrite removes them"), "{refused}");
    let table = run(&[&again[..], &["--overwrite", "--sentences", "whole"]].concat(), "");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("60 documents, 60 sentences") && table.contains("in 1 shard, "), "{table}");
}

#[test]
fn failures_of_text_name_option_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let texts = corpus(folder.path());
    let out = folder.path().join("out").to_str().unwrap().to_owned();
    let train = |more: &[&str]| {
        error(&[&["tokenizer", "train", "--out", &out, "--isa", "portable"], more, &[&*texts]].concat())
    };
    let refused = train(&["--family", "bert", "--vocab-size", "90"]);
    assert!(refused.contains("b.jsonl: line 1: expected a field \"text\""), "{refused}");
    let refused = train(&["--family", "gpt2", "--vocab-size", "90", "--field", "body"]);
    assert!(refused.contains("vocab_size: 90 tokens") && refused.contains("at least 258"), "{refused}");
    let refused = train(&["--family", "llama", "--vocab-size", "900", "--lowercase", "--field", "body"]);
    assert!(refused.contains("tokenizers of llama do not lower-case"), "{refused}");
    assert!(!Path::new(&out).exists(), "a failing run leaves nothing");

    let refused = error(&["tokenize", "--tokenizer", "/nowhere", "--out", &out, &texts]);
    assert!(refused.contains("--tokenizer: /nowhere"), "{refused}");
    let refused = error(&["tokenize", "--tokenizer", "/nowhere", "--out", &out, "/nowhere.txt"]);
    assert!(refused.contains("text: /nowhere.txt: "), "{refused}");
    let usage =
        run(&["tokenizer", "train", "--family", "xlnet", "--vocab-size", "9", "--out", &out, &texts], "");
    assert_eq!(usage.status.code(), Some(2));
    assert!(
        String::from_utf8(usage.stderr)
            .unwrap()
            .contains("bert, roberta, albert, electra, bart, t5, gpt2, llama")
    );
}

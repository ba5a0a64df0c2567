//! The command as a user runs it: output, files, exit status.
#![forbid(unsafe_code)]
#![cfg(feature = "command")]

mod bench;
mod classify;

use safetensors::SafeTensors;
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tilewright::Arithmetic;
use tilewright::model::Architecture;
use tilewright::tokenizer::Tokenizer;
use tilewright_kernels::Backend;

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

/// The JSON of a subcommand on such a checkpoint.
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
fn answer_stays_within_the_context() {
    let sentence = "the cat sat on the mat. ";
    for of in [
        ["bert-question-answering", "bert"],
        ["roberta-question-answering", "roberta"],
        ["albert-question-answering", "bert"],
        ["electra-question-answering", "bert"],
    ] {
        // One window, and several: models take 40 tokens.
        for (times, windows) in [(1, 1..2), (20, 2..40)] {
            let context = sentence.repeat(times);
            let arguments = ["--question", "a dog", "--context", &context, "--top-k", "4", "--longest", "3"];
            let found = ask("answer", of, &arguments);
            assert!(windows.contains(&found["windows"].as_u64().unwrap()), "{of:?}: {}", found["windows"]);
            let answers = found["answers"].as_array().unwrap();
            assert_eq!(answers.len(), 4, "{of:?}");
            let probabilities = numbers(&found["answers"], "probability");
            assert!(probabilities.is_sorted_by(|a, b| a >= b) && probabilities[0] < 1.0, "{probabilities:?}");
            for answer in answers {
                let [from, to] = [0, 1].map(|i| answer["characters"][i].as_u64().unwrap() as usize);
                assert!(from < to && answer["answer"] == context[from..to], "{of:?}: {answer}");
            }
        }
    }
}

#[test]
fn answer_knows_when_there_is_none() {
    let folder = with_tokenizer("bert-question-answering", "bert");
    let dir = folder.path().to_str().unwrap();
    for times in [1, 20] {
        let context = "the cat sat on the mat. ".repeat(times);
        let of =
            ["answer", "--model", dir, "--isa", "portable", "--question", "a dog", "--context", &context];
        let with = |more: &[&str]| json(&[&of[..], &["--json"], more].concat(), "");
        let found = with(&[]);
        let number = |key: &str| found[key].as_f64().unwrap();
        let (null, difference) = (number("null_score"), number("score_difference"));
        let best = found["answers"][0]["score"].as_f64().unwrap();
        assert!((null - best - difference).abs() < 1e-5 && found["answered"] == true, "{found}");

        // As its definition says, of the logits that `forward` writes.
        if times == 1 {
            let tokenizer = Tokenizer::open(folder.path()).unwrap();
            let (batch, _) = tokenizer.encode_placed("a dog", Some(&context)).unwrap();
            let on = Arithmetic::f32(Backend::PORTABLE);
            let mut model = Architecture::of(folder.path()).unwrap().load(folder.path(), on).unwrap();
            let outputs = model.forward(&batch).unwrap();
            let [start, end] = &outputs[..] else { panic!("two outputs") };
            assert_eq!(null, f64::from(start.values[0] + end.values[0]));
            // The question takes three tokens with the special ones, and there is one at the end.
            let (first, last) = (4, batch.tokens() - 1);
            let spans = (first..last).flat_map(|i| (i..last).map(move |j| (i, j)));
            let naive = spans.map(|(i, j)| start.values[i] + end.values[j]).fold(f32::MIN, f32::max);
            assert_eq!(best, f64::from(naive));
        }
        let threshold = |more: f64| with(&["--no-answer-threshold", &(difference + more).to_string()]);
        assert_eq!(threshold(0.01)["answers"], found["answers"]);
        let none = threshold(-0.01);
        assert_eq!((&none["answered"], &none["answers"]), (&false.into(), &serde_json::json!([])));
        assert_eq!(none["null_score"], found["null_score"]);
        let table = run(&[&of[..], &["--no-answer-threshold", "-1e9"]].concat(), "");
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(table.contains("no answer") && !table.contains("probability"), "{table}");
    }
}

#[test]
fn answer_refuses_what_leaves_no_room() {
    let folder = with_tokenizer("bert-question-answering", "bert");
    let dir = folder.path().to_str().unwrap();
    let long = "the cat ".repeat(20);
    let refused = error(&["answer", "--model", dir, "--question", &long, "--context", "c"]);
    assert!(refused.contains("first text: 40 tokens of 40 leave no room"), "{refused}");
    let refused = error(&["answer", "--model", dir, "--question", "a", "--context", ""]);
    assert!(refused.contains("the context has no tokens"), "{refused}");
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

    // No tokenizer: ids.
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

/// A golden decoder of 43 tokens with a tokenizer whose tokens are single letters.
fn with_letters() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(format!("{}/{file}", golden("llama")), folder.path().join(file)).unwrap();
    }
    let letters = "<abcdefghijklmnopqrstuvwxyz .,!?0123456789#".chars().enumerate();
    let vocabulary: serde_json::Map<String, Value> =
        letters.map(|(id, letter)| (letter.to_string(), id.into())).collect();
    assert_eq!(vocabulary.len(), 43);
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<" },
        "decoder": { "type": "Fuse" },
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.role[0] + m.content }}.{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

#[test]
fn generate_continues_texts() {
    let folder = with_letters();
    let dir = folder.path().to_str().unwrap();
    let common = ["generate", "--model", dir, "--isa", "portable", "--threads", "1", "--max-tokens", "12"];
    let ask = |more: &[&str], stdin: &str| json(&[&common[..], &["--json"], more].concat(), stdin);
    let several = ask(&[], "the cat\na dog\n");
    let texts = several["texts"].as_array().unwrap();
    let of = |found: &Value, key: &str| found["texts"][0][key].clone();
    assert_eq!((texts.len(), &several["architecture"]), (2, &"LlamaForCausalLM".into()));
    for (text, prompt) in texts.iter().zip(["the cat", "a dog"]) {
        let alone = ask(&[prompt], "");
        assert_eq!((&of(&alone, "tokens"), &of(&alone, "text")), (&text["tokens"], &text["text"]));
        for guess in ["lookup", dir] {
            assert_eq!(of(&ask(&[prompt, "--speculate", guess], ""), "tokens"), text["tokens"]);
        }
        assert_eq!(of(&ask(&[prompt, "--beams", "1", "--temperature", "0"], ""), "tokens"), text["tokens"]);
        assert_eq!(of(&ask(&[prompt, "--top-k", "1"], ""), "tokens"), text["tokens"]);
        assert_eq!(text["prompt_tokens"], prompt.len());
        let (tokens, finish) = (text["tokens"].as_array().unwrap(), text["finish"].as_str().unwrap());
        assert!(
            finish == "eos" && tokens.last() == Some(&2.into()) || finish == "length" && tokens.len() == 12
        );
        assert!(text["first_token_s"].as_f64().unwrap() <= text["total_s"].as_f64().unwrap());
    }
    assert_eq!(several["timings"]["prefill_tokens"], 12);
    assert!(several["timings"]["prefill_tokens_per_s"].as_f64().unwrap() > 0.0);

    let drawn =
        |seed: &str| of(&ask(&["a", "--temperature", "1.5", "--top-k", "0", "--seed", seed], ""), "tokens");
    assert!(drawn("1") == drawn("1") && drawn("1") != drawn("2"));
    let beams = ask(&["a dog", "--beams", "3", "--length-penalty", "-1", "--early-stopping"], "");
    assert!(of(&beams, "first_token_s").is_null() && !of(&beams, "tokens").as_array().unwrap().is_empty());

    // The text alone on a terminal, up to a stop string; what it took on stderr.
    let whole = of(&several, "text").as_str().unwrap().to_owned();
    let stop = whole.get(3..5).unwrap();
    let output = run(&[&common[..], &["the cat", "--stop", "never", "--stop", stop]].concat(), "");
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let (header, text) = stdout.split_once('\n').unwrap();
    assert!(
        header.contains("| f32 |") && stderr.contains("loaded in") && stderr.contains("end: stop"),
        "{stderr}"
    );
    assert_eq!(text, format!("{}\n", &whole[..whole.find(stop).unwrap()]));

    let chat = ask(&["hi", "--chat", "--system", "b"], "");
    assert_eq!(of(&chat, "tokens"), of(&ask(&["sb.uhi."], ""), "tokens"));
    let template = "{% for t in tools %}{{ t.n }}{% endfor %}{{ documents[0].text }}{{ x + 1 }}{{ y }}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let file = |name: &str, json: &str| {
        std::fs::write(folder.path().join(name), json).unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let tools = file("tools.json", r#"[{"n": "a"}, {"n": "b"}]"#);
    let documents = file("documents.json", r#"[{"text": "c"}]"#);
    let more = ["--documents", &documents, "--chat-variable", "x=1", "--chat-variable", "y=d e"];
    let chat = ask(&[&["hi", "--chat", "--tools", &tools][..], &more].concat(), "");
    assert_eq!(of(&chat, "tokens"), of(&ask(&["abc2d e"], ""), "tokens"));
    let wrong = file("wrong.json", "{}");
    let refused = error(&["generate", "--model", dir, "--chat", "--tools", &wrong, "hi"]);
    assert!(refused.contains("wrong.json: expected a list of objects"), "{refused}");
    assert_eq!(run(&["generate", "--model", dir, "--tools", &tools, "hi"], "").status.code(), Some(2));
    let refused = error(&["generate", "--model", dir, "--beams", "2", "--stop", "x", "a"]);
    assert!(refused.contains("--stop"), "{refused}");
    assert!(error(&["generate", "--model", dir, "--top-p", "2", "a"]).contains("top_p"));
    assert!(error(&["generate", "--model", dir, "--speculate", "/nowhere", "a"]).contains("/nowhere"));
    let refused = error(&["generate", "--model", &golden("bert-model"), "a"]);
    assert!(refused.contains("does not continue texts"), "{refused}");
    assert_eq!(run(&["generate", "--model", dir, "--system", "x", "a"], "").status.code(), Some(2));
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
    // Usage errors are clap's, with status 2.
    assert_eq!(run(&["embed"], "").status.code(), Some(2));
    assert_eq!(run(&["embed", "--model", &dir, "--threads", "0", "x"], "").status.code(), Some(2));
}

//! `tilewright finetune` and `tilewright evaluate`: every task is learnt, and evaluated alike by both commands.

use super::{error, json, run, with_tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Words of the golden tokenizer whose ids all golden models have.
const WORDS: [&str; 8] = ["the", "mat", "house", "is", "red", "in", "on", "we"];

/// Pseudo-random numbers below `n`: Knuth's linear congruential generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// Three to six words.
    fn words(&mut self) -> Vec<&'static str> {
        (0..3 + self.below(4)).map(|_| WORDS[self.below(WORDS.len())]).collect()
    }

    /// A text with `word` somewhere.
    fn text_with(&mut self, word: &'static str) -> Vec<&'static str> {
        let mut words = self.words();
        let at = self.below(words.len() + 1);
        words.insert(at, word);
        words
    }
}

/// A checkpoint, and two files of examples in its directory.
struct Case {
    folder: TempDir,
    task: &'static str,
    files: [String; 2],
}

impl Case {
    /// `content` makes the text of a file with this number of examples.
    fn new(
        task: &'static str,
        checkpoint: &str,
        file: &str,
        mut content: impl FnMut(&mut Numbers, usize) -> String,
    ) -> Self {
        let folder = with_tokenizer(checkpoint, "bert");
        let mut numbers = Numbers(7);
        let files = [("train", 96), ("eval", 40)].map(|(name, n)| {
            let path = folder.path().join(format!("{name}.{file}"));
            std::fs::write(&path, content(&mut numbers, n)).unwrap();
            path.to_str().unwrap().to_owned()
        });
        Self { folder, task, files }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Arguments of `finetune`; options in `more` replace the defaults.
    fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let [model, out] = [self.path(""), self.path(out)];
        let defaults = [
            ["--task", self.task],
            ["--model", &model],
            ["--train", &self.files[0]],
            ["--eval", &self.files[1]],
            ["--out", &out],
            ["--isa", "portable"],
            ["--lr", "3e-3"],
            ["--batch", "16"],
            ["--epochs", "8"],
        ];
        let defaults = defaults.iter().filter(|[name, _]| !more.contains(name)).flatten();
        ["finetune"].iter().chain(defaults).chain(more).map(|text| (*text).to_owned()).collect()
    }

    fn finetune(&self, out: &str, more: &[&str]) -> Value {
        let arguments = self.arguments(out, &[more, &["--json"]].concat());
        json(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), "")
    }

    fn evaluate(&self, out: &str, more: &[&str]) -> Value {
        let of = [
            "evaluate",
            "--task",
            self.task,
            "--model",
            &self.path(out),
            "--data",
            &self.files[1],
            "--isa",
            "portable",
            "--json",
        ];
        json(&[&of[..], more].concat(), "")
    }

    /// Fine-tunes, asserts that `evaluate` gives the same numbers, and returns the best value of `metric` and the result.
    fn learn(&self, metric: &str, more: &[&str], columns: &[&str]) -> (f64, Value) {
        let found = self.finetune("out", &[more, columns].concat());
        let evaluated = self.evaluate("out", columns);
        for key in ["loss", "count", "metrics"] {
            assert_eq!(found["best"][key], evaluated[key], "{}: {key}", self.task);
        }
        for name in ["config.json", "model.safetensors", "tokenizer.json", "trainer_state.json"] {
            assert!(Path::new(&self.path("out")).join(name).is_file(), "{}: {name}", self.task);
        }
        (found["best"]["metrics"][metric].as_f64().unwrap(), found)
    }

    fn config(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("out/config.json")).unwrap()).unwrap()
    }
}

/// A table of texts with `cat` or `dog`, which are their labels.
fn animals(numbers: &mut Numbers, n: usize) -> String {
    let mut table = "label,text\n".to_owned();
    for _ in 0..n {
        let animal = ["cat", "dog"][numbers.below(2)];
        table += &format!("{animal},{}\n", numbers.text_with(animal).join(" "));
    }
    table
}

#[test]
fn classes_of_texts_are_learnt() {
    let case = Case::new("classify", "bert-masked-lm", "csv", animals);
    let (accuracy, found) = case.learn("accuracy", &[], &[]);
    assert!(accuracy >= 0.95, "{found}");
    assert_eq!(found["architecture"], "BertForSequenceClassification");
    assert_eq!(found["labels"], serde_json::json!(["cat", "dog"]));
    let config = case.config();
    assert_eq!(config["architectures"], serde_json::json!(["BertForSequenceClassification"]));
    assert_eq!(config["id2label"], serde_json::json!({ "0": "cat", "1": "dog" }));
    assert_eq!(config["label2id"], serde_json::json!({ "cat": 0, "dog": 1 }));
    assert_eq!(config["problem_type"], "single_label_classification");
    let state: Value =
        serde_json::from_slice(&std::fs::read(case.path("out/trainer_state.json")).unwrap()).unwrap();
    assert_eq!((&state["best_metric"], &state["global_step"]), (&accuracy.into(), &48.into()));
    // The best epoch is kept: the first of the best ones.
    let epochs = found["epochs"].as_array().unwrap();
    let scores: Vec<f64> =
        epochs.iter().map(|epoch| epoch["eval"]["metrics"]["accuracy"].as_f64().unwrap()).collect();
    let first = scores.iter().position(|&score| score == accuracy).unwrap();
    assert_eq!(found["best_epoch"], first + 1);
    assert!(scores.iter().all(|&score| score <= accuracy), "{scores:?}");

    // The model in --out is a checkpoint for `classify`, and for another run, which keeps its labels.
    let classified = json(
        &["classify", "--model", &case.path("out"), "--isa", "portable", "--json", "the dog is red"],
        "",
    );
    assert_eq!(classified["texts"][0]["labels"][0]["label"], "dog");
    let again = json(
        &[
            "finetune",
            "--task",
            "classify",
            "--model",
            &case.path("out"),
            "--train",
            &case.files[0],
            "--eval",
            &case.files[1],
            "--out",
            &case.path("again"),
            "--epochs",
            "1",
            "--isa",
            "portable",
            "--json",
        ],
        "",
    );
    assert_eq!(again["labels"], found["labels"]);
    let table =
        run(&["evaluate", "--task", "classify", "--model", &case.path("out"), "--data", &case.files[1]], "");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("accuracy") && table.contains("matthews") && table.contains("40"), "{table}");
}

#[test]
fn a_head_for_other_labels_is_replaced_and_patience_ends_the_run() {
    let case = Case::new("classify", "roberta-sequence-classification", "csv", animals);
    let found = case.finetune("out", &["--epochs", "40", "--patience", "1", "--lr", "0"]);
    assert_eq!(case.config()["id2label"], serde_json::json!({ "0": "cat", "1": "dog" }));
    // Without learning, the second evaluation equals the first.
    assert_eq!((&found["best_epoch"], found["epochs"].as_array().unwrap().len()), (&1.into(), 2));
}

#[test]
fn classes_of_pairs_are_learnt() {
    let case = Case::new("pairs", "bert-model", "jsonl", |numbers, n| {
        let mut lines = String::new();
        for _ in 0..n {
            // The second text alone decides.
            let [first, second] = [0; 2].map(|_| numbers.below(2));
            let animals = ["cat", "dog"];
            let texts = [first, second].map(|animal| numbers.text_with(animals[animal]).join(" "));
            let row = serde_json::json!({ "a": texts[0], "b": texts[1], "label": second });
            lines += &format!("{row}\n");
        }
        lines
    });
    let columns = ["--text-column", "a", "--second-column", "b"];
    let (accuracy, found) = case.learn("accuracy", &["--no-dropout", "--epochs", "20"], &columns);
    assert!(accuracy >= 0.9, "{found}");
    assert_eq!(found["labels"], serde_json::json!(["0", "1"]));
}

#[test]
fn values_of_texts_are_learnt() {
    let case = Case::new("regress", "roberta-model", "tsv", |numbers, n| {
        let mut table = "text\tlabel\n".to_owned();
        for _ in 0..n {
            let value = numbers.below(3);
            let text = numbers.text_with(["cat", "dog", "sun"][value]).join(" ");
            table += &format!("{text}\t{}\n", value as f64 / 2.0);
        }
        table
    });
    let (pearson, found) = case.learn("pearson", &["--epochs", "16"], &[]);
    assert!(pearson >= 0.9, "{found}");
    assert_eq!(case.config()["problem_type"], "regression");
    assert!(found["best"]["loss"].as_f64().unwrap() < 0.1, "{found}");
}

#[test]
fn tags_of_words_are_learnt() {
    let case = Case::new("tag", "bert-model", "conll", |numbers, n| {
        let mut lines = String::new();
        for _ in 0..n {
            let animal = ["cats", "dog"][numbers.below(2)];
            let words = numbers.text_with(animal);
            for (i, word) in words.iter().enumerate() {
                let follows = i > 0 && words[i - 1] == "red";
                let before = *word == "red" && words.get(i + 1) == Some(&animal);
                let tag = match (*word == animal, follows, before) {
                    (true, true, _) => "I-ANIMAL",
                    (true, ..) | (.., true) => "B-ANIMAL",
                    _ => "O",
                };
                lines += &format!("{word} {tag}\n");
            }
            lines += "\n";
        }
        lines
    });
    let (f1, found) = case.learn("entity_f1", &["--epochs", "16"], &[]);
    assert!(f1 >= 0.9, "{found}");
    assert_eq!(found["architecture"], "BertForTokenClassification");
    assert_eq!(found["labels"], serde_json::json!(["B-ANIMAL", "I-ANIMAL", "O"]));
    assert!(found["best"]["metrics"]["accuracy"].as_f64().unwrap() >= 0.95, "{found}");
}

#[test]
fn answers_are_learnt() {
    let case = Case::new("answer", "bert-masked-lm", "json", |numbers, n| {
        let paragraphs: Vec<Value> = (0..n)
            .map(|i| {
                let words = numbers.text_with("dog");
                let start =
                    words.iter().take_while(|word| **word != "dog").map(|word| word.len() + 1).sum::<usize>();
                // A question in eight has no answer: its context lacks the word.
                let none = i % 8 == 7;
                let context = words.join(" ");
                let context = if none { context.replace("dog", "cat") } else { context };
                let answers = if none {
                    vec![]
                } else {
                    vec![serde_json::json!({ "text": "dog", "answer_start": start })]
                };
                let question = serde_json::json!({
                    "id": i, "question": "a ?", "answers": answers, "is_impossible": none,
                });
                serde_json::json!({ "context": context, "qas": [question] })
            })
            .collect();
        serde_json::json!({ "version": "v2.0", "data": [{ "title": "t", "paragraphs": paragraphs }] })
            .to_string()
    });
    let (f1, found) = case.learn("f1", &["--epochs", "20"], &[]);
    assert!(f1 >= 0.9, "{found}");
    assert_eq!(found["best"]["count"], 40);
    assert!(found["best"]["metrics"]["exact_match"].as_f64().unwrap() >= 0.9, "{found}");
}

#[test]
fn texts_are_learnt() {
    let case = Case::new("causal", "gpt2", "jsonl", |numbers, n| {
        let text = ["the cat sat on the mat", "we ran in the big red sun"];
        let line = |text: &str| format!("{}\n", serde_json::json!({ "text": text }));
        (0..n).map(|_| line(text[numbers.below(2)])).collect()
    });
    let (perplexity, found) = case.learn("perplexity", &["--epochs", "16"], &[]);
    // The choice of two texts costs ln 2 for each of 9 or 8 words after the first: 1.09 at least.
    assert!((1.0..1.6).contains(&perplexity), "{found}");
    assert_eq!(found["architecture"], "GPT2LMHeadModel");
}

#[test]
fn texts_for_texts_are_learnt() {
    for checkpoint in ["t5", "bart"] {
        let case = Case::new("seq2seq", checkpoint, "csv", |numbers, n| {
            let mut table = "text,target\n".to_owned();
            for _ in 0..n {
                let animal = numbers.below(2);
                let text = numbers.text_with(["cat", "dog"][animal]).join(" ");
                table += &format!("{text},{}\n", ["sun", "house"][animal]);
            }
            table
        });
        let (perplexity, found) = case.learn("perplexity", &["--epochs", "40", "--lr", "1e-2"], &[]);
        // Choosing at random costs ln 2 for one of three tokens: 1.26.
        assert!((1.0..1.2).contains(&perplexity), "{checkpoint}: {found}");
        // For the golden BART, [CLS] of this test's tokenizer, the first token of a target, is the end token.
        let exact = found["best"]["metrics"]["exact_match"].as_f64().unwrap();
        assert!(exact > 0.9 || checkpoint == "bart", "{checkpoint}: {found}");
    }
}

#[test]
fn answers_to_texts_are_learnt_by_a_causal_lm() {
    let case = Case::new("causal", "gpt2", "csv", |numbers, n| {
        let mut table = "text,answer\n".to_owned();
        for _ in 0..n {
            let animal = numbers.below(2);
            let text = numbers.text_with(["cat", "dog"][animal]).join(" ");
            table += &format!("{text},{}\n", ["sun", "house"][animal]);
        }
        table
    });
    let columns = ["--label-column", "answer"];
    let (perplexity, found) = case.learn("perplexity", &["--epochs", "30", "--lr", "1e-2"], &columns);
    assert!((1.0..1.2).contains(&perplexity), "{found}");
    assert!(found["best"]["metrics"]["exact_match"].as_f64().unwrap() > 0.9, "{found}");
}

#[test]
fn parameters_have_the_same_bits_on_any_number_of_threads() {
    let case = Case::new("classify", "bert-masked-lm", "csv", animals);
    let of = |threads: &str| {
        let out = format!("out{threads}");
        case.finetune(&out, &["--threads", threads, "--epochs", "2", "--micro-batch", "5"]);
        std::fs::read(case.path(&out) + "/model.safetensors").unwrap()
    };
    let one = of("1");
    assert!(one == of("2") && one == of("3"));
}

#[test]
fn a_killed_run_resumes_with_the_bits_of_a_whole_one() {
    let case = Case::new("classify", "bert-masked-lm", "csv", animals);
    let whole = case.finetune("whole", &["--threads", "1"]);
    let log = PathBuf::from(case.path("killed/log.jsonl"));
    let lines = || std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());
    for kill in 0..3 {
        let more: &[&str] = if kill == 0 { &["--threads", "2"] } else { &["--threads", "2", "--resume"] };
        let mut child = Command::new(env!("CARGO_BIN_EXE_tilewright"))
            .args(case.arguments("killed", more))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        // An epoch has 6 steps and an evaluation.
        while lines() < 16 * (kill + 1)
            && start.elapsed() < Duration::from_secs(60)
            && child.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let resumed = case.finetune("killed", &["--threads", "2", "--resume"]);
    assert_eq!((&whole["best"], &whole["epochs"]), (&resumed["best"], &resumed["epochs"]));
    for file in
        ["model.safetensors", "log.jsonl", "trainer_state.json", "checkpoint-48/optimizer.safetensors"]
    {
        let [whole, killed] =
            ["whole", "killed"].map(|run| std::fs::read(case.path(&format!("{run}/{file}"))).unwrap());
        assert!(whole == killed, "{file}");
    }
    let arguments = case.arguments("whole", &[]);
    let refused = error(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.contains("already holds config.json; --resume goes on"), "{refused}");
}

#[test]
fn failures_name_file_and_line() {
    let case = Case::new("classify", "bert-masked-lm", "csv", animals);
    let refused = |file: &str, content: &str| {
        let path = case.path(file);
        std::fs::write(&path, content).unwrap();
        let arguments = case.arguments("none", &[]);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let at = arguments.iter().position(|argument| *argument == "--eval").unwrap() + 1;
        arguments[at] = &path;
        let message = error(&arguments);
        assert!(message.contains(&path), "{message}");
        assert!(!Path::new(&case.path("none")).exists(), "nothing is written");
        message
    };
    for (file, content, expected) in [
        (
            "a.csv",
            "text,label\na cat,cat\na sun,sun\n",
            "line 3: expected a label of cat, dog; found \"sun\"",
        ),
        ("b.csv", "text,label\na cat,cat\na dog\n", "line 3: expected 2 columns, found 1"),
        ("c.csv", "text,class\na cat,cat\n", "line 1: expected a column label, found text, class"),
        ("d.csv", "text,label\n", "has no examples"),
        ("e.jsonl", "{\"text\": \"a\", \"label\": \"cat\"}\n{\n", "line 2: column 1: expected a JSON object"),
        ("f.txt", "a cat\n", "expected a table whose name ends in .csv, .tsv or .jsonl"),
    ] {
        let message = refused(file, content);
        assert!(message.contains(expected) && message.contains("--eval"), "{message}");
    }
    let arguments = case.arguments("none", &["--max-length", "41"]);
    let message = error(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(message.contains("expected at most 40 tokens"), "{message}");
}

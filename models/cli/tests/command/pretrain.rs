//! `tilewright pretrain` and `gradients`, and what they need: text, a tokenizer, token shards.

use super::{error, golden, json, run};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Families, as `--recipe` and `--family` name them.
const FAMILIES: [&str; 8] = ["bert", "roberta", "albert", "electra", "bart", "t5", "gpt2", "llama"];

/// Text, a tokenizer trained on it, and its token shards.
struct Data {
    folder: tempfile::TempDir,
}

impl Data {
    fn new(family: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = "the a cat dog house river sees likes finds old big red and near under slowly".split(' ');
        let words: Vec<&str> = words.collect();
        let sentence = |n: usize| {
            let word = |i: usize| words[(n * 7 + i * i * 5 + n * i) % words.len()];
            (0..5 + n % 6).map(word).collect::<Vec<_>>().join(" ") + " ."
        };
        let document = |d: usize| (0..12).map(|s| sentence(d * 31 + s) + "\n").collect::<String>();
        let text: Vec<String> = (0..30).map(document).collect();
        std::fs::write(folder.path().join("text.txt"), text.join("\n")).unwrap();
        let data = Self { folder };
        let [text, tokenizer, shards] = ["text.txt", "tokenizer", "shards"].map(|name| data.path(name));
        let size = if matches!(family, "t5" | "albert" | "llama") { "400" } else { "300" };
        let made = run(
            &["tokenizer", "train", "--family", family, "--vocab-size", size, "--out", &tokenizer, &text],
            "",
        );
        assert!(made.status.success(), "{family}: {}", String::from_utf8_lossy(&made.stderr));
        let made = run(&["tokenize", "--tokenizer", &tokenizer, "--out", &shards, &text], "");
        assert!(made.status.success(), "{family}: {}", String::from_utf8_lossy(&made.stderr));
        data
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Arguments of a run to `out`.
    fn arguments(&self, family: &str, out: &str, more: &[&str]) -> Vec<String> {
        let [tokenizer, shards, out] = ["tokenizer", "shards", out].map(|name| self.path(name));
        let common =
            ["pretrain", "--recipe", family, "--tokenizer", &tokenizer, "--data", &shards, "--out", &out];
        let sizes = [["--seq", "32"], ["--batch", "4"]].into_iter().filter(|size| !more.contains(&size[0]));
        let others = ["--isa", "portable"].into_iter().chain(sizes.flatten());
        common.into_iter().chain(others).chain(more.iter().copied()).map(str::to_owned).collect()
    }

    fn pretrain(&self, family: &str, out: &str, more: &[&str]) -> Value {
        let arguments = self.arguments(family, out, &[&["--json"], more].concat());
        json(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), "")
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

fn losses(log: &[u8]) -> Vec<f64> {
    let lines = std::str::from_utf8(log).unwrap().lines();
    lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect()
}

#[test]
fn every_recipe_learns_and_writes_a_model_that_runs() {
    for family in FAMILIES {
        let data = Data::new(family);
        let found = data.pretrain(
            family,
            "model",
            &[
                "--steps",
                "12",
                "--lr",
                "3e-3",
                "--warmup",
                "2",
                "--micro-batch",
                "3",
                "--eval",
                &data.path("shards"),
            ],
        );
        assert_eq!(found["steps"], 12, "{family}");
        let losses = losses(&data.bytes("model/log.jsonl"));
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert_eq!(losses.len(), 12, "{family}");
        let accuracies = found["last"]["eval_accuracy"].as_object().unwrap();
        let expected: &[&str] = match family {
            "bert" | "albert" => &["masked words", "sequences"],
            "roberta" => &["masked words"],
            "electra" => &["masked words", "original", "replaced", "replaced tokens"],
            _ => &["words"],
        };
        assert_eq!(accuracies.keys().collect::<Vec<_>>(), expected, "{family}");
        assert!(accuracies.values().all(|share| (0.0..=1.0).contains(&share.as_f64().unwrap())), "{family}");
        assert!(mean(&losses[8..]) < 0.95 * mean(&losses[..2]), "{family}: {losses:?}");
        let model = data.path("model");
        let info = json(&["info", "--model", &model, "--isa", "portable", "--json"], "");
        assert_eq!(info["architecture"], found["architecture"], "{family}");
        if family == "electra" {
            let generator = data.path("model/generator");
            let info = json(&["info", "--model", &generator, "--isa", "portable", "--json"], "");
            assert_eq!(info["architecture"], "ElectraForMaskedLM");
        }
    }
}

/// Recomputation changes no byte; bf16 changes the products, and the run resumes exactly with its copy of the parameters.
#[test]
fn runs_recompute_and_multiply_bf16() {
    let data = Data::new("gpt2");
    let model = |out: &str, more: &[&str]| {
        let steps = ["--steps", "6", "--micro-batch", "2", "--save-every", "3"];
        data.pretrain("gpt2", out, &[&steps, more].concat());
        data.bytes(&format!("{out}/model.safetensors"))
    };
    let expected = model("f32", &[]);
    assert!(model("recomputed", &["--recompute"]) == expected);
    let rounded = model("bf16", &["--dtype", "bf16"]);
    assert!(rounded != expected);
    let [mut f32s, bf16s] = ["f32", "bf16"].map(|out| losses(&data.bytes(&format!("{out}/log.jsonl"))));
    for (f32, bf16) in f32s.drain(..).zip(bf16s) {
        assert!((f32 - bf16).abs() < f32 / 128.0, "loss {bf16}, in f32 {f32}");
    }
    std::fs::remove_dir_all(data.path("bf16/checkpoint-6")).unwrap();
    std::fs::remove_file(data.path("bf16/model.safetensors")).unwrap();
    assert!(model("bf16", &["--dtype", "bf16", "--resume"]) == rounded);
}

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

#[test]
fn a_killed_run_resumes_with_the_bits_of_a_whole_one() {
    let data = Data::new("bert");
    let more = ["--steps", "40", "--save-every", "3", "--eval-every", "10", "--eval"];
    let shards = data.path("shards");
    let more = [&more[..], &[&shards]].concat();
    data.pretrain("bert", "whole", &[&more[..], &["--threads", "1"]].concat());
    let arguments = data.arguments("bert", "killed", &more);
    for kill in 0..3 {
        let again: &[&str] = if kill == 0 { &[] } else { &["--resume"] };
        let mut child = Command::new(env!("CARGO_BIN_EXE_tilewright"))
            .args(&arguments)
            .args(again)
            .args(["--threads", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // After more lines than last time; killed at any moment.
        let start = Instant::now();
        let log = PathBuf::from(data.path("killed/log.jsonl"));
        let lines = || std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());
        while lines() < 8 * (kill + 1)
            && start.elapsed() < Duration::from_secs(60)
            && child.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    data.pretrain("bert", "killed", &[&more[..], &["--resume", "--threads", "2"]].concat());
    for file in ["model.safetensors", "log.jsonl", "checkpoint-40/optimizer.safetensors"] {
        assert!(data.bytes(&format!("whole/{file}")) == data.bytes(&format!("killed/{file}")), "{file}");
    }

    // A half-written checkpoint is none, and a cut line of the log is removed.
    copy(&PathBuf::from(data.path("whole")), &PathBuf::from(data.path("cut")));
    std::fs::rename(data.path("cut/checkpoint-40"), data.path("cut/.checkpoint-40.new")).unwrap();
    let log = data.bytes("cut/log.jsonl");
    std::fs::write(data.path("cut/log.jsonl"), &log[..log.len() - 9]).unwrap();
    data.pretrain("bert", "cut", &[&more[..], &["--resume"]].concat());
    assert!(data.bytes("whole/model.safetensors") == data.bytes("cut/model.safetensors"));
    let [whole, cut] =
        ["whole", "cut"].map(|run| String::from_utf8(data.bytes(&format!("{run}/log.jsonl"))).unwrap());
    assert_eq!(whole, cut);
}

/// A limit of a file's size stands for a full disk.
#[test]
#[cfg(unix)]
fn a_checkpoint_that_does_not_fit_leaves_the_one_before() {
    let data = Data::new("bert");
    let common = ["--save-every", "4", "--schedule", "constant", "--warmup", "1", "--steps"];
    data.pretrain("bert", "whole", &[&common[..], &["8"]].concat());
    data.pretrain("bert", "full", &[&common[..], &["4"]].concat());
    let size = |file: &str| data.bytes(&format!("full/checkpoint-4/{file}")).len();
    // 2.5 MB, in blocks of 512 bytes. A signal that is ignored makes the limit an error.
    let limit = 5000;
    assert!(size("model.safetensors") < 512 * limit && 512 * limit < size("optimizer.safetensors"));
    let output = Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_tilewright"))
        .args(data.arguments("bert", "full", &[&common[..], &["8", "--resume"]].concat()))
        .output()
        .unwrap();
    let refused = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{refused}");
    assert!(refused.contains("step 8 is not saved; --resume goes on"), "{refused}");
    assert!(refused.contains("optimizer.safetensors"), "{refused}");
    let names = std::fs::read_dir(data.path("full")).unwrap();
    let names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with('.') || name == "checkpoint-8"), "{names:?}");
    data.pretrain("bert", "full", &[&common[..], &["8", "--resume"]].concat());
    for file in ["model.safetensors", "log.jsonl", "checkpoint-8/optimizer.safetensors"] {
        assert!(data.bytes(&format!("whole/{file}")) == data.bytes(&format!("full/{file}")), "{file}");
    }
}

#[test]
fn a_run_writes_its_speed_its_events_and_its_page() {
    let data = Data::new("gpt2");
    let [model, shards] = ["model", "shards"].map(|name| data.path(name));
    let more = ["--tensorboard", "--save-every", "2", "--eval-every", "2", "--eval", &shards];
    let found = data.pretrain("gpt2", "model", &[&["--steps", "4"], &more[..]].concat());
    let share = |of: &Value| of["share_of_peak"].as_f64().unwrap();
    assert!(share(&found) > 0.0, "{found}");
    data.pretrain("gpt2", "model", &[&["--steps", "6", "--resume"], &more[..]].concat());
    let lines = |name: &str| -> Vec<Value> {
        let text = String::from_utf8(data.bytes(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let [log, speed] = ["model/log.jsonl", "model/speed.jsonl"].map(lines);
    for (step, (log, speed)) in log.iter().zip(&speed).enumerate() {
        assert!(log["step"] == step + 1 && speed["step"] == step + 1, "{log} {speed}");
        assert!(share(speed) > 0.0 && log["operations"].as_f64().unwrap() > 0.0, "{log} {speed}");
    }
    assert_eq!((log.len(), speed.len()), (6, 6));
    let events = std::fs::read_dir(data.path("model/tensorboard")).unwrap();
    let events: Vec<Vec<u8>> = events.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    let count = |tag: &[u8]| -> usize {
        events.iter().map(|file| file.windows(tag.len()).filter(|part| *part == tag).count()).sum()
    };
    assert_eq!((events.len(), count(b"\x04loss\x15"), count(b"\x09eval_loss\x15")), (2, 6, 3));

    let page = String::from_utf8(data.bytes("model/report.html")).unwrap();
    assert!(page.contains("Loss of held-out text") && page.contains("Tokens per second"), "{page}");
    let out = data.path("both.html");
    let found = json(&["plot", &model, &model, "--out", &out, "--isa", "portable", "--json"], "");
    assert_eq!((&found["runs"][1]["steps"], &found["runs"][1]["run"]), (&6.into(), &model.clone().into()));
    assert!(std::fs::read_to_string(&out).unwrap().contains("2 runs"));
    let found = error(&["plot", &shards]);
    assert!(found.contains(&format!("{shards}: expected the directory of a run")), "{found}");
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let data = Data::new("gpt2");
    let refused = |family: &str, out: &str, more: &[&str]| {
        let arguments = data.arguments(family, out, more);
        error(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let found = refused("bert", "a", &[]);
    assert!(found.contains("expected a token [CLS] for bert, found none"), "{found}");
    let found = run(&["pretrain", "--batch", "0"], "");
    let found = String::from_utf8(found.stderr).unwrap();
    assert!(found.contains("invalid value '0' for '--batch <N>'"), "{found}");
    let found = run(&["finetune", "--clip", "inf"], "");
    let found = String::from_utf8(found.stderr).unwrap();
    assert!(found.contains("'--clip <NORM>': expected a number from 0 up"), "{found}");
    let found = refused("gpt2", "c", &["--config", "huge"]);
    assert!(found.contains("--config") && found.contains("huge"), "{found}");
    let found = refused("gpt2", "d", &["--seq", "0"]);
    assert!(found.contains("seq: expected a number from"), "{found}");
    data.pretrain("gpt2", "e", &["--steps", "2"]);
    let found = refused("gpt2", "e", &["--steps", "2"]);
    assert!(found.contains("already holds a run: --resume goes on with it"), "{found}");
    let found = refused("gpt2", "e", &["--steps", "2", "--resume", "--config", "mini"]);
    assert!(found.contains("is of another config than --config says"), "{found}");
    let path = data.path("e/checkpoint-2/optimizer.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let found = refused("gpt2", "e", &["--steps", "4", "--resume"]);
    assert!(found.contains("optimizer.safetensors"), "{found}");
    let other = Data::new("llama");
    let shards = other.path("shards");
    let found = refused("gpt2", "f", &["--eval", &shards]);
    assert!(found.contains("--eval"), "{found}");
}

#[test]
fn settings_of_a_file_come_before_those_of_the_command_line() {
    let data = Data::new("gpt2");
    let file = data.path("run.toml");
    let [tokenizer, shards, out] = ["tokenizer", "shards", "model"].map(|name| data.path(name));
    let content = format!(
        "recipe = 'gpt2'\ntokenizer = '{tokenizer}'\ndata = '{shards}'\nout = '{out}'\nsteps = 3\nseq = 32\n\
         batch = 2\nlr = 1e-3\nno-dropout = true\nresume = false\nisa = 'portable'\n"
    );
    std::fs::write(&file, &content).unwrap();
    let found = json(&["pretrain", "--steps", "2", "--settings", &file, "--json"], "");
    assert_eq!((&found["steps"], &found["last"]["tokens"]), (&2.into(), &64.into()), "{found}");

    for (entry, expected) in [
        ("stepz = 2", "stepz: expected an option of pretrain; a similar one is steps"),
        ("settings = 'x'", "settings: expected an option of pretrain"),
        ("steps = '2'", "steps: expected a number, found string \"2\""),
        ("steps = 0", "steps: invalid value '0' for '--steps <N>'"),
        ("batch = 2.5", "batch: invalid value '2.5' for '--batch <N>'"),
        ("lr = -1", "lr: invalid value '-1' for '--lr <RATE>'"),
        ("masking = 'often'", "masking: invalid value 'often'"),
        ("schedule = 1", "schedule: expected a string, found integer 1"),
        ("resume = 'yes'", "resume: expected true or false, found string \"yes\""),
        ("\n[model]\nsize = 1", "model: expected an option of pretrain"),
        ("steps = 2\nsteps = 3", "line 2: duplicate key"),
    ] {
        std::fs::write(&file, entry).unwrap();
        let found = run(&["pretrain", "--settings", &file], "");
        let found = (found.status.code(), String::from_utf8(found.stderr).unwrap());
        assert!(found.0 == Some(1) && found.1.contains(&format!("{file}: {expected}")), "{entry}: {found:?}");
    }
    let found = error(&["finetune", "--settings=/nowhere.toml"]);
    assert!(found.contains("/nowhere.toml: --settings: No such file"), "{found}");
}

#[test]
fn gradients_have_the_names_and_shapes_of_the_checkpoint() {
    let dir = golden("bert-pre-training");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let inputs = format!("{dir}/training.safetensors");
    let common = ["gradients", "--model", &dir, "--isa", "portable", "--inputs"];
    let found = json(&[&common[..], &[&inputs, "--out", out.to_str().unwrap(), "--json"]].concat(), "");
    let bytes =
        [std::fs::read(&out).unwrap(), std::fs::read(format!("{dir}/gradients.safetensors")).unwrap()];
    let [ours, theirs] = [0, 1].map(|i| SafeTensors::deserialize(&bytes[i]).unwrap());
    let names = |file: &SafeTensors<'_>| {
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs));
    let loss = theirs.tensor("loss").unwrap().data().try_into().map(f32::from_le_bytes).unwrap();
    assert!((found["loss"].as_f64().unwrap() - f64::from(loss)).abs() < 1e-4, "{found}");

    let refused =
        error(&[&common[..], &[&format!("{dir}/config.json"), "--out", out.to_str().unwrap()]].concat());
    assert!(refused.contains("not a safetensors file"), "{refused}");
    let bare = golden("bert-model");
    let refused =
        error(&["gradients", "--model", &bare, "--inputs", &inputs, "--out", out.to_str().unwrap()]);
    assert!(refused.contains("labels: given to a model without a head"), "{refused}");
}

//! Compares the speed that `tilewright generate` prints with the row of `tilewright bench` for the same work.
//!
//! ```text
//! cargo bench -p tilewright-cli --bench generate_matches_bench
//! ```
//!
//! Both commands continue a prompt of 16 tokens by 64 tokens, in f32, with a LLaMA of SmolLM2-135M's sizes.
//! `generate` reads the model from a checkpoint of random weights that this program writes; `bench` draws the
//! weights itself. The commands alternate, for the clock of a machine drifts. The exit status is 1 if the medians
//! of a number of threads differ by more than [`TOLERANCE`].
#![forbid(unsafe_code)]

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use tilewright_bench::statistics::median;
use tilewright_kernels::random::Random;

/// Largest accepted ratio of the two speeds, either way.
const TOLERANCE: f64 = 1.1;

/// Runs of each command.
const RUNS: usize = 3;

/// One token a letter.
const PROMPT: &str = "abcdefghijklmnop";

/// Tokens that follow the prompt.
const NEW: usize = 64;

/// The case of `tilewright bench` for a prompt of 16 tokens and 64 new ones.
const CASE: &str = "model/smollm2-135m/f32/16 in, 64 out";

// Sizes of SmolLM2-135M, as in `tilewright_bench::models`.
const VOCAB: usize = 49152;
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const LAYERS: usize = 30;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;

fn main() -> ExitCode {
    // `cargo test --all-targets` runs this program too, without `--bench`; tests are not timed.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    write_checkpoint(folder.path());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads: Vec<usize> = [1, 2].into_iter().filter(|&threads| threads <= cores).collect();
    let mut generated = vec![Vec::new(); threads.len()];
    let mut benched = vec![Vec::new(); threads.len()];
    for _ in 0..RUNS {
        for (i, &threads) in threads.iter().enumerate() {
            generated[i].push(generate(folder.path(), threads));
            benched[i].push(bench(threads));
        }
    }

    println!("{CASE}: tokens a second, medians of {RUNS} runs (all runs in parentheses)\n");
    println!("threads  {:34}  {:34}  generate / bench", "generate", "bench");
    let mut agree = true;
    for ((threads, generated), benched) in threads.iter().zip(&generated).zip(&benched) {
        let ratio = median(generated) / median(benched);
        let agrees = (1.0 / TOLERANCE..=TOLERANCE).contains(&ratio);
        agree &= agrees;
        let verdict = if agrees { "" } else { "  DIFFERS" };
        println!("{threads:7}  {:34}  {:34}  {ratio:.3}{verdict}", figures(generated), figures(benched));
    }
    if agree {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: the speeds of `generate` and `bench` differ by more than a factor of {TOLERANCE}");
    ExitCode::FAILURE
}

/// `48.1 (47.9 48.1 48.3)`.
fn figures(speeds: &[f64]) -> String {
    let all: Vec<String> = speeds.iter().map(|speed| format!("{speed:.1}")).collect();
    format!("{:.1} ({})", median(speeds), all.join(" "))
}

/// Tokens a second of one run of `tilewright generate`, loading excluded.
fn generate(dir: &Path, threads: usize) -> f64 {
    let (dir, new) = (dir.to_str().expect("a path of UTF-8"), NEW.to_string());
    let found = run(&["generate", "--model", dir, "--max-tokens", &new, PROMPT, "--json"], threads);
    let (text, timings) = (&found["texts"][0], &found["timings"]);
    assert_eq!(text["prompt_tokens"], PROMPT.len(), "{found}");
    assert_eq!(text["tokens"].as_array().map(Vec::len), Some(NEW), "{found}");
    let seconds = |key: &str| timings[key].as_f64().expect("seconds");
    NEW as f64 / (seconds("prefill_s") + seconds("decode_s"))
}

/// Tokens a second in the row of one run of `tilewright bench`.
fn bench(threads: usize) -> f64 {
    let row = run(&["bench", CASE, "--quick", "--json", "-"], threads);
    assert_eq!(row["tokens_per_s"].as_f64().map(|speed| speed > 0.0), Some(true), "{row}");
    NEW as f64 / row["median_s"].as_f64().expect("seconds")
}

/// The JSON that `tilewright` prints.
fn run(arguments: &[&str], threads: usize) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tilewright"))
        .args(arguments)
        .args(["--threads", &threads.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON object")
}

/// Writes config.json, generation_config.json, tokenizer.json and model.safetensors.
fn write_checkpoint(dir: &Path) {
    let write = |name: &str, json: Value| std::fs::write(dir.join(name), json.to_string()).expect(name);
    write(
        "config.json",
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": 8192,
            "rope_theta": 1e5,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
        }),
    );
    // No token ends a text.
    write("generation_config.json", json!({ "do_sample": false, "eos_token_id": null }));
    let vocab: serde_json::Map<String, Value> =
        PROMPT.chars().enumerate().map(|(id, letter)| (letter.to_string(), id.into())).collect();
    write(
        "tokenizer.json",
        json!({
            "version": "1.0",
            "model": { "type": "BPE", "vocab": vocab, "merges": [] },
            "decoder": { "type": "Fuse" },
        }),
    );

    // Every tensor is the beginning of one array: the values do not change the speed.
    let mut random = Random::new(0);
    let values: Vec<u8> =
        (0..VOCAB * HIDDEN).flat_map(|_| (0.1 * (random.unit() - 0.5)).to_le_bytes()).collect();
    let tensor = |name: String, shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * size_of::<f32>();
        (name, TensorView::new(Dtype::F32, shape.to_vec(), &values[..bytes]).expect("bytes fit the shape"))
    };
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut tensors = vec![
        tensor("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]),
        tensor("model.norm.weight".into(), &[HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let shapes: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[kv, HIDDEN]),
            ("self_attn.v_proj", &[kv, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, INTERMEDIATE]),
        ];
        tensors
            .extend(shapes.map(|(name, shape)| tensor(format!("model.layers.{layer}.{name}.weight"), shape)));
    }
    let file = dir.join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).expect("model.safetensors is written");
}

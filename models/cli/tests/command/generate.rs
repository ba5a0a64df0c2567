//! `tilewright generate`.

use crate::{error, golden, json, run};
use serde_json::Value;

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

    // stdout holds the text up to the stop string, and stderr the statistics.
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
    let refused = error(&["generate", "--model", dir, "--temperature", "-1", "a"]);
    assert!(refused.contains("temperature: expected a positive number, found -1"), "{refused}");
    assert!(error(&["generate", "--model", dir, "--speculate", "/nowhere", "a"]).contains("/nowhere"));
    let refused = error(&["generate", "--model", &golden("bert-model"), "a"]);
    assert!(refused.contains("does not continue texts"), "{refused}");
    assert_eq!(run(&["generate", "--model", dir, "--system", "x", "a"], "").status.code(), Some(2));
}

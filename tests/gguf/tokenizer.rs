//! Tokenizers of GGUF files against the tokenizer.json files from which they were made.

use super::write::{Change, File};
use super::{golden, models};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tilewright::checkpoint::gguf::Gguf;
use tilewright::checkpoint::tokenizer::Tokenizer;

/// Contents of texts.json.
#[derive(serde::Deserialize)]
struct Texts {
    texts: Vec<String>,
    ids: HashMap<String, Vec<Vec<u32>>>,
    decoded: Vec<String>,
}

fn texts() -> Texts {
    serde_json::from_slice(&std::fs::read(golden("gguf/texts.json")).unwrap()).unwrap()
}

fn fixture(name: &str) -> Tokenizer {
    Tokenizer::open(&golden(&format!("gguf/{name}.gguf"))).unwrap()
}

/// The ids of a text; empty if the tokenizer returns an error.
fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(&[text]).map(|batch| batch.ids().to_vec()).unwrap_or_default()
}

#[test]
fn bytes_are_merged_as_by_the_tokenizer_they_are_of() {
    let texts = texts();
    for name in ["gpt-2", "smollm", "llama-bpe", "default"] {
        let tokenizer = fixture(name);
        for (text, expected) in texts.texts.iter().zip(&texts.ids[name]) {
            assert_eq!(&encode(&tokenizer, text), expected, "{name} {text:?}");
            let specials = ["<|im_start|>", "<|im_end|>"];
            if !specials.iter().any(|s| text.contains(s)) {
                assert_eq!(&tokenizer.decode(expected).unwrap(), text, "{name}");
            }
        }
        assert_eq!(tokenizer.chat_template(), Some("{{ messages }}"));
    }
}

#[test]
fn pieces_are_those_of_sentence_piece() {
    let texts = texts();
    let tokenizer = fixture("pieces");
    assert_eq!(tokenizer.chat_template(), None);
    let mut bytes = 0;
    for (i, text) in texts.texts.iter().enumerate() {
        // SentencePiece reads the names of special tokens as text.
        if ["<s>", "<unk>"].iter().any(|s| text.contains(s)) {
            continue;
        }
        let ids = encode(&tokenizer, text);
        assert_eq!(ids, texts.ids["pieces"][i], "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), texts.decoded[i], "{text:?}");
        bytes += ids.iter().filter(|&&id| tokenizer.token(id).unwrap().starts_with("<0x")).count();
    }
    assert!(bytes > 100);
}

#[test]
fn word_pieces_are_those_of_tokenizer_json() {
    let (found, expected) = (fixture("bert-model"), Tokenizer::open(&golden("bert-model")).unwrap());
    for text in texts().texts.iter().map(String::as_str).chain(["the [MASK] sat", "playing played PLAYS"]) {
        let ids = encode(&expected, text);
        assert_eq!(encode(&found, text), ids, "{text:?}");
    }
    assert_eq!(found.decode(&encode(&found, "The dog played")).unwrap(), "the dog played");
    assert_eq!(found.mask(), "[MASK]");
}

/// Several hundred texts of many kinds.
fn many() -> Vec<String> {
    let parts = texts().texts;
    let joined = |by: &str, step: usize| {
        let by = by.to_owned();
        let parts = parts.clone();
        (0..parts.len()).map(move |i| format!("{}{by}{}", parts[i], parts[(i + step) % parts.len()]))
    };
    let mut texts: Vec<String> =
        joined("", 1).chain(joined(" ", 7)).chain(joined("\n", 31)).chain(joined("  ", 13)).collect();
    for file in ["src/gguf.rs", "src/gguf/tokenizer.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(file);
        texts.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
    }
    texts
}

#[test]
fn smollm2_has_the_ids_of_its_tokenizer_json() {
    let Some(models) = models() else { return };
    let dir = models.join("smollm2-135m-instruct");
    let gguf = Gguf::open(&dir.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let found = Tokenizer::from_gguf(&gguf).unwrap();
    let beside = Tokenizer::open(&dir).unwrap();
    assert!(found.chat_template().unwrap().contains("<|im_start|>assistant"));
    assert_eq!(found.chat_template(), beside.chat_template());

    // transformers' file does not split digits into words of their own, as the model requires.
    let path = dir.join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let words = json["pre_tokenizer"].take();
    let digits = serde_json::json!({ "type": "Digits", "individual_digits": true });
    json["pre_tokenizer"] = serde_json::json!({ "type": "Sequence", "pretokenizers": [digits, words] });
    let published = Tokenizer::from_bytes(path, json.to_string().as_bytes()).unwrap();

    let texts = many();
    assert!(texts.len() > 500);
    let mut differ = 0;
    for text in &texts {
        let ids = encode(&found, text);
        assert_eq!(ids, encode(&published, text), "{text:?}");
        let same = ids == encode(&beside, text);
        assert!(same || text.contains(char::is_numeric), "{text:?}");
        differ += usize::from(!same);
    }
    eprintln!("{differ} of {} texts differ where digits are not words of their own", texts.len());
}

#[test]
fn tokenizers_that_are_not_supported_are_errors_that_name_the_key() {
    let tokens: &[&str] = &["<s>", "a", "b", "ab"];
    let tokenizer = |change: &dyn Fn(&mut File)| {
        let mut file = File::new("llama");
        file.string("tokenizer.ggml.model", "gpt2");
        file.strings("tokenizer.ggml.tokens", tokens);
        file.strings("tokenizer.ggml.merges", &["a b"]);
        change(&mut file);
        let gguf = Gguf::from_bytes(&PathBuf::from("bad.gguf"), &file.bytes()).unwrap();
        Tokenizer::from_gguf(&gguf)
    };
    let replace = |key: &'static str, values: &'static [&'static str]| {
        move |f: &mut File| {
            f.keys.retain(|k| k.0 != key);
            f.strings(key, values);
        }
    };
    let ids = tokenizer(&|_| {}).unwrap().encode(&["ab"]).unwrap();
    assert_eq!(ids.ids(), [3]);
    let model = |name: &'static str| move |f: &mut File| f.keys[1].2 = super::write::string(name);
    let cases: Vec<(&str, Box<Change>)> = vec![
        (
            "tokenizer.ggml.pre: expected one of default, gpt-2",
            Box::new(|f| f.string("tokenizer.ggml.pre", "tekken")),
        ),
        ("found \"tekken\"", Box::new(|f| f.string("tokenizer.ggml.pre", "tekken"))),
        ("tokenizer.ggml.model: expected gpt2, llama or bert, found \"t5\"", Box::new(model("t5"))),
        ("tokenizer.ggml.model: missing", Box::new(|f| f.keys.retain(|k| k.0 != "tokenizer.ggml.model"))),
        ("tokenizer.ggml.tokens: missing", Box::new(|f| f.keys.retain(|k| k.0 != "tokenizer.ggml.tokens"))),
        (
            "tokenizer.ggml.tokens: 0 and 1 are the same, \"a\"",
            Box::new(replace("tokenizer.ggml.tokens", &["a", "a"])),
        ),
        (
            "tokenizer.ggml.merges: expected two tokens, found \"ab\"",
            Box::new(replace("tokenizer.ggml.merges", &["ab"])),
        ),
        ("bad.gguf", Box::new(replace("tokenizer.ggml.merges", &["x y"]))),
        ("tokenizer.ggml.merges: missing", Box::new(|f| f.keys.retain(|k| k.0 != "tokenizer.ggml.merges"))),
        ("tokenizer.ggml.scores: missing", Box::new(model("llama"))),
        (
            "tokenizer.ggml.token_type: expected 4, one for each token, found 1",
            Box::new(|f| f.numbers("tokenizer.ggml.token_type", &[1.0])),
        ),
        (
            "tokenizer.ggml.bos_token_id: 9 is not below 4",
            Box::new(|f| f.u32("tokenizer.ggml.bos_token_id", 9)),
        ),
        (
            "tokenizer.ggml.add_bos_token: expected a bool, found 1",
            Box::new(|f| f.u32("tokenizer.ggml.add_bos_token", 1)),
        ),
        ("tokenizer.chat_template: expected a string", Box::new(|f| f.u32("tokenizer.chat_template", 1))),
    ];
    for (part, change) in cases {
        let error = tokenizer(&*change).expect_err(part).to_string();
        assert!(error.starts_with("bad.gguf: ") && error.contains(part), "{part}: {error}");
    }
}

#[test]
fn chat_templates_are_read_beside_tokenizer_json() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::copy(golden("bert-model/tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    let template = || Tokenizer::open(dir).unwrap().chat_template().map(str::to_owned);
    assert_eq!(template(), None);
    let settings = |json: &str| std::fs::write(dir.join("tokenizer_config.json"), json).unwrap();
    settings(r#"{"chat_template": "one"}"#);
    assert_eq!(template().as_deref(), Some("one"));
    settings(
        r#"{"chat_template": [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]}"#,
    );
    assert_eq!(template().as_deref(), Some("b"));
    std::fs::write(dir.join("chat_template.jinja"), "jinja").unwrap();
    assert_eq!(template().as_deref(), Some("jinja"));
}

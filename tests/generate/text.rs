//! From tokens to text, and from chats to text.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::generate::TextStream;
use tilewright::generate::chat::{self, Chat, Json};
use tilewright_suite::golden::golden;

fn tokenizer() -> Tokenizer {
    let path = golden("tokenizers/roberta.json");
    Tokenizer::from_bytes(path.clone(), &std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn text_comes_in_pieces_that_stay() {
    let tokenizer = tokenizer();
    for text in
        ["the cat sat on the mat, and the dog ran.", "h\u{e9} \u{4f60}\u{597d} \u{1f600}!", "a  b\n\n c"]
    {
        let batch = tokenizer.encode(&[text]).unwrap();
        let whole = tokenizer.decode(batch.ids()).unwrap();
        let mut stream = TextStream::new(&tokenizer, &[]);
        let mut found = String::new();
        for &id in batch.ids() {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{fffd}'), "half a character in {piece:?}");
            found += &piece;
        }
        assert_eq!(found.clone() + &stream.finish().unwrap(), whole);
        assert!(whole.starts_with(&found));

        // Every substring of the text as a stop string; most of them cross token boundaries.
        let places: Vec<usize> = whole.char_indices().map(|(at, _)| at).chain([whole.len()]).collect();
        for (i, &from) in places.iter().enumerate() {
            for &to in places[i + 1..].iter().take(6) {
                let stops = ["never".to_owned(), String::new(), whole[from..to].to_owned()];
                let mut stream = TextStream::new(&tokenizer, &stops);
                let mut found = String::new();
                for &id in batch.ids() {
                    found += &stream.push(id).unwrap();
                    if stream.stopped() {
                        break;
                    }
                }
                found += &stream.finish().unwrap();
                assert_eq!(found, whole[..whole.find(&whole[from..to]).unwrap()], "{stops:?}");
                assert!(stream.stopped());
            }
        }
    }
}

/// Files on which the crate `tokenizers` panics.
#[test]
fn damaged_tokenizers_are_errors_that_name_their_file() {
    let read =
        |json: serde_json::Value| Tokenizer::from_bytes("bad.json".into(), json.to_string().as_bytes());
    let assert_named = |message: String| {
        assert!(message.starts_with("bad.json: tokenizers panicked: "), "{message}");
    };
    // A merged token that is shorter than its required prefix.
    let bpe = |prefix: Option<&str>| {
        let vocab = serde_json::json!({ "a": 0, "b": 1, "ab": 2 });
        let merges = [["a", "b"]];
        let model = serde_json::json!({
            "type": "BPE", "continuing_subword_prefix": prefix, "vocab": vocab, "merges": merges,
        });
        serde_json::json!({ "model": model })
    };
    assert_eq!(read(bpe(None)).unwrap().encode(&["ab"]).unwrap().ids(), [2]);
    assert_named(read(bpe(Some("##"))).unwrap_err().to_string());

    // A character map without its root.
    let mut json = bpe(None);
    json["normalizer"] = serde_json::json!({ "type": "Precompiled", "precompiled_charsmap": "AAAAAA==" });
    let mut tokenizer = read(json).unwrap();
    assert_named(tokenizer.encode(&["a"]).unwrap_err().to_string());
    assert_named(tokenizer.encode_as_written("a").unwrap_err().to_string());
    assert_named(tokenizer.encode_placed("a", Some("b")).unwrap_err().to_string());
    assert_named(tokenizer.encode_windows(["a", "b"], 16).unwrap_err().to_string());
    assert_eq!(tokenizer.decode(&[2]).unwrap(), "ab");
}

#[test]
fn chats_are_written_as_their_template_says() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden("tokenizers/roberta.json"), dir.path().join("tokenizer.json")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let mut asked =
        Chat::new(vec![Json::message("system", " Be brief. "), Json::message("user", "<b>Hi</b> & \"you\"")]);
    let render = |asked: &Chat| chat::render(&Tokenizer::open(dir.path()).unwrap(), asked);
    let refused = |asked: &Chat| render(asked).unwrap_err().to_string();
    assert!(refused(&asked).contains("no chat template"));
    let template = "{{- bos_token }}\n{%- for message in messages %}\n    {%- if message['role'] == 'system' %}\n        \
        {{- message.content.strip().upper() }}\n    {%- else %}\n[{{ message['role'] + ']' }} {{ message['content'] | trim }}\
        {{ eos_token }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n[assistant]\n{% endif %}\n";
    let config = serde_json::json!({
        "bos_token": "<s>", "eos_token": { "content": "</s>", "lstrip": false },
        "chat_template": [
            { "name": "tool_use", "template": "{{ tools | tojson }}" }, { "name": "default", "template": template },
        ],
    });
    write("tokenizer_config.json", &config.to_string());
    assert_eq!(render(&asked).unwrap(), "<s>BE BRIEF.[user] <b>Hi</b> & \"you\"</s>[assistant]\n");
    asked.tools = Some("a tool".into());
    assert_eq!(render(&asked).unwrap(), "\"a tool\"");
    let encoded = Tokenizer::open(dir.path()).unwrap().encode_as_written("<s>a</s>").unwrap();
    let tokenizer = tokenizer();
    assert_eq!(encoded.first().copied(), tokenizer.id("<s>"));
    assert_eq!(encoded.iter().filter(|&&id| Some(id) == tokenizer.id("<s>")).count(), 1);

    // chat_template.jinja takes precedence, and serves tools too if no template for tools exists.
    let refuses = |template: &str, part: &str| {
        write("chat_template.jinja", template);
        assert!(refused(&asked).contains(part), "{}", refused(&asked));
    };
    refuses("{{ raise_exception('roles must alternate') }}", "roles must alternate");
    refuses("{% for %}", "chat_template.jinja: chat template: ");
    refuses("{{ strftime_now('%!') }}", "strftime_now(\"%!\")");
    refuses("{{ nothing | tojson }}", "undefined is no JSON");
    refuses("{{ 1 | tojson(width=2) }}", "width");
    refuses("{% generation %}", "end of input");
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}";
    refuses(deep, "nested more than 128 times");
    // Long loops, and texts that double until they would fill any memory.
    let start = Instant::now();
    let counts = "range(100000)";
    refuses(
        &format!(
            "{{% for a in {counts} %}}{{% for b in {counts} %}}{{% for c in {counts} %}}{{% endfor %}}{{% endfor %}}{{% endfor %}}"
        ),
        "chat template: takes too long",
    );
    let doubled = |start: &str, next: &str, end: &str| {
        format!(
            "{{% set n = namespace(s={start}) %}}{{% for i in range(60) %}}{{% set n.s = {next} %}}{{% endfor %}}{end}"
        )
    };
    refuses(&doubled("'x'", "n.s ~ n.s", ""), "takes too long");
    refuses(&doubled("[]", "[n.s, n.s]", "{{ n.s | tojson }}"), "takes too long");
    refuses(&doubled("'x'", "{'a': n.s, 'b': n.s}", "{{ n.s | tojson(indent=4) }}"), "takes too long");
    refuses("{{ ([1] * 100000000) | tojson }}", "takes too long");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let tools = dir.path().join("additional_chat_templates/tool_use.jinja");
    std::fs::create_dir(tools.parent().unwrap()).unwrap();
    std::fs::write(tools, "{{ tools.upper() }}").unwrap();
    assert_eq!(render(&asked).unwrap(), "A TOOL");
}

/// A case that `tests/golden/chat.py` writes.
#[derive(serde::Deserialize)]
struct Case {
    template: String,
    messages: Vec<Json>,
    tools: Option<Json>,
    documents: Option<Json>,
    #[serde(default)]
    variables: BTreeMap<String, Json>,
    add_generation_prompt: bool,
    text: Option<String>,
    error: Option<String>,
}

#[test]
fn templates_write_what_they_do_in_transformers() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden("tokenizers/roberta.json"), dir.path().join("tokenizer.json")).unwrap();
    let tokens = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), tokens).unwrap();
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(golden("chat/cases.json")).unwrap()).unwrap();
    for (i, case) in cases.into_iter().enumerate() {
        let name = format!("{i}, {}", case.template);
        let template = golden(&format!("chat/{}.jinja", case.template));
        std::fs::copy(template, dir.path().join("chat_template.jinja")).unwrap();
        let asked = Chat {
            messages: case.messages,
            tools: case.tools,
            documents: case.documents,
            variables: case.variables,
            add_generation_prompt: case.add_generation_prompt,
            // As in chat.py.
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_067_200),
        };
        match (chat::render(&Tokenizer::open(dir.path()).unwrap(), &asked), case.text, case.error) {
            (Ok(found), Some(text), None) => assert_eq!(found, text, "{name}"),
            (Err(e), None, Some(error)) => assert!(e.to_string().contains(&error), "{name}: {e}"),
            (found, text, error) => panic!("{name}: {found:?}; expected {text:?} or {error:?}"),
        }
    }
}

#[test]
fn tools_are_lists_of_objects() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let read = |json: &str| {
        std::fs::write(file.path(), json).unwrap();
        Json::read_objects(file.path())
    };
    assert!(read(r#"[{"type": "function"}]"#).is_ok() && read("[]").is_ok());
    for (json, part) in [("{}", "found map"), ("[{}, 1]", "found number at 1"), ("[", "EOF")] {
        let message = read(json).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(file.path().to_str().unwrap()), "{message}");
    }
    assert!(Json::read_objects(Path::new("/nowhere")).is_err());
}

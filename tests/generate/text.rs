//! From tokens to text, and from chats to text.

use tilewright::generate::{Message, TextStream, chat};
use tilewright::tokenizer::Tokenizer;
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

        // Every string of the text as a stop, most of which lie across tokens.
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

#[test]
fn chats_are_written_as_their_template_says() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden("tokenizers/roberta.json"), dir.path().join("tokenizer.json")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let messages = [Message::new("system", " Be brief. "), Message::new("user", "<b>Hi</b> & \"you\"")];
    let render = || chat::render(&Tokenizer::open(dir.path()).unwrap(), &messages);
    assert!(render().unwrap_err().to_string().contains("no chat template"));
    let template = "{{- bos_token }}\n{%- for message in messages %}\n    {%- if message['role'] == 'system' %}\n        \
        {{- message.content.strip().upper() }}\n    {%- else %}\n[{{ message['role'] + ']' }} {{ message['content'] | trim }}\
        {{ eos_token }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n[assistant]\n{% endif %}\n";
    let config = serde_json::json!({
        "bos_token": "<s>", "eos_token": { "content": "</s>", "lstrip": false },
        "chat_template": [{ "name": "rag", "template": "?" }, { "name": "default", "template": template }],
    });
    write("tokenizer_config.json", &config.to_string());
    assert_eq!(render().unwrap(), "<s>BE BRIEF.[user] <b>Hi</b> & \"you\"</s>[assistant]\n");
    let encoded = Tokenizer::open(dir.path()).unwrap().encode_as_written("<s>a</s>").unwrap();
    let tokenizer = tokenizer();
    assert_eq!(encoded.first().copied(), tokenizer.id("<s>"));
    assert_eq!(encoded.iter().filter(|&&id| Some(id) == tokenizer.id("<s>")).count(), 1);

    // A file of its own comes first.
    write("chat_template.jinja", "{{ raise_exception('roles must alternate') }}");
    assert!(render().unwrap_err().to_string().contains("roles must alternate"));
    write("chat_template.jinja", "{% for %}");
    assert!(render().unwrap_err().to_string().contains("tokenizer.json"));
}

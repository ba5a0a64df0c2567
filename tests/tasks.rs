//! Examples of tasks: targets of tokens, windows, order, labels.
#![forbid(unsafe_code)]

use std::path::Path;
use tempfile::TempDir;
use tilewright::checkpoint::config::Fields;
use tilewright::train::tasks::{Dataset, Example, Examples, Target, Task, TaskModel};
use tilewright_kernels::Backend;
use tilewright_suite::golden::golden;

/// A golden checkpoint with a golden tokenizer, and a file of examples beside it.
fn folder([checkpoint, tokenizer]: [&str; 2], [name, content]: [&str; 2]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &str| std::fs::copy(from, folder.path().join(to)).unwrap();
    copy(&golden(checkpoint).join("config.json"), "config.json");
    copy(&golden(checkpoint).join("model.safetensors"), "model.safetensors");
    copy(&golden(&format!("tokenizers/{tokenizer}.json")), "tokenizer.json");
    std::fs::write(folder.path().join(name), content).unwrap();
    folder
}

fn encode(task: Task, of: [&str; 2], file: [&str; 2], max_length: Option<usize>) -> (TaskModel, Examples) {
    let folder = folder(of, file);
    let data = Dataset::read(task, &folder.path().join(file[0]), &task.columns()).unwrap();
    let model = TaskModel::for_training(folder.path(), &data, max_length, 1, Backend::PORTABLE).unwrap();
    let examples = Examples::encode(&data, &model.setup).unwrap();
    (model, examples)
}

fn tags(example: &Example) -> &[i64] {
    match &example.target {
        Target::Tags(tags) => tags,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_token_of_a_word_has_its_tag() {
    // cats is cat ##s, and hat is h ##a ##t.
    let file = ["f.conll", "the O\ncats B-X\nhat I-X\n\n. O\n"];
    let of = ["bert-token-classification", "bert"];
    let (model, examples) = encode(Task::Tag, of, file, None);
    assert_eq!(model.setup.labels, ["B-X", "I-X", "O"]);
    let [first, second] = examples.list() else { panic!("two sentences") };
    assert_eq!(tags(first), [-100, 2, 0, -100, 1, -100, -100, -100]);
    assert_eq!((tags(second), examples.unscored_words), (&[-100, 2, -100][..], 0));

    // Four tokens have room for two words, and for the first token of the second.
    let (_, cut) = encode(Task::Tag, of, file, Some(4));
    assert_eq!((tags(&cut.list()[0]), cut.unscored_words), (&[-100, 2, 0, -100][..], 1));

    // Byte-level tokens begin with the space before the word.
    let (_, examples) = encode(Task::Tag, ["roberta-token-classification", "roberta"], file, None);
    let scored: Vec<i64> = tags(&examples.list()[0]).iter().copied().filter(|&tag| tag != -100).collect();
    assert_eq!(scored, [2, 0, 1]);
}

#[test]
fn windows_have_the_columns_of_answers_that_they_contain() {
    let context = "the cat sat on the mat. ".repeat(20) + "a dog ran";
    let start = context.find("dog").unwrap();
    let json = format!(
        r#"{{"data": [{{"paragraphs": [{{"context": "{context}", "qas":
            [{{"question": "a ?", "answers": [{{"text": "dog", "answer_start": {start}}}]}}]}}]}}]}}"#
    );
    let (_, examples) = encode(Task::Answer, ["bert-question-answering", "bert"], ["f.json", &json], None);
    assert!(examples.len() > 3, "{:?}", examples.list().iter().map(|e| e.ids.clone()).collect::<Vec<_>>());
    let dog = 11;
    for (i, Example { ids, target, .. }) in examples.list().iter().enumerate() {
        let Target::Answer { columns: [first, last], places, .. } = target else { panic!("{target:?}") };
        let has_answer = ids.contains(&dog);
        assert_eq!(has_answer, i == examples.len() - 1, "{i}");
        assert_eq!((*first, *first != 0), (*last, has_answer), "{i}");
        if has_answer {
            assert_eq!(ids[*first as usize], dog);
            assert_eq!(places[*first as usize], Some(start..start + 3));
        }
    }
}

#[test]
fn the_order_is_a_permutation_by_seed_and_epoch() {
    let rows: String = (0..50).map(|i| format!("the cat,{}\n", i % 2)).collect();
    let csv = format!("text,label\n{rows}");
    let (_, examples) =
        encode(Task::Classify, ["bert-sequence-classification", "bert"], ["f.csv", &csv], None);
    let order = examples.order(3, 0);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    assert_eq!(order, examples.order(3, 0));
    assert_ne!(order, examples.order(3, 1));
    assert_ne!(order, examples.order(4, 0));
}

#[test]
fn long_texts_of_a_causal_lm_are_split() {
    let text = "the cat ".repeat(50);
    let json = format!("{{\"text\": \"{text}\"}}\n");
    let (_, examples) = encode(Task::Causal, ["gpt2", "bert"], ["f.jsonl", &json], None);
    // 100 words, two special tokens and the end token, in sequences of 48.
    let lengths: Vec<usize> = examples.list().iter().map(|example| example.ids.len()).collect();
    assert_eq!(lengths, [48, 48, 7]);
}

#[test]
fn labels_are_those_of_the_config_if_they_fit() {
    let of = |labels: &[&str], config: &str| {
        let rows: String = labels.iter().map(|label| format!("x,{label}\n")).collect();
        let folder = folder(["bert-model", "bert"], ["f.csv", &format!("text,label\n{rows}")]);
        let task = Task::Classify;
        let data = Dataset::read(task, &folder.path().join("f.csv"), &task.columns()).unwrap();
        data.labels(&Fields::from_bytes("config.json".as_ref(), config.as_bytes()).unwrap())
    };
    let known = r#"{"id2label": {"0": "c", "1": "a", "2": "b"}}"#;
    assert_eq!(of(&["a", "c"], known).unwrap(), ["c", "a", "b"]);
    assert_eq!(of(&["b", "x", "b"], known).unwrap(), ["b", "x"]);
    assert_eq!(of(&["10", "9", "-1"], "{}").unwrap(), ["-1", "9", "10"]);
    assert!(of(&["x", "x"], "{}").unwrap_err().to_string().contains("found x alone"));
    assert!(of(&["x", ""], "{}").unwrap_err().to_string().contains("line 3: expected a label"));
}

#[test]
fn a_damaged_checkpoint_is_no_new_head() {
    let folder = folder(["bert-model", "bert"], ["f.csv", "text,label\na,1\na,0\n"]);
    let config = folder.path().join("config.json");
    let json = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, json.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")).unwrap();
    let task = Task::Classify;
    let data = Dataset::read(task, &folder.path().join("f.csv"), &task.columns()).unwrap();
    let error = TaskModel::for_training(folder.path(), &data, None, 1, Backend::PORTABLE).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("encoder.layer.2.") && error.contains("missing"), "{error}");
    // Each family names the classes that it lacks.
    let file = folder.path().join("f.csv");
    let columns = Task::Causal.columns();
    let data = Dataset::read(Task::Causal, &file, &columns).unwrap();
    let error = TaskModel::for_training(folder.path(), &data, None, 1, Backend::PORTABLE).unwrap_err();
    assert!(error.to_string().contains("bert has none"), "{error}");
}

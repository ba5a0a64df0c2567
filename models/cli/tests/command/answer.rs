//! `tilewright answer`.

use crate::{ask, error, json, numbers, run, with_tokenizer};
use tilewright::Arithmetic;
use tilewright::architectures::Architecture;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright_kernels::Backend;

#[test]
fn answer_stays_within_the_context() {
    let sentence = "the cat sat on the mat. ";
    for of in [
        ["bert-question-answering", "bert"],
        ["roberta-question-answering", "roberta"],
        ["albert-question-answering", "bert"],
        ["electra-question-answering", "bert"],
    ] {
        // One window and several windows: the models take 40 tokens.
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

        // The definition of the score, applied to the logits that `forward` writes.
        if times == 1 {
            let tokenizer = Tokenizer::open(folder.path()).unwrap();
            let (batch, _) = tokenizer.encode_placed("a dog", Some(&context)).unwrap();
            let on = Arithmetic::f32(Backend::PORTABLE);
            let mut model = Architecture::of(folder.path()).unwrap().load(folder.path(), on).unwrap();
            let outputs = model.forward(&batch).unwrap();
            let [start, end] = &outputs[..] else { panic!("two outputs") };
            assert_eq!(null, f64::from(start.values[0] + end.values[0]));
            // The question and its special tokens take three tokens, and the last special token takes one.
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

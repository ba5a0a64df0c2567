//! `tilewright classify`: texts, pairs, tokens.

use super::{ask, error, json, numbers, run, with_tokenizer};
use serde_json::Value;

#[test]
fn classify_names_the_classes_of_texts_and_pairs() {
    for of in [
        ["roberta-sequence-classification", "roberta"],
        ["albert-sequence-classification", "bert"],
        ["electra-sequence-classification", "bert"],
    ] {
        let found = ask("classify", of, &["the cat sat", "a dog"]);
        let [cat, dog] = &found["texts"].as_array().unwrap()[..] else { panic!("two texts: {found}") };
        assert_eq!((&cat["text"], &dog["text"]), (&"the cat sat".into(), &"a dog".into()));
        let probabilities = numbers(&cat["labels"], "probability");
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{probabilities:?}");
        assert!(probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
        let mut labels: Vec<_> =
            cat["labels"].as_array().unwrap().iter().map(|l| l["label"].as_str().unwrap()).collect();
        labels.sort_unstable();
        assert_eq!(labels, ["bad", "fair", "good"]);

        let pair = ask("classify", of, &["--pair", "--top-k", "1", "the cat sat", "a dog"]);
        assert_eq!(pair["texts"].as_array().unwrap().len(), 1);
        assert_eq!(pair["texts"][0]["pair"], "a dog");
        assert_ne!(pair["texts"][0]["labels"][0]["probability"], probabilities[0]);
    }
    let folder = with_tokenizer("roberta-sequence-classification", "roberta");
    let dir = folder.path().to_str().unwrap();
    assert!(
        error(&["classify", "--model", dir, "--pair", "one"]).contains("--pair: 1 is an odd number of texts")
    );
    let table = String::from_utf8(run(&["classify", "--model", dir, "the cat"], "").stdout).unwrap();
    assert!(table.contains("probability  label") && table.contains("fair"), "{table}");
    let refused = error(&["answer", "--model", dir, "--question", "q", "--context", "c"]);
    assert!(refused.contains("RobertaForSequenceClassification"), "{refused}");
    assert!(refused.contains("ForQuestionAnswering"), "{refused}");
    let refused = error(&["fill-mask", "--model", dir, "the <mask>"]);
    assert!(refused.contains("no head that predicts words"), "{refused}");
}

#[test]
fn classify_follows_the_problem_type() {
    let folder = with_tokenizer("albert-sequence-classification", "bert");
    let dir = folder.path().to_str().unwrap();
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let with = |problem: &str| {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["problem_type"] = problem.into();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        json(&["classify", "--model", dir, "--isa", "portable", "--json", "the cat"], "")["texts"][0]["labels"]
            .clone()
    };
    let scores = numbers(&with("regression"), "score");
    let sigmoids: Vec<f64> = scores.iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect();
    assert_eq!(numbers(&with("multi_label_classification"), "probability"), sigmoids);
}

#[test]
fn classify_names_the_class_of_each_token_and_where_it_stands() {
    let text = "the h\u{e9} cats ran!";
    for of in [["bert-token-classification", "bert"], ["roberta-token-classification", "roberta"]] {
        let found = ask("classify", of, &[text]);
        let tokens = found["texts"][0]["tokens"].as_array().unwrap();
        let last = tokens.last().unwrap();
        assert_eq!((&last["token"], &last["characters"]), (&"!".into(), &serde_json::json!([15, 16])));
        for token in tokens {
            let known = ["O", "B-PER", "I-PER", "B-LOC"].contains(&token["label"].as_str().unwrap());
            assert!(known && token["probability"].as_f64().unwrap() > 0.25, "{token}");
        }
    }
}

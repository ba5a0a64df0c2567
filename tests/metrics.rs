//! Metrics against scikit-learn, scipy, seqeval and SQuAD's script, whose values `tests/golden/metrics.py` made.
#![forbid(unsafe_code)]

use serde_json::Value;
use tilewright::train::metrics::{
    accuracy, answer_f1, entity_scores, exact_match, f1_macro, f1_micro, is_iob2, matthews, pearson,
    perplexity, spearman,
};
use tilewright_suite::golden::golden;

/// Cases of a kind. JSON has no NaN: it is null there.
fn cases(kind: &str) -> Vec<Value> {
    let file: Value = serde_json::from_slice(&std::fs::read(golden("metrics.json")).unwrap()).unwrap();
    let cases = file[kind].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn list<T>(values: &Value, of: impl Fn(&Value) -> T) -> Vec<T> {
    values.as_array().unwrap().iter().map(of).collect()
}

fn assert_is(case: &Value, name: &str, found: f64, tolerance: f64) {
    let expected = case[name].as_f64().unwrap_or(f64::NAN);
    let equal = if expected.is_nan() { found.is_nan() } else { (found - expected).abs() <= tolerance };
    assert!(equal, "{name} is {found}, expected {expected}: {case}");
}

#[test]
fn metrics_of_classes_are_those_of_scikit_learn() {
    for case in cases("classes") {
        let [gold, found] =
            ["gold", "found"].map(|name| list(&case[name], |class| class.as_u64().unwrap() as usize));
        assert_is(&case, "accuracy", accuracy(&gold, &found), 1e-12);
        assert_is(&case, "f1_macro", f1_macro(&gold, &found), 1e-12);
        assert_is(&case, "f1_micro", f1_micro(&gold, &found), 1e-12);
        assert_is(&case, "matthews", matthews(&gold, &found), 1e-12);
    }
}

#[test]
fn correlations_are_those_of_scipy() {
    for case in cases("values") {
        let [x, y] = ["x", "y"].map(|name| list(&case[name], |value| value.as_f64().unwrap()));
        // Values near 10^6 have 10 digits after the point.
        assert_is(&case, "pearson", pearson(&x, &y), 1e-9);
        assert_is(&case, "spearman", spearman(&x, &y), 1e-12);
    }
}

#[test]
fn scores_of_entities_are_those_of_seqeval() {
    for case in cases("entities") {
        let tags =
            |name: &str| list(&case[name], |sentence| list(sentence, |tag| tag.as_str().unwrap().to_owned()));
        let scores = entity_scores(&tags("gold"), &tags("found"));
        assert_is(&case, "precision", scores.precision, 1e-12);
        assert_is(&case, "recall", scores.recall, 1e-12);
        assert_is(&case, "f1", scores.f1, 1e-12);
    }
    assert!(is_iob2(&["O", "B-X", "I-X"]) && !is_iob2(&["O", "NN"]) && !is_iob2(&["O"]));
}

#[test]
fn scores_of_answers_are_those_of_squad() {
    for case in cases("answers") {
        let golds = list(&case["golds"], |gold| gold.as_str().unwrap().to_owned());
        let found = case["found"].as_str().unwrap();
        assert_is(&case, "exact_match", exact_match(found, &golds), 0.0);
        assert_is(&case, "f1", answer_f1(found, &golds), 1e-12);
    }
}

#[test]
fn metrics_of_nothing_are_nan() {
    for metric in [accuracy, f1_macro, f1_micro, matthews] {
        assert!(metric(&[], &[]).is_nan());
    }
    for correlation in [pearson, spearman] {
        assert!(correlation(&[], &[]).is_nan() && correlation(&[1.0], &[2.0]).is_nan());
    }
    assert_eq!(entity_scores::<&str>(&[], &[]).f1, 0.0);
    assert_eq!(perplexity(0.0), 1.0);
}

//! Scores of answers, as the script of SQuAD 2.0 computes them (Rajpurkar et al. 2018, arXiv:1806.03822).

use std::collections::HashMap;

/// 1 if the found answer equals a gold answer after [`normalize_answer`], else 0. Without gold answers, the empty answer
/// is right.
///
/// ```
/// use tilewright::train::metrics::exact_match;
/// assert_eq!(exact_match("the Eiffel tower!", &["Eiffel Tower"]), 1.0);
/// ```
pub fn exact_match<T: AsRef<str>>(found: &str, golds: &[T]) -> f64 {
    let found = normalize_answer(found);
    if accepted(golds).contains(&found) { 1.0 } else { 0.0 }
}

/// Largest F1 of the found answer's words against a gold answer's, after [`normalize_answer`].
pub fn answer_f1<T: AsRef<str>>(found: &str, golds: &[T]) -> f64 {
    let found = normalize_answer(found);
    accepted(golds).iter().map(|gold| word_f1(gold, &found)).fold(0.0, f64::max)
}

/// Normalized gold answers that have a word; the empty answer if none has.
fn accepted<T: AsRef<str>>(golds: &[T]) -> Vec<String> {
    let golds = golds.iter().map(|gold| normalize_answer(gold.as_ref()));
    let mut golds: Vec<String> = golds.filter(|gold| !gold.is_empty()).collect();
    if golds.is_empty() {
        golds.push(String::new());
    }
    golds
}

fn word_f1(gold: &str, found: &str) -> f64 {
    let count = |text: &str| text.split_whitespace().count() as f64;
    let (of_gold, of_found) = (count(gold), count(found));
    if of_gold == 0.0 || of_found == 0.0 {
        return f64::from(gold == found);
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    gold.split_whitespace().for_each(|word| *left.entry(word).or_default() += 1);
    let mut hits = 0.0;
    for word in found.split_whitespace() {
        if let Some(left) = left.get_mut(word).filter(|left| **left > 0) {
            *left -= 1;
            hits += 1.0;
        }
    }
    2.0 * hits / (of_gold + of_found)
}

/// The answer in lower case, without ASCII punctuation, without the words a, an and the, with single spaces.
pub fn normalize_answer(text: &str) -> String {
    let lower: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    // Words end at characters that are neither letters nor digits, as at `\b` of a regular expression.
    let mut kept = String::new();
    let is_word = |c: char| c.is_alphanumeric();
    let mut rest = &*lower;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        kept.push_str(if matches!(word, "a" | "an" | "the") { " " } else { word });
        let next = after.find(is_word).unwrap_or(after.len());
        kept.push_str(&after[..next]);
        rest = &after[next..];
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

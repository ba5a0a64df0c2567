//! SQuAD's JSON: questions, contexts, and the spans of contexts that answer them.

use crate::checkpoint::config;
use crate::error::Error;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A question about a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Place in the file, such as `data[0].paragraphs[2].qas[1]`.
    pub place: String,
    /// Question.
    pub question: String,
    /// Text to search.
    pub context: Arc<str>,
    /// Answers, all of them right; none if the context has no answer.
    pub answers: Vec<GoldAnswer>,
}

/// A right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoldAnswer {
    /// Answer.
    pub text: String,
    /// Its range of bytes in the context.
    pub bytes: Range<usize>,
}

#[derive(serde::Deserialize)]
struct File {
    data: Vec<Article>,
}

#[derive(serde::Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(serde::Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<StoredQuestion>,
}

#[derive(serde::Deserialize)]
struct StoredQuestion {
    question: String,
    #[serde(default)]
    answers: Vec<StoredAnswer>,
    #[serde(default)]
    is_impossible: bool,
}

#[derive(serde::Deserialize)]
struct StoredAnswer {
    text: String,
    /// In characters.
    answer_start: usize,
}

/// Reads the questions of `path`.
pub(super) fn read(path: &Path) -> Result<Vec<Question>, Error> {
    let file: File = config::read(path)?;
    let mut questions = Vec::new();
    for (a, article) in file.data.into_iter().enumerate() {
        for (p, Paragraph { context, qas }) in article.paragraphs.into_iter().enumerate() {
            let context: Arc<str> = context.into();
            // Byte of each character, and of the end.
            let ends = context.char_indices().map(|(byte, _)| byte).chain([context.len()]);
            let bytes: Vec<usize> = ends.collect();
            for (q, stored) in qas.into_iter().enumerate() {
                let place = format!("data[{a}].paragraphs[{p}].qas[{q}]");
                let error =
                    |why: String| Error::File { path: path.to_owned(), why: format!("{place}: {why}") };
                if stored.answers.is_empty() && !stored.is_impossible {
                    return Err(error("expected an answer, or is_impossible, found neither".to_owned()));
                }
                let mut answers = Vec::new();
                for StoredAnswer { text, answer_start } in stored.answers {
                    if stored.is_impossible {
                        break;
                    }
                    let found = bytes.get(answer_start).map(|&start| start..start.saturating_add(text.len()));
                    let found = found.filter(|of| context.get(of.clone()) == Some(&text));
                    let range = found.filter(|of| !of.is_empty()).ok_or_else(|| {
                        error(format!(
                            "expected the answer {text:?} at character {answer_start} of the context"
                        ))
                    })?;
                    answers.push(GoldAnswer { text, bytes: range });
                }
                let question = stored.question;
                questions.push(Question { place, question, context: context.clone(), answers });
            }
        }
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(qas: &str) -> Result<Vec<Question>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("squad.json");
        let json = format!(
            r#"{{"version": "2", "data": [{{"title": "t", "paragraphs": [{{"context": "\u00e9a cat", "qas": [{qas}]}}]}}]}}"#
        );
        std::fs::write(&path, json).unwrap();
        read(&path).map_err(|e| e.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn answers_count_characters() {
        let found = of(r#"{"id": "1", "question": "q", "answers": [{"text": "cat", "answer_start": 3}]},
                {"question": "r", "answers": [], "is_impossible": true, "plausible_answers": []}"#)
        .unwrap();
        assert_eq!(found[0].answers, [GoldAnswer { text: "cat".into(), bytes: 4..7 }]);
        assert_eq!((&*found[1].question, found[1].answers.len()), ("r", 0));
    }

    #[test]
    fn damaged_files_name_the_question() {
        for answers in [
            r#"{"text": "cat", "answer_start": 4}"#,
            r#"{"text": "cat", "answer_start": 99}"#,
            r#"{"text": "", "answer_start": 0}"#,
        ] {
            let found = of(&format!(r#"{{"question": "q", "answers": [{answers}]}}"#)).unwrap_err();
            assert!(found.starts_with("data[0].paragraphs[0].qas[0]: expected the answer"), "{found}");
        }
        let found = of(r#"{"question": "q", "answers": []}"#).unwrap_err();
        assert_eq!(
            found,
            "data[0].paragraphs[0].qas[0]: expected an answer, or is_impossible, found neither"
        );
        assert!(of("1").unwrap_err().contains("line 1"));
    }
}

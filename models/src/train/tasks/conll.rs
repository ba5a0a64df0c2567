//! CoNLL files: a word and its tag on each line, an empty line after each sentence.
//!
//! ```text
//! EU NNP B-NP B-ORG       columns are separated by spaces or tabs; the first is the word, the last is the tag
//! rejects VBZ B-VP O      lines with -DOCSTART- are no words
//! ```

use super::table::{Columns, at_line, text};
use crate::error::Error;
use std::path::Path;

/// A sentence, and a tag for each of its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedSentence {
    /// Line of the first word, from 1 up. Words stand on consecutive lines.
    pub line: u64,
    /// Words.
    pub words: Vec<String>,
    /// Tag of each word.
    pub tags: Vec<String>,
}

/// Reads the sentences of `path`. Columns of other names than numbers mean the first column for words, and the last one
/// for tags.
pub(super) fn read(path: &Path, columns: &Columns) -> Result<Vec<TaggedSentence>, Error> {
    let number = |name: &str| name.parse::<usize>().ok().filter(|&n| n > 0);
    let of_word = number(&columns.text).unwrap_or(1);
    let of_tag = columns.label.as_deref().and_then(number);
    let (mut sentences, mut width) = (Vec::<TaggedSentence>::new(), None);
    let mut ended = true;
    for (line, content) in (1..).zip(text(path)?.lines()) {
        let fields: Vec<&str> = content.split_whitespace().collect();
        if fields.is_empty() || fields[0] == "-DOCSTART-" {
            ended = true;
            continue;
        }
        let expected = *width.get_or_insert(fields.len());
        let least = of_word.max(of_tag.unwrap_or(2)).max(2);
        if fields.len() != expected || expected < least {
            let expected = if expected < least { format!("at least {least}") } else { expected.to_string() };
            let found = fields.len();
            return Err(at_line(path, line, format!("expected {expected} columns, found {found}")));
        }
        if std::mem::take(&mut ended) {
            sentences.push(TaggedSentence { line, words: Vec::new(), tags: Vec::new() });
        }
        let sentence = sentences.last_mut().expect("a line begins a sentence");
        sentence.words.push(fields[of_word - 1].to_owned());
        sentence.tags.push(fields[of_tag.unwrap_or(expected) - 1].to_owned());
    }
    Ok(sentences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &str, columns: [&str; 2]) -> Result<Vec<TaggedSentence>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.conll");
        std::fs::write(&path, content).unwrap();
        let columns = Columns { text: columns[0].into(), second: None, label: Some(columns[1].into()) };
        read(&path, &columns).map_err(|e| e.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn sentences_end_at_empty_lines() {
        let file = "-DOCSTART- -X- O\n\na A X\nb\tB\tY\r\n \n\nc C Z";
        let found = of(file, ["text", "label"]).unwrap();
        let [first, second] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (first.line, &first.words[..], &first.tags[..]),
            (3, &["a", "b"].map(Into::into)[..], &["X", "Y"].map(Into::into)[..])
        );
        assert_eq!((second.line, &second.tags[..]), (7, &["Z".to_owned()][..]));
        assert_eq!(of(file, ["1", "2"]).unwrap()[0].tags, ["A", "B"]);
        assert_eq!(of("\n\n", ["1", "2"]), Ok(vec![]));
    }

    #[test]
    fn damaged_files_name_the_line() {
        let error = |content, columns| of(content, columns).unwrap_err();
        assert_eq!(error("a A\nb\n", ["", ""]), "line 2: expected 2 columns, found 1");
        assert_eq!(error("a\n", ["", ""]), "line 1: expected at least 2 columns, found 1");
        assert_eq!(error("a A\n", ["1", "3"]), "line 1: expected at least 3 columns, found 2");
    }
}

//! Sentences of a document.

use super::SentenceSplit;
use std::ops::Range;

/// Ranges of bytes of the sentences of `text`, without white space around them.
pub fn split(text: &str, by: SentenceSplit) -> Vec<Range<usize>> {
    let mut sentences = Vec::new();
    // Start of the sentence that no boundary has ended yet.
    let mut start = 0;
    for (gap, end) in gaps(text) {
        let ends = match by {
            SentenceSplit::Lines => text[gap..end].contains('\n'),
            SentenceSplit::Punctuation => {
                text[gap..end].matches('\n').count() > 1 || ends_sentence(&text[start..gap], &text[end..])
            }
            SentenceSplit::Whole => false,
        };
        if gap == start {
            // White space before the first sentence.
            start = end;
        } else if ends {
            sentences.push(start..gap);
            start = end;
        }
    }
    let end = text.trim_end().len();
    if start < end {
        sentences.push(start..end);
    }
    sentences
}

/// Ranges of bytes of the white space in `text`, each as long as possible.
fn gaps(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let gap = at + text[at..].find(char::is_whitespace)?;
        at = text[gap..].find(|c: char| !c.is_whitespace()).map_or(text.len(), |n| gap + n);
        Some((gap, at))
    })
}

/// True if a sentence ends with `before` and another one begins with `after`. White space stands between them.
fn ends_sentence(before: &str, after: &str) -> bool {
    let closing = ['"', '\'', '\u{201d}', '\u{2019}', '\u{bb}', ')', ']'];
    let opening = ['"', '\'', '\u{201c}', '\u{2018}', '\u{ab}'];
    before.trim_end_matches(closing).ends_with(['.', '!', '?', '\u{2026}'])
        && after.starts_with(|c: char| c.is_uppercase() || opening.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str, by: SentenceSplit) -> Vec<&str> {
        split(text, by).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn punctuation_ends_sentences_before_capitals_and_quotes() {
        for (text, expected) in [
            ("One. Two! Three? Four", &["One.", "Two!", "Three?", "Four"][..]),
            (
                "  He said \"no.\" \"Yes!\" She (now\nold.) Left.  ",
                &["He said \"no.\"", "\"Yes!\"", "She (now\nold.)", "Left."],
            ),
            ("pi is 3.14. about 2. or so... e.g. this", &["pi is 3.14. about 2. or so... e.g. this"]),
            ("no mark\n\nParagraph two\n \n\nthree", &["no mark", "Paragraph two", "three"]),
            (
                "\u{201c}Ja.\u{201d} \u{c9}t\u{e9}\u{2026} \u{ab}Oui.\u{bb}",
                &["\u{201c}Ja.\u{201d}", "\u{c9}t\u{e9}\u{2026}", "\u{ab}Oui.\u{bb}"],
            ),
            ("Dr. Who", &["Dr.", "Who"]),
            (" \n ", &[]),
            ("", &[]),
        ] {
            assert_eq!(sentences(text, SentenceSplit::Punctuation), expected, "{text:?}");
        }
    }

    #[test]
    fn lines_are_trimmed_and_blank_ones_left_out() {
        let text = "\n  one. Two \n\n\u{3000}\n\tthree\n";
        assert_eq!(sentences(text, SentenceSplit::Lines), ["one. Two", "three"]);
        assert_eq!(sentences(text, SentenceSplit::Whole), [text.trim()]);
        assert!(split("   ", SentenceSplit::Whole).is_empty());
    }
}

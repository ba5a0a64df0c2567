//! Checks of settings, and reading of documents whose sentences are valid.

use super::super::data::{Corpus, Document};
use crate::error::Error;

/// Error of a setting.
pub(super) fn refuse<T>(name: &'static str, why: String) -> Result<T, Error> {
    Err(Error::Input { name, why })
}

/// Refuses a value below `least`.
pub(super) fn at_least(name: &'static str, value: usize, least: usize) -> Result<(), Error> {
    if value < least {
        return refuse(name, format!("expected at least {least}, found {value}"));
    }
    Ok(())
}

/// Longest sequence: f32 holds all integers up to here.
const LONGEST: usize = 1 << 24;

/// Refuses a sequence length below `least`, or far beyond any model's.
pub(super) fn length(name: &'static str, value: usize, least: usize) -> Result<(), Error> {
    if !(least..=LONGEST).contains(&value) {
        return refuse(name, format!("expected a number from {least} to {LONGEST}, found {value}"));
    }
    Ok(())
}

/// Refuses a number that is no probability.
pub(super) fn probability(name: &'static str, p: f64) -> Result<(), Error> {
    if !(0.0..=1.0).contains(&p) {
        return refuse(name, format!("expected a number from 0 to 1, found {p}"));
    }
    Ok(())
}

/// Refuses ids outside of the vocabulary.
pub(super) fn ids<const N: usize>(vocabulary: u32, ids: [(&'static str, u32); N]) -> Result<(), Error> {
    at_least("vocabulary", vocabulary as usize, 1)?;
    for (name, id) in ids {
        if id >= vocabulary {
            return refuse(
                name,
                format!("expected an id below the vocabulary size {vocabulary}, found {id}"),
            );
        }
    }
    Ok(())
}

/// Refuses a table of word starts that has no entry for some id.
pub(super) fn word_starts(table: Option<&[bool]>, vocabulary: u32) -> Result<(), Error> {
    match table {
        Some(table) if table.len() != vocabulary as usize => refuse(
            "word_starts",
            format!("expected {vocabulary} values, one for each id, found {}", table.len()),
        ),
        _ => Ok(()),
    }
}

/// True if a token starts a word: every token does without a table. Ids outside of the table are refused later.
pub(super) fn starts_word(table: Option<&[bool]>, id: u32) -> bool {
    table.is_none_or(|table| table.get(id as usize).copied().unwrap_or(true))
}

/// A count of documents or examples, which are numbered by u32.
pub(super) fn count(n: usize, of: &str) -> Result<u32, Error> {
    u32::try_from(n).or_else(|_| refuse("corpus", format!("expected at most {} {of}, found {n}", u32::MAX)))
}

/// Documents that have tokens.
///
/// # Errors
/// [`Error::Input`] named `corpus` if there is none.
pub(super) fn documents(corpus: &dyn Corpus) -> Result<Vec<u32>, Error> {
    let all = count(corpus.documents(), "documents")?;
    let found: Vec<u32> = (0..all).filter(|&i| corpus.len_of(i as usize) > 0).collect();
    if found.is_empty() {
        return refuse("corpus", format!("expected a document with tokens, found {all} documents without"));
    }
    Ok(found)
}

/// Reads a document and refuses sentences that do not cover it. Empty sentences are removed, as all official codes
/// skip empty lines.
pub(super) fn read(corpus: &dyn Corpus, document: u32, into: &mut Document) -> Result<(), Error> {
    corpus.read(document as usize, into)?;
    let (ends, tokens) = (&mut into.sentence_ends, into.tokens.len());
    if !ends.is_sorted() || ends.last().copied().unwrap_or(0) != tokens {
        let why =
            format!("document {document}: expected ascending sentence ends up to {tokens}, found {ends:?}");
        return refuse("corpus", why);
    }
    if tokens != corpus.len_of(document as usize) {
        let expected = corpus.len_of(document as usize);
        return refuse("corpus", format!("document {document}: expected {expected} tokens, found {tokens}"));
    }
    ends.dedup();
    if ends.first() == Some(&0) {
        ends.remove(0);
    }
    Ok(())
}

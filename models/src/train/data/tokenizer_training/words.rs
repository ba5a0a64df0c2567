//! Words of a text and their counts.

use super::TokenizerTraining;
use super::family::Algorithm;
use crate::checkpoint::tokenizer::caught;
use crate::error::Error;
use crate::train::data::text::{SentenceSplit, TextDocuments};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer as _, PreTokenizerWrapper,
};

/// Words of a text, as the tokenizer's normalizer and pre-tokenizer make them.
#[derive(Debug, Default)]
pub struct Words {
    /// Different words and their numbers, ascending. No word has characters outside of `alphabet`.
    pub counts: Vec<(String, u64)>,
    /// Characters that are tokens, ascending.
    pub alphabet: Vec<char>,
    /// Characters of `alphabet` that a word has after its first one, ascending.
    pub inner: Vec<char>,
    /// Number of words in the text.
    pub total: u64,
}

/// Upper bound of a word's characters: WordPiece takes no longer words. Time to train grows with the square.
const WORDPIECE_CHARS: usize = 100;

/// Upper bound of a word's characters elsewhere. Text without white space makes words as long as its lines.
const CHARS: usize = 1000;

type Counts = HashMap<String, u64>;

impl Words {
    /// Counts the words of `documents`.
    pub fn count(
        training: &TokenizerTraining,
        documents: &mut TextDocuments,
        sentences: SentenceSplit,
        mut watch: impl FnMut(u64),
    ) -> Result<Self, Error> {
        let family = training.family;
        let mut parts = family.parts(training.lowercase);
        if let Some(pre_tokenizer) = family.training_pre_tokenizer() {
            parts["pre_tokenizer"] = pre_tokenizer;
        }
        let part = |name: &str| parts[name].clone();
        let normalizer: Option<NormalizerWrapper> =
            serde_json::from_value(part("normalizer")).expect("a normalizer of the crate tokenizers");
        let pre_tokenizer: PreTokenizerWrapper =
            serde_json::from_value(part("pre_tokenizer")).expect("a pre-tokenizer of the crate tokenizers");
        let longest = if family.algorithm() == Algorithm::WordPiece { WORDPIECE_CHARS } else { CHARS };

        let mut all = Counts::new();
        while let Some(batch) = documents.batch()? {
            let counts = batch
                .par_iter()
                .map(|document| {
                    let mut counts = Counts::new();
                    for piece in document.pieces(sentences) {
                        let mut text = NormalizedString::from(piece);
                        normalizer.as_ref().map_or(Ok(()), |n| n.normalize(&mut text))?;
                        let mut words = PreTokenizedString::from(text);
                        pre_tokenizer.pre_tokenize(&mut words)?;
                        for (word, ..) in words.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                            // At most `longest` steps, where counting all characters of a long word would take more.
                            if !word.is_empty() && word.chars().nth(longest).is_none() {
                                add(&mut counts, word, 1);
                            }
                        }
                    }
                    Ok(counts)
                })
                .try_reduce(Counts::new, |a, b| Ok(merged(a, b)));
            // Sums do not depend on the order, which differs from run to run.
            let counts = caught(|| counts).map_err(|why| Error::Input { name: "text", why })?;
            all = merged(all, counts);
            watch(documents.bytes_read());
        }
        let alphabet = match family.algorithm() {
            Algorithm::ByteLevelBpe => ByteLevel::alphabet().into_iter().collect(),
            _ => most_frequent(&all, training.alphabet),
        };
        let mut words = Self { alphabet, ..Self::default() };
        words.alphabet.sort_unstable();
        words.counts = all
            .into_iter()
            .filter(|(word, _)| word.chars().all(|c| words.alphabet.binary_search(&c).is_ok()))
            .collect();
        words.counts.sort_unstable();
        let inner: HashSet<_> = words.counts.iter().flat_map(|(word, _)| word.chars().skip(1)).collect();
        words.inner = inner.into_iter().collect();
        words.inner.sort_unstable();
        words.total = words.counts.iter().map(|(_, count)| count).sum();
        match words.counts.is_empty() {
            true => {
                Err(Error::Input { name: "text", why: "has no words to train a tokenizer on".to_owned() })
            }
            false => Ok(words),
        }
    }
}

/// Adds `n` words to `counts`.
fn add(counts: &mut Counts, word: &str, n: u64) {
    match counts.get_mut(word) {
        Some(count) => *count += n,
        None => drop(counts.insert(word.to_owned(), n)),
    }
}

fn merged(a: Counts, b: Counts) -> Counts {
    let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
    small.into_iter().for_each(|(word, n)| add(&mut large, &word, n));
    large
}

/// The `n` most frequent characters; of equally frequent ones, those with the lower code points.
fn most_frequent(words: &Counts, n: usize) -> Vec<char> {
    let mut counts = HashMap::new();
    for (word, count) in words {
        word.chars().for_each(|c| *counts.entry(c).or_insert(0) += count);
    }
    let mut characters: Vec<_> = counts.into_iter().collect();
    characters.sort_unstable_by_key(|&(c, count)| (Reverse(count), c));
    characters.into_iter().take(n).map(|(c, _)| c).collect()
}

//! Merges of byte pair encoding (Sennrich et al. 2016, <https://arxiv.org/abs/1508.07909>), also for WordPiece.
//!
//! Words begin as characters. The most frequent pair of adjacent tokens becomes a token, until the vocabulary is full; of
//! equally frequent pairs, the one with the lower ids. The results are those of the crate tokenizers, whose trainer has
//! three faults:
//! 1. Ids of `##` characters have the order of a hash map with random keys, so two runs give different vocabularies.
//! 2. Its queue may hold two entries of one pair and one count, which it merges one after the other in the order of a
//!    hash map.
//! 3. It counts pairs in 32 bits.

use super::words::Words;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A pair of adjacent tokens.
type Pair = (u32, u32);

/// A pair in the text.
#[derive(Default)]
struct Places {
    /// Number of appearances. Negative for a moment while a word is merged.
    count: i64,
    /// Words that have the pair, or had it.
    words: Vec<u32>,
}

/// Trains a vocabulary of at most `vocab_size` tokens: those of `reserved`, the alphabet, and merges that appear at least
/// `min_frequency` times. Every token that does not begin a word starts with `prefix`. Returns the tokens by id, and the
/// merges in their order.
pub fn train(
    words: &Words,
    reserved: Vec<String>,
    prefix: &str,
    vocab_size: usize,
    min_frequency: u64,
) -> (Vec<String>, Vec<[String; 2]>) {
    let n_reserved = reserved.len() as u32;
    let mut tokens = reserved;
    tokens.extend(words.alphabet.iter().map(char::to_string));
    if !prefix.is_empty() {
        tokens.extend(words.inner.iter().map(|c| format!("{prefix}{c}")));
    }
    let mut ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut texts: Vec<Vec<u32>> = words
        .counts
        .iter()
        .map(|(word, _)| {
            let inner = |(i, c): (usize, char)| ids[&format!("{}{c}", if i == 0 { "" } else { prefix })];
            word.chars().enumerate().map(inner).collect()
        })
        .collect();

    let mut pairs: HashMap<Pair, Places> = HashMap::new();
    for (i, (text, (_, count))) in texts.iter().zip(&words.counts).enumerate() {
        for pair in text.windows(2) {
            let places = pairs.entry((pair[0], pair[1])).or_default();
            places.count += *count as i64;
            if places.words.last() != Some(&(i as u32)) {
                places.words.push(i as u32);
            }
        }
    }
    // Entries hold the count when they were pushed. Counts that fell since are corrected when the entry is popped.
    let mut queue: BinaryHeap<(i64, Reverse<Pair>)> =
        pairs.iter().map(|(&pair, places)| (places.count, Reverse(pair))).collect();
    let mut merges = Vec::new();
    let mut changed = Vec::new();
    while tokens.len() < vocab_size
        && let Some((count, Reverse(pair))) = queue.pop()
    {
        let now = pairs.get(&pair).map_or(0, |places| places.count);
        if now != count {
            if now > 0 {
                queue.push((now, Reverse(pair)));
            }
            continue;
        }
        if count < 1 || count.unsigned_abs() < min_frequency {
            break;
        }
        let [first, second] = [pair.0, pair.1].map(|id| tokens[id as usize].clone());
        let token = format!("{first}{}", second.strip_prefix(prefix).unwrap_or(&second));
        let places = pairs.remove(&pair).unwrap_or_default();
        let id = match ids.get(&token) {
            // Text that spells a special token stays in pieces.
            Some(&id) if id < n_reserved => continue,
            Some(&id) => id,
            None => {
                let id = tokens.len() as u32;
                ids.insert(token.clone(), id);
                tokens.push(token);
                id
            }
        };
        merges.push([first, second]);
        for i in places.words {
            let count = words.counts[i as usize].1 as i64;
            merge(&mut texts[i as usize], pair, id, |other, change| {
                if other != pair {
                    let places = pairs.entry(other).or_default();
                    places.count += change * count;
                    if change > 0 {
                        if places.words.last() != Some(&i) {
                            places.words.push(i);
                        }
                        changed.push(other);
                    }
                }
            });
        }
        changed.sort_unstable();
        changed.dedup();
        queue.extend(changed.drain(..).map(|pair| (pairs[&pair].count, Reverse(pair))));
    }
    (tokens, merges)
}

/// Replaces each `pair` in `text` by `id`, from left to right. Tells `change` by how many each other pair becomes more or
/// less frequent.
fn merge(text: &mut Vec<u32>, pair: Pair, id: u32, mut change: impl FnMut(Pair, i64)) {
    let mut at = 0;
    while at + 1 < text.len() {
        if (text[at], text[at + 1]) == pair {
            if at > 0 {
                change((text[at - 1], pair.0), -1);
                change((text[at - 1], id), 1);
            }
            if let Some(&next) = text.get(at + 2) {
                change((pair.1, next), -1);
                change((id, next), 1);
            }
            text[at] = id;
            text.remove(at + 1);
        }
        at += 1;
    }
}

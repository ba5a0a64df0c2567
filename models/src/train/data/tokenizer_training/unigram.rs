//! Pieces of a unigram language model (Kudo 2018, <https://arxiv.org/abs/1804.10959>).

use super::words::Words;
use crate::checkpoint::tokenizer::caught;
use crate::error::Error;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};

/// Step between the scores of characters that the trainer adds at the end.
const STEP: f64 = 0.0001;

/// Trains `n` pieces, or fewer on little text, with their log-probabilities, descending. Every character of the alphabet
/// is a piece.
///
/// The trainer of the crate tokenizers sums in the order of its threads, so it gets one. It gives characters that it has
/// dropped before the lowest score plus 0, 1, 2, .. steps in the order of a hash set, so these are handed out again.
pub fn train(words: &Words, n: usize) -> Result<Vec<(String, f64)>, Error> {
    let error = |why: String| Error::Input { name: "text", why };
    let failed = |e: &dyn std::fmt::Display| error(format!("training the unigram model failed: {e}"));
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size(u32::try_from(n).map_err(|e| failed(&e))?)
        .build()
        .map_err(|e| failed(&e))?;
    let sentences = counts_of_32_bits(&words.counts);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| failed(&e))?;
    let model = caught(|| {
        let mut model = Unigram::default();
        pool.install(|| trainer.do_train(sentences, &mut model))?;
        Ok(model)
    })
    .map_err(|e| failed(&e))?;
    let mut pieces: Vec<_> = model.iter().cloned().collect();
    order(&mut pieces);
    Ok(pieces)
}

/// Counts whose sum over all characters fits the trainer's 32 bits. Larger ones are divided by a common number.
fn counts_of_32_bits(words: &[(String, u64)]) -> Vec<(String, u32)> {
    let characters: u64 = words.iter().map(|(word, count)| word.chars().count() as u64 * count).sum();
    // Rounding up adds at most one for each different word, within the other half of the range.
    let divisor = characters / (1 << 31) + 1;
    words.iter().map(|(word, count)| (word.clone(), count.div_ceil(divisor) as u32)).collect()
}

/// Sorts pieces by score, then by bytes. Gives the scores min, min + STEP, min + 2 STEP, .. of single characters to these
/// characters in ascending order.
fn order(pieces: &mut [(String, f64)]) {
    let least = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let is_character = |piece: &str| piece.chars().nth(1).is_none();
    let mut added = Vec::new();
    let mut penalty = 0.0;
    loop {
        let score = least + penalty;
        let before = added.len();
        added.extend((0..pieces.len()).filter(|&i| pieces[i].1 == score && is_character(&pieces[i].0)));
        if added.len() == before {
            break;
        }
        penalty += STEP;
    }
    // `added` ascends in score.
    let mut names: Vec<_> = added.iter().map(|&i| pieces[i].0.clone()).collect();
    names.sort_unstable();
    for (i, name) in added.into_iter().zip(names) {
        pieces[i].0 = name;
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
}

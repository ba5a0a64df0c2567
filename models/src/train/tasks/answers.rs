//! Answers: windows of a question's context, and the best span of their tokens.

use super::example::{Example, Target};
use super::squad::Question;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::error::Error;
use std::ops::Range;

/// Largest number of tokens in an answer.
const LONGEST: usize = 30;

/// Examples of a question: a window of the context each, of at most `max_length` tokens.
pub(super) fn windows(
    question: &Question,
    number: usize,
    tokenizer: &mut Tokenizer,
    max_length: usize,
) -> Result<Vec<Example>, Error> {
    let texts = [&*question.question, &*question.context];
    let (batch, places) = tokenizer.encode_windows(texts, max_length)?;
    let gold = question.answers.first().map(|answer| &answer.bytes);
    let window = |ends: &[usize]| {
        let tokens = ends[0]..ends[1];
        let places: Vec<Option<Range<usize>>> = places[tokens.clone()]
            .iter()
            .map(|place| (place.text == Some(1)).then(|| place.bytes.clone()))
            .collect();
        let columns = gold.and_then(|gold| columns(&places, gold)).unwrap_or([0; 2]);
        Example {
            ids: batch.ids()[tokens.clone()].to_vec(),
            types: batch.types[tokens].to_vec(),
            target: Target::Answer { question: number, columns, places },
        }
    };
    Ok(batch.starts().windows(2).map(window).collect())
}

/// Columns of the first and the last token of the bytes `gold`; `None` if the window does not have all of them.
fn columns(places: &[Option<Range<usize>>], gold: &Range<usize>) -> Option<[i64; 2]> {
    let of_context = || places.iter().enumerate().filter_map(|(i, place)| Some((i, place.as_ref()?)));
    let (first, last) = (of_context().next()?.1, of_context().next_back()?.1);
    if first.start > gold.start || last.end < gold.end {
        return None;
    }
    let start = of_context().find(|(_, place)| place.end > gold.start)?.0;
    let end = of_context().rfind(|(_, place)| place.start < gold.end)?.0;
    (start <= end).then_some([start as i64, end as i64])
}

/// Best answers to a question so far.
#[derive(Clone, Debug)]
pub(super) struct BestAnswer {
    /// Score and bytes of the best span.
    span: (f32, Range<usize>),
    /// Smallest score of a window's first token, which stands for no answer.
    none: f32,
}

impl Default for BestAnswer {
    fn default() -> Self {
        Self { span: (f32::NEG_INFINITY, 0..0), none: f32::INFINITY }
    }
}

impl BestAnswer {
    /// Takes a window's logits, \[tokens, 2\]: those of starts and of ends.
    pub fn add(&mut self, logits: &[f32], places: &[Option<Range<usize>>]) {
        let logits = logits.as_chunks::<2>().0;
        self.none = self.none.min(logits[0][0] + logits[0][1]);
        for (first, place) in places.iter().enumerate() {
            let Some(start) = place else { continue };
            for (last, place) in places.iter().enumerate().skip(first).take(LONGEST) {
                let Some(end) = place else { break };
                let score = logits[first][0] + logits[last][1];
                if score > self.span.0 {
                    self.span = (score, start.start..end.end);
                }
            }
        }
    }

    /// Bytes of the answer. With `may_be_none`, the answer is empty if no answer has a larger score.
    pub fn bytes(&self, may_be_none: bool) -> Range<usize> {
        if may_be_none && self.none > self.span.0 { 0..0 } else { self.span.1.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_enclose_the_answer() {
        let places = [None, Some(0..3), None, Some(4..7), Some(7..9), Some(10..12), None];
        assert_eq!(columns(&places, &(4..7)), Some([3, 3]));
        assert_eq!(columns(&places, &(5..11)), Some([3, 5]));
        assert_eq!(columns(&places, &(4..13)), None);
        assert_eq!(columns(&[None, Some(4..7)], &(2..6)), None);
        assert_eq!(columns(&[None], &(0..1)), None);
    }

    #[test]
    fn the_best_span_stays_in_the_context() {
        let places = [None, Some(0..3), Some(4..7), None];
        // The separator has the best end, and the best start comes after the best end.
        let logits = [0.5, 0.5, 1.0, 3.0, 4.0, 1.0, 9.0, 9.0];
        let mut best = BestAnswer::default();
        best.add(&logits, &places);
        assert_eq!((best.bytes(false), best.bytes(true)), (4..7, 4..7));
        let mut unsure = BestAnswer::default();
        unsure.add(&[5.0, 5.0, 1.0, 3.0, 4.0, 1.0, 9.0, 9.0], &places);
        assert_eq!((unsure.bytes(false), unsure.bytes(true)), (4..7, 0..0));
    }
}

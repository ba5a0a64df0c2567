//! Examples: tokens and targets of a dataset, and the micro-batches that they make.

use super::answers;
use super::dataset::{Content, Dataset};
use super::example::{Example, Target};
use super::setup::TaskSetup;
use super::squad::Question;
use super::table::{TextRow, at_line};
use super::{TaggedSentence, Task};
use crate::batch::Batch;
use crate::error::Error;
use crate::labels::Labels;
use crate::layers::IGNORED;
use crate::model::Model;
use crate::train::MicroBatch;
use std::ops::Range;
use tilewright_kernels::philox4x32_10;

/// Examples of a dataset, in its order.
#[derive(Clone, Debug)]
pub struct Examples {
    pub(super) list: Vec<Example>,
    /// Questions of the examples' windows.
    pub(super) questions: Vec<Question>,
    /// Words without a token to score: beyond the model's length, or made of characters that the tokenizer drops.
    pub unscored_words: usize,
}

impl Examples {
    /// Encodes the examples of a dataset for the model of `setup`.
    ///
    /// # Errors
    /// [`Error::File`], which names the line, if a label is not one of the setup's, or a text has no tokens.
    pub fn encode(dataset: &Dataset, setup: &TaskSetup) -> Result<Self, Error> {
        let mut examples = Self { list: Vec::new(), questions: Vec::new(), unscored_words: 0 };
        match &dataset.content {
            Content::Rows(rows) => {
                for row in rows {
                    let list = &mut examples.list;
                    encode_row(row, dataset, setup, list).map_err(|e| {
                        // An empty sequence is the fault of the row.
                        match e {
                            Error::Input { name, why } => {
                                at_line(&dataset.path, row.line, format!("{name}: {why}"))
                            }
                            e => e,
                        }
                    })?;
                }
            }
            Content::Sentences(sentences) => {
                for sentence in sentences {
                    let (example, unscored) = encode_sentence(sentence, dataset, setup)?;
                    examples.unscored_words += unscored;
                    examples.list.extend(example);
                }
            }
            Content::Questions(questions) => {
                // Encoding windows changes the limits of the tokenizer.
                let mut tokenizer = setup.tokenizer.clone();
                for (number, question) in questions.iter().enumerate() {
                    let windows = answers::windows(question, number, &mut tokenizer, setup.max_length)
                        .map_err(|e| Error::File {
                            path: dataset.path.clone(),
                            why: format!("{}: {e}", question.place),
                        })?;
                    examples.list.extend(windows);
                }
                examples.questions = questions.clone();
            }
        }
        match examples.list.is_empty() {
            true => Err(Error::File {
                path: dataset.path.clone(),
                why: "has no example with a token to score".to_owned(),
            }),
            false => Ok(examples),
        }
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there are no sequences; [`encode`](Self::encode) refuses that.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The examples.
    pub fn list(&self) -> &[Example] {
        &self.list
    }

    /// Order of the examples in an epoch: a function of the seed and the epoch.
    pub fn order(&self, seed: u64, epoch: u32) -> Vec<usize> {
        let key = [seed as u32, (seed >> 32) as u32];
        let random = |i: usize| {
            let [a, b, ..] = philox4x32_10([i as u32, (i as u64 >> 32) as u32, epoch, ORDER], key);
            [a, b]
        };
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_cached_key(|&i| (random(i), i));
        order
    }

    /// The micro-batch of the examples `which`.
    ///
    /// # Errors
    /// [`Error::Input`] if the model refuses a target.
    pub fn micro_batch(&self, which: &[usize], model: &dyn Model) -> Result<MicroBatch, Error> {
        let (mut batch, mut labels) = (Batch::default(), Labels::default());
        let mut words: Vec<&[i64]> = Vec::new();
        for Example { ids, types, target } in which.iter().map(|&i| &self.list[i]) {
            batch.push(ids, types)?;
            match target {
                Target::Class(class) => labels.labels.push(*class as i64),
                Target::Value(value) => labels.values.push(*value),
                Target::Tags(tags) => labels.labels.extend(tags),
                Target::Answer { columns, .. } => {
                    labels.answers.iter_mut().zip(columns).for_each(|(all, &column)| all.push(column));
                }
                Target::NextTokens => labels.labels.extend(ids.iter().map(|&id| i64::from(id))),
                Target::Tokens(tokens) => {
                    labels.labels.extend(tokens);
                    words.push(tokens);
                }
            }
        }
        let decoder = model.decoder_inputs(&batch, &words)?;
        Ok(MicroBatch { batch, decoder, labels })
    }
}

/// Last word of the counters of orders; it tells them from other random numbers of the seed.
const ORDER: u32 = u32::from_be_bytes(*b"orde");

/// Encodes a row; a long text of a causal LM makes several examples.
fn encode_row(
    row: &TextRow,
    dataset: &Dataset,
    setup: &TaskSetup,
    list: &mut Vec<Example>,
) -> Result<(), Error> {
    let TaskSetup { task, tokenizer, max_length, .. } = setup;
    let TextRow { line, text, second, label } = row;
    let error = |why: String| at_line(&dataset.path, *line, why);
    if let (Task::Causal, Some(answer)) = (task, label) {
        // The answer's tokens alone are targets.
        let prompt = tokenizer.encode(&[text])?.ids().to_vec();
        let mut target = tokenizer.encode_as_written(answer)?;
        target.extend(end_token(setup));
        let ids = [&prompt[..], &target].concat();
        if ids.len() > *max_length || target.is_empty() {
            let found = ids.len();
            return Err(error(format!(
                "expected an answer, and at most {max_length} tokens with its text; found {found}"
            )));
        }
        let mut labels = vec![IGNORED; prompt.len()];
        labels.extend(target.into_iter().map(i64::from));
        list.push(Example { types: vec![0; ids.len()], ids, target: Target::Tokens(labels) });
        return Ok(());
    }
    let label = label.as_deref().unwrap_or_default();
    if *task == Task::Causal {
        let mut ids = tokenizer.encode(&[text])?.ids().to_vec();
        if let Some(end) = end_token(setup).filter(|end| ids.last() != Some(end)) {
            ids.push(end);
        }
        // A sequence of one token has no next token.
        list.extend(ids.chunks(*max_length).filter(|ids| ids.len() > 1).map(|ids| Example {
            types: vec![0; ids.len()],
            ids: ids.to_vec(),
            target: Target::NextTokens,
        }));
        return Ok(());
    }
    let target = match task {
        Task::Regress => match label.trim().parse::<f32>() {
            Ok(value) if value.is_finite() => Target::Value(value),
            _ => return Err(error(format!("expected a number as label, found {label:?}"))),
        },
        Task::Seq2Seq => {
            let ids = tokenizer.encode(&[label])?.ids().to_vec();
            Target::Tokens(ids.into_iter().map(i64::from).collect())
        }
        _ => Target::Class(class(label, setup).map_err(error)?),
    };
    let (batch, _) = tokenizer.encode_placed(text, second.as_deref())?;
    list.push(Example { ids: batch.ids, types: batch.types, target });
    Ok(())
}

/// Number of the class `label`.
fn class(label: &str, setup: &TaskSetup) -> Result<usize, String> {
    setup.labels.iter().position(|known| known == label).ok_or_else(|| {
        let known = setup.labels.join(", ");
        format!("expected a label of {known}; found {label:?}")
    })
}

/// End token of a text of a causal LM.
fn end_token(setup: &TaskSetup) -> Option<u32> {
    let of_tokenizer = setup.tokenizer.eos_token().and_then(|token| setup.tokenizer.id(token));
    of_tokenizer.or_else(|| setup.config.get("eos_token_id", None).ok().flatten())
}

/// Encodes a sentence: the tag of a word is the target of its first token. Also returns the number of words without a
/// token; `None` if all are.
fn encode_sentence(
    sentence: &TaggedSentence,
    dataset: &Dataset,
    setup: &TaskSetup,
) -> Result<(Option<Example>, usize), Error> {
    let mut classes = Vec::with_capacity(sentence.tags.len());
    for (line, tag) in (sentence.line..).zip(&sentence.tags) {
        classes.push(class(tag, setup).map_err(|why| at_line(&dataset.path, line, why))?);
    }
    // Ends of the words in the text of all words and spaces.
    let mut text = String::new();
    let mut words: Vec<Range<usize>> = Vec::new();
    for word in &sentence.words {
        if !text.is_empty() {
            text.push(' ');
        }
        words.push(text.len()..text.len() + word.len());
        text.push_str(word);
    }
    let (batch, places) = setup.tokenizer.encode_placed(&text, None)?;
    let mut tags = vec![IGNORED; batch.tokens()];
    let mut next = 0;
    let mut scored = 0;
    for (tag, place) in tags.iter_mut().zip(&places) {
        if place.text.is_none() || place.bytes.is_empty() {
            continue;
        }
        // A token may begin with the space before its word, so its last byte tells the word.
        let last = place.bytes.end - 1;
        let word = words.partition_point(|word| word.end <= last);
        if word >= next && words.get(word).is_some_and(|word| word.contains(&last)) {
            *tag = classes[word] as i64;
            next = word + 1;
            scored += 1;
        }
    }
    let example = Example { ids: batch.ids, types: batch.types, target: Target::Tags(tags) };
    Ok(((scored > 0).then_some(example), words.len() - scored))
}

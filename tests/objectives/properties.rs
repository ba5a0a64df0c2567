//! Properties of examples of random corpora.

use crate::{corpus, examples, reassemble};
use proptest::prelude::*;
use tilewright::train::data::{Corpus, MemoryCorpus};
use tilewright::train::objectives::{
    Example, FullSentences, IGNORED, MaskedLmNextSentence, Masking, NextToken, Objective, ReplacedTokens,
    SentenceOrder, SpanCorruption, TextInfilling,
};

/// Ids from here on are special, sentinels or unused.
const TEXT_END: u32 = 60;
const VOCABULARY: u32 = 100;

/// Settings of all recipes for sequences of at most `seq` tokens.
fn objectives(seq: usize) -> Vec<Box<dyn Objective>> {
    let (vocabulary, mask) = (VOCABULARY, 99);
    let (cls, sep, bos, eos) = (1, 2, 0, 2);
    let word_starts = Some((0..vocabulary).map(|id| id % 2 == 0).collect::<Vec<bool>>());
    vec![
        Box::new(MaskedLmNextSentence { seq, vocabulary, cls, sep, mask, ..MaskedLmNextSentence::default() }),
        Box::new(SentenceOrder {
            seq,
            vocabulary,
            cls,
            sep,
            mask,
            word_starts: word_starts.clone(),
            ..SentenceOrder::default()
        }),
        Box::new(ReplacedTokens { seq, vocabulary, cls, sep, mask, ..ReplacedTokens::default() }),
        Box::new(FullSentences {
            seq,
            vocabulary,
            bos,
            eos,
            mask,
            special: vec![0, 1, 2, 3, 99],
            ..FullSentences::default()
        }),
        Box::new(SpanCorruption { inputs: seq, vocabulary, sentinels: 30, ..SpanCorruption::default() }),
        Box::new(TextInfilling { seq, vocabulary, bos, eos, mask, word_starts, ..TextInfilling::default() }),
        Box::new(TextInfilling {
            seq,
            vocabulary,
            bos,
            eos,
            mask,
            random_ratio: 0.5,
            lambda: 0.3,
            ..TextInfilling::default()
        }),
        Box::new(NextToken { seq, vocabulary, start: Some(1), end: Some(2), across_documents: true }),
        Box::new(NextToken { seq, vocabulary, start: Some(1), end: None, across_documents: false }),
    ]
}

/// Documents of sentences of text ids, some empty; at least one document has two tokens.
fn documents() -> impl Strategy<Value = Vec<Vec<Vec<u32>>>> {
    let sentence = prop::collection::vec(4..TEXT_END, 0..14);
    let document = prop::collection::vec(sentence, 0..6);
    (prop::collection::vec(document, 0..6), 0..6usize).prop_map(|(mut documents, at)| {
        documents.insert(at.min(documents.len()), vec![vec![7, 8]]);
        documents
    })
}

/// The ids with every prediction undone.
fn restored(example: &Example) -> Vec<u32> {
    let restore = |(&id, &label): (&u32, &i64)| if label == IGNORED { id } else { label as u32 };
    example.ids.iter().zip(&example.labels).map(restore).collect()
}

fn sorted<T: Ord>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort();
    values
}

proptest! {
    #[test]
    fn examples_fit(documents in documents(), seq in 5..40usize, seed: u64, epoch: u32) {
        let corpus = corpus(&documents);
        for objective in objectives(seq) {
            for example in examples(&objective.epoch(&corpus, seed, epoch).unwrap()) {
                let Example { ids, token_types, decoder_ids, labels, .. } = &example;
                prop_assert!(!ids.is_empty() && ids.len() <= seq, "{example:?}");
                prop_assert!(token_types.is_empty() || token_types.len() == ids.len());
                let outputs = if decoder_ids.is_empty() { ids } else { decoder_ids };
                prop_assert_eq!(labels.len(), outputs.len());
                prop_assert!(outputs.len() <= seq);
                prop_assert!(ids.iter().chain(decoder_ids).all(|&id| id < VOCABULARY));
                prop_assert!(labels.iter().all(|&l| l == IGNORED || (0..i64::from(VOCABULARY)).contains(&l)));
            }
        }
    }

    #[test]
    fn examples_do_not_depend_on_the_order_of_calls(documents in documents(), seed: u64, epoch in 0..50u32) {
        let corpus = corpus(&documents);
        for objective in objectives(16) {
            let made = objective.epoch(&corpus, seed, epoch).unwrap();
            let expected = examples(&made);
            // Backwards, into an example in use, by two threads, from another epoch object.
            let again = objective.epoch(&corpus, seed, epoch).unwrap();
            std::thread::scope(|scope| {
                for made in [&made, &again] {
                    let expected = &expected;
                    scope.spawn(move || {
                        let mut example = Example::default();
                        for index in (0..made.len()).rev() {
                            made.example(index, &mut example).unwrap();
                            assert_eq!(example, expected[index]);
                        }
                    });
                }
            });
        }
    }

    /// Masks change, the text below does not; special tokens are never predicted.
    #[test]
    fn masked_positions_restore_the_original(documents in documents(), seq in 5..40usize, seed: u64) {
        let corpus = corpus(&documents);
        let (vocabulary, mask) = (VOCABULARY, 99);
        let (cls, sep) = (1, 2);
        let texts = |objective: &dyn Objective, epoch| {
            let made = examples(&objective.epoch(&corpus, seed, epoch).unwrap());
            for example in &made {
                let predicted = example.labels.iter().filter(|&&label| label != IGNORED);
                assert!(predicted.clone().all(|&label| (4..i64::from(TEXT_END)).contains(&label)), "{example:?}");
            }
            made.iter().map(restored).collect::<Vec<_>>()
        };
        let bert = MaskedLmNextSentence { seq, vocabulary, cls, sep, mask, ..MaskedLmNextSentence::default() };
        prop_assert_eq!(texts(&bert, 3), texts(&MaskedLmNextSentence { mask_prob: 0.6, ..bert.clone() }, 3));
        let albert = SentenceOrder { seq, vocabulary, cls, sep, mask, ..SentenceOrder::default() };
        prop_assert_eq!(texts(&albert, 3), texts(&SentenceOrder { mask_prob: 0.6, ..albert.clone() }, 3));
        let electra = ReplacedTokens { seq, vocabulary, cls, sep, mask, ..ReplacedTokens::default() };
        prop_assert_eq!(sorted(texts(&electra, 0)), sorted(texts(&electra, 1)));
        let special = vec![0, 1, 2, 3, 99];
        let roberta = FullSentences { seq, vocabulary, mask, special, ..FullSentences::default() };
        let plain = FullSentences { mask_prob: 0.0, ..roberta.clone() };
        prop_assert_eq!(sorted(texts(&roberta, 0)), sorted(texts(&plain, 1)));
        let all = FullSentences { mask_prob: 1.0, ..roberta };
        prop_assert_eq!(texts(&all, 1), texts(&plain, 1));
    }

    #[test]
    fn t5_segments_reassemble(lengths in prop::collection::vec(0..90usize, 1..5), inputs in 3..60usize, seed: u64) {
        // Each token is its own place in the corpus.
        let mut next = 1000;
        let documents: Vec<Vec<Vec<u32>>> = lengths.iter().map(|&n| {
            next += n as u32;
            vec![(next - n as u32..next).collect()]
        }).collect();
        prop_assume!(next > 1000);
        let corpus = corpus(&documents);
        let objective = SpanCorruption { inputs, ..SpanCorruption::default() };
        let (segment, most) = objective.lengths().unwrap();
        let made = examples(&objective.epoch(&corpus, seed, 0).unwrap());
        prop_assert_eq!(made.len(), (next as usize - 1000).div_ceil(segment));
        let mut tokens = Vec::new();
        for Example { ids, decoder_ids, labels, .. } in made {
            prop_assert!(ids.len() <= inputs && labels.len() <= most);
            let targets: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
            prop_assert_eq!((decoder_ids[0], &decoder_ids[1..]), (0, &targets[..targets.len() - 1]));
            prop_assert_eq!((ids[ids.len() - 1], targets[targets.len() - 1]), (1, 1));
            tokens.extend(reassemble(&ids, &targets, 32000..32100));
        }
        prop_assert_eq!(sorted(tokens), (1000..next).collect::<Vec<u32>>());
    }

    #[test]
    fn bart_permutes_and_deletes(documents in documents(), seq in 4..40usize, seed: u64) {
        let corpus = corpus(&documents);
        let whole = TextInfilling { seq, vocabulary: VOCABULARY, mask: 99, mask_ratio: 0.0, ..TextInfilling::default() };
        for example in examples(&whole.epoch(&corpus, seed, 0).unwrap()) {
            let text: Vec<u32> = example.labels.iter().map(|&label| label as u32).collect();
            prop_assert_eq!((text[0], text[text.len() - 1]), (0, 2));
            prop_assert_eq!(sorted(text.clone()), sorted(example.ids.clone()));
            prop_assert_eq!((example.decoder_ids[0], &example.decoder_ids[1..]), (2, &text[..text.len() - 1]));
        }
        let plain = TextInfilling { permute_ratio: 0.0, ..whole };
        for example in examples(&plain.epoch(&corpus, seed, 0).unwrap()) {
            prop_assert_eq!(&example.decoder_ids[1..], &example.ids[..example.ids.len() - 1]);
        }
        let masked = TextInfilling { mask_ratio: 0.3, ..plain };
        for example in examples(&masked.epoch(&corpus, seed, 0).unwrap()) {
            // The remaining tokens keep their order, and at least 70% remain.
            let mut text = example.labels.iter().map(|&label| label as u32);
            let kept = example.ids.iter().filter(|&&id| id != 99);
            prop_assert!(kept.clone().all(|&id| text.any(|other| other == id)), "{example:?}");
            let words = example.labels.len() - 2;
            prop_assert!(kept.count() - 2 >= words - (words as f64 * 0.3 + 1e-6).ceil() as usize);
        }
    }

    #[test]
    fn rows_of_the_causal_lm_tile_documents(documents in documents(), seq in 1..40usize, seed: u64) {
        let corpus = corpus(&documents);
        let rows = NextToken { seq, vocabulary: VOCABULARY, start: None, end: Some(99), across_documents: true };
        let made = examples(&rows.epoch(&corpus, seed, 0).unwrap());
        let text: Vec<u32> = documents.iter().flatten().flatten().copied().collect();
        let ends = (0..corpus.documents()).filter(|&i| corpus.len_of(i) > 0).count();
        let labels: usize = made.iter().map(|e| e.labels.len()).sum();
        prop_assert_eq!(labels, text.len() + ends - 1);
        prop_assert_eq!(made.iter().filter(|e| e.ids.len() < seq).count(), usize::from(!labels.is_multiple_of(seq)));
        prop_assert!(made.iter().all(|e| e.ids[1..].iter().zip(&e.labels).all(|(&id, &label)| i64::from(id) == label)));
        let own = NextToken { across_documents: false, ..rows };
        let made = examples(&own.epoch(&corpus, seed, 0).unwrap());
        // No row holds the end of a document before its last label.
        prop_assert!(made.iter().all(|e| !e.ids.contains(&99)));
        prop_assert_eq!(sorted(made.iter().flat_map(|e| e.ids.clone())), sorted(text));
    }
}

#[test]
fn epochs_repeat_copies_in_another_order() {
    let text =
        (0..30u32).map(|d| (0..4).map(|s| (0..5).map(|i| 4 + (d * 7 + s * 3 + i) % 50).collect()).collect());
    let corpus: MemoryCorpus = corpus(&text.collect::<Vec<Vec<Vec<u32>>>>());
    let epoch = |masking, epoch| {
        let objective = FullSentences {
            seq: 16,
            vocabulary: VOCABULARY,
            mask: 99,
            special: vec![0, 1, 2, 3, 99],
            masking,
            ..FullSentences::default()
        };
        examples(&objective.epoch(&corpus, 5, epoch).unwrap())
    };
    let ids = |examples: &[Example]| sorted(examples.iter().map(|e| e.ids.clone()));
    for (masking, period) in [(Masking::Static, 1), (Masking::Copies(3), 3)] {
        let (first, repeated) = (epoch(masking, 1), epoch(masking, 1 + period));
        assert_ne!(first, repeated, "orders are equal");
        assert_eq!(ids(&first), ids(&repeated));
    }
    for masking in [Masking::Copies(3), Masking::Dynamic] {
        assert_ne!(ids(&epoch(masking, 0)), ids(&epoch(masking, 1)));
    }
    let other: Vec<Vec<u32>> = (0..20).map(|e| ids(&epoch(Masking::Dynamic, e)).concat()).collect();
    assert_eq!(sorted(other.clone()).windows(2).filter(|pair| pair[0] == pair[1]).count(), 0);
}

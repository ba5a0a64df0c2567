//! Settings and corpora that are refused, with the name of the setting.

use crate::{corpus, examples};
use tilewright::Error;
use tilewright::train::Family;
use tilewright::train::data::{Corpus, Document, MemoryCorpus};
use tilewright::train::objectives::{
    FullSentences, MaskedLmNextSentence, Masking, NextToken, Objective, ReplacedTokens, SentenceOrder,
    SpanCorruption, TextInfilling,
};

fn text() -> MemoryCorpus {
    corpus(&[vec![vec![5, 6, 7], vec![8, 9]]])
}

fn refused(objective: impl Objective, expected: &str) {
    let found = objective.epoch(&text(), 0, 0).err().expect(expected).to_string();
    assert_eq!(found, expected);
}

#[test]
fn settings() {
    use FullSentences as Roberta;
    use MaskedLmNextSentence as Bert;
    let bert = Bert::default;
    refused(Bert { seq: 4, ..bert() }, "seq: expected a number from 5 to 16777216, found 4");
    refused(
        Bert { mask: 30522, ..bert() },
        "mask: expected an id below the vocabulary size 30522, found 30522",
    );
    refused(
        Bert { cls: 7, vocabulary: 7, ..bert() },
        "cls: expected an id below the vocabulary size 7, found 7",
    );
    refused(Bert { vocabulary: 0, ..bert() }, "vocabulary: expected at least 1, found 0");
    refused(Bert { mask_prob: 1.5, ..bert() }, "mask_prob: expected a number from 0 to 1, found 1.5");
    refused(
        Bert { short_seq_prob: f64::NAN, ..bert() },
        "short_seq_prob: expected a number from 0 to 1, found NaN",
    );
    refused(Bert { max_predictions: 0, ..bert() }, "max_predictions: expected at least 1, found 0");
    refused(Bert { masking: Masking::Copies(0), ..bert() }, "masking: expected at least 1 copy, found 0");

    let albert = SentenceOrder::default;
    refused(SentenceOrder { ngram: 0, ..albert() }, "ngram: expected at least 1, found 0");
    refused(
        SentenceOrder { word_starts: Some(vec![true; 3]), ..albert() },
        "word_starts: expected 30000 values, one for each id, found 3",
    );

    let electra = ReplacedTokens::default;
    refused(ReplacedTokens { seq: 4, ..electra() }, "seq: expected a number from 5 to 16777216, found 4");
    refused(
        ReplacedTokens { mask_token_prob: -0.1, ..electra() },
        "mask_token_prob: expected a number from 0 to 1, found -0.1",
    );

    let roberta = Roberta::default;
    refused(Roberta { seq: 2, ..roberta() }, "seq: expected a number from 3 to 16777216, found 2");
    refused(
        Roberta { special: vec![50265], ..roberta() },
        "special: expected an id below the vocabulary size 50265, found 50265",
    );
    refused(
        Roberta { leave_unmasked_prob: 0.75, random_token_prob: 0.5, ..roberta() },
        "leave_unmasked_prob + random_token_prob: expected a number from 0 to 1, found 1.25",
    );
    refused(
        Roberta { vocabulary: 3, mask: 1, special: vec![0, 1, 2], ..roberta() },
        "special: all 3 ids are special: no random token is left",
    );

    let t5 = SpanCorruption::default;
    refused(SpanCorruption { inputs: 2, ..t5() }, "inputs: expected a number from 3 to 16777216, found 2");
    refused(
        SpanCorruption { noise_density: 0.0, ..t5() },
        "noise_density: expected a number above 0 and up to 0.9, found 0",
    );
    refused(
        SpanCorruption { mean_noise_span_length: 0.5, ..t5() },
        "mean_noise_span_length: expected a finite number from 1 on, found 0.5",
    );
    refused(
        SpanCorruption { inputs: 2048, ..t5() },
        "sentinels: expected at least 114 for inputs of 2048, found 100",
    );
    refused(
        SpanCorruption { sentinels: 32100, ..t5() },
        "sentinels: expected fewer than the vocabulary size 32100, found 32100",
    );
    refused(
        SpanCorruption { eos: 40000, ..t5() },
        "eos: expected an id below the vocabulary size 32100, found 40000",
    );

    let bart = TextInfilling::default;
    refused(TextInfilling { seq: 3, ..bart() }, "seq: expected a number from 4 to 16777216, found 3");
    refused(
        TextInfilling { lambda: 0.0, ..bart() },
        "lambda: expected a number above 0 and up to 100, found 0",
    );
    refused(
        TextInfilling { mask_ratio: 2.0, ..bart() },
        "mask_ratio: expected a number from 0 to 1, found 2",
    );

    refused(
        NextToken { seq: 0, ..NextToken::default() },
        "seq: expected a number from 1 to 16777216, found 0",
    );
    refused(
        NextToken { end: Some(50257), ..NextToken::default() },
        "end: expected an id below the vocabulary size 50257, found 50257",
    );
}

#[test]
fn corpora_without_tokens() {
    for family in Family::ALL {
        for documents in [vec![], vec![vec![]], vec![vec![vec![]], vec![]]] {
            let objective = family.paper_objective();
            let error = objective.epoch(&corpus(&documents), 0, 0).err().unwrap().to_string();
            let expected = format!(
                "corpus: expected a document with tokens, found {} documents without",
                documents.len()
            );
            assert_eq!(error, expected, "{}", family.name());
        }
    }
}

#[test]
fn tokens_outside_of_the_vocabulary() {
    for family in Family::ALL {
        let corpus = corpus(&[vec![vec![60_000; 20], vec![5; 10]]]);
        let objective = family.paper_objective();
        let epoch = objective.epoch(&corpus, 0, 0).unwrap();
        let mut example = Default::default();
        let errors = (0..epoch.len()).filter_map(|index| epoch.example(index, &mut example).err());
        let errors: Vec<String> = errors.map(|e| e.to_string()).collect();
        let expected = format!("corpus: token: 60000 is not below {}", objective.vocabulary());
        assert!(errors.contains(&expected), "{}: {errors:?}", family.name());
    }
}

/// A corpus that cannot be read, or whose documents are shorter than it says.
struct Damaged {
    fails: bool,
}

impl Corpus for Damaged {
    fn documents(&self) -> usize {
        2
    }

    fn len_of(&self, _: usize) -> usize {
        5
    }

    fn read(&self, document: usize, into: &mut Document) -> Result<(), Error> {
        if self.fails {
            return Err(Error::Input { name: "shard", why: format!("document {document} is damaged") });
        }
        *into = Document { tokens: vec![5; 3], sentence_ends: vec![3] };
        Ok(())
    }
}

#[test]
fn corpora_that_are_damaged() {
    for family in Family::ALL {
        for (fails, expected) in [(true, "shard: document "), (false, "corpus: document ")] {
            let (objective, corpus) = (family.paper_objective(), Damaged { fails });
            let made = objective.epoch(&corpus, 0, 0);
            let error = match made {
                Ok(epoch) => epoch.example(0, &mut Default::default()).err(),
                Err(error) => Some(error),
            };
            let error = error.unwrap().to_string();
            assert!(error.starts_with(expected), "{}: {error}", family.name());
        }
    }
}

#[test]
fn recipes_have_the_papers_settings() {
    let text = text();
    for family in Family::ALL {
        assert!(
            !examples(&family.paper_objective().epoch(&text, 0, 0).unwrap()).is_empty(),
            "{}",
            family.name()
        );
    }
}

/// The smallest vocabularies: every id is special, or one is not.
#[test]
fn smallest_vocabularies() {
    let special = corpus(&[vec![vec![0, 1, 2], vec![1, 0]], vec![vec![2]]]);
    let objectives: [Box<dyn Objective>; 6] = [
        Box::new(MaskedLmNextSentence {
            vocabulary: 3,
            cls: 0,
            sep: 1,
            mask: 2,
            ..MaskedLmNextSentence::default()
        }),
        Box::new(SentenceOrder { vocabulary: 3, cls: 0, sep: 1, mask: 2, ..SentenceOrder::default() }),
        Box::new(ReplacedTokens { vocabulary: 3, cls: 0, sep: 1, mask: 2, ..ReplacedTokens::default() }),
        Box::new(FullSentences {
            vocabulary: 4,
            eos: 1,
            mask: 2,
            special: vec![0, 1, 2],
            ..FullSentences::default()
        }),
        Box::new(TextInfilling {
            vocabulary: 3,
            eos: 1,
            mask: 2,
            random_ratio: 1.0,
            ..TextInfilling::default()
        }),
        Box::new(NextToken { vocabulary: 3, end: None, ..NextToken::default() }),
    ];
    for objective in objectives {
        for epoch in 0..20 {
            for example in examples(&objective.epoch(&special, 1, epoch).unwrap()) {
                assert!(example.ids.iter().all(|&id| id < objective.vocabulary()));
            }
        }
    }
}

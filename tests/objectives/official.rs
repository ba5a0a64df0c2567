//! Statistics of examples beside those of the official code on the same corpus: `tests/golden/objectives.py`.
//!
//! A statistic is a table from a value to its mean count in one pass over the corpus. Both sides have a standard error
//! from the passes, which differ in their seeds alone. Means may differ by at most 4 standard errors of the difference.

use crate::{corpus, examples, reassemble};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tilewright::train::data::MemoryCorpus;
use tilewright::train::objectives::{
    Example, FullSentences, IGNORED, MaskedLmNextSentence, Masking, Objective, ReplacedTokens, SentenceOrder,
    SpanCorruption, TextInfilling,
};

/// Bound in standard errors.
const ERRORS: f64 = 4.0;

/// Values that are rarer on either side are counted together: their counts are far from a normal distribution.
const RARE: f64 = 30.0;

/// Passes of this side.
const PASSES: u32 = 300;

const VOCABULARY: u32 = 1000;
const SEQ: usize = 64;

fn golden(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/objectives").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn golden_corpus() -> MemoryCorpus {
    let documents: Vec<Vec<Vec<u32>>> = serde_json::from_value(golden("corpus.json")).unwrap();
    corpus(&documents)
}

/// Counts of values in each pass.
#[derive(Default)]
struct Statistics {
    passes: Vec<BTreeMap<(&'static str, String), u32>>,
}

impl Statistics {
    fn next_pass(&mut self) {
        self.passes.push(BTreeMap::new());
    }

    fn count(&mut self, name: &'static str, value: impl ToString) {
        *self.passes.last_mut().unwrap().entry((name, value.to_string())).or_default() += 1;
    }

    /// Mean and standard error of the count of some values.
    fn mean(&self, name: &'static str, values: &BTreeSet<String>) -> (f64, f64) {
        let count = |pass: &BTreeMap<(&'static str, String), u32>| {
            values.iter().map(|v| f64::from(pass.get(&(name, v.clone())).copied().unwrap_or(0))).sum::<f64>()
        };
        let counts: Vec<f64> = self.passes.iter().map(count).collect();
        let n = counts.len() as f64;
        let mean = counts.iter().sum::<f64>() / n;
        let squares: f64 = counts.iter().map(|count| (count - mean).powi(2)).sum();
        (mean, (squares / (n - 1.0) / n).sqrt())
    }

    /// Asserts that all statistics agree.
    fn agree(&self, golden: &Value) {
        let passes = golden["passes"].as_f64().unwrap();
        let tables = golden["statistics"].as_object().unwrap();
        let names: BTreeSet<&'static str> =
            self.passes.iter().flat_map(|pass| pass.keys().map(|key| key.0)).collect();
        assert_eq!(
            names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>(),
            tables.keys().cloned().collect::<BTreeSet<_>>(),
        );
        let (mut wrong, mut values) = (Vec::new(), 0);
        for name in names {
            let table = tables[name].as_object().unwrap();
            let official = |value: &str| match table.get(value) {
                Some(found) => (found[0].as_f64().unwrap(), found[1].as_f64().unwrap()),
                None => (0.0, 0.0),
            };
            let ours = self.passes.iter().flat_map(|pass| pass.keys().filter(|key| key.0 == name));
            let all: BTreeSet<String> = ours.map(|key| key.1.clone()).chain(table.keys().cloned()).collect();
            let (rare, frequent): (BTreeSet<String>, BTreeSet<String>) = all.into_iter().partition(|value| {
                let own = self.mean(name, &BTreeSet::from([value.clone()])).0;
                official(value).0 * passes < RARE || own * (self.passes.len() as f64) < RARE
            });
            let rest =
                rare.iter().map(|v| official(v)).fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1 * x.1));
            let rest = (rare, (rest.0, rest.1.sqrt()));
            let single = frequent.into_iter().map(|v| (BTreeSet::from([v.clone()]), official(&v)));
            for (values_here, (expected, expected_error)) in single.chain([rest]) {
                let (found, error) = self.mean(name, &values_here);
                // The files hold six digits.
                let bound = ERRORS * error.hypot(expected_error) + 1e-5 * expected;
                values += 1;
                if (found - expected).abs() > bound {
                    wrong.push(format!(
                        "{name} {values_here:?}: {found} +- {error}, official {expected} +- {expected_error}"
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {values} differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// Eighth of a sequence.
fn eighth(i: usize, n: usize) -> usize {
    8 * i / n
}

fn count_predictions(statistics: &mut Statistics, example: &Example, mask: u32) {
    let (ids, labels) = (&example.ids, &example.labels);
    statistics.count("predictions", example.predictions());
    let mut run = 0;
    for (i, (&id, &label)) in ids.iter().zip(labels).enumerate() {
        if label == IGNORED {
            if run > 0 {
                statistics.count("run of predictions", run);
            }
            run = 0;
            continue;
        }
        run += 1;
        statistics.count("place of a prediction", eighth(i, ids.len()));
        let kind = match id {
            id if id == mask => "mask",
            id if i64::from(id) == label => "kept",
            _ => "random",
        };
        statistics.count("replacement", kind);
        if kind == "random" {
            statistics.count("random token", id / 250);
        }
    }
    if run > 0 {
        statistics.count("run of predictions", run);
    }
}

fn count_segments(statistics: &mut Statistics, example: &Example) {
    statistics.count("examples", "all");
    statistics.count("length", example.ids.len());
    statistics.count("length of the second segment", example.token_types.iter().sum::<u32>());
}

#[test]
fn bert() {
    let objective = MaskedLmNextSentence {
        seq: SEQ,
        max_predictions: 8,
        masking: Masking::Dynamic,
        vocabulary: VOCABULARY,
        cls: 1,
        sep: 2,
        mask: 4,
        ..MaskedLmNextSentence::default()
    };
    let mut statistics = Statistics::default();
    let corpus = golden_corpus();
    for pass in 0..PASSES {
        statistics.next_pass();
        for example in examples(&objective.epoch(&corpus, 1, pass).unwrap()) {
            count_segments(&mut statistics, &example);
            statistics.count("sequence label", example.sequence_label.unwrap());
            count_predictions(&mut statistics, &example, objective.mask);
        }
    }
    statistics.agree(&golden("bert.json"));
}

#[test]
fn albert() {
    let objective = SentenceOrder {
        seq: SEQ,
        max_predictions: 8,
        masking: Masking::Dynamic,
        // The special tokens' names start words.
        word_starts: Some((0..VOCABULARY).map(|id| id % 3 != 0 || [1, 2, 4].contains(&id)).collect()),
        vocabulary: VOCABULARY,
        cls: 1,
        sep: 2,
        mask: 4,
        ..SentenceOrder::default()
    };
    let mut statistics = Statistics::default();
    let corpus = golden_corpus();
    for pass in 0..PASSES {
        statistics.next_pass();
        for example in examples(&objective.epoch(&corpus, 1, pass).unwrap()) {
            count_segments(&mut statistics, &example);
            statistics.count("sequence label", example.sequence_label.unwrap());
            count_predictions(&mut statistics, &example, objective.mask);
        }
    }
    statistics.agree(&golden("albert.json"));
}

#[test]
fn electra() {
    let objective = ReplacedTokens {
        seq: SEQ,
        vocabulary: VOCABULARY,
        cls: 1,
        sep: 2,
        mask: 4,
        ..ReplacedTokens::default()
    };
    let mut statistics = Statistics::default();
    let corpus = golden_corpus();
    for pass in 0..PASSES {
        statistics.next_pass();
        // Another seed: segments are equal in all epochs of a run.
        for example in examples(&objective.epoch(&corpus, u64::from(pass), 0).unwrap()) {
            count_segments(&mut statistics, &example);
            count_predictions(&mut statistics, &example, objective.mask);
        }
    }
    statistics.agree(&golden("electra.json"));
}

#[test]
fn roberta() {
    let objective = FullSentences {
        seq: SEQ,
        mask_special: true,
        vocabulary: VOCABULARY,
        mask: VOCABULARY - 1,
        special: vec![0, 1, 2, 3],
        ..FullSentences::default()
    };
    let (golden, corpus) = (golden("roberta.json"), golden_corpus());
    let mut statistics = Statistics::default();
    for pass in 0..PASSES {
        statistics.next_pass();
        let examples = examples(&objective.epoch(&corpus, 1, pass).unwrap());
        if pass == 0 {
            assert_eq!(lengths(examples.iter().map(|e| e.ids.len())), golden["blocks"]);
        }
        for example in examples {
            count_predictions(&mut statistics, &example, objective.mask);
            for &label in example.labels.iter().filter(|label| (0..4).contains(*label)) {
                statistics.count("special token predicted", label);
            }
        }
    }
    statistics.agree(&golden);
}

/// Ascending lengths, as JSON.
fn lengths(lengths: impl Iterator<Item = usize>) -> Value {
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.sort();
    lengths.into()
}

#[test]
fn t5_statistics() {
    let golden = golden("t5.json");
    let segments = golden["segments"].as_u64().unwrap() as usize;
    let names = [
        ("inputs 32: noise span", "inputs 32: other span", "inputs 32: place of noise"),
        ("inputs 64: noise span", "inputs 64: other span", "inputs 64: place of noise"),
    ];
    let cases: Vec<_> = [32, 64]
        .into_iter()
        .zip(names)
        .map(|(inputs, names)| {
            let objective = SpanCorruption { inputs, vocabulary: VOCABULARY, ..SpanCorruption::default() };
            let length = objective.lengths().unwrap().0;
            let tokens = (0..length * segments).map(|i| 10 + i as u32 % 800).collect();
            (objective, length, corpus(&[vec![tokens]]), names)
        })
        .collect();
    let mut statistics = Statistics::default();
    for pass in 0..PASSES {
        statistics.next_pass();
        for (objective, length, corpus, (noise, other, place)) in &cases {
            let examples = examples(&objective.epoch(corpus, 1, pass).unwrap());
            assert_eq!(examples.len(), segments);
            for Example { ids, decoder_ids, .. } in examples {
                // Without the first and last token.
                let spans: Vec<&[u32]> = decoder_ids[1..].split(|&id| id >= 900).skip(1).collect();
                let others: Vec<&[u32]> = ids[..ids.len() - 1].split(|&id| id >= 900).collect();
                let mut at = 0;
                for (kept, span) in others.iter().zip(spans) {
                    at += kept.len();
                    (at..at + span.len()).for_each(|i| statistics.count(place, eighth(i, *length)));
                    at += span.len();
                    statistics.count(noise, span.len());
                    statistics.count(other, kept.len());
                }
                assert_eq!(at, *length);
            }
        }
    }
    statistics.agree(&golden);
}

#[test]
fn t5_lengths() {
    let mut compared = 0;
    for row in golden("t5.json")["lengths"].as_array().unwrap() {
        let number = |i: usize| row[i].as_f64().unwrap();
        let objective = SpanCorruption {
            inputs: number(0) as usize,
            noise_density: number(1),
            mean_noise_span_length: number(2),
            ..SpanCorruption::default()
        };
        // The official function forgets that there is at least one span, and that a token lies between spans.
        let possible = |tokens: f64| {
            let noise = (tokens * number(1)).round_ties_even();
            (1.0..=tokens - noise).contains(&(noise / number(2)).round_ties_even())
        };
        // It subtracts a token at the end if the density is 0.5.
        if possible(number(3)) && possible(number(3) + 1.0) {
            assert_eq!(objective.lengths().unwrap(), (number(3) as usize, number(4) as usize), "{row}");
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared}");
}

/// The reader of this test's properties accepts what the official code writes, apart from the final token.
#[test]
fn t5_examples() {
    for example in golden("t5.json")["examples"].as_array().unwrap() {
        let [tokens, mut inputs, mut targets] =
            [0, 1, 2].map(|i| serde_json::from_value::<Vec<u32>>(example[i].clone()).unwrap());
        inputs.push(1);
        targets.push(1);
        assert_eq!(reassemble(&inputs, &targets, VOCABULARY - 100..VOCABULARY), tokens);
    }
}

fn bart(file: &str, settings: TextInfilling) {
    let objective = TextInfilling { seq: SEQ, vocabulary: VOCABULARY, mask: VOCABULARY - 1, ..settings };
    let (golden, corpus) = (golden(file), golden_corpus());
    let mut statistics = Statistics::default();
    for pass in 0..PASSES {
        statistics.next_pass();
        let examples = examples(&objective.epoch(&corpus, 1, pass).unwrap());
        if pass == 0 {
            assert_eq!(lengths(examples.iter().map(|e| e.labels.len())), golden["blocks"]);
        }
        for Example { ids, labels, .. } in examples {
            statistics.count("length", ids.len());
            statistics.count("difference of lengths", ids.len() as i64 - labels.len() as i64);
            let is_mask = |&id: &u32| id == objective.mask;
            statistics.count("masks", ids.iter().filter(|id| is_mask(id)).count());
            let first = &labels[1..1 + labels.len() / 8];
            for (i, id) in ids.iter().enumerate() {
                if is_mask(id) {
                    statistics.count("place of a mask", eighth(i, ids.len()));
                }
                // 10 ends each sentence.
                if *id != 10 && first.contains(&i64::from(*id)) {
                    statistics.count("place of the text's start", eighth(i, ids.len()));
                }
            }
            for run in ids.chunk_by(|a, b| is_mask(a) == is_mask(b)) {
                statistics.count(if is_mask(&run[0]) { "run of masks" } else { "run of tokens" }, run.len());
            }
        }
    }
    statistics.agree(&golden);
}

#[test]
fn bart_as_in_the_paper() {
    bart("bart-paper.json", TextInfilling::default());
}

#[test]
fn bart_with_whole_words_and_random_tokens() {
    let word_starts = Some((0..VOCABULARY).map(|id| id < 4 || id % 3 != 0).collect());
    bart(
        "bart-words.json",
        TextInfilling { word_starts, random_ratio: 0.1, lambda: 3.5, ..TextInfilling::default() },
    );
}

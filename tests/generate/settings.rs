//! Generation options, and their effects on scores and draws.

use std::path::Path;
use std::sync::Arc;
use tilewright::Error;
use tilewright::generate::{EarlyStopping, GenerationConfig, Sampler};

/// The token that a sampler with these settings chooses after `ids`; the first id is the prompt.
fn next(settings: GenerationConfig, ids: &[u32], logits: &[f32]) -> Result<u32, Error> {
    Sampler::new(Arc::new(settings), 0, 1, 8).next(ids, &mut logits.to_vec())
}

#[test]
fn scores_are_changed_as_the_settings_say() {
    let (plain, logits) = (GenerationConfig::default(), [1.0, 3.0, 2.0, -1.0, 2.5]);
    let chosen = |settings: &GenerationConfig, ids: &[u32]| next(settings.clone(), ids, &logits).unwrap();
    assert_eq!(chosen(&plain, &[0]), 1);
    let bad_words = GenerationConfig { bad_words_ids: vec![vec![1], vec![2, 4]], ..plain.clone() };
    assert_eq!((chosen(&bad_words, &[0]), chosen(&bad_words, &[0, 2])), (4, 2));
    // A bad word that is an end token stays allowed.
    assert_eq!(chosen(&GenerationConfig { eos_token_id: vec![1], ..bad_words }, &[0]), 1);
    let forced =
        GenerationConfig { forced_bos_token_id: Some(3), forced_eos_token_id: vec![0, 2], ..plain.clone() };
    assert_eq!(chosen(&forced, &[0]), 3);
    assert_eq!(chosen(&forced, &[0, 3]), 1);
    assert_eq!(chosen(&forced, &[0, 3, 1, 1, 1, 1, 1]), 0);
    let late = GenerationConfig { eos_token_id: vec![1], min_new_tokens: Some(2), ..plain.clone() };
    assert_eq!((chosen(&late, &[0, 0]), chosen(&late, &[0, 0, 0])), (4, 1));
    let longer = GenerationConfig { eos_token_id: vec![1], min_length: 4, ..plain.clone() };
    assert_eq!((chosen(&longer, &[0; 3]), chosen(&longer, &[0; 4])), (4, 1));
    // 3 / 1.25 = 2.4 is less than 2.5, no matter how often the token occurred; 2.5 / 1.25 = 2 is less than 2.4.
    let penalty = GenerationConfig { repetition_penalty: 1.25, ..plain.clone() };
    assert_eq!((chosen(&penalty, &[1, 1]), chosen(&penalty, &[1, 4])), (4, 1));
    let grams = GenerationConfig { no_repeat_ngram_size: 2, ..plain.clone() };
    assert_eq!((chosen(&grams, &[0, 1, 0]), chosen(&grams, &[0, 4, 0])), (4, 1));
    let suppressed =
        GenerationConfig { suppress_tokens: vec![1], begin_suppress_tokens: vec![4], ..plain.clone() };
    assert_eq!((chosen(&suppressed, &[0]), chosen(&suppressed, &[0, 0])), (2, 4));
    assert_eq!(next(plain.clone(), &[0], &[2.0, 3.0, 3.0]).unwrap(), 1, "the first of several");
    assert_eq!(next(plain.clone(), &[0], &[f32::NAN, 3.0]).unwrap(), 1);
    assert!(next(plain, &[0], &[f32::NAN, f32::NEG_INFINITY]).unwrap_err().to_string().contains("logits"));
}

#[test]
fn draws_have_the_probabilities_of_what_is_kept() {
    // Probabilities at temperature 1, not in order.
    let probabilities = [0.1f64, 0.4, 0.05, 0.3, 0.15];
    let logits = probabilities.map(|p| p.ln() as f32);
    let all = GenerationConfig { do_sample: true, top_k: 0, ..GenerationConfig::default() };
    for (settings, kept) in [
        (all.clone(), &[0, 1, 2, 3, 4][..]),
        (GenerationConfig { top_k: 3, ..all.clone() }, &[1, 3, 4]),
        (GenerationConfig { top_p: 0.6, ..all.clone() }, &[1, 3]),
        (GenerationConfig { top_p: 0.75, ..all.clone() }, &[1, 3, 4]),
        (GenerationConfig { min_p: 0.3, ..all.clone() }, &[1, 3, 4]),
        // top-p counts the probabilities that top-k leaves: 0.4 / 0.85 is less than a half.
        (GenerationConfig { top_k: 3, top_p: 0.45, ..all.clone() }, &[1]),
        // Temperature 0.5 squares the probabilities: 0.16, 0.09, 0.0225, 0.01, 0.0025.
        (GenerationConfig { temperature: 0.5, top_p: 0.9, ..all.clone() }, &[1, 3, 4]),
    ] {
        let mut sampler = Sampler::new(Arc::new(settings.clone()), 5, 1, 8);
        let (mut counts, draws) = ([0; 5], 20_000);
        for _ in 0..draws {
            counts[sampler.next(&[0], &mut logits.to_vec()).unwrap() as usize] += 1;
        }
        let weight = |i: usize| match kept.contains(&i) {
            true => probabilities[i].powf(1.0 / f64::from(settings.temperature)),
            false => 0.0,
        };
        let total: f64 = (0..5).map(weight).sum();
        for (i, count) in counts.into_iter().enumerate() {
            let p = weight(i) / total;
            let deviation = (p * (1.0 - p) * f64::from(draws)).sqrt();
            let far = (f64::from(count) - p * f64::from(draws)).abs();
            assert!(far <= 5.0 * deviation, "{settings:?}: token {i} {count} times, expected {p}");
        }
    }
}

#[test]
fn settings_are_read_as_transformers_writes_them() {
    let read =
        |json: &str| GenerationConfig::from_bytes(Path::new("generation_config.json"), json.as_bytes());
    let found = read(
        r#"{"eos_token_id": [2, 7], "bos_token_id": 1, "pad_token_id": 0, "forced_eos_token_id": 2, "top_p": null,
            "do_sample": true, "temperature": 0.6, "early_stopping": "never", "transformers_version": "5.23.0",
            "bad_words_ids": [[5]], "suppress_tokens": [], "typical_p": 1.0, "num_beam_groups": 1}"#,
    )
    .unwrap();
    let expected = GenerationConfig {
        eos_token_id: vec![2, 7],
        bos_token_id: Some(1),
        forced_eos_token_id: vec![2],
        do_sample: true,
        temperature: 0.6,
        early_stopping: EarlyStopping::Never,
        bad_words_ids: vec![vec![5]],
        ..GenerationConfig::default()
    };
    assert_eq!(found, expected);
    assert_eq!((found.longest(7), found.has_longest()), (27, false));
    for all in [20, 30] {
        let found = read(&format!(r#"{{"max_length": {all}}}"#)).unwrap();
        assert_eq!((found.longest(7), found.has_longest()), (all, true));
    }
    // Settings that options may still change are not errors.
    assert_eq!(read(r#"{"do_sample": false, "temperature": 0.0}"#).unwrap().check(), Ok(()));
    let drawn = read(r#"{"do_sample": true, "num_beams": 4}"#).unwrap();
    assert!(drawn.check().unwrap_err().starts_with("do_sample: "));
    assert_eq!(GenerationConfig { num_beams: 1, ..drawn }.check(), Ok(()));
    for (json, part) in [
        (r#"{"penalty_alpha": 0.6}"#, "penalty_alpha"),
        (r#"{"typical_p": 0.9}"#, "typical_p"),
        (r#"{"num_beams": 0}"#, "num_beams"),
        (r#"{"num_beams": 9223372036854775808}"#, "num_beams: expected a number from 1 to 4096"),
        (r#"{"stop_strings": ["\n"]}"#, "stop_strings"),
        (r#"{"max_time": 2.5}"#, "max_time"),
        (r#"{"early_stopping": 3}"#, "early_stopping"),
        (r#"{"eos_token_id": "</s>"}"#, "eos_token_id"),
        ("[1", "generation_config.json"),
    ] {
        let message = read(json).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

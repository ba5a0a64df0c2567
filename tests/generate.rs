//! Text generation: against transformers, token for token, and against its own promises.
//!
//! `tests/golden/decoders.py` made the checkpoints and what transformers generates with them.
#![forbid(unsafe_code)]

use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tilewright::generate::{
    EarlyStopping, Engine, Finish, Finished, Message, Request, Sampler, Settings, Speculation, Statistics,
    TextStream, beam_search, chat,
};
use tilewright::generator::{Generator, Want};
use tilewright::llama::{Config, Llama};
use tilewright::model::{Architecture, Model as _};
use tilewright::tokenizer::Tokenizer;
use tilewright::{Arithmetic, Batch, Error};
use tilewright_kernels::Backend;
use tilewright_suite::all_backends;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Runs texts together, `at_once` of them, and returns what became of each.
fn run(engine: &mut Engine<'_>, prompts: &[Vec<u32>], settings: &[Arc<Settings>]) -> Vec<Finished> {
    for (i, (prompt, settings)) in prompts.iter().zip(settings.iter().cycle()).enumerate() {
        let request = Request { prompt: prompt.clone(), settings: settings.clone(), seed: i as u64 };
        engine.submit(request).unwrap();
    }
    engine.run(&mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn tokens(finished: Vec<Finished>) -> Vec<Vec<u32>> {
    finished.into_iter().map(|f| f.tokens).collect()
}

#[test]
fn texts_are_those_of_transformers_on_every_backend() {
    let mut checkpoints: Vec<PathBuf> =
        golden().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.retain(|dir| dir.join("generate.json").exists());
    assert!(!checkpoints.is_empty());
    for dir in checkpoints {
        let cases: Value =
            serde_json::from_slice(&std::fs::read(dir.join("generate.json")).unwrap()).unwrap();
        let of_checkpoint = Settings::open(&dir).unwrap();
        for backend in all_backends().into_iter().chain([Backend::REFERENCE]) {
            let mut model = Architecture::of(&dir).unwrap().load(&dir, Arithmetic::f32(backend)).unwrap();
            let model = model.generator().expect("a model that continues texts");
            let (mut greedy, mut expected) = (Vec::new(), Vec::new());
            for case in cases["cases"].as_array().unwrap() {
                let settings = Arc::new(Settings {
                    max_new_tokens: Some(case["max_new_tokens"].as_u64().unwrap() as usize),
                    num_beams: case["num_beams"].as_u64().unwrap() as usize,
                    length_penalty: case["length_penalty"].as_f64().unwrap(),
                    early_stopping: case["early_stopping"].to_string().parse().unwrap(),
                    do_sample: false,
                    ..of_checkpoint.clone()
                });
                let prompt = ids(if model.encodes() { &case["source"] } else { &case["prompt"] });
                let output = ids(&case["output"]);
                let found = beam_search(model, &prompt, &settings).unwrap();
                assert_eq!(found[0].tokens, output, "{} on {}: {case}", dir.display(), backend.name());
                if settings.num_beams == 1 {
                    greedy.push((prompt, settings));
                    expected.push(output);
                }
            }
            let (prompts, settings): (Vec<_>, Vec<_>) = greedy.into_iter().unzip();
            for guesses in [0, 3] {
                let speculation = Speculation::Lookup { tokens: guesses };
                let mut engine = Engine::with_speculation(model, 3, speculation).unwrap();
                let found = tokens(run(&mut engine, &prompts, &settings));
                assert_eq!(found, expected, "{} on {}", dir.display(), backend.name());
            }
        }
    }
}

/// A small model; of few tokens, such that texts repeat themselves.
fn model(seed: u64) -> Llama {
    sized(seed, 31)
}

fn sized(seed: u64, vocab_size: usize) -> Llama {
    let config = Config {
        vocab_size,
        hidden_size: 24,
        intermediate_size: 34,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        max_position_embeddings: 64,
        ..Config::default()
    };
    Llama::random(config, seed, Arithmetic::f32(Backend::best())).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    vec![
        vec![3, 1, 4, 1, 5, 9, 2, 6],
        vec![7],
        vec![2, 7, 1, 8, 2, 8],
        vec![30, 0, 30, 0, 30],
        vec![11, 12, 13],
    ]
}

fn greedy() -> Settings {
    Settings { max_new_tokens: Some(20), ..Settings::default() }
}

fn drawn() -> Settings {
    Settings { do_sample: true, temperature: 2.0, top_k: 0, ..greedy() }
}

/// What an engine that continues one text after the other makes of all.
fn alone(settings: &Settings) -> Vec<Vec<u32>> {
    let mut model = model(1);
    tokens(run(&mut Engine::new(&mut model, 1).unwrap(), &prompts(), &[Arc::new(settings.clone())]))
}

#[test]
fn greedy_takes_the_largest_of_a_whole_forward() {
    let mut model = model(1);
    for (prompt, found) in prompts().into_iter().zip(alone(&greedy())) {
        let mut text = prompt;
        assert_eq!(found.len(), 20);
        for token in found {
            let mut batch = Batch::default();
            batch.push_ids(&text).unwrap();
            let logits = &model.forward(&batch).unwrap()[0];
            let last = &logits.values[logits.values.len() - logits.width..];
            let largest = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            assert_eq!(largest as u32, token, "after {text:?}");
            text.push(token);
        }
    }
}

#[test]
fn a_text_is_the_same_alone_and_among_others() {
    for settings in [greedy(), drawn(), Settings { repetition_penalty: 1.3, ..drawn() }] {
        let expected = alone(&settings);
        // Some end early, so that others come in while the rest goes on.
        let lengths =
            [20, 3, 11, 1, 7].map(|n| Arc::new(Settings { max_new_tokens: Some(n), ..settings.clone() }));
        for at_once in [1, 2, 3, 5, 9] {
            let mut model = model(1);
            let mut engine = Engine::new(&mut model, at_once).unwrap();
            // Twice: caches are used again.
            for round in 0..2 {
                let found = run(&mut engine, &prompts(), &lengths);
                for (i, (found, settings)) in found.iter().zip(&lengths).enumerate() {
                    let n = settings.max_new_tokens.unwrap();
                    assert_eq!((found.tokens.as_slice(), found.finish), (&expected[i][..n], Finish::Length));
                    assert_eq!(found.id, 5 * round + i);
                }
            }
            let statistics = engine.statistics();
            assert_eq!(statistics.prefill_tokens, 2 * prompts().iter().map(Vec::len).sum::<usize>());
            assert!(engine.is_idle() && statistics.decode_tokens > 0);
        }
    }
}

#[test]
fn logits_have_the_same_bits_alone_among_others_and_in_pieces() {
    let mut model = model(1);
    let mut extend = |texts: &[Vec<u32>], pieces: bool| -> Vec<Vec<u32>> {
        let mut caches: Vec<_> = texts.iter().map(|text| model.cache(text.len())).collect();
        let mut found = vec![Vec::new(); texts.len()];
        let most = texts.iter().map(Vec::len).max().unwrap();
        for at in 0..if pieces { most } else { 1 } {
            let (mut batch, mut some, mut which) = (Batch::default(), Vec::new(), Vec::new());
            for (i, (text, cache)) in texts.iter().zip(&mut caches).enumerate() {
                let piece = if pieces { text.get(at..at + 1).unwrap_or(&[]) } else { text };
                if !piece.is_empty() {
                    batch.push_ids(piece).unwrap();
                    some.push(cache);
                    which.push(i);
                }
            }
            let mut logits = Vec::new();
            model.extend(&batch, &mut some, Want::All, &mut logits).unwrap();
            for (ends, i) in batch.starts().windows(2).zip(which) {
                found[i].extend(logits[31 * ends[0]..31 * ends[1]].iter().map(|x| x.to_bits()));
            }
        }
        found
    };
    let texts = prompts();
    let together = extend(&texts, false);
    assert_eq!(together, extend(&texts, true));
    for (text, expected) in texts.iter().zip(&together) {
        assert_eq!(&extend(std::slice::from_ref(text), false)[0], expected);
    }
}

#[test]
fn seeds_reproduce_and_differ() {
    let mut model = model(1);
    let mut draw = |seed| {
        let mut engine = Engine::new(&mut model, 2).unwrap();
        engine.submit(Request { prompt: vec![5, 6], settings: Arc::new(drawn()), seed }).unwrap();
        engine.run(&mut |_, _| ControlFlow::Continue(())).unwrap().remove(0).tokens
    };
    let texts: Vec<_> = (0..6).map(&mut draw).collect();
    assert_eq!(texts, (0..6).map(&mut draw).collect::<Vec<_>>());
    for (i, text) in texts.iter().enumerate() {
        assert!(!texts[..i].contains(text), "seed {i}");
    }
}

#[test]
fn a_choice_of_one_is_greedy() {
    let expected = alone(&greedy());
    for settings in [
        Settings { top_k: 1, ..drawn() },
        Settings { top_p: 1e-6, ..drawn() },
        Settings { min_p: 1.0, ..drawn() },
        Settings { temperature: 1e-6, ..drawn() },
    ] {
        assert_eq!(alone(&settings), expected, "{settings:?}");
    }
    assert_ne!(alone(&drawn()), expected);
    let mut model = model(1);
    let one_beam =
        |prompt: Vec<u32>| beam_search(&mut model, &prompt, &Arc::new(greedy())).unwrap().remove(0).tokens;
    assert_eq!(prompts().into_iter().map(one_beam).collect::<Vec<_>>(), expected);
}

/// Asks that guesses change no token; returns what the engine did.
fn with_guesses<'m>(
    of: &'m mut Llama,
    speculation: Speculation<'m>,
    at_once: usize,
    settings: &Settings,
) -> Statistics {
    let mut engine = Engine::with_speculation(of, at_once, speculation).unwrap();
    let found = tokens(run(&mut engine, &prompts(), &[Arc::new(settings.clone())]));
    assert_eq!(found, alone(settings));
    engine.statistics()
}

#[test]
fn speculation_changes_no_token() {
    for settings in [greedy(), drawn(), Settings { eos_token_id: vec![4, 9], ..drawn() }] {
        for at_once in [1, 3] {
            for guesses in [1, 4, 30] {
                with_guesses(&mut model(1), Speculation::Lookup { tokens: guesses }, at_once, &settings);
                for seed in [1, 2] {
                    let mut draft = model(seed);
                    let guesses = Speculation::Draft { model: &mut draft, tokens: guesses };
                    let statistics = with_guesses(&mut model(1), guesses, at_once, &settings);
                    // The model itself is always right about what is greedy.
                    assert!(statistics.guessed > 0);
                    if seed == 1 && !settings.do_sample {
                        assert_eq!(statistics.accepted, statistics.guessed);
                    }
                }
            }
        }
    }
}

#[test]
fn a_lookup_takes_fewer_steps_where_a_text_repeats_itself() {
    let mut model = model(1);
    let settings = Arc::new(Settings { max_new_tokens: Some(50), ..Settings::default() });
    let mut engine = Engine::with_speculation(&mut model, 1, Speculation::Lookup { tokens: 4 }).unwrap();
    engine.submit(Request { prompt: vec![1, 2, 3], settings, seed: 0 }).unwrap();
    let mut steps = 0;
    while !engine.is_idle() {
        let _ = engine.step(&mut |_, _| ControlFlow::Continue(())).unwrap().count();
        steps += 1;
    }
    assert!(engine.statistics().accepted > 0 && steps < 50, "{steps} steps, {:?}", engine.statistics());
}

/// With beams for all texts but the last token, the search is exhaustive.
#[test]
fn enough_beams_find_the_most_probable_text() {
    let mut model = sized(3, 5);
    let settings =
        Settings { max_new_tokens: Some(3), num_beams: 25, length_penalty: 0.0, ..Settings::default() };
    let found = beam_search(&mut model, &[1, 2], &Arc::new(settings)).unwrap();
    let mut all = Vec::new();
    for text in 0..125 {
        let text = [1, 2, text / 25, text / 5 % 5, text % 5];
        let mut batch = Batch::default();
        batch.push_ids(&text).unwrap();
        let logits = model.forward(&batch).unwrap()[0].values.clone();
        let score = |at: usize| {
            let row = logits[5 * at..][..5].iter().map(|&x| f64::from(x));
            row.clone().nth(text[at + 1] as usize).unwrap() - row.map(f64::exp).sum::<f64>().ln()
        };
        all.push(((1..4).map(score).sum::<f64>(), text[2..].to_vec()));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert_eq!(found.len(), 25);
    for (found, (score, text)) in found.iter().zip(all) {
        assert_eq!(found.tokens, text);
        assert!((f64::from(found.score) - score).abs() < 1e-5, "{found:?}, expected {score}");
    }
}

/// The token that a sampler with these settings chooses after `ids`, of which one is the prompt.
fn next(settings: Settings, ids: &[u32], logits: &[f32]) -> Result<u32, Error> {
    Sampler::new(Arc::new(settings), 0, 1, 8).next(ids, &mut logits.to_vec())
}

#[test]
fn scores_are_changed_as_the_settings_say() {
    let (plain, logits) = (Settings::default(), [1.0, 3.0, 2.0, -1.0, 2.5]);
    let chosen = |settings: &Settings, ids: &[u32]| next(settings.clone(), ids, &logits).unwrap();
    assert_eq!(chosen(&plain, &[0]), 1);
    let bad_words = Settings { bad_words_ids: vec![vec![1], vec![2, 4]], ..plain.clone() };
    assert_eq!((chosen(&bad_words, &[0]), chosen(&bad_words, &[0, 2])), (4, 2));
    // An end token alone is no bad word.
    assert_eq!(chosen(&Settings { eos_token_id: vec![1], ..bad_words }, &[0]), 1);
    let forced = Settings { forced_bos_token_id: Some(3), forced_eos_token_id: vec![0, 2], ..plain.clone() };
    assert_eq!(chosen(&forced, &[0]), 3);
    assert_eq!(chosen(&forced, &[0, 3]), 1);
    assert_eq!(chosen(&forced, &[0, 3, 1, 1, 1, 1, 1]), 0);
    let late = Settings { eos_token_id: vec![1], min_new_tokens: Some(2), ..plain.clone() };
    assert_eq!((chosen(&late, &[0, 0]), chosen(&late, &[0, 0, 0])), (4, 1));
    let longer = Settings { eos_token_id: vec![1], min_length: 4, ..plain.clone() };
    assert_eq!((chosen(&longer, &[0; 3]), chosen(&longer, &[0; 4])), (4, 1));
    // 3 / 1.25 = 2.4 is less than 2.5, however often the token was there; 2.5 / 1.25 = 2 is less than that.
    let penalty = Settings { repetition_penalty: 1.25, ..plain.clone() };
    assert_eq!((chosen(&penalty, &[1, 1]), chosen(&penalty, &[1, 4])), (4, 1));
    let grams = Settings { no_repeat_ngram_size: 2, ..plain.clone() };
    assert_eq!((chosen(&grams, &[0, 1, 0]), chosen(&grams, &[0, 4, 0])), (4, 1));
    let suppressed = Settings { suppress_tokens: vec![1], begin_suppress_tokens: vec![4], ..plain.clone() };
    assert_eq!((chosen(&suppressed, &[0]), chosen(&suppressed, &[0, 0])), (2, 4));
    assert_eq!(next(plain.clone(), &[0], &[2.0, 3.0, 3.0]).unwrap(), 1, "the first of several");
    assert_eq!(next(plain.clone(), &[0], &[f32::NAN, 3.0]).unwrap(), 1);
    assert!(next(plain, &[0], &[f32::NAN, f32::NEG_INFINITY]).unwrap_err().to_string().contains("logits"));
}

#[test]
fn draws_have_the_probabilities_of_what_is_kept() {
    // Of temperature 1: 0.4, 0.3, 0.15, 0.1, 0.05, in another order.
    let probabilities = [0.1f64, 0.4, 0.05, 0.3, 0.15];
    let logits = probabilities.map(|p| p.ln() as f32);
    let all = Settings { do_sample: true, top_k: 0, ..Settings::default() };
    for (settings, kept) in [
        (all.clone(), &[0, 1, 2, 3, 4][..]),
        (Settings { top_k: 3, ..all.clone() }, &[1, 3, 4]),
        (Settings { top_p: 0.6, ..all.clone() }, &[1, 3]),
        (Settings { top_p: 0.75, ..all.clone() }, &[1, 3, 4]),
        (Settings { min_p: 0.3, ..all.clone() }, &[1, 3, 4]),
        // Probabilities that are left after top-k count for top-p: 0.4 / 0.85 is less than a half.
        (Settings { top_k: 3, top_p: 0.45, ..all.clone() }, &[1]),
        // Squares: 0.16, 0.09, 0.0225, 0.01, 0.0025.
        (Settings { temperature: 0.5, top_p: 0.9, ..all.clone() }, &[1, 3, 4]),
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
fn ends_have_their_reasons() {
    let (mut of_end, first) = (model(1), alone(&greedy())[0][2]);
    let settings = Arc::new(Settings { eos_token_id: vec![first], ..greedy() });
    let mut engine = Engine::new(&mut of_end, 1).unwrap();
    let found = run(&mut engine, &prompts()[..1], std::slice::from_ref(&settings)).remove(0);
    assert_eq!((found.finish, found.tokens.last()), (Finish::Eos, Some(&first)));
    assert!(found.first_token <= found.total);
    let long = Arc::new(Settings { max_new_tokens: Some(1000), ..Settings::default() });
    let found = run(&mut engine, &prompts()[..1], &[long]).remove(0);
    assert_eq!((found.finish, found.tokens.len()), (Finish::Capacity, 64 - 8));
    engine.submit(Request { prompt: vec![1], settings: Arc::new(greedy()), seed: 0 }).unwrap();
    let mut seen = 0;
    let found = engine.run(&mut |_, _| {
        seen += 1;
        if seen == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let found = found.unwrap().remove(0);
    assert_eq!((found.finish, found.tokens.len()), (Finish::Stop, 4));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut model = model(1);
    let refused = |result: Result<usize, Error>, part: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    let beams = Arc::new(Settings { num_beams: 40, ..greedy() });
    assert!(beam_search(&mut model, &[], &beams).unwrap_err().to_string().contains("no tokens"));
    assert!(Engine::new(&mut model, 0).unwrap_err().to_string().contains("at once"));
    let mut other = sized(1, 30);
    let draft = Speculation::Draft { model: &mut other, tokens: 2 };
    assert!(
        Engine::with_speculation(&mut model, 1, draft)
            .unwrap_err()
            .to_string()
            .contains("31 tokens, found 30")
    );
    let mut engine = Engine::new(&mut model, 1).unwrap();
    let mut submit = |prompt: &[u32], settings: Settings| {
        engine.submit(Request { prompt: prompt.to_vec(), settings: Arc::new(settings), seed: 0 })
    };
    refused(submit(&[], greedy()), "no tokens");
    refused(submit(&[1; 64], greedy()), "64 tokens leave no room");
    refused(submit(&[1], Settings { temperature: 0.0, ..drawn() }), "temperature");
    refused(submit(&[1], Settings { top_p: 1.5, ..drawn() }), "top_p");
    refused(submit(&[1], Settings { max_new_tokens: Some(0), ..greedy() }), "max_new_tokens");
    refused(submit(&[1], Settings { num_beams: 2, ..drawn() }), "do_sample");
    submit(&[31], greedy()).unwrap();
    assert!(
        engine
            .run(&mut |_, _| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
            .contains("31 is not below 31")
    );
}

#[test]
fn settings_are_read_as_transformers_writes_them() {
    let read = |json: &str| Settings::from_bytes(Path::new("generation_config.json"), json.as_bytes());
    let found = read(
        r#"{"eos_token_id": [2, 7], "bos_token_id": 1, "pad_token_id": 0, "forced_eos_token_id": 2, "top_p": null,
            "do_sample": true, "temperature": 0.6, "early_stopping": "never", "transformers_version": "5.23.0",
            "bad_words_ids": [[5]], "suppress_tokens": [], "typical_p": 1.0, "num_beam_groups": 1}"#,
    )
    .unwrap();
    let expected = Settings {
        eos_token_id: vec![2, 7],
        bos_token_id: Some(1),
        forced_eos_token_id: vec![2],
        do_sample: true,
        temperature: 0.6,
        early_stopping: EarlyStopping::Never,
        bad_words_ids: vec![vec![5]],
        ..Settings::default()
    };
    assert_eq!(found, expected);
    assert_eq!((found.longest(7), found.has_longest()), (27, false));
    assert_eq!(read(r#"{"max_length": 30}"#).unwrap().longest(7), 30);
    for (json, part) in [
        (r#"{"penalty_alpha": 0.6}"#, "penalty_alpha"),
        (r#"{"typical_p": 0.9}"#, "typical_p"),
        (r#"{"num_beams": 0}"#, "num_beams"),
        (r#"{"early_stopping": 3}"#, "early_stopping"),
        (r#"{"eos_token_id": "</s>"}"#, "eos_token_id"),
        ("[1", "generation_config.json"),
    ] {
        let message = read(json).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

fn tokenizer() -> Tokenizer {
    let path = golden().join("tokenizers/roberta.json");
    Tokenizer::from_bytes(path.clone(), &std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn text_comes_in_pieces_that_stay() {
    let tokenizer = tokenizer();
    for text in
        ["the cat sat on the mat, and the dog ran.", "h\u{e9} \u{4f60}\u{597d} \u{1f600}!", "a  b\n\n c"]
    {
        let batch = tokenizer.encode(&[text]).unwrap();
        let whole = tokenizer.decode(batch.ids()).unwrap();
        let mut stream = TextStream::new(&tokenizer, &[]);
        let mut found = String::new();
        for &id in batch.ids() {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{fffd}'), "half a character in {piece:?}");
            found += &piece;
        }
        assert_eq!(found.clone() + &stream.finish().unwrap(), whole);
        assert!(whole.starts_with(&found));

        // Every string of the text as a stop, most of which lie across tokens.
        let places: Vec<usize> = whole.char_indices().map(|(at, _)| at).chain([whole.len()]).collect();
        for (i, &from) in places.iter().enumerate() {
            for &to in places[i + 1..].iter().take(6) {
                let stops = ["never".to_owned(), String::new(), whole[from..to].to_owned()];
                let mut stream = TextStream::new(&tokenizer, &stops);
                let mut found = String::new();
                for &id in batch.ids() {
                    found += &stream.push(id).unwrap();
                    if stream.stopped() {
                        break;
                    }
                }
                found += &stream.finish().unwrap();
                assert_eq!(found, whole[..whole.find(&whole[from..to]).unwrap()], "{stops:?}");
                assert!(stream.stopped());
            }
        }
    }
}

#[test]
fn chats_are_written_as_their_template_says() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden().join("tokenizers/roberta.json"), dir.path().join("tokenizer.json")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let messages = [Message::new("system", " Be brief. "), Message::new("user", "<b>Hi</b> & \"you\"")];
    let render = || chat::render(&Tokenizer::open(dir.path()).unwrap(), &messages);
    assert!(render().unwrap_err().to_string().contains("no chat template"));
    let template = "{{- bos_token }}\n{%- for message in messages %}\n    {%- if message['role'] == 'system' %}\n        \
        {{- message.content.strip().upper() }}\n    {%- else %}\n[{{ message['role'] + ']' }} {{ message['content'] | trim }}\
        {{ eos_token }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n[assistant]\n{% endif %}\n";
    let config = serde_json::json!({
        "bos_token": "<s>", "eos_token": { "content": "</s>", "lstrip": false },
        "chat_template": [{ "name": "rag", "template": "?" }, { "name": "default", "template": template }],
    });
    write("tokenizer_config.json", &config.to_string());
    assert_eq!(render().unwrap(), "<s>BE BRIEF.[user] <b>Hi</b> & \"you\"</s>[assistant]\n");
    let encoded = Tokenizer::open(dir.path()).unwrap().encode_as_written("<s>a</s>").unwrap();
    let tokenizer = tokenizer();
    assert_eq!(encoded.first().copied(), tokenizer.id("<s>"));
    assert_eq!(encoded.iter().filter(|&&id| Some(id) == tokenizer.id("<s>")).count(), 1);

    // A file of its own comes first.
    write("chat_template.jinja", "{{ raise_exception('roles must alternate') }}");
    assert!(render().unwrap_err().to_string().contains("roles must alternate"));
    write("chat_template.jinja", "{% for %}");
    assert!(render().unwrap_err().to_string().contains("tokenizer.json"));
}

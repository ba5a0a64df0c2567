//! Text generation: continuations of transformers, token for token, and the promises of the engine.
//!
//! `tests/golden/decoders.py` made the checkpoints, and their continuations by transformers.
#![forbid(unsafe_code)]

mod settings;
mod text;

use serde_json::Value;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use tilewright::generate::{
    Engine, FinishReason, Finished, GenerationConfig, Request, Speculation, Statistics, beam_search,
};
use tilewright::llama::{Config, Llama};
use tilewright::model::Model as _;
use tilewright::{Arithmetic, Batch, Error};
use tilewright_kernels::Backend;
use tilewright_suite::all_backends;
use tilewright_suite::golden::{golden, load};

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Submits all prompts, cycling through `settings`, and returns the finished texts.
fn run(engine: &mut Engine<'_>, prompts: &[Vec<u32>], settings: &[Arc<GenerationConfig>]) -> Vec<Finished> {
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
        golden("").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.retain(|dir| dir.join("generate.json").exists());
    assert!(checkpoints.len() >= 8, "{checkpoints:?}");
    for dir in checkpoints {
        let cases: Value =
            serde_json::from_slice(&std::fs::read(dir.join("generate.json")).unwrap()).unwrap();
        let of_checkpoint = GenerationConfig::open(&dir).unwrap();
        for backend in all_backends().into_iter().chain([Backend::REFERENCE]) {
            let mut model = load(&dir, Arithmetic::f32(backend));
            let model = model.causal_lm().expect("a causal LM");
            let (mut greedy, mut expected) = (Vec::new(), Vec::new());
            for case in cases["cases"].as_array().unwrap() {
                let settings = Arc::new(GenerationConfig {
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

/// A small model with a vocabulary so small that texts repeat themselves.
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

fn greedy() -> GenerationConfig {
    GenerationConfig { max_new_tokens: Some(20), ..GenerationConfig::default() }
}

fn drawn() -> GenerationConfig {
    GenerationConfig { do_sample: true, temperature: 2.0, top_k: 0, ..greedy() }
}

/// Continuations of an engine that runs one text at a time.
fn alone(settings: &GenerationConfig) -> Vec<Vec<u32>> {
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
    for settings in [greedy(), drawn(), GenerationConfig { repetition_penalty: 1.3, ..drawn() }] {
        let expected = alone(&settings);
        // Short texts end early, and waiting texts join the running ones.
        let lengths = [20, 3, 11, 1, 7]
            .map(|n| Arc::new(GenerationConfig { max_new_tokens: Some(n), ..settings.clone() }));
        for at_once in [1, 2, 3, 5, 9] {
            let mut model = model(1);
            let mut engine = Engine::new(&mut model, at_once).unwrap();
            // The second round reuses the caches.
            for round in 0..2 {
                let found = run(&mut engine, &prompts(), &lengths);
                for (i, (found, settings)) in found.iter().zip(&lengths).enumerate() {
                    let n = settings.max_new_tokens.unwrap();
                    assert_eq!(
                        (found.tokens.as_slice(), found.finish),
                        (&expected[i][..n], FinishReason::Length)
                    );
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
        GenerationConfig { top_k: 1, ..drawn() },
        GenerationConfig { top_p: 1e-6, ..drawn() },
        GenerationConfig { min_p: 1.0, ..drawn() },
        GenerationConfig { temperature: 1e-6, ..drawn() },
    ] {
        assert_eq!(alone(&settings), expected, "{settings:?}");
    }
    assert_ne!(alone(&drawn()), expected);
    let mut model = model(1);
    let one_beam =
        |prompt: Vec<u32>| beam_search(&mut model, &prompt, &Arc::new(greedy())).unwrap().remove(0).tokens;
    assert_eq!(prompts().into_iter().map(one_beam).collect::<Vec<_>>(), expected);
}

/// Asserts that speculation changes no token. Returns the engine's statistics.
fn with_guesses<'m>(
    of: &'m mut Llama,
    speculation: Speculation<'m>,
    at_once: usize,
    settings: &GenerationConfig,
) -> Statistics {
    let mut engine = Engine::with_speculation(of, at_once, speculation).unwrap();
    let found = tokens(run(&mut engine, &prompts(), &[Arc::new(settings.clone())]));
    assert_eq!(found, alone(settings));
    engine.statistics()
}

#[test]
fn speculation_changes_no_token() {
    for settings in [greedy(), drawn(), GenerationConfig { eos_token_id: vec![4, 9], ..drawn() }] {
        for at_once in [1, 3] {
            for guesses in [1, 4, 30] {
                with_guesses(&mut model(1), Speculation::Lookup { tokens: guesses }, at_once, &settings);
                for seed in [1, 2] {
                    let mut draft = model(seed);
                    let guesses = Speculation::Draft { model: &mut draft, tokens: guesses };
                    let statistics = with_guesses(&mut model(1), guesses, at_once, &settings);
                    // A greedy model that is its own draft guesses every token right.
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
    let settings = Arc::new(GenerationConfig { max_new_tokens: Some(50), ..GenerationConfig::default() });
    let mut engine = Engine::with_speculation(&mut model, 1, Speculation::Lookup { tokens: 4 }).unwrap();
    engine.submit(Request { prompt: vec![1, 2, 3], settings, seed: 0 }).unwrap();
    let mut steps = 0;
    while !engine.is_idle() {
        let _ = engine.step(&mut |_, _| ControlFlow::Continue(())).unwrap().count();
        steps += 1;
    }
    assert!(engine.statistics().accepted > 0 && steps < 50, "{steps} steps, {:?}", engine.statistics());
}

/// The search is exhaustive if there is a beam for every text without its last token.
#[test]
fn enough_beams_find_the_most_probable_text() {
    let mut model = sized(3, 5);
    let settings = GenerationConfig {
        max_new_tokens: Some(3),
        num_beams: 25,
        length_penalty: 0.0,
        ..GenerationConfig::default()
    };
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

#[test]
fn ends_have_their_reasons() {
    let (mut of_end, first) = (model(1), alone(&greedy())[0][2]);
    let settings = Arc::new(GenerationConfig { eos_token_id: vec![first], ..greedy() });
    let mut engine = Engine::new(&mut of_end, 1).unwrap();
    let found = run(&mut engine, &prompts()[..1], std::slice::from_ref(&settings)).remove(0);
    assert_eq!((found.finish, found.tokens.last()), (FinishReason::Eos, Some(&first)));
    assert!(found.first_token <= found.total);
    let long = Arc::new(GenerationConfig { max_new_tokens: Some(1000), ..GenerationConfig::default() });
    let found = run(&mut engine, &prompts()[..1], &[long]).remove(0);
    assert_eq!((found.finish, found.tokens.len()), (FinishReason::Capacity, 64 - 8));
    engine.submit(Request { prompt: vec![1], settings: Arc::new(greedy()), seed: 0 }).unwrap();
    let mut seen = 0;
    let found = engine.run(&mut |_, _| {
        seen += 1;
        if seen == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let found = found.unwrap().remove(0);
    assert_eq!((found.finish, found.tokens.len()), (FinishReason::Stop, 4));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut model = model(1);
    let refused = |result: Result<usize, Error>, part: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    let beams = Arc::new(GenerationConfig { num_beams: 40, ..greedy() });
    assert!(beam_search(&mut model, &[], &beams).unwrap_err().to_string().contains("no tokens"));
    assert!(Engine::new(&mut model, 0).unwrap_err().to_string().contains("at_once: expected at least 1"));
    let mut other = sized(1, 30);
    let draft = Speculation::Draft { model: &mut other, tokens: 2 };
    assert!(
        Engine::with_speculation(&mut model, 1, draft)
            .unwrap_err()
            .to_string()
            .contains("31 tokens, found 30")
    );
    let mut engine = Engine::new(&mut model, 1).unwrap();
    let mut submit = |prompt: &[u32], settings: GenerationConfig| {
        engine.submit(Request { prompt: prompt.to_vec(), settings: Arc::new(settings), seed: 0 })
    };
    refused(submit(&[], greedy()), "no tokens");
    refused(submit(&[1; 64], greedy()), "64 tokens leave no room");
    refused(submit(&[1], GenerationConfig { temperature: 0.0, ..drawn() }), "temperature");
    refused(submit(&[1], GenerationConfig { top_p: 1.5, ..drawn() }), "top_p");
    refused(submit(&[1], GenerationConfig { max_new_tokens: Some(0), ..greedy() }), "max_new_tokens");
    refused(submit(&[1], GenerationConfig { num_beams: 2, ..drawn() }), "do_sample");
    submit(&[31], greedy()).unwrap();
    assert!(
        engine
            .run(&mut |_, _| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
            .contains("31 is not below 31")
    );
}

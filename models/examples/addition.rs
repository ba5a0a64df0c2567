//! Trains a decoder of 200 thousand parameters to add numbers of three digits, and prints the share of held-out
//! problems that it solves.
//!
//! A problem is `012+934=6490`: the sum's digits are reversed, so that carries go from left to right (Lee et al.,
//! "Teaching Arithmetic to Small Transformers", 2023, arXiv:2307.03381).
//!
//! ```sh
//! cargo run --release -p tilewright --example addition -- [SEED] [EPOCHS]
//! ```

use std::path::Path;
use tilewright::checkpoint::initial::Initialization;
use tilewright::checkpoint::{config::Fields, weights::Weights};
use tilewright::gpt2::{Config, Gpt2};
use tilewright::labels::Labels;
use tilewright::train::random::{Draws, Purpose};
use tilewright::train::{AdamSettings, Decay, MicroBatch, OptimizerKind, Schedule, Trainer, TrainerSettings};
use tilewright::{Arithmetic, Batch, Error};
use tilewright_kernels::Backend;

/// Characters; the place of a character is its id.
const VOCABULARY: &str = "0123456789+=";
/// Characters of the answer.
const ANSWER: usize = 4;
const TRAIN: usize = 10_000;
const HELD_OUT: usize = 1_000;
const BATCH: usize = 128;

/// Ids of the problem a + b.
fn problem(a: u32, b: u32) -> Vec<u32> {
    let sum: String = format!("{:04}", a + b).chars().rev().collect();
    let text = format!("{a:03}+{b:03}={sum}");
    text.chars().filter_map(|c| VOCABULARY.find(c)).map(|id| id as u32).collect()
}

/// Problems as a batch. Each character but the last predicts the next one; with `answers`, only the answer's characters
/// are labels.
fn batch(problems: &[&Vec<u32>], answers: bool) -> Result<MicroBatch, Error> {
    let (mut batch, mut labels) = (Batch::default(), Labels { next: true, ..Labels::default() });
    for ids in problems {
        let inputs = ids.len() - 1;
        batch.push_ids(&ids[..inputs])?;
        let first = if answers { inputs - ANSWER } else { 0 };
        // -100 is no label.
        labels.labels.extend((0..inputs).map(|i| if i < first { -100 } else { i64::from(ids[i + 1]) }));
    }
    Ok(MicroBatch { batch, decoder: None, labels })
}

/// Share of the problems whose answer is right. Greedy decoding gives the same share: an answer is right if each
/// character is the most probable one after the right characters before it.
fn exact_match(trainer: &mut Trainer, problems: &[Vec<u32>]) -> Result<f64, Error> {
    let mut right = 0;
    for problem in problems {
        let loss = trainer.evaluate(&[batch(&[problem], true)?])?;
        right += usize::from(loss.right[0].1.mean() == 1.0);
    }
    Ok(right as f64 / problems.len() as f64)
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let (seed, epochs) = (arguments.next().unwrap_or(1), arguments.next().unwrap_or(50));

    // Different problems: the first ones are trained on, the others are held out.
    let pairs = Draws::new(seed, 0, 0, Purpose::Tokens).permutation(1_000_000);
    let problems = pairs[..TRAIN + HELD_OUT].iter().map(|pair| problem(pair / 1000, pair % 1000));
    let problems: Vec<Vec<u32>> = problems.collect();
    let (train, held_out) = problems.split_at(TRAIN);

    let json = br#"{"vocab_size": 12, "n_positions": 12, "n_embd": 64, "n_layer": 4, "n_head": 4}"#;
    let fields = Fields::from_bytes(Path::new("config.json"), json)?;
    let weights = Weights::initial(Initialization::new("gpt2", &fields, seed)?).trainable();
    let backend = Backend::best();
    let model = Gpt2::open(Config::read(&fields)?, weights.clone(), Arithmetic::f32(backend), true)?;
    let steps = epochs * TRAIN.div_ceil(BATCH) as u64;
    let settings = TrainerSettings {
        optimizer: OptimizerKind::AdamW(AdamSettings::default()),
        schedule: Schedule { peak: 5e-4, warmup: 0, steps, decay: Decay::Cosine(0.0) },
        clip: Some(1.0),
        dropout: false,
        recompute: false,
        seed,
        skip_not_finite: 0,
    };
    let mut trainer = Trainer::new(Box::new(model), weights.into_arena(), backend, settings);
    println!("{} parameters, {steps} steps", trainer.arena().values().len());
    for epoch in 1..=epochs {
        let mut order: Vec<&Vec<u32>> = train.iter().collect();
        Draws::new(seed, epoch as u32, 0, Purpose::Order).shuffle(&mut order);
        let mut loss = 0.0;
        for part in order.chunks(BATCH) {
            loss = trainer.step(&[batch(part, false)?])?.loss;
        }
        let exact = exact_match(&mut trainer, held_out)?;
        println!("epoch {epoch}: loss {loss:.3}, exact match {exact:.3}");
    }
    Ok(())
}

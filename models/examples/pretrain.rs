//! Pre-trains a tiny GPT-2 on documents in memory.
//!
//! ```sh
//! cargo run --release -p tilewright --example pretrain
//! ```

use std::path::Path;
use tilewright::checkpoint::initial::Initialization;
use tilewright::checkpoint::{config::Fields, weights::Weights};
use tilewright::gpt2::{Config, Gpt2};
use tilewright::train::data::{Document, MemoryCorpus};
use tilewright::train::objectives::NextToken;
use tilewright::train::{
    AdamSettings, Decay, OptimizerKind, Pretraining, PretrainingSettings, Schedule, Trainer, TrainerSettings,
};
use tilewright::{Arithmetic, Error};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    // Documents that count in steps of one to five. Token 99 ends a document.
    let count = |step: u32| (0..40).map(|i| i * step % 97).collect::<Vec<u32>>();
    let document = |step| Document { tokens: count(step), sentence_ends: vec![40] };
    let corpus = MemoryCorpus((1..=5).cycle().take(60).map(document).collect());
    let objective = NextToken { vocabulary: 100, end: Some(99), seq: 32, ..NextToken::default() };

    let json = br#"{"vocab_size": 100, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}"#;
    let fields = Fields::from_bytes(Path::new("config.json"), json)?;
    let weights = Weights::initial(Initialization::new("gpt2", &fields, 1)?).trainable();
    let backend = Backend::best();
    let model = Gpt2::open(Config::read(&fields)?, weights.clone(), Arithmetic::f32(backend), true)?;
    let settings = TrainerSettings {
        optimizer: OptimizerKind::AdamW(AdamSettings::default()),
        schedule: Schedule { peak: 3e-3, warmup: 10, steps: 120, decay: Decay::Cosine(0.1) },
        clip: Some(1.0),
        dropout: false,
        recompute: false,
        seed: 1,
        skip_not_finite: 0,
    };
    let trainer = Trainer::new(Box::new(model), weights.into_arena(), backend, settings);
    let sizes = PretrainingSettings { batch: 8, micro_batch: 8, seed: 1 };
    let mut run = Pretraining::new(trainer, &objective, &corpus, sizes)?;
    for step in 1..=120 {
        let report = run.step()?;
        if step % 20 == 0 {
            println!(
                "step {step}: loss {:.3}, norm of the gradients {:.3}",
                report.loss, report.gradient_norm
            );
        }
    }
    Ok(())
}

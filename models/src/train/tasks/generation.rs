//! Exact match of generated texts.

use super::example::Target;
use super::examples::Examples;
use crate::causal_lm::CausalLm;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::error::Error;
use crate::generate::{Engine, GenerationConfig, Request};
use crate::layers::IGNORED;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Sequences that are generated together.
const AT_ONCE: usize = 32;

/// Share of the examples whose greedy continuation is their target text; `None` if no example has a target text. Texts
/// are compared without special tokens and spaces at their ends.
///
/// # Errors
/// Errors of [`Engine`] and of the tokenizer.
pub fn generated_exact_match(
    model: &mut dyn CausalLm,
    settings: &GenerationConfig,
    tokenizer: &Tokenizer,
    examples: &Examples,
) -> Result<Option<f64>, Error> {
    let encodes = model.encodes();
    let (mut engine, mut golds) = (Engine::new(model, AT_ONCE)?, Vec::new());
    for example in &examples.list {
        let Target::Tokens(labels) = &example.target else { continue };
        let prompt = if encodes { example.ids.len() } else { answer_start(labels) };
        let gold = labels.iter().filter_map(|&label| u32::try_from(label).ok());
        let gold: Vec<u32> = gold.collect();
        let settings = GenerationConfig {
            do_sample: false,
            num_beams: 1,
            // A longer text than the target is another one.
            max_new_tokens: Some(gold.len() + 1),
            ..settings.clone()
        };
        engine.submit(Request {
            prompt: example.ids[..prompt].to_vec(),
            settings: Arc::new(settings),
            seed: 0,
        })?;
        golds.push(gold);
    }
    let found = engine.run(&mut |_, _| ControlFlow::Continue(()))?;
    let mut equal = 0;
    for (finished, gold) in found.iter().zip(&golds) {
        let [found, gold] = [&finished.tokens, gold].map(|ids| tokenizer.decode(ids));
        equal += usize::from(found?.trim() == gold?.trim());
    }
    Ok((!golds.is_empty()).then(|| equal as f64 / golds.len() as f64))
}

/// Number of tokens before the first label.
fn answer_start(labels: &[i64]) -> usize {
    labels.iter().take_while(|label| **label == IGNORED).count()
}

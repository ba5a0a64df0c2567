//! Models as cases: architectures with random weights.

use super::case::{Compute, Work};
use crate::bert::{Config, Encoder, Workspace};
use crate::error::Error;
use crate::{Arithmetic, Batch};
use std::cell::RefCell;
use std::sync::Arc;

/// A model of known sizes.
#[derive(Debug)]
pub struct ModelCase {
    /// Its name in rows and filters.
    pub name: &'static str,
    config: fn() -> Config,
    /// Sequences, and their length, of the registry's cases.
    pub shapes: &'static [[usize; 2]],
}

/// All of them.
pub static MODELS: &[ModelCase] = &[
    ModelCase {
        name: "model/bert-base",
        config: Config::default,
        shapes: &[[1, 16], [1, 128], [8, 128], [1, 512]],
    },
    ModelCase {
        name: "model/bert-large",
        config: || Config {
            hidden_size: 1024,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            intermediate_size: 4096,
            ..Config::default()
        },
        shapes: &[[1, 128]],
    },
    ModelCase {
        name: "model/minilm-l6",
        config: || Config {
            hidden_size: 384,
            num_hidden_layers: 6,
            num_attention_heads: 12,
            intermediate_size: 1536,
            ..Config::default()
        },
        shapes: &[[1, 16], [1, 128], [32, 32]],
    },
];

impl ModelCase {
    /// What a forward pass over `[batch, length]` does, with weights of so many bytes a number.
    pub fn work(&self, [batch, length]: [usize; 2], bytes: f64) -> Work {
        let config = (self.config)();
        let [h, i, layers] = [config.hidden_size, config.intermediate_size, config.num_hidden_layers];
        let tokens = (batch * length) as f64;
        // Four products with H x H, two with H x I; scores and sums over `length` keys.
        let weights = (layers * (4 * h * h + 2 * h * i)) as f64;
        let scores = (layers * 2 * length * h) as f64;
        Work {
            flops: 2.0 * tokens * (weights + scores),
            // States come and go in cache.
            bytes: bytes * weights,
            tokens: Some(tokens),
        }
    }
}

/// The model made last, so that cases of one model do not each draw its weights.
#[derive(Debug, Default)]
pub struct Models {
    last: RefCell<Option<(usize, Arithmetic, Arc<Encoder>)>>,
}

impl Models {
    /// A forward pass; it takes no output, for its states stay inside.
    pub(super) fn forward(
        &self,
        model: usize,
        [batch, length]: [usize; 2],
        on: Arithmetic,
    ) -> Result<Compute<'static>, Error> {
        let mut last = self.last.borrow_mut();
        let bert = match &*last {
            Some((of, by, bert)) if (*of, *by) == (model, on) => Arc::clone(bert),
            _ => {
                *last = None; // before the next one needs its memory
                let bert = Arc::new(Encoder::random((MODELS[model].config)(), 0, on)?);
                *last = Some((model, on, Arc::clone(&bert)));
                bert
            }
        };
        let vocabulary = bert.config().vocab_size;
        let mut sequences = Batch::default();
        for s in 0..batch {
            // All over the table, as words are.
            let ids: Vec<u32> =
                (0..length).map(|i| ((s * length + i + 1) * 7919 % vocabulary) as u32).collect();
            sequences.push(&ids, &vec![0; length])?;
        }
        let mut work = Workspace::default();
        Ok(Box::new(move |_| bert.forward(&sequences, &mut work).map(drop)))
    }
}

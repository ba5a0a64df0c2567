//! Models with random weights, ready to run.

use super::{MODELS, Task};
use crate::work::Compute;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use tilewright::Error;
use tilewright::causal_lm::{CausalLm, Want};
use tilewright::generate::{GenerationConfig, beam_search};
use tilewright::layers::Cache;
use tilewright::model::Model;
use tilewright::{ActivationQuantization, Arithmetic, Batch};
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;

/// Keeps the last model, so that consecutive cases of one model draw its weights once.
#[derive(Debug, Default)]
pub struct Models {
    /// Activation quantization of the linear layers, for models in a type other than f32. `None`: the default of
    /// [`Arithmetic::new`].
    pub layer_inputs: Option<ActivationQuantization>,
    last: RefCell<Option<(usize, Arithmetic, Shared)>>,
}

/// A model that several cases run in turn.
type Shared = Arc<Mutex<Box<dyn Model>>>;

impl Models {
    /// The arithmetic of models in `dtype`.
    pub(crate) fn arithmetic(&self, backend: Backend, dtype: Format) -> Arithmetic {
        let on = Arithmetic::new(backend, dtype);
        Arithmetic { inputs: self.layer_inputs.unwrap_or(on.inputs), ..on }
    }

    /// Prepares a run. The run writes no output: the results stay inside.
    pub(crate) fn prepare(
        &self,
        model: usize,
        task: Task,
        on: Arithmetic,
    ) -> Result<Compute<'static>, Error> {
        let mut last = self.last.borrow_mut();
        let shared = match &*last {
            Some((of, by, shared)) if (*of, *by) == (model, on) => Arc::clone(shared),
            _ => {
                *last = None; // frees its memory before the next model needs it
                let shared: Shared = Arc::new(Mutex::new((MODELS[model].make)(on)?));
                *last = Some((model, on, Arc::clone(&shared)));
                shared
            }
        };
        let words = MODELS[model].size.words;
        let mut sequences = Batch::default();
        for (s, length) in task.lengths().into_iter().enumerate() {
            // Ids spread over the whole table, as the ids of real words do.
            let ids: Vec<u32> = (0..length).map(|i| ((s * length + i + 1) * 7919 % words) as u32).collect();
            sequences.push(&ids, &vec![0; length])?;
        }
        let (new, beams) =
            if let Task::Generate { tokens, beams, .. } = task { (tokens, beams) } else { (1, 1) };
        let mut continued = Continued::default();
        let settings = Arc::new(GenerationConfig {
            num_beams: beams,
            min_new_tokens: Some(new),
            max_new_tokens: Some(new),
            decoder_start_token_id: Some(0),
            ..GenerationConfig::default()
        });
        Ok(Box::new(move |_| {
            let mut model = shared.lock().unwrap_or_else(PoisonError::into_inner);
            match model.causal_lm() {
                Some(generator) if beams > 1 => beam_search(generator, sequences.ids(), &settings).map(drop),
                Some(generator) => continued.run(generator, &sequences, new),
                None => model.forward(&sequences).map(drop),
            }
        }))
    }
}

/// Sequences to continue, with their caches and buffers.
#[derive(Default)]
struct Continued {
    caches: Vec<Cache>,
    logits: Vec<f32>,
}

impl Continued {
    /// Reads the sequences and continues each greedily by `new` tokens.
    fn run(&mut self, model: &mut dyn CausalLm, sequences: &Batch, new: usize) -> Result<(), Error> {
        let Self { caches, logits } = self;
        let mut tokens = sequences.clone();
        if model.encodes() {
            *caches = model.encode(sequences, new)?;
            tokens = Batch::default();
            (0..sequences.len()).try_for_each(|_| tokens.push(&[0], &[0]))?;
        } else if caches.is_empty() {
            let longest = sequences.longest();
            caches.resize_with(sequences.len(), || model.cache(longest + new));
        }
        let words = model.vocab_size();
        let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
        caches.iter_mut().for_each(|cache| cache.truncate(0));
        for _ in 0..new {
            model.extend(&tokens, &mut caches, Want::Last, logits)?;
            tokens = Batch::default();
            for row in logits.chunks_exact(words) {
                let next = (1..words).fold(0, |best, i| if row[i] > row[best] { i } else { best });
                tokens.push(&[next as u32], &[0])?;
            }
        }
        Ok(())
    }
}

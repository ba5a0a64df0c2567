//! Training steps of whole models as cases: forward, backward, clipping and AdamW, from initial weights.

use crate::work::{Compute, Work};
use std::path::Path;
use tilewright::architectures::ARCHITECTURES;
use tilewright::checkpoint::{arena::Arena, config::Fields, initial::Initialization, weights::Weights};
use tilewright::labels::Labels;
use tilewright::model::Model;
use tilewright::train::{AdamSettings, Decay, MicroBatch, OptimizerKind, Schedule, Trainer, TrainerSettings};
use tilewright::{Arithmetic, Batch, Error};
use tilewright_kernels::Backend;

/// A model in training, and the batch of its steps.
#[derive(Debug)]
pub struct TrainCase {
    /// Name of the model in rows and filters.
    pub name: &'static str,
    /// The batch, as it appears in rows.
    pub shape: &'static str,
    class: &'static str,
    /// Fields of config.json that differ from the family's defaults.
    config: &'static str,
    batch: TrainBatch,
    /// Weights of the linear layers that a token of the encoder, or of a decoder alone, passes.
    weights: usize,
    /// Weights that a token of an encoder-decoder's decoder passes.
    decoder_weights: usize,
    /// Weights of the head that a labelled token passes.
    head: usize,
    /// Width of the queries of all layers.
    widths: usize,
    /// Number of parameters.
    parameters: usize,
}

/// Sequences of a step.
#[derive(Clone, Copy, Debug)]
enum TrainBatch {
    /// Of one length. 15% of the tokens have labels, and each sequence has one.
    Masked { batch: usize, length: usize },
    /// Of one length, each token predicts the next.
    Causal { batch: usize, length: usize },
    /// Of lengths that spread evenly from 4 to `longest`. Each sequence has a label.
    Ragged { batch: usize, longest: usize },
    /// Of one length, with targets of another, each token of which has a label.
    Pairs { batch: usize, length: usize, targets: usize },
}

/// Weights of the linear layers of BERT's layers.
const fn encoder(layers: usize, h: usize) -> usize {
    layers * 12 * h * h
}

/// Entries of BERT's, GPT-2's and T5's word tables.
const BERT_WORDS: usize = 30522;
const GPT2_WORDS: usize = 50257;
const T5_WORDS: usize = 32128;

const GPT2: TrainCase = TrainCase {
    name: "train/gpt2",
    shape: "",
    class: "GPT2LMHeadModel",
    config: "{}",
    batch: TrainBatch::Causal { batch: 4, length: 64 },
    weights: encoder(12, 768),
    decoder_weights: 0,
    head: 768 * GPT2_WORDS,
    widths: 12 * 768,
    parameters: 124_439_808,
};

/// All models in training.
pub static TRAIN_CASES: &[TrainCase] = &[
    TrainCase {
        name: "train/bert-base",
        shape: "B8 S128",
        class: "BertForPreTraining",
        config: "{}",
        batch: TrainBatch::Masked { batch: 8, length: 128 },
        weights: encoder(12, 768),
        decoder_weights: 0,
        head: 768 * (768 + BERT_WORDS),
        widths: 12 * 768,
        parameters: 110_106_428,
    },
    TrainCase {
        name: "train/bert-mini",
        shape: "B32 S128",
        class: "BertForPreTraining",
        config: r#"{"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}"#,
        batch: TrainBatch::Masked { batch: 32, length: 128 },
        weights: encoder(4, 256),
        decoder_weights: 0,
        head: 256 * (256 + BERT_WORDS),
        widths: 4 * 256,
        parameters: 11_267_900,
    },
    TrainCase { shape: "B4 S64", ..GPT2 },
    TrainCase { shape: "B4 S512", batch: TrainBatch::Causal { batch: 4, length: 512 }, ..GPT2 },
    TrainCase {
        name: "train/minilm-l6",
        shape: "B64 S4..128",
        class: "BertForSequenceClassification",
        config: r#"{"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}"#,
        batch: TrainBatch::Ragged { batch: 64, longest: 128 },
        weights: encoder(6, 384),
        decoder_weights: 0,
        head: 0,
        widths: 6 * 384,
        parameters: 22_713_986,
    },
    TrainCase {
        name: "train/t5-small",
        shape: "B8 S512/114",
        class: "T5ForConditionalGeneration",
        config: r#"{"decoder_start_token_id": 0}"#,
        batch: TrainBatch::Pairs { batch: 8, length: 512, targets: 114 },
        // The keys and values of the six cross-attentions are products of the encoder's tokens.
        weights: encoder(6, 512) + 6 * 2 * 512 * 512,
        decoder_weights: encoder(6, 512) + 6 * 2 * 512 * 512,
        head: 512 * T5_WORDS,
        widths: 6 * 512,
        parameters: 60_506_624,
    },
];

impl TrainBatch {
    /// Lengths of the sequences.
    fn lengths(self) -> Vec<usize> {
        match self {
            Self::Masked { batch, length }
            | Self::Causal { batch, length }
            | Self::Pairs { batch, length, .. } => {
                vec![length; batch]
            }
            Self::Ragged { batch, longest } => super::Task::Ragged { batch, longest }.lengths(),
        }
    }

    /// Tokens with a label that the word table predicts.
    fn labelled(self) -> usize {
        match self {
            Self::Masked { batch, length } => (0..batch * length).filter(|&t| is_masked(t)).count(),
            Self::Causal { batch, length } => batch * (length - 1),
            Self::Ragged { .. } => 0,
            Self::Pairs { batch, targets, .. } => batch * targets,
        }
    }

    fn micro_batch(self) -> Result<MicroBatch, Error> {
        let id = |t: usize| (t + 1) * 7919 % 30000;
        let batch = |lengths: &[usize]| {
            let (mut batch, mut first) = (Batch::default(), 0);
            for &length in lengths {
                let ids: Vec<u32> = (first..first + length).map(|t| id(t) as u32).collect();
                batch.push(&ids, &vec![0; length])?;
                first += length;
            }
            Ok::<_, Error>(batch)
        };
        let lengths = self.lengths();
        let tokens: usize = lengths.iter().sum();
        let sequences: Vec<i64> = (0..lengths.len()).map(|s| (s % 2) as i64).collect();
        let words = |tokens: usize, has: fn(usize) -> bool| -> Vec<i64> {
            (0..tokens).map(|t| if has(t) { id(t) as i64 } else { -100 }).collect()
        };
        let (mut decoder, mut labels) = (None, Labels::default());
        match self {
            Self::Masked { .. } => (labels.labels, labels.sequences) = (words(tokens, is_masked), sequences),
            Self::Causal { .. } => labels.labels = words(tokens, |_| true),
            Self::Ragged { .. } => labels.labels = sequences,
            Self::Pairs { batch: count, targets, .. } => {
                decoder = Some(batch(&vec![targets; count])?);
                labels.labels = words(count * targets, |_| true);
            }
        }
        Ok(MicroBatch { batch: batch(&lengths)?, decoder, labels })
    }
}

/// True for 15% of the tokens, spread out.
fn is_masked(token: usize) -> bool {
    token * 37 % 100 < 15
}

impl TrainCase {
    /// The work of a step. Backward passes count twice their forward pass; what they compute again does not count.
    pub fn work(&self) -> Work {
        let lengths = self.batch.lengths();
        let square = |n: usize| match self.batch {
            TrainBatch::Causal { .. } => n * (n + 1) / 2,
            // Encoder, decoder and cross-attention.
            TrainBatch::Pairs { targets, .. } => n * n + targets * (targets + 1) / 2 + n * targets,
            _ => n * n,
        };
        let (tokens, scores) =
            (lengths.iter().sum::<usize>(), lengths.iter().map(|&n| square(n)).sum::<usize>());
        let targets = match self.batch {
            TrainBatch::Pairs { batch, targets, .. } => batch * targets,
            _ => 0,
        };
        let products = tokens * self.weights
            + targets * self.decoder_weights
            + self.batch.labelled() * self.head
            + 2 * scores * self.widths;
        Work {
            flops: 6.0 * products as f64,
            // AdamW reads parameters, gradients and two moments, and writes all but the gradients.
            bytes: 28.0 * self.parameters as f64,
            tokens: Some((tokens + targets) as f64),
        }
    }

    /// The model with initial parameters, and these.
    fn open(&self, backend: Backend) -> Result<(Box<dyn Model>, Arena), Error> {
        let architecture = ARCHITECTURES.iter().find(|a| a.class == self.class);
        let architecture = architecture.expect("the table has the classes of the cases");
        let fields = Fields::from_bytes(Path::new(self.name), self.config.as_bytes())?;
        let weights = Weights::initial(Initialization::new(architecture.model_type, &fields, 0)?).trainable();
        let model = architecture.open_with(&fields, weights.clone(), Arithmetic::f32(backend))?;
        Ok((model, weights.into_arena()))
    }

    /// Prepares steps of the model, whose linear layers multiply bf16 or f32.
    pub(crate) fn prepare(&self, backend: Backend, bf16: bool) -> Result<Compute<'static>, Error> {
        let (model, arena) = self.open(backend)?;
        let arena = if bf16 { arena.with_bf16() } else { arena };
        let settings = TrainerSettings {
            optimizer: OptimizerKind::AdamW(AdamSettings::default()),
            schedule: Schedule { peak: 1e-4, warmup: 0, steps: u64::MAX, decay: Decay::Constant },
            clip: Some(1.0),
            dropout: false,
            recompute: false,
            seed: 0,
            skip_not_finite: 0,
        };
        let mut trainer = Trainer::new(model, arena, backend, settings);
        let parts = [self.batch.micro_batch()?];
        Ok(Box::new(move |_| trainer.step(&parts).map(drop)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of parameters and weights in the table are those of the models.
    #[test]
    fn sizes_are_those_of_the_models() {
        for case in TRAIN_CASES {
            let (model, arena) = case.open(Backend::best()).unwrap();
            assert_eq!(arena.values().len(), case.parameters, "{}", case.name);
            let layers = model.linear_layers().into_iter().filter(|layer| layer.part != "head");
            let weights: usize = layers.map(|layer| layer.times * layer.linear.multiply_adds()).sum();
            assert_eq!(weights, case.weights + case.decoder_weights, "{}", case.name);
        }
    }
}

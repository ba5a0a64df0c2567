//! Models as cases: architectures with random weights.

mod run;
mod training;

pub use run::Models;
pub use training::{TRAIN_CASES, TrainCase};

use crate::work::Work;
use core::fmt;
use tilewright::Error;
use tilewright::checkpoint::weights::Weights;
use tilewright::heads::HeadKind as Head;
use tilewright::model::Model;
use tilewright::{Arithmetic, albert, bart, bert, electra, gpt2, llama, roberta, t5};

/// The task of a model in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One forward pass of sequences of one length. A decoder computes the logits of the last token of each sequence.
    Forward {
        /// Sequences.
        batch: usize,
        /// Tokens of each sequence.
        length: usize,
    },
    /// One forward pass of sequences whose lengths spread evenly from 4 to `longest`.
    Ragged {
        /// Sequences.
        batch: usize,
        /// Tokens of the longest sequence.
        longest: usize,
    },
    /// Reading a prompt or a source, then generating tokens.
    Generate {
        /// Tokens of the prompt or source.
        prompt: usize,
        /// Generated tokens.
        tokens: usize,
        /// Number of beams; 1 decodes greedily.
        beams: usize,
    },
}

/// Tokens of the shortest sequence in a ragged batch.
const SHORTEST: usize = 4;

impl fmt::Display for Task {
    /// `B1 S128`, `B64 S4..128`, `16 in, 64 out`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward { batch, length } => write!(f, "B{batch} S{length}"),
            Self::Ragged { batch, longest } => write!(f, "B{batch} S{SHORTEST}..{longest}"),
            Self::Generate { prompt, tokens, beams } => {
                write!(f, "{prompt} in, {tokens} out")?;
                if *beams > 1 { write!(f, ", {beams} beams") } else { Ok(()) }
            }
        }
    }
}

impl Task {
    /// Lengths of the sequences that the model reads.
    fn lengths(self) -> Vec<usize> {
        match self {
            Self::Forward { batch, length } => vec![length; batch],
            Self::Ragged { batch, longest } => {
                let step = |i: usize| (longest - SHORTEST) * i / (batch - 1).max(1);
                (0..batch).map(|i| SHORTEST + step(i)).collect()
            }
            Self::Generate { prompt, .. } => vec![prompt],
        }
    }
}

/// A model of known sizes.
#[derive(Debug)]
pub struct ModelCase {
    /// Name of the model in rows and filters.
    pub name: &'static str,
    make: fn(Arithmetic) -> Result<Box<dyn Model>, Error>,
    size: Size,
    /// Tasks of the cases in the registry.
    pub tasks: &'static [Task],
}

/// Sizes that determine the work of a model.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Entries of the word table.
    words: usize,
    layers: usize,
    /// Layers in memory; fewer than `layers` if layers share weights.
    stored: usize,
    /// Weights of the linear layers in one layer.
    weights: usize,
    /// Width of queries.
    width: usize,
    /// Weights of the head if logits of the last token are computed, else 0.
    head: usize,
    /// Weights that each source token of an encoder-decoder passes; `weights` counts the decoder.
    source: usize,
}

const fn forward(batch: usize, length: usize) -> Task {
    Task::Forward { batch, length }
}

const fn generate(prompt: usize, tokens: usize, beams: usize) -> Task {
    Task::Generate { prompt, tokens, beams }
}

/// Sizes of a BERT: each layer multiplies by four H x H and two H x I matrices.
const fn encoder(layers: usize, h: usize, i: usize) -> Size {
    Size {
        words: 30000,
        layers,
        stored: layers,
        weights: 4 * h * h + 2 * h * i,
        width: h,
        head: 0,
        source: 0,
    }
}

/// Sizes of BERT-base, RoBERTa-base and ALBERT-base.
const BASE: Size = encoder(12, 768, 3072);

fn bert(layers: usize, h: usize, heads: usize, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
    let config = bert::Config {
        hidden_size: h,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        intermediate_size: 4 * h,
        ..bert::Config::default()
    };
    Ok(Box::new(bert::open(config, Weights::random(0), on, Head::Bare)?))
}

/// Six layers and heads of width 64: BART-base and Marian's translation models.
fn bart(family: bart::Family, d_model: usize, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
    let config = bart::Config {
        d_model,
        encoder_layers: 6,
        decoder_layers: 6,
        encoder_attention_heads: d_model / 64,
        decoder_attention_heads: d_model / 64,
        encoder_ffn_dim: 4 * d_model,
        decoder_ffn_dim: 4 * d_model,
        ..bart::Config::of(family)
    };
    Ok(Box::new(bart::Bart::random(config, 0, on, bart::BartClass::ConditionalGeneration)?))
}

/// Sizes of six encoder and six decoder layers of BART or T5-small.
const fn encoder_decoder(words: usize, d: usize) -> Size {
    Size {
        words,
        layers: 6,
        stored: 6,
        // Self-attention, cross-attention without the keys and values of the source, feed-forward.
        weights: 6 * d * d + 2 * d * 4 * d,
        width: d,
        head: d * words,
        // The encoder, and the cross-attention keys and values.
        source: 6 * (6 * d * d + 2 * d * 4 * d),
    }
}

/// All models; `tilewright report` runs the first.
pub static MODELS: &[ModelCase] = &[
    ModelCase {
        name: "model/bert-base",
        make: |on| bert(12, 768, 12, on),
        size: BASE,
        tasks: &[forward(1, 16), forward(1, 128), forward(8, 128), forward(1, 512)],
    },
    ModelCase {
        name: "model/bert-large",
        make: |on| bert(24, 1024, 16, on),
        size: encoder(24, 1024, 4096),
        tasks: &[forward(1, 128)],
    },
    ModelCase {
        name: "model/minilm-l6",
        make: |on| bert(6, 384, 12, on),
        size: encoder(6, 384, 1536),
        tasks: &[forward(1, 16), forward(1, 128), forward(32, 32), Task::Ragged { batch: 64, longest: 128 }],
    },
    ModelCase {
        name: "model/roberta-base",
        make: |on| {
            let config = roberta::Config::default();
            Ok(Box::new(roberta::open(config, Weights::random(0), on, Head::Bare)?))
        },
        size: BASE,
        tasks: &[forward(1, 128)],
    },
    ModelCase {
        name: "model/albert-base",
        make: |on| {
            let large = albert::Config::default();
            let base = bert::Config {
                hidden_size: 768,
                num_attention_heads: 12,
                intermediate_size: 3072,
                ..large.bert.clone()
            };
            let config = albert::Config { bert: base, ..large };
            Ok(Box::new(albert::open(config, Weights::random(0), on, Head::Bare)?))
        },
        size: Size { stored: 1, ..BASE },
        tasks: &[forward(1, 128)],
    },
    ModelCase {
        name: "model/electra-small",
        make: |on| {
            let config = electra::Config::default();
            Ok(Box::new(electra::open(config, Weights::random(0), on, Head::Bare)?))
        },
        size: encoder(12, 256, 1024),
        tasks: &[forward(1, 128)],
    },
    ModelCase {
        name: "model/gpt2",
        make: |on| Ok(Box::new(gpt2::Gpt2::random(gpt2::Config::default(), 0, on)?)),
        size: Size {
            words: 50257,
            layers: 12,
            stored: 12,
            weights: 12 * 768 * 768,
            width: 768,
            head: 768 * 50257,
            source: 0,
        },
        tasks: &[forward(1, 512), generate(64, 32, 1)],
    },
    ModelCase {
        name: "model/smollm2-135m",
        make: |on| {
            let config = llama::Config {
                vocab_size: 49152,
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: Some(3),
                max_position_embeddings: 8192,
                rope_theta: 1e5,
                tie_word_embeddings: true,
                ..llama::Config::default()
            };
            Ok(Box::new(llama::Llama::random(config, 0, on)?))
        },
        size: Size {
            words: 49152,
            layers: 30,
            stored: 30,
            // Queries and outputs of 9 heads, keys and values of 3 heads; gate, up and down.
            weights: 576 * (2 * 576 + 2 * 192) + 3 * 576 * 1536,
            width: 576,
            head: 576 * 49152,
            source: 0,
        },
        tasks: &[forward(1, 512), generate(16, 64, 1)],
    },
    ModelCase {
        name: "model/t5-small",
        make: |on| {
            let (config, class) = (t5::Config::default(), t5::T5Class::ConditionalGeneration);
            Ok(Box::new(t5::T5::random(config, 0, on, class)?))
        },
        size: encoder_decoder(32128, 512),
        tasks: &[generate(64, 64, 1), generate(64, 64, 4)],
    },
    ModelCase {
        name: "model/bart-base",
        make: |on| bart(bart::Family::BART, 768, on),
        size: encoder_decoder(50265, 768),
        tasks: &[generate(64, 64, 1), generate(64, 64, 4)],
    },
    ModelCase {
        name: "model/marian",
        make: |on| bart(bart::Family::MARIAN, 512, on),
        size: encoder_decoder(58101, 512),
        tasks: &[generate(64, 64, 1)],
    },
];

impl ModelCase {
    /// The work of a run whose weights take `bytes` bytes each.
    pub fn work(&self, task: Task, bytes: f64) -> Work {
        let Size { layers, stored, weights, width, head, source, .. } = self.size;
        let causal = head > 0;
        let lengths = task.lengths();
        // Attention scores: each token sees all keys; with a causal mask, the keys up to its own position.
        let seen = |n: usize| if causal { n * (n + 1) / 2 } else { n * n };
        let (mut tokens, mut scores): (usize, usize) =
            (lengths.iter().sum(), lengths.iter().map(|&n| seen(n)).sum());
        let (mut logits, mut passes) = (lengths.len(), 1);
        let mut shown = tokens;
        if let Task::Generate { prompt, tokens: new, beams } = task {
            // The model never reads the last token it generates.
            tokens = beams * if source > 0 { new } else { prompt + new - 1 };
            scores =
                beams * seen(tokens / beams) + if source > 0 { prompt * (prompt + beams * new) } else { 0 };
            (logits, passes, shown) = (beams * new, new, new);
        }
        let mut flops = 2 * (tokens * layers * weights + 2 * scores * layers * width + logits * head);
        if let Task::Generate { prompt, .. } = task {
            flops += 2 * prompt * source;
        }
        Work {
            flops: flops as f64,
            // Activations stay in cache: only weights are counted.
            bytes: bytes * (source + passes * (stored * weights + head)) as f64,
            tokens: Some(shown as f64),
        }
    }
}

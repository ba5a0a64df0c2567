//! Steps of training that are neither products, attention nor rows: losses with their gradients, and optimizers.

use super::{Aligned, Inputs, Prepared};
use crate::work::Work;
use core::fmt;
use half::bf16;
use tilewright::Error;
use tilewright_kernels::optimizer::{Adam, AdamOptions, Trainable};
use tilewright_kernels::random::Random;
use tilewright_kernels::{Backend, Element, EmbeddingBackward, LinearCrossEntropy, Targets, View, ViewMut};
use tilewright_peers::Dtype;

/// Width of the states that a vocabulary projection takes: BERT-base's and GPT-2's.
const WIDTH: usize = 768;

/// A step of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingStep {
    /// Loss and gradients of a vocabulary projection without bias.
    LinearCrossEntropy {
        /// Tokens.
        tokens: usize,
        /// Tokens with a label, in percent.
        labelled: usize,
        /// Rows of the weight.
        vocabulary: usize,
    },
    /// Gradient of a table of embeddings, by tokens of random entries.
    EmbeddingBackward {
        /// Tokens.
        tokens: usize,
        /// Rows of the table.
        entries: usize,
    },
    /// AdamW as PyTorch's.
    AdamW {
        /// Parameters.
        parameters: usize,
    },
}

impl fmt::Display for TrainingStep {
    /// `1024x768x30522 15%`, `4096x768 of 30522`, or a number of parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinearCrossEntropy { tokens, labelled, vocabulary } => {
                write!(f, "{tokens}x{WIDTH}x{vocabulary} {labelled}%")
            }
            Self::EmbeddingBackward { tokens, entries } => write!(f, "{tokens}x{WIDTH} of {entries}"),
            Self::AdamW { parameters } => write!(f, "{parameters}"),
        }
    }
}

/// Labels of `tokens` tokens: of each hundred, `labelled` have one, spread out.
fn labels(tokens: usize, labelled: usize, vocabulary: usize) -> Vec<i64> {
    let mut random = Random::new(4);
    (0..tokens)
        .map(|t| if t * 37 % 100 < labelled { random.below(vocabulary) as i64 } else { -100 })
        .collect()
}

impl TrainingStep {
    /// The kernel, as filters name it.
    pub fn kernel(self) -> &'static str {
        match self {
            Self::LinearCrossEntropy { .. } => "linear-cross-entropy",
            Self::EmbeddingBackward { .. } => "embedding-backward",
            Self::AdamW { .. } => "adamw",
        }
    }

    /// True if there is a kernel for the type: states of optimizers are f32.
    pub fn has(self, dtype: Dtype) -> bool {
        match self {
            Self::LinearCrossEntropy { .. } | Self::EmbeddingBackward { .. } => {
                matches!(dtype, Dtype::F32 | Dtype::Bf16)
            }
            Self::AdamW { .. } => dtype == Dtype::F32,
        }
    }

    /// The work of one run, on numbers of `size` bytes.
    pub(super) fn work(self, size: f64) -> Work {
        let (flops, bytes) = match self {
            Self::LinearCrossEntropy { tokens, labelled, vocabulary } => {
                let labelled =
                    labels(tokens, labelled, vocabulary).iter().filter(|&&label| label >= 0).count();
                let (x, weight) = ((tokens * WIDTH) as f64, (vocabulary * WIDTH) as f64);
                // Three products; W is read, and its f32 gradient read and written.
                (6.0 * labelled as f64 * weight, 2.0 * size * x + (size + 8.0) * weight)
            }
            // dy is read; an f32 entry of the table for each token is read and written.
            Self::EmbeddingBackward { tokens, .. } => (0.0, (size + 8.0) * (tokens * WIDTH) as f64),
            // p, g, m and v are read, all but g written.
            Self::AdamW { parameters } => (0.0, 28.0 * parameters as f64),
        };
        Work { flops, bytes, tokens: None }
    }

    pub(super) fn inputs(self) -> Inputs {
        let mut random = Random::new(5);
        let mut numbers = |n: usize| Aligned::new(n, |_| bf16::from_f32(random.normal()).to_f32());
        match self {
            Self::LinearCrossEntropy { tokens, vocabulary, .. } => {
                Inputs { x: numbers(tokens * WIDTH), y: numbers(vocabulary * WIDTH), ..Inputs::default() }
            }
            Self::EmbeddingBackward { tokens, .. } => {
                Inputs { x: numbers(tokens * WIDTH), ..Inputs::default() }
            }
            Self::AdamW { parameters } => Inputs { x: numbers(parameters), ..Inputs::default() },
        }
    }

    pub(super) fn prepare<'a>(
        self,
        inputs: &'a Inputs,
        backend: Backend,
        dtype: Dtype,
    ) -> Option<Prepared<'a>> {
        match (self, dtype) {
            (Self::LinearCrossEntropy { tokens, labelled, vocabulary }, Dtype::F32 | Dtype::Bf16) => {
                let labels = labels(tokens, labelled, vocabulary);
                Some(match dtype {
                    Dtype::F32 => linear_cross_entropy::<f32>(inputs, labels, vocabulary, backend),
                    _ => linear_cross_entropy::<bf16>(inputs, labels, vocabulary, backend),
                })
            }
            (Self::EmbeddingBackward { tokens, entries }, Dtype::F32) => {
                Some(embedding_backward::<f32>(inputs, [tokens, entries], backend))
            }
            (Self::EmbeddingBackward { tokens, entries }, Dtype::Bf16) => {
                Some(embedding_backward::<bf16>(inputs, [tokens, entries], backend))
            }
            (Self::AdamW { parameters }, Dtype::F32) => Some(adamw(inputs, parameters, backend)),
            _ => None,
        }
    }
}

fn linear_cross_entropy<'a, T: Element>(
    inputs: &Inputs,
    labels: Vec<i64>,
    vocabulary: usize,
    backend: Backend,
) -> Prepared<'a> {
    let of = |x: &[f32]| Aligned::new(x.len(), |i| T::from_f32(x[i]));
    let (x, weight) = (of(&inputs.x), of(&inputs.y));
    let shape = [labels.len(), WIDTH];
    let mut dx = Aligned::new(x.len(), |_| T::default());
    let mut dweight = Aligned::new(weight.len(), |_| 0.0);
    let run = move |_: &mut [f32]| -> Result<(), Error> {
        let (x, weight) = (View::new(&x[..], shape)?, View::new(&weight[..], [vocabulary, WIDTH])?);
        let targets = Targets::new(&labels);
        backend.run(LinearCrossEntropy {
            scale: 1.0 / targets.total_weight() as f32,
            dx: Some(ViewMut::new(&mut dx[..], shape)?),
            dweight: Some(ViewMut::new(&mut dweight[..], [vocabulary, WIDTH])?),
            ..LinearCrossEntropy::new(x, weight, targets)
        })?;
        Ok(())
    };
    Prepared { run: Box::new(run), out: Aligned::default(), narrow: false }
}

fn embedding_backward<'a, T: Element>(
    inputs: &Inputs,
    [tokens, entries]: [usize; 2],
    backend: Backend,
) -> Prepared<'a> {
    let dy = Aligned::new(inputs.x.len(), |i| T::from_f32(inputs.x[i]));
    let mut dtable = Aligned::new(entries * WIDTH, |_| 0.0);
    let mut random = Random::new(6);
    let ids: Vec<u32> = (0..tokens).map(|_| random.below(entries) as u32).collect();
    let run = move |_: &mut [f32]| -> Result<(), Error> {
        let dy = View::new(&dy[..], [tokens, WIDTH])?;
        let dtable = ViewMut::new(&mut dtable[..], [entries, WIDTH])?;
        Ok(backend.run(EmbeddingBackward::new(dy, &ids, dtable))?)
    };
    Prepared { run: Box::new(run), out: Aligned::default(), narrow: false }
}

fn adamw(inputs: &Inputs, parameters: usize, backend: Backend) -> Prepared<'_> {
    let [mut p, mut m, mut v] = [0; 3].map(|_| Aligned::new(parameters, |_| 0.0));
    let mut step = 0;
    let run = move |_: &mut [f32]| -> Result<(), Error> {
        step += 1;
        let (of, options) = (Trainable::new(&mut p, &inputs.x), AdamOptions::adamw(1e-4, step));
        Ok(backend.run(Adam { of, m: &mut m, v: &mut v, options })?)
    };
    Prepared { run: Box::new(run), out: Aligned::default(), narrow: false }
}

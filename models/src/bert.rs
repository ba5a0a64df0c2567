//! BERT (Devlin et al. 2018, arXiv:1810.04805): a bidirectional encoder and its heads.
//!
//! ```text
//! x = LN(word[id] + position[i] + token_type[t])
//! each layer:  x = LN(x + dense(attention(x)))
//!              x = LN(x + dense(GELU(dense(x))))
//! pooler       tanh(dense(x of token 0))
//! heads        masked language model   decoder(LN(GELU(dense(x)))), decoder = word table^T + bias
//!              next sentence, class    dense(pooler)
//! ```
//!
//! The sequences of a batch stand packed, one row for each token: only attention knows where one
//! ends. A sequence's results are therefore the same to the bit alone, in a batch, and padded.

use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::config;
use crate::error::Error;
use crate::layers::{Buffer, Heads, Linear, Norm, Table};
use crate::model::{Each, Model, Output};
use crate::weights::Weights;
use std::collections::BTreeMap;
use std::path::Path;
use tilewright_kernels::{Activation, Embedding, Lookup, Pool, Pooling, View, ViewMut};

/// config.json. Fields that are missing have the value of transformers' `BertConfig`: those of
/// BERT-base.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default)]
pub struct Config {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// Width H of a token's state.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of each layer's attention, each H / heads wide.
    pub num_attention_heads: usize,
    /// Width I between the two dense layers of a feed-forward block.
    pub intermediate_size: usize,
    /// Between them, and in the head of the masked language model.
    #[serde(deserialize_with = "config::activation")]
    pub hidden_act: Activation,
    /// Entries of the position table: the longest sequence.
    pub max_position_embeddings: usize,
    /// Entries of the token-type table.
    pub type_vocab_size: usize,
    /// Added to variances.
    pub layer_norm_eps: f32,
    /// How positions enter.
    pub position_embedding_type: Option<PositionEmbeddingType>,
    /// Whether a token sees only those before it, which is not supported.
    pub is_decoder: bool,
    /// Whether the decoder of the masked language model is the word table.
    pub tie_word_embeddings: bool,
    /// Names of the classes, by number.
    pub id2label: Option<BTreeMap<usize, String>>,
}

/// How positions enter: as rows of a table that are added to the words. Others are not supported.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionEmbeddingType {
    /// One learned vector for each position.
    Absolute,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::GeluErf,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            position_embedding_type: None,
            is_decoder: false,
            tie_word_embeddings: true,
            id2label: None,
        }
    }
}

impl Config {
    /// Number of classes of a classifier: 2 unless `id2label` says otherwise.
    pub fn num_labels(&self) -> usize {
        self.id2label.as_ref().map_or(2, BTreeMap::len)
    }

    /// Reads config.json from memory; errors call it `path`.
    ///
    /// # Errors
    /// If it is damaged, or asks for what is not supported: the field is named.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let config: Self = config::parse(path, bytes)?;
        match config.check() {
            Ok(()) => Ok(config),
            Err(why) => Err(Error::File { path: path.to_owned(), why }),
        }
    }

    /// Says what no model can be made of.
    fn check(&self) -> Result<(), String> {
        config::positive(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("number of labels", self.num_labels()),
        ])?;
        config::eps("layer_norm_eps", self.layer_norm_eps)?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (heads, hidden) = (self.num_attention_heads, self.hidden_size);
            return Err(format!("num_attention_heads {heads} does not divide hidden_size {hidden}"));
        }
        if self.is_decoder {
            return Err("is_decoder: only encoders are supported".to_owned());
        }
        Ok(())
    }
}

/// The encoder, without a head.
#[derive(Debug)]
pub struct Bert {
    config: Config,
    on: Arithmetic,
    embeddings: Embeddings,
    layers: Vec<Layer>,
}

/// `bert.embeddings`.
#[derive(Debug)]
struct Embeddings {
    /// \[vocab_size, H\].
    word_embeddings: Table,
    /// \[max_position_embeddings, H\].
    position_embeddings: Table,
    /// \[type_vocab_size, H\].
    token_type_embeddings: Table,
    /// \[H\].
    layer_norm: Norm,
}

/// `bert.encoder.layer.N`.
#[derive(Debug)]
struct Layer {
    /// attention.self.{query, key, value}, as one layer: \[H, 3 H\].
    query_key_value: Linear,
    /// attention.output.dense, \[H, H\].
    attention_output_dense: Linear,
    /// attention.output.LayerNorm, \[H\].
    attention_output_layer_norm: Norm,
    /// intermediate.dense, \[H, I\].
    intermediate_dense: Linear,
    /// output.dense, \[I, H\].
    output_dense: Linear,
    /// output.LayerNorm, \[H\].
    output_layer_norm: Norm,
}

/// Working memory of [`Bert::forward`]: it grows to the largest batch, then nothing is allocated.
#[derive(Debug, Default)]
pub struct Workspace {
    /// \[tokens, H\]: the states.
    x: Buffer,
    /// \[tokens, H\]: states and what a block adds to them, before the norm.
    sum: Buffer,
    /// \[tokens, H\]: what attention found.
    context: Buffer,
    /// \[tokens, max(3 H, I)\]: queries, keys and values, or the feed-forward block's inside.
    wide: Buffer,
}

impl Bert {
    /// Reads the encoder from `weights`, whose names may lack the prefix `bert.`.
    ///
    /// # Errors
    /// Those of [`Weights::get`], and [`Error::Input`] if the config has a size of 0 or the like.
    pub fn open(config: Config, weights: &Weights, on: Arithmetic) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        let (h, i, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let linear = |name: String, shape| Linear::open(weights, &name, shape, on);
        let norm = |name: String| Norm::open(weights, &name, h, eps, on);
        let table =
            |name, entries| Table::open(weights, &format!("bert.embeddings.{name}_embeddings"), [entries, h]);
        let layer = |n| {
            let at = |name: &str| format!("bert.encoder.layer.{n}.{name}");
            let query_key_value =
                ["query", "key", "value"].map(|part| (at(&format!("attention.self.{part}")), h));
            Ok(Layer {
                query_key_value: Linear::open_fused(weights, &query_key_value, h, true, on)?,
                attention_output_dense: linear(at("attention.output.dense"), [h, h])?,
                attention_output_layer_norm: norm(at("attention.output.LayerNorm"))?,
                intermediate_dense: linear(at("intermediate.dense"), [i, h])?,
                output_dense: linear(at("output.dense"), [h, i])?,
                output_layer_norm: norm(at("output.LayerNorm"))?,
            })
        };
        Ok(Self {
            on,
            embeddings: Embeddings {
                word_embeddings: table("word", config.vocab_size)?,
                position_embeddings: table("position", config.max_position_embeddings)?,
                token_type_embeddings: table("token_type", config.type_vocab_size)?,
                layer_norm: norm("bert.embeddings.LayerNorm".to_owned())?,
            },
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, Error>>()?,
            config,
        })
    }

    /// An encoder with random weights, the same for a seed on every machine.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or the like.
    ///
    /// ```
    /// use tilewright::{Arithmetic, Batch, bert::{Bert, Config, Workspace}};
    /// let config = Config { num_hidden_layers: 2, hidden_size: 24, num_attention_heads: 3, ..Config::default() };
    /// let bert = Bert::random(config, 0, Arithmetic::f32(tilewright_kernels::Backend::best()))?;
    /// let mut batch = Batch::default();
    /// batch.push(&[101, 7592, 102], &[0, 0, 0])?;
    /// let mut work = Workspace::default();
    /// assert_eq!(bert.forward(&batch, &mut work)?.len(), 3 * 24);
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    pub fn random(config: Config, seed: u64, on: Arithmetic) -> Result<Self, Error> {
        Self::open(config, &Weights::random(seed), on)
    }

    /// The config it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The states of all tokens after the last layer, \[tokens, H\], in `work`.
    ///
    /// # Errors
    /// [`Error::Input`] if an id, token type or position lies outside of its table.
    pub fn forward<'w>(&self, batch: &Batch, work: &'w mut Workspace) -> Result<&'w [f32], Error> {
        let Config { hidden_size: h, intermediate_size: i, .. } = self.config;
        let heads = Heads::of_width(self.on, self.config.num_attention_heads, h);
        let tokens = batch.tokens();
        let Workspace { x, sum, context, wide } = work;
        let (x, sum, context) = (x.get(tokens * h), sum.get(tokens * h), context.get(tokens * h));
        let wide = wide.get(tokens * i.max(3 * h));

        self.embed(batch, x)?;
        for layer in &self.layers {
            let qkv = &mut wide[..tokens * 3 * h];
            layer.query_key_value.forward(x, qkv)?;
            heads.bidirectional(batch.starts(), qkv, context)?;
            layer.attention_output_dense.added(context, x, sum)?;
            layer.attention_output_layer_norm.forward(sum, x)?;

            let inside = &mut wide[..tokens * i];
            layer.intermediate_dense.activated(x, self.config.hidden_act, inside)?;
            layer.output_dense.added(inside, x, sum)?;
            layer.output_layer_norm.forward(sum, x)?;
        }
        Ok(x)
    }

    /// x = LN(word\[id\] + token_type\[t\] + position\[i\]).
    fn embed(&self, batch: &Batch, x: &mut [f32]) -> Result<(), Error> {
        let (config, tables) = (&self.config, &self.embeddings);
        batch.check(config.vocab_size, config.type_vocab_size, config.max_position_embeddings)?;
        self.on.backend.run(Embedding {
            lookups: &[
                Lookup { table: tables.word_embeddings.view(), ids: &batch.ids },
                Lookup { table: tables.token_type_embeddings.view(), ids: &batch.types },
                Lookup { table: tables.position_embeddings.view(), ids: &batch.positions },
            ],
            out: ViewMut::new(x, [batch.tokens(), config.hidden_size])?,
        })?;
        tables.layer_norm.in_place(x)
    }
}

/// `bert.pooler`: tanh(dense(state of token 0)).
#[derive(Debug)]
pub struct Pooler {
    on: Arithmetic,
    /// \[H, H\].
    dense: Linear,
}

impl Pooler {
    fn open(config: &Config, weights: &Weights, on: Arithmetic) -> Result<Self, Error> {
        let h = config.hidden_size;
        Ok(Self { on, dense: Linear::open(weights, "bert.pooler.dense", [h, h], on)? })
    }

    /// From states \[tokens, H\] to \[sequences, H\].
    fn forward(&self, batch: &Batch, states: &[f32]) -> Result<Vec<f32>, Error> {
        let h = states.len() / batch.tokens().max(1);
        let mut first = vec![0.0; batch.len() * h];
        self.on.backend.run(Pool {
            x: View::new(states, [batch.tokens(), h])?,
            offsets: batch.starts(),
            pooling: Pooling::Cls,
            out: ViewMut::new(&mut first, [batch.len(), h])?,
        })?;
        let mut pooled = vec![0.0; first.len()];
        self.dense.activated(&first, Activation::Tanh, &mut pooled)?;
        Ok(pooled)
    }
}

/// `cls.predictions`: a score of every word for every token.
#[derive(Debug)]
pub struct Predictions {
    activation: Activation,
    vocab_size: usize,
    /// transform.dense, \[H, H\].
    transform_dense: Linear,
    /// transform.LayerNorm, \[H\].
    transform_layer_norm: Norm,
    /// decoder, \[H, vocab_size\]: the word table, unless the config unties it.
    decoder: Linear,
}

impl Predictions {
    fn open(config: &Config, weights: &Weights, on: Arithmetic) -> Result<Self, Error> {
        let (h, words, eps) = (config.hidden_size, config.vocab_size, config.layer_norm_eps);
        let (decoder, bias) = match config.tie_word_embeddings {
            true => ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
            false => ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
        };
        Ok(Self {
            activation: config.hidden_act,
            vocab_size: words,
            transform_dense: Linear::open(weights, "cls.predictions.transform.dense", [h, h], on)?,
            transform_layer_norm: Norm::open(weights, "cls.predictions.transform.LayerNorm", h, eps, on)?,
            decoder: Linear::open_as(weights, decoder, Some(bias), [words, h], on)?,
        })
    }

    /// From states \[tokens, H\] to \[tokens, vocab_size\].
    fn forward(&self, batch: &Batch, states: &[f32]) -> Result<Vec<f32>, Error> {
        let mut transformed = vec![0.0; states.len()];
        self.transform_dense.activated(states, self.activation, &mut transformed)?;
        self.transform_layer_norm.in_place(&mut transformed)?;
        let mut logits = vec![0.0; batch.tokens() * self.vocab_size];
        self.decoder.forward(&transformed, &mut logits)?;
        Ok(logits)
    }
}

/// What stands on the encoder, one variant for each class of transformers.
#[allow(clippy::large_enum_variant, reason = "a model has one head")]
#[derive(Debug)]
pub enum Head {
    /// `BertModel`, with a pooler where the checkpoint has one.
    Bare(Option<Pooler>),
    /// `BertForMaskedLM`.
    MaskedLm(Predictions),
    /// `BertForPreTraining`; `cls.seq_relationship` is \[H, 2\], and label 1 a random second text.
    PreTraining(Predictions, Pooler, Linear),
    /// `BertForSequenceClassification`; `classifier` is \[H, labels\].
    SequenceClassification(Pooler, Linear),
}

impl Head {
    /// Reads no head but the pooler, if there is one.
    ///
    /// # Errors
    /// Those of [`Weights::get`], here and below.
    pub fn bare(config: &Config, weights: &Weights, on: Arithmetic) -> Result<Self, Error> {
        Ok(Self::Bare(match weights.contains("bert.pooler.dense.weight") {
            true => Some(Pooler::open(config, weights, on)?),
            false => None,
        }))
    }

    /// Reads the head of `BertForMaskedLM`.
    ///
    /// # Errors
    /// As [`bare`](Self::bare).
    pub fn masked_lm(config: &Config, weights: &Weights, on: Arithmetic) -> Result<Self, Error> {
        Ok(Self::MaskedLm(Predictions::open(config, weights, on)?))
    }

    /// Reads the heads of `BertForPreTraining`.
    ///
    /// # Errors
    /// As [`bare`](Self::bare).
    pub fn pre_training(config: &Config, weights: &Weights, on: Arithmetic) -> Result<Self, Error> {
        Ok(Self::PreTraining(
            Predictions::open(config, weights, on)?,
            Pooler::open(config, weights, on)?,
            Linear::open(weights, "cls.seq_relationship", [2, config.hidden_size], on.exactly())?,
        ))
    }

    /// Reads the head of `BertForSequenceClassification`.
    ///
    /// # Errors
    /// As [`bare`](Self::bare).
    pub fn sequence_classification(
        config: &Config,
        weights: &Weights,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let shape = [config.num_labels(), config.hidden_size];
        Ok(Self::SequenceClassification(
            Pooler::open(config, weights, on)?,
            Linear::open(weights, "classifier", shape, on.exactly())?,
        ))
    }

    fn forward(&self, batch: &Batch, states: &[f32]) -> Result<Vec<Output>, Error> {
        let per_token = |name, values| Output::new(name, Each::Token, batch.tokens(), values);
        let per_sequence = |name, values| Output::new(name, Each::Sequence, batch.len(), values);
        let classify = |pooled: &[f32], classes: &Linear| {
            let mut logits = vec![0.0; batch.len() * classes.width()];
            classes.forward(pooled, &mut logits).map(|()| logits)
        };
        Ok(match self {
            Self::Bare(pooler) => {
                let mut outputs = vec![per_token("last_hidden_state", states.to_vec())];
                if let Some(pooler) = pooler {
                    outputs.push(per_sequence("pooler_output", pooler.forward(batch, states)?));
                }
                outputs
            }
            Self::MaskedLm(predictions) => vec![per_token("logits", predictions.forward(batch, states)?)],
            Self::PreTraining(predictions, pooler, seq_relationship) => {
                let pooled = pooler.forward(batch, states)?;
                vec![
                    per_token("prediction_logits", predictions.forward(batch, states)?),
                    per_sequence("seq_relationship_logits", classify(&pooled, seq_relationship)?),
                ]
            }
            Self::SequenceClassification(pooler, classifier) => {
                let pooled = pooler.forward(batch, states)?;
                vec![per_sequence("logits", classify(&pooled, classifier)?)]
            }
        })
    }
}

/// The encoder, its head, and their working memory.
#[derive(Debug)]
pub struct WithHead {
    bert: Bert,
    head: Head,
    work: Workspace,
}

/// Reads a head from a checkpoint: one of the constructors of [`Head`].
pub type OpenHead = fn(&Config, &Weights, Arithmetic) -> Result<Head, Error>;

impl WithHead {
    /// Reads the encoder and its head from `weights`.
    ///
    /// # Errors
    /// Those of [`Weights::get`].
    pub fn open(config: Config, weights: Weights, on: Arithmetic, head: OpenHead) -> Result<Self, Error> {
        let weights = weights.with_base("bert.");
        let head = head(&config, &weights, on)?;
        Ok(Self { bert: Bert::open(config, &weights, on)?, head, work: Workspace::default() })
    }
}

impl Model for WithHead {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        let states = self.bert.forward(batch, &mut self.work)?;
        self.head.forward(batch, states)
    }

    fn max_length(&self) -> usize {
        self.bert.config.max_position_embeddings
    }
}

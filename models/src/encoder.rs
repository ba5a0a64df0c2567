//! The encoder of BERT, RoBERTa, ALBERT and ELECTRA.
//!
//! ```text
//! x = LN(word[id] + position[i] + token_type[t])
//! each layer:  x = LN(x + dense(attention(x)))
//!              x = LN(x + dense(activation(dense(x))))
//! ```
//!
//! Sequences of a batch are packed: one row for each token, no padding. Only attention depends on the bounds of
//! sequences, so a sequence has the same bits alone and in a batch.
//!
//! An [`EncoderPlan`] describes a family: names of tensors, order of layers, width of embeddings, first position.

use crate::arithmetic::Arithmetic;
use crate::batch::{self, Batch};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::layers::{
    Blocks, EmbeddingTable, Heads, Linear, ModelLinear, Norm, Parameter, Parameters, Past, Run, Selection,
    Slot, dropout, parameters_of,
};

mod config;

pub use config::Config;

/// Differences between the encoders of the families.
#[derive(Clone, Debug)]
pub struct EncoderPlan {
    /// Prefix of every tensor's name, with its dot.
    pub prefix: &'static str,
    /// Width E of the embeddings.
    pub embedding_size: usize,
    /// Name of the linear layer from E to H, if the encoder has one.
    pub projection: Option<&'static str>,
    /// Names of the checkpoint's layers, without the prefix.
    pub layers: Vec<String>,
    /// Indices into `layers` in the order of computation; shared layers repeat.
    pub order: Vec<usize>,
    /// Names of a layer's tensors.
    pub names: LayerNames,
    /// Padding id at which positions start, if the family counts them from there: see [`EncoderPlan::positions`].
    pub padding: Option<u32>,
}

/// Names of a layer's tensors, below the layer's own name.
#[derive(Clone, Copy, Debug)]
pub struct LayerNames {
    /// Linear layers from states to queries, keys and values.
    pub query_key_value: [&'static str; 3],
    /// Linear layer after attention.
    pub attention_output_dense: &'static str,
    /// Layer norm after attention.
    pub attention_output_layer_norm: &'static str,
    /// Linear layer from H to I.
    pub intermediate_dense: &'static str,
    /// Linear layer from I to H.
    pub output_dense: &'static str,
    /// Layer norm after the feed-forward block.
    pub output_layer_norm: &'static str,
}

impl EncoderPlan {
    /// Plan of BERT: embeddings of width H, each layer once.
    pub fn bert(prefix: &'static str, config: &Config) -> Self {
        Self {
            prefix,
            embedding_size: config.hidden_size,
            projection: None,
            layers: (0..config.num_hidden_layers).map(|n| format!("encoder.layer.{n}")).collect(),
            order: (0..config.num_hidden_layers).collect(),
            names: LayerNames {
                query_key_value: ["attention.self.query", "attention.self.key", "attention.self.value"],
                attention_output_dense: "attention.output.dense",
                attention_output_layer_norm: "attention.output.LayerNorm",
                intermediate_dense: "intermediate.dense",
                output_dense: "output.dense",
                output_layer_norm: "output.LayerNorm",
            },
            padding: None,
        }
    }

    /// Writes the position of each token to `positions`: its place in the sequence or, if `padding` is set,
    ///
    /// ```text
    /// padding                      for padding itself
    /// padding + 1, padding + 2 ..  for the other tokens of the sequence
    /// ```
    ///
    /// Ids alone decide, as in transformers: a token that a mask hides counts unless its id is `padding`.
    pub fn positions(&self, batch: &Batch, positions: &mut Vec<u32>) {
        positions.clear();
        let Some(padding) = self.padding else { return positions.extend(&batch.positions) };
        let mut dropped = batch.dropped.iter().peekable();
        for ends in batch.starts().windows(2) {
            let mut last = padding;
            for (i, &id) in batch.ids.iter().enumerate().take(ends[1]).skip(ends[0]) {
                while let Some(&(_, id)) = dropped.next_if(|&&(next, _)| next == i) {
                    last += u32::from(id != i64::from(padding));
                }
                last += u32::from(id != padding);
                positions.push(if id == padding { padding } else { last });
            }
        }
    }
}

/// The encoder, without a head.
#[derive(Debug)]
pub struct Encoder {
    config: Config,
    plan: EncoderPlan,
    on: Arithmetic,
    embeddings: Embeddings,
    /// embeddings_project or embedding_hidden_mapping_in, \[E, H\].
    projection: Option<Linear>,
    /// encoder.layer.N, or the layers of ALBERT's groups.
    layers: Vec<Layer>,
}

/// `embeddings`.
#[derive(Debug)]
struct Embeddings {
    /// word_embeddings, \[vocab_size, E\].
    word_embeddings: EmbeddingTable,
    /// position_embeddings, \[max_position_embeddings, E\].
    position_embeddings: EmbeddingTable,
    /// token_type_embeddings, \[type_vocab_size, E\].
    token_type_embeddings: EmbeddingTable,
    /// LayerNorm, \[E\].
    layer_norm: Norm,
}

/// `encoder.layer.N`; comments have BERT's names, [`LayerNames`] those of the other families.
#[derive(Debug)]
struct Layer {
    /// attention.self.{query, key, value}, fused: \[H, 3 H\].
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

impl Layer {
    fn linear(&self) -> [&Linear; 4] {
        [&self.query_key_value, &self.attention_output_dense, &self.intermediate_dense, &self.output_dense]
    }
}

impl Parameters for Layer {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        parameters_of(&[
            &self.query_key_value,
            &self.attention_output_dense,
            &self.attention_output_layer_norm,
            &self.intermediate_dense,
            &self.output_dense,
            &self.output_layer_norm,
        ])
    }
}

impl Encoder {
    /// Reads the encoder from `weights`.
    ///
    /// # Errors
    /// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value, the plan's
    /// order names an absent layer, or its padding id leaves no position.
    pub fn open(config: Config, plan: EncoderPlan, weights: &Weights, on: Arithmetic) -> Result<Self, Error> {
        let refuse = |why| Error::Input { name: "config", why };
        config.check().map_err(refuse)?;
        let no_positions =
            plan.padding.is_some_and(|padding| padding as usize >= config.max_position_embeddings);
        if plan.embedding_size == 0 || no_positions || plan.order.iter().any(|&n| n >= plan.layers.len()) {
            return Err(refuse(format!("no encoder can be made of {plan:?}")));
        }
        let (h, i, e) = (config.hidden_size, config.intermediate_size, plan.embedding_size);
        let full = |name: &str| format!("{}{name}", plan.prefix);
        let norm = |name: String, width| Norm::open(weights, &name, width, config.layer_norm_eps, on);
        let linear = |name: String, shape| Linear::open(weights, &name, shape, on);
        let table = |name, entries| {
            EmbeddingTable::open(weights, &full(&format!("embeddings.{name}_embeddings")), [entries, e])
        };
        let padding = config.pad_token_id;
        let layer = |layer: &String| {
            let (names, at) = (plan.names, |name: &str| full(&format!("{layer}.{name}")));
            Ok(Layer {
                query_key_value: Linear::open_fused(
                    weights,
                    &names.query_key_value.map(|name| (at(name), h)),
                    h,
                    true,
                    on,
                )?,
                attention_output_dense: linear(at(names.attention_output_dense), [h, h])?,
                attention_output_layer_norm: norm(at(names.attention_output_layer_norm), h)?,
                intermediate_dense: linear(at(names.intermediate_dense), [i, h])?,
                output_dense: linear(at(names.output_dense), [h, i])?,
                output_layer_norm: norm(at(names.output_layer_norm), h)?,
            })
        };
        Ok(Self {
            on,
            embeddings: Embeddings {
                word_embeddings: table("word", config.vocab_size)?.with_padding(padding),
                position_embeddings: table("position", config.max_position_embeddings)?
                    .with_padding(plan.padding),
                token_type_embeddings: table("token_type", config.type_vocab_size)?,
                layer_norm: norm(full("embeddings.LayerNorm"), e)?,
            },
            projection: plan.projection.map(|name| linear(full(name), [h, e])).transpose()?,
            layers: plan.layers.iter().map(layer).collect::<Result<_, Error>>()?,
            config,
            plan,
        })
    }

    /// BERT's encoder with random weights, which depend on `seed` alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or another impossible value.
    ///
    /// ```
    /// use tilewright::{Arithmetic, Batch, encoder::{Config, Encoder}, layers::{Run, Slot, Workspace}};
    /// let config = Config { num_hidden_layers: 2, hidden_size: 24, num_attention_heads: 3, ..Config::default() };
    /// let bert = Encoder::random(config, 0, Arithmetic::f32(tilewright_kernels::Backend::best()))?;
    /// let mut batch = Batch::default();
    /// batch.push(&[101, 7592, 102], &[0, 0, 0])?;
    /// let mut workspace = Workspace::default();
    /// let mut run = Run::new(&mut workspace);
    /// bert.forward(&mut run, &batch)?;
    /// assert_eq!(run.matrix(Slot::X).shape(), [3, 24]);
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    pub fn random(config: Config, seed: u64, on: Arithmetic) -> Result<Self, Error> {
        let plan = EncoderPlan::bert("bert.", &config);
        Self::open(config, plan, &Weights::random(seed), on)
    }

    /// Config of the encoder.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Backend and types.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        self.on
    }

    /// Upper bound of the tokens of a sequence.
    pub fn max_length(&self) -> usize {
        let before = self.plan.padding.map_or(0, |padding| padding as usize + 1);
        self.config.max_position_embeddings.saturating_sub(before)
    }

    /// Parts and their tensors. Shared layers are listed once.
    pub(crate) fn parts(&self) -> Vec<(&'static str, Vec<Parameter<'_>>)> {
        let Embeddings { word_embeddings, position_embeddings, token_type_embeddings, layer_norm } =
            &self.embeddings;
        let others = parameters_of(&[position_embeddings, token_type_embeddings, layer_norm]);
        let mut parts = vec![("word embeddings", word_embeddings.parameters()), ("other embeddings", others)];
        parts.extend(self.projection.iter().map(|p| ("projection of embeddings", p.parameters())));
        parts.push(("layers", self.layers.parameters()));
        parts
    }

    /// Linear layers, and the number of times that a token passes each.
    pub(crate) fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        let mut found: Vec<_> = ModelLinear::of("projection of embeddings", &self.projection, 1).collect();
        for (n, layer) in self.layers.iter().enumerate() {
            let times = self.plan.order.iter().filter(|&&of| of == n).count();
            found.extend(ModelLinear::of("layers", layer.linear(), times));
        }
        found
    }

    /// Computes the states of all tokens after the last layer, \[tokens, H\], in [`Slot::X`].
    ///
    /// # Errors
    /// [`Error::Input`] if an id, token type or position lies outside of its table.
    pub fn forward<'m>(&'m self, run: &mut Run<'m>, batch: &'m Batch) -> Result<(), Error> {
        self.forward_ids(run, batch, &batch.ids)
    }

    /// As [`forward`](Self::forward), with other ids in the place of the batch's.
    pub(crate) fn forward_ids<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        ids: &[u32],
    ) -> Result<(), Error> {
        match &self.projection {
            None => self.embed(run, batch, ids, Slot::X)?,
            Some(projection) => {
                self.embed(run, batch, ids, Slot::WIDE)?;
                projection.forward(run, Slot::WIDE, Slot::X)?;
            }
        }
        (0..self.plan.order.len()).try_for_each(|layer| run.block(self, batch, &mut Past::None, layer))
    }

    /// x = LN(word\[id\] + token_type\[t\] + position\[i\]), \[tokens, E\].
    fn embed<'m>(&'m self, run: &mut Run<'m>, batch: &Batch, ids: &[u32], x: Slot) -> Result<(), Error> {
        let (config, tables) = (&self.config, &self.embeddings);
        let mut positions = Vec::new();
        self.plan.positions(batch, &mut positions);
        batch::below("input_ids", ids, config.vocab_size)?;
        batch::below("token_type_ids", &batch.types, config.type_vocab_size)?;
        batch::below("position", &positions, config.max_position_embeddings)?;
        let selections = [
            Selection { table: &tables.word_embeddings, ids },
            Selection { table: &tables.token_type_embeddings, ids: &batch.types },
            Selection { table: &tables.position_embeddings, ids: &positions },
        ];
        EmbeddingTable::sum(run, self.on, &selections, x)?;
        tables.layer_norm.in_place(run, x)?;
        dropout(run, self.on.backend, config.hidden_dropout_prob, x)
    }
}

impl Blocks for Encoder {
    fn block<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        _: &mut Past<'m, '_>,
        layer: usize,
    ) -> Result<(), Error> {
        let (config, layer) = (&self.config, &self.layers[self.plan.order[layer]]);
        let heads = Heads {
            dropout: config.attention_probs_dropout_prob,
            ..Heads::of_width(self.on, config.num_attention_heads, config.hidden_size)
        };
        let p = config.hidden_dropout_prob;
        layer.query_key_value.forward(run, Slot::X, Slot::WIDE)?;
        heads.bidirectional(run, tokens.starts())?;
        layer.attention_output_dense.added(run, Slot::CONTEXT, Slot::X, p, Slot::Y)?;
        layer.attention_output_layer_norm.forward(run, Slot::Y, Slot::X)?;

        layer.intermediate_dense.activated(run, Slot::X, config.hidden_act, Slot::WIDE)?;
        layer.output_dense.added(run, Slot::WIDE, Slot::X, p, Slot::Y)?;
        layer.output_layer_norm.forward(run, Slot::Y, Slot::X)
    }

    fn live(&self) -> &'static [Slot] {
        &[Slot::X]
    }
}

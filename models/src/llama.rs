//! LLaMA (Touvron et al. 2023, arXiv:2302.13971; grouped heads: arXiv:2307.09288): a decoder that
//! normalises what each block reads.
//!
//! ```text
//! x = embed[id]
//! each layer:  q, k, v = dense(RMS(x));  q, k turned by their position (rotary embedding)
//!              x = x + dense(attention(q, k, v)), heads of q in groups share one of k and v
//!              x = x + down(silu(gate(h)) * up(h)), h = RMS(x)
//! logits       head(RMS(x)), head = embed^T where they are tied
//! ```

use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::config::{self, Fields};
use crate::error::Error;
use crate::generator::{self, Cache, Generator, Want};
use crate::layers::{Buffer, Heads, Linear, Norm, Table};
use crate::model::{Each, Model, Output, Product};
use crate::weights::Weights;
use std::f64::consts::TAU;
use tilewright_kernels::{Activation, Rope, RopeLayout, RopeTable, Rows, ViewMut};

/// config.json. Fields that are missing have the value of transformers' `LlamaConfig`: those of
/// LLaMA 7B.
#[derive(Clone, Debug)]
pub struct Config {
    /// Entries of the embedding.
    pub vocab_size: usize,
    /// Width H of a token's state.
    pub hidden_size: usize,
    /// Width I between the dense layers of a feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values; as many as of queries if not given.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; H / heads if not given.
    pub head_dim: Option<usize>,
    /// Of the gate.
    pub hidden_act: Activation,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// Added to mean squares.
    pub rms_norm_eps: f32,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the dense layers of attention add a bias.
    pub attention_bias: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How they are scaled.
    pub rope_scaling: RopeScaling,
}

/// The most columns of a head that are believed.
const MOST_HEAD_DIM: usize = 1 << 16;

/// What is done to rotary frequencies, for longer contexts than a model was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(try_from = "RawScaling")]
pub enum RopeScaling {
    /// Nothing.
    #[default]
    Default,
    /// They are divided by a factor: Chen et al. 2023, arXiv:2306.15595.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Low ones are divided by a factor, high ones stay, those between are mixed: LLaMA 3.1.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Turns within the original context up to which a frequency is low.
        low_freq_factor: f64,
        /// Turns from which on it is high.
        high_freq_factor: f64,
        /// The context that the model was made for.
        original_max_position_embeddings: f64,
    },
}

/// `rope_parameters` of config.json.
#[derive(Default, serde::Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    #[serde(flatten)]
    scaling: RopeScaling,
}

/// The fields of all kinds of scaling.
#[derive(serde::Deserialize)]
struct RawScaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl TryFrom<RawScaling> for RopeScaling {
    type Error = String;

    fn try_from(raw: RawScaling) -> Result<Self, String> {
        let need = |name: &str, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err(format!("{name}: expected a positive number, found {value}")),
            None => Err(format!("{name} is missing")),
        };
        match raw.rope_type.as_deref() {
            None | Some("default") => Ok(Self::Default),
            Some("linear") => Ok(Self::Linear { factor: need("factor", raw.factor)? }),
            Some("llama3") => Ok(Self::Llama3 {
                factor: need("factor", raw.factor)?,
                low_freq_factor: need("low_freq_factor", raw.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", raw.high_freq_factor)?,
                original_max_position_embeddings: need(
                    "original_max_position_embeddings",
                    raw.original_max_position_embeddings,
                )?,
            }),
            Some(other) => {
                Err(format!("rope_type {other:?} is not supported; expected default, linear or llama3"))
            }
        }
    }
}

impl RopeScaling {
    /// The frequency that `frequency`, in radians a position, becomes.
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings * frequency / TAU;
                let high = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                high * frequency + (1.0 - high) * frequency / factor
            }
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: false,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::Default,
        }
    }
}

impl Config {
    /// Takes the fields of config.json. What concerns the rotary embedding stands in `rope_parameters`, or, as
    /// transformers 4 writes it, in `rope_theta` and `rope_scaling`.
    ///
    /// # Errors
    /// If one has the wrong type, or asks for what is not supported: the field is named.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        fields.only("mlp_bias", false)?;
        fields.only("partial_rotary_factor", 1.0)?;
        let or = Self::default();
        let rope: Option<RopeParameters> = match fields.get("rope_parameters", None)? {
            Some(rope) => Some(rope),
            None => fields.get("rope_scaling", None)?,
        };
        let RopeParameters { rope_theta, partial_rotary_factor, scaling } = rope.unwrap_or_default();
        if let Some(share) = partial_rotary_factor
            && share != 1.0
        {
            return Err(fields.error(format!("partial_rotary_factor: only 1.0 is supported, found {share}")));
        }
        let config = Self {
            vocab_size: fields.get("vocab_size", or.vocab_size)?,
            hidden_size: fields.get("hidden_size", or.hidden_size)?,
            intermediate_size: fields.get("intermediate_size", or.intermediate_size)?,
            num_hidden_layers: fields.get("num_hidden_layers", or.num_hidden_layers)?,
            num_attention_heads: fields.get("num_attention_heads", or.num_attention_heads)?,
            num_key_value_heads: fields.get("num_key_value_heads", or.num_key_value_heads)?,
            head_dim: fields.get("head_dim", or.head_dim)?,
            hidden_act: fields.activation("hidden_act", or.hidden_act)?,
            max_position_embeddings: fields.get("max_position_embeddings", or.max_position_embeddings)?,
            rms_norm_eps: fields.get("rms_norm_eps", or.rms_norm_eps)?,
            tie_word_embeddings: fields.get("tie_word_embeddings", or.tie_word_embeddings)?,
            attention_bias: fields.get("attention_bias", or.attention_bias)?,
            rope_theta: fields.get("rope_theta", None)?.or(rope_theta).unwrap_or(or.rope_theta),
            rope_scaling: scaling,
        };
        config.check().map_err(|why| fields.error(why))?;
        Ok(config)
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Frequencies in radians a position, one for each pair of a head's columns.
    fn frequencies(&self) -> Vec<f64> {
        let dim = self.head_dim();
        (0..dim / 2)
            .map(|i| self.rope_theta.powf(-((2 * i) as f64) / dim as f64))
            .map(|frequency| self.rope_scaling.apply(frequency))
            .collect()
    }

    /// Says what no model can be made of.
    fn check(&self) -> Result<(), String> {
        let (heads, kv_heads) = (self.num_attention_heads, self.kv_heads());
        config::positive(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", self.head_dim()),
            ("num_hidden_layers", self.num_hidden_layers),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        config::eps("rms_norm_eps", self.rms_norm_eps)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"
            ));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            let hidden = self.hidden_size;
            return Err(format!("num_attention_heads {heads} does not divide hidden_size {hidden}"));
        }
        // A file cannot be trusted for sizes: frequencies are made before any tensor is seen.
        if self.head_dim() > MOST_HEAD_DIM || heads.checked_mul(self.head_dim()).is_none() {
            return Err(format!("head_dim: {} columns in {heads} heads are too many", self.head_dim()));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(format!("head_dim: expected an even number, found {}", self.head_dim()));
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return Err(format!("rope_theta: expected a positive number, found {}", self.rope_theta));
        }
        Ok(())
    }
}

/// The decoder and, if the checkpoint is of a language model, its head.
#[derive(Debug)]
pub struct Llama {
    config: Config,
    on: Arithmetic,
    /// model.embed_tokens, \[vocab_size, H\].
    embed_tokens: Table,
    layers: Vec<Layer>,
    /// model.norm, \[H\].
    norm: Norm,
    /// lm_head, \[H, vocab_size\]: the embedding, where they are tied.
    lm_head: Option<Linear>,
    frequencies: Vec<f64>,
    /// Of the positions met so far.
    rope: RopeTable,
    work: Workspace,
}

/// `model.layers.N`.
#[derive(Debug)]
struct Layer {
    /// input_layernorm, \[H\].
    input_layernorm: Norm,
    /// self_attn.{q_proj, k_proj, v_proj}, as one layer: \[H, (heads + 2 kv_heads) head_dim\].
    qkv_proj: Linear,
    /// self_attn.o_proj, \[heads head_dim, H\].
    o_proj: Linear,
    /// post_attention_layernorm, \[H\].
    post_attention_layernorm: Norm,
    /// mlp.{gate_proj, up_proj}, as a pair: \[H, I\].
    gate_up_proj: Linear,
    /// mlp.down_proj, \[I, H\].
    down_proj: Linear,
}

impl Layer {
    fn linear(&self) -> [&Linear; 4] {
        [&self.qkv_proj, &self.o_proj, &self.gate_up_proj, &self.down_proj]
    }
}

/// Working memory: it grows to the largest batch, then nothing is allocated.
#[derive(Debug, Default)]
struct Workspace {
    /// \[tokens, H\]: the states.
    x: Buffer,
    /// \[tokens, H\]: what a block reads, and what it adds to the states.
    y: Buffer,
    /// \[tokens, heads head_dim\]: what attention found.
    context: Buffer,
    /// \[tokens, max((heads + 2 kv_heads) head_dim, I)\]: inside of a block.
    wide: Buffer,
    /// States whose logits are wanted.
    rows: Vec<f32>,
}

impl Llama {
    /// Reads the decoder from `weights`, whose names may lack the prefix `model.`, and its head if it is
    /// `with_head`.
    ///
    /// # Errors
    /// Those of [`Weights::get`], and [`Error::Input`] if the config has a size of 0 or the like.
    pub fn open(config: Config, weights: Weights, on: Arithmetic, with_head: bool) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        let weights = &weights.with_base("model.");
        let (h, i, words) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (q, kv) = (config.num_attention_heads * config.head_dim(), config.kv_heads() * config.head_dim());
        let layer = |n| {
            let at = |name: &str| format!("model.layers.{n}.{name}");
            let norm = |name| Norm::open_rms(weights, &at(name), h, config.rms_norm_eps, on);
            let qkv = [("q", q), ("k", kv), ("v", kv)].map(|(p, n)| (at(&format!("self_attn.{p}_proj")), n));
            let biased = config.attention_bias;
            let gate_up = ["gate", "up"].map(|part| at(&format!("mlp.{part}_proj.weight")));
            let down = at("mlp.down_proj.weight");
            Ok(Layer {
                input_layernorm: norm("input_layernorm")?,
                qkv_proj: Linear::open_fused(weights, &qkv, h, biased, on)?,
                o_proj: Linear::open_fused(weights, &[(at("self_attn.o_proj"), h)], q, biased, on)?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                gate_up_proj: Linear::open_gated(weights, [&gate_up[0], &gate_up[1]], [i, h], on)?,
                down_proj: Linear::open_as(weights, &down, None, [h, i], on)?,
            })
        };
        let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let frequencies = config.frequencies();
        Ok(Self {
            on,
            embed_tokens: Table::open(weights, "model.embed_tokens", [words, h])?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, Error>>()?,
            norm: Norm::open_rms(weights, "model.norm", h, config.rms_norm_eps, on)?,
            lm_head: match with_head {
                true => Some(Linear::open_as(weights, head, None, [words, h], on)?),
                false => None,
            },
            rope: rope_table(0, &frequencies),
            frequencies,
            config,
            work: Workspace::default(),
        })
    }

    /// A language model with random weights, the same for a seed on every machine.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or the like.
    pub fn random(config: Config, seed: u64, on: Arithmetic) -> Result<Self, Error> {
        Self::open(config, Weights::random(seed), on, true)
    }

    /// The config it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Appends `tokens` to the caches and leaves their states after the last norm, \[tokens, H\], in `y` of
    /// the workspace.
    fn run(&mut self, tokens: &Batch, caches: &mut [&mut Cache]) -> Result<(), Error> {
        let config = &self.config;
        let positions = generator::check(tokens, caches, config.vocab_size, config.max_position_embeddings)?;
        let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
        if longest > self.rope.positions() {
            self.rope = rope_table(longest.next_power_of_two(), &self.frequencies);
        }
        let (h, i, n) = (config.hidden_size, config.intermediate_size, tokens.tokens());
        let heads = self.heads();
        let Workspace { x, y, context, wide, .. } = &mut self.work;
        let (x, y, context) = (x.get(n * h), y.get(n * h), context.get(n * heads.query_width()));
        let wide = wide.get(n * heads.width().max(i));

        self.embed_tokens.get(self.on, tokens.ids(), x)?;
        self.layers[0].input_layernorm.forward(x, y)?;
        for (l, layer) in self.layers.iter().enumerate() {
            let qkv = &mut wide[..n * heads.width()];
            layer.qkv_proj.forward(y, qkv)?;
            let turned = [n, heads.query_width() + heads.key_width()];
            self.on.backend.run(Rope {
                rows: Rows::InPlace(ViewMut::with_strides(qkv, turned, [heads.width(), 1])?),
                head_dim: heads.dim,
                positions: &positions,
                table: &self.rope,
            })?;
            heads.causal(tokens.starts(), qkv, caches, l, context)?;
            layer.o_proj.forward(context, y)?;
            layer.post_attention_layernorm.after_adding(y, x)?;

            let inside = &mut wide[..n * i];
            layer.gate_up_proj.activated(y, config.hidden_act, inside)?;
            layer.down_proj.forward(inside, y)?;
            let next = self.layers.get(l + 1).map_or(&self.norm, |next| &next.input_layernorm);
            next.after_adding(y, x)?;
        }
        Ok(())
    }

    fn heads(&self) -> Heads<'static> {
        let Config { num_attention_heads: queries, .. } = self.config;
        let (keys, dim) = (self.config.kv_heads(), self.config.head_dim());
        Heads { on: self.on, queries, keys, dim, scale: 1.0 / (dim as f32).sqrt(), distance: None }
    }
}

fn rope_table(positions: usize, frequencies: &[f64]) -> RopeTable {
    RopeTable::with_frequencies(RopeLayout::HalfSplit, positions, frequencies, 1.0)
}

impl Generator for Llama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_tokens(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn cache(&self, capacity: usize) -> Cache {
        Cache { layers: self.layers.iter().map(|_| self.heads().cache(capacity)).collect(), source: None }
    }

    fn extend(
        &mut self,
        tokens: &Batch,
        caches: &mut [&mut Cache],
        want: Want,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.run(tokens, caches)?;
        let Some(lm_head) = &self.lm_head else {
            return Err(Error::Input { name: "logits", why: "the model has no head".to_owned() });
        };
        let Workspace { y, rows, .. } = &mut self.work;
        let states = generator::wanted(want, tokens, y.get(tokens.tokens() * self.config.hidden_size), rows);
        logits.resize(states.len() / self.config.hidden_size * self.config.vocab_size, 0.0);
        lm_head.forward(states, logits)
    }
}

impl Model for Llama {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        let mut caches = generator::caches_for(self, batch);
        let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
        let (name, values) = if self.lm_head.is_some() {
            let mut logits = Vec::new();
            self.extend(batch, &mut caches, Want::All, &mut logits)?;
            ("logits", logits)
        } else {
            self.run(batch, &mut caches)?;
            ("last_hidden_state", self.work.y.get(batch.tokens() * self.config.hidden_size).to_vec())
        };
        Ok(vec![Output::new(name, Each::Token, batch.tokens(), values)])
    }

    fn max_length(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn generator(&mut self) -> Option<&mut dyn Generator> {
        if self.lm_head.is_some() { Some(self) } else { None }
    }

    fn parameters(&self) -> Vec<(&'static str, usize)> {
        let of_layer = |layer: &Layer| {
            layer.linear().map(Linear::parameters).iter().sum::<usize>()
                + [&layer.input_layernorm, &layer.post_attention_layernorm]
                    .map(Norm::parameters)
                    .iter()
                    .sum::<usize>()
        };
        let untied = self.lm_head.iter().filter(|_| !self.config.tie_word_embeddings);
        vec![
            ("word embeddings", self.embed_tokens.parameters()),
            ("layers", self.layers.iter().map(of_layer).sum::<usize>() + self.norm.parameters()),
            ("head", untied.map(Linear::parameters).sum()),
        ]
    }

    fn products(&self) -> Vec<Product<'_>> {
        let tied = self.config.tie_word_embeddings;
        let head = self.lm_head.iter().map(|linear| Product { part: "head", linear, times: 1, tied });
        self.layers.iter().flat_map(|layer| Product::of("layers", layer.linear(), 1)).chain(head).collect()
    }
}

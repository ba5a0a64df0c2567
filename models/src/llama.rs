//! LLaMA (Touvron et al. 2023, arXiv:2302.13971; grouped heads: arXiv:2307.09288): a pre-norm
//! decoder with rotary positions, RMS norm and gated feed-forward blocks.
//!
//! ```text
//! x = embed[id]
//! each layer:  q, k, v = dense(RMS(x));  q and k rotated by their positions (RoPE)
//!              x = x + dense(attention(q, k, v)); a group of query heads shares a key and a value head
//!              x = x + down(silu(gate(h)) * up(h)), h = RMS(x)
//! logits       head(RMS(x)); head = embed^T if they are tied
//! ```

use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::causal_lm::{self, CausalLm, LmHead, Want};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::labels::{self, Labels, Loss, Totals};
use crate::layers::{
    Blocks, Cache, EmbeddingTable, Growing, Heads, Linear, ModelLinear, Norm, Parameter, Parameters, Past,
    Run, Selection, Slot, Workspace, parameters_of, rope,
};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use tilewright_kernels::{RopeLayout, RopeTable};

mod config;

pub use config::{Config, RopeScaling};

/// The decoder, and the head of a causal LM.
#[derive(Debug)]
pub struct Llama {
    config: Config,
    on: Arithmetic,
    /// model.embed_tokens, \[vocab_size, H\].
    embed_tokens: EmbeddingTable,
    /// model.layers.N.
    layers: Vec<Layer>,
    /// model.norm, \[H\].
    norm: Norm,
    /// lm_head, \[H, vocab_size\]; embed_tokens if the two are tied.
    lm_head: LmHead,
    /// Rotary frequencies in radians a position, \[head_dim / 2\].
    frequencies: Vec<f64>,
    /// Rotations of all positions met so far.
    rope: Growing<RopeTable>,
    work: Workspace,
}

/// `model.layers.N`.
#[derive(Debug)]
struct Layer {
    /// input_layernorm, \[H\].
    input_layernorm: Norm,
    /// self_attn.{q_proj, k_proj, v_proj}, fused: \[H, (heads + 2 kv_heads) head_dim\].
    qkv_proj: Linear,
    /// self_attn.o_proj, \[heads head_dim, H\].
    o_proj: Linear,
    /// post_attention_layernorm, \[H\].
    post_attention_layernorm: Norm,
    /// mlp.{gate_proj, up_proj}, a gated pair: \[H, I\] each.
    gate_up_proj: Linear,
    /// mlp.down_proj, \[I, H\].
    down_proj: Linear,
}

impl Layer {
    fn linear(&self) -> [&Linear; 4] {
        [&self.qkv_proj, &self.o_proj, &self.gate_up_proj, &self.down_proj]
    }
}

impl Parameters for Layer {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        parameters_of(&[
            &self.input_layernorm,
            &self.qkv_proj,
            &self.o_proj,
            &self.post_attention_layernorm,
            &self.gate_up_proj,
            &self.down_proj,
        ])
    }
}

impl Llama {
    /// Reads the decoder from `weights`, whose names may lack the prefix `model.`, and the head if `with_head`.
    ///
    /// # Errors
    /// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value.
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
        let names = ["model.embed_tokens", "lm_head"];
        let ([table, head], tied) = LmHead::names(weights, config.tie_word_embeddings, names, [words, h])?;
        let lm_head = || Linear::open_as(weights, &format!("{head}.weight"), None, [words, h], on);
        let frequencies = config.frequencies();
        Ok(Self {
            on,
            embed_tokens: EmbeddingTable::open(weights, table, [words, h])?.with_padding(config.padding()),
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, Error>>()?,
            norm: Norm::open_rms(weights, "model.norm", h, config.rms_norm_eps, on)?,
            lm_head: LmHead::new(with_head.then(lm_head).transpose()?, tied),
            rope: Growing::default(),
            frequencies,
            config,
            work: Workspace::default(),
        })
    }

    /// A causal LM with random weights, which depend on `seed` alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or another impossible value.
    pub fn random(config: Config, seed: u64, on: Arithmetic) -> Result<Self, Error> {
        Self::open(config, Weights::random(seed), on, true)
    }

    /// Config of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Computes the states of `tokens` after the last norm, \[tokens, H\], in [`Slot::Y`].
    fn states<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        mut past: Past<'m, '_>,
    ) -> Result<(), Error> {
        let config = &self.config;
        causal_lm::check(tokens, &past, config.vocab_size, config.max_position_embeddings)?;
        let words = Selection { table: &self.embed_tokens, ids: tokens.ids() };
        EmbeddingTable::sum(run, self.on, &[words], Slot::X)?;
        self.layers[0].input_layernorm.forward(run, Slot::X, Slot::Y)?;
        (0..self.layers.len()).try_for_each(|layer| run.block(self, tokens, &mut past, layer))
    }

    fn heads(&self) -> Heads<'static> {
        let Config { num_attention_heads: queries, .. } = self.config;
        let (keys, dim) = (self.config.kv_heads(), self.config.head_dim());
        let scale = 1.0 / (dim as f32).sqrt();
        Heads {
            on: self.on,
            queries,
            keys,
            dim,
            scale,
            distance: None,
            dropout: self.config.attention_dropout,
        }
    }
}

impl Blocks for Llama {
    fn block<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        past: &mut Past<'m, '_>,
        l: usize,
    ) -> Result<(), Error> {
        let (config, heads, layer) = (&self.config, self.heads(), &self.layers[l]);
        let positions = past.positions(tokens, l);
        let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
        let table = self.rope.get(longest, |positions| rope_table(positions, &self.frequencies));
        let rotated = [heads.query_width() + heads.key_width(), heads.dim];
        layer.qkv_proj.forward(run, Slot::Y, Slot::WIDE)?;
        rope(run, self.on.backend, table, &positions, rotated, Slot::WIDE)?;
        heads.causal(run, tokens.starts(), past, l)?;
        layer.o_proj.forward(run, Slot::CONTEXT, Slot::Y)?;
        layer.post_attention_layernorm.after_adding(run, Slot::Y, Slot::X)?;

        layer.gate_up_proj.activated(run, Slot::Y, config.hidden_act, Slot::WIDE)?;
        layer.down_proj.forward(run, Slot::WIDE, Slot::Y)?;
        let next = self.layers.get(l + 1).map_or(&self.norm, |next| &next.input_layernorm);
        next.after_adding(run, Slot::Y, Slot::X)
    }

    /// The next layer's input, and the states that its output is added to.
    fn live(&self) -> &'static [Slot] {
        &[Slot::X, Slot::Y]
    }
}

fn rope_table(positions: usize, frequencies: &[f64]) -> RopeTable {
    RopeTable::with_frequencies(RopeLayout::HalfSplit, positions, frequencies, 1.0)
}

impl CausalLm for Llama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_tokens(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn cache(&self, capacity: usize) -> Cache {
        self.heads().caches(self.layers.len(), capacity)
    }

    fn extend(
        &mut self,
        tokens: &Batch,
        caches: &mut [&mut Cache],
        want: Want,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.lm_head.check()?;
        let mut work = core::mem::take(&mut self.work);
        let mut run = Run::new(&mut work);
        let done = self.states(&mut run, tokens, Past::Cached(caches));
        let done = done.and_then(|()| self.lm_head.logits(&mut run, want, tokens, Slot::Y, logits));
        self.work = work;
        done
    }
}

impl Model for Llama {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        let mut work = core::mem::take(&mut self.work);
        let mut run = Run::new(&mut work);
        let done = self.states(&mut run, batch, Past::None);
        let output = done.and_then(|()| self.lm_head.output(&run, Each::Token, Slot::Y));
        self.work = work;
        Ok(vec![output?])
    }

    /// Every token but a sequence's last predicts the next one.
    fn label_counts(&self, batch: &Batch, labels: &Labels) -> Totals {
        let tokens = labels.shifted(batch).map_or(0.0, |targets| labels::count(&targets));
        Totals { tokens, sequences: 0.0 }
    }

    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        _decoder: Option<&'m Batch>,
        labels: &Labels,
    ) -> Result<Loss, Error> {
        let targets = labels.shifted(batch)?;
        self.states(run, batch, Past::None)?;
        self.lm_head.loss(run, Slot::Y, &targets, labels.tokens(&targets))
    }

    fn max_length(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn causal_lm(&mut self) -> Option<&mut dyn CausalLm> {
        if self.lm_head.exists() { Some(self) } else { None }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        Part::list([
            ("word embeddings", self.embed_tokens.parameters()),
            ("layers", parameters_of(&[&self.layers, &self.norm])),
            ("head", self.lm_head.parameters()),
        ])
    }

    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        self.layers
            .iter()
            .flat_map(|layer| ModelLinear::of("layers", layer.linear(), 1))
            .chain(self.lm_head.linear_layer())
            .collect()
    }
}

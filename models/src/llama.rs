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
use crate::layers::{
    Cache, EmbeddingTable, Heads, Linear, ModelLinear, Norm, Parameter, Parameters, Past, WorkBuffer,
    parameters_of,
};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use tilewright_kernels::{Rope, RopeLayout, RopeTable, Rows, ViewMut};

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
    rope: RopeTable,
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

/// Working memory. It grows to the largest batch; then nothing is allocated.
#[derive(Debug, Default)]
struct Workspace {
    /// \[tokens, H\]: the states.
    x: WorkBuffer,
    /// \[tokens, H\]: input of a block, then the block's output, which the states add.
    y: WorkBuffer,
    /// \[tokens, heads head_dim\]: output of attention.
    context: WorkBuffer,
    /// \[tokens, max((heads + 2 kv_heads) head_dim, I)\]: inside of a block.
    wide: WorkBuffer,
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
            embed_tokens: EmbeddingTable::open(weights, table, [words, h])?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, Error>>()?,
            norm: Norm::open_rms(weights, "model.norm", h, config.rms_norm_eps, on)?,
            lm_head: LmHead::new(with_head.then(lm_head).transpose()?, tied),
            rope: rope_table(0, &frequencies),
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

    /// States of `tokens` after the last norm, \[tokens, H\], and the head.
    fn states(&mut self, tokens: &Batch, mut past: Past<'_, '_>) -> Result<(&[f32], &mut LmHead), Error> {
        let config = &self.config;
        let positions = causal_lm::check(tokens, &past, config.vocab_size, config.max_position_embeddings)?;
        let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
        if longest > self.rope.positions() {
            self.rope = rope_table(longest.next_power_of_two(), &self.frequencies);
        }
        let (h, i, n) = (config.hidden_size, config.intermediate_size, tokens.tokens());
        let heads = self.heads();
        let Workspace { x, y, context, wide } = &mut self.work;
        let (x, y, context) = (x.get(n * h), y.get(n * h), context.get(n * heads.query_width()));
        let wide = wide.get(n * heads.width().max(i));

        self.embed_tokens.get(self.on, tokens.ids(), x)?;
        self.layers[0].input_layernorm.forward(x, y)?;
        for (l, layer) in self.layers.iter().enumerate() {
            let qkv = &mut wide[..n * heads.width()];
            layer.qkv_proj.forward(y, qkv)?;
            let rotated = [n, heads.query_width() + heads.key_width()];
            let rows = Rows::InPlace(ViewMut::with_strides(qkv, rotated, [heads.width(), 1])?);
            self.on.backend.run(Rope::new(rows, heads.dim, &positions, &self.rope))?;
            heads.causal(tokens.starts(), qkv, &mut past, l, context)?;
            layer.o_proj.forward(context, y)?;
            layer.post_attention_layernorm.after_adding(y, x)?;

            let inside = &mut wide[..n * i];
            layer.gate_up_proj.activated(y, config.hidden_act, inside)?;
            layer.down_proj.forward(inside, y)?;
            let next = self.layers.get(l + 1).map_or(&self.norm, |next| &next.input_layernorm);
            next.after_adding(y, x)?;
        }
        Ok((y, &mut self.lm_head))
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
        let (states, lm_head) = self.states(tokens, Past::Cached(caches))?;
        lm_head.logits(want, tokens, states, logits)
    }
}

impl Model for Llama {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        let (states, lm_head) = self.states(batch, Past::None)?;
        Ok(vec![lm_head.output(Each::Token, batch.tokens(), states)?])
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

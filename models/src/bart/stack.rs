//! Encoder or decoder of BART and Marian: embeddings and layers.

use super::config::{Config, Family};
use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::layers::{
    Cache, EmbeddingTable, Heads, Linear, Norm, Parameter, Parameters, Past, WorkBuffer, parameters_of,
};
use std::sync::Arc;
use tilewright_kernels::{Embedding, Lookup, View, ViewMut};

/// Epsilon of layer norms, added to the variance: PyTorch's default, which no config changes.
const EPS: f32 = 1e-5;

/// `model.encoder` or `model.decoder`.
#[derive(Debug)]
pub(super) struct Stack {
    /// embed_tokens, \[vocab_size, D\]; encoder and decoder may share it.
    pub embed_tokens: Arc<EmbeddingTable>,
    embed_positions: Positions,
    /// layernorm_embedding, \[D\]; Marian has none.
    layernorm_embedding: Option<Norm>,
    /// layers.N.
    layers: Vec<Layer>,
    /// Factor of word embeddings: sqrt(D) if the config scales them, else 1.
    embed_scale: f32,
    heads: Heads<'static>,
    /// Width F inside of the feed-forward block.
    ffn_dim: usize,
}

/// Embeddings of positions.
#[derive(Debug)]
enum Positions {
    /// embed_positions, \[offset + max_position_embeddings, D\].
    Learned(EmbeddingTable),
    /// \[positions met so far, D\].
    Sinusoids(Vec<f32>),
}

/// `layers.N`.
#[derive(Debug)]
struct Layer {
    /// self_attn.{q_proj, k_proj, v_proj}, fused: \[D, 3 D\].
    qkv_proj: Linear,
    /// self_attn.out_proj, \[D, D\].
    out_proj: Linear,
    /// self_attn_layer_norm, \[D\].
    self_attn_layer_norm: Norm,
    /// encoder_attn; only the decoder has it.
    encoder_attn: Option<CrossAttention>,
    /// fc1, \[D, F\].
    fc1: Linear,
    /// fc2, \[F, D\].
    fc2: Linear,
    /// final_layer_norm, \[D\].
    final_layer_norm: Norm,
}

/// `encoder_attn` and the norm after it.
#[derive(Debug)]
struct CrossAttention {
    /// q_proj, \[D, D\].
    q_proj: Linear,
    /// {k_proj, v_proj}, fused: \[D, 2 D\].
    kv_proj: Linear,
    /// out_proj, \[D, D\].
    out_proj: Linear,
    /// encoder_attn_layer_norm, \[D\].
    layer_norm: Norm,
}

/// Working memory. It grows to the largest batch; then nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// \[tokens, D\]: the states.
    pub x: WorkBuffer,
    /// \[tokens, D\]: states plus the output of a block, before the norm.
    sum: WorkBuffer,
    /// \[tokens, D\]: output of attention.
    context: WorkBuffer,
    /// \[tokens, max(3 D, F)\]: inside of a block.
    wide: WorkBuffer,
}

impl Stack {
    pub fn open(
        config: &Config,
        weights: &Weights,
        on: Arithmetic,
        embed_tokens: Arc<EmbeddingTable>,
        decodes: bool,
    ) -> Result<Self, Error> {
        let (stack, layers, heads, ffn_dim) = match decodes {
            false => {
                ("encoder", config.encoder_layers, config.encoder_attention_heads, config.encoder_ffn_dim)
            }
            true => {
                ("decoder", config.decoder_layers, config.decoder_attention_heads, config.decoder_ffn_dim)
            }
        };
        let (d, family) = (config.d_model, config.family);
        let norm = |name: String| Norm::open(weights, &name, d, EPS, on);
        let layer = |n| {
            let at = |name: &str| format!("model.{stack}.layers.{n}.{name}");
            let linear = |name, shape| Linear::open(weights, &at(name), shape, on);
            let fused = |names: &[&str]| {
                let parts: Vec<_> = names.iter().map(|name| (at(name), d)).collect();
                Linear::open_fused(weights, &parts, d, true, on)
            };
            let cross = || {
                Ok::<_, Error>(CrossAttention {
                    q_proj: linear("encoder_attn.q_proj", [d, d])?,
                    kv_proj: fused(&["encoder_attn.k_proj", "encoder_attn.v_proj"])?,
                    out_proj: linear("encoder_attn.out_proj", [d, d])?,
                    layer_norm: norm(at("encoder_attn_layer_norm"))?,
                })
            };
            Ok(Layer {
                qkv_proj: fused(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
                out_proj: linear("self_attn.out_proj", [d, d])?,
                self_attn_layer_norm: norm(at("self_attn_layer_norm"))?,
                encoder_attn: decodes.then(cross).transpose()?,
                fc1: linear("fc1", [ffn_dim, d])?,
                fc2: linear("fc2", [d, ffn_dim])?,
                final_layer_norm: norm(at("final_layer_norm"))?,
            })
        };
        let at = |name: &str| format!("model.{stack}.{name}");
        let positions = config.max_position_embeddings.saturating_add(family.offset);
        let normalised = family.layernorm_embedding;
        Ok(Self {
            embed_tokens,
            embed_positions: match family.sinusoids {
                true => Positions::Sinusoids(Vec::new()),
                false => {
                    Positions::Learned(EmbeddingTable::open(weights, &at("embed_positions"), [positions, d])?)
                }
            },
            layernorm_embedding: normalised.then(|| norm(at("layernorm_embedding"))).transpose()?,
            layers: (0..layers).map(layer).collect::<Result<_, Error>>()?,
            embed_scale: if config.scale_embedding { (d as f64).sqrt() as f32 } else { 1.0 },
            heads: Heads::of_width(on, heads, d),
            ffn_dim,
        })
    }

    /// Computes the states of `tokens`, \[tokens, D\], in `x` of the workspace.
    pub fn run(
        &mut self,
        config: &Config,
        on: Arithmetic,
        tokens: &Batch,
        positions: &[u32],
        mut past: Past<'_, '_>,
        work: &mut Workspace,
    ) -> Result<(), Error> {
        let (n, d, f) = (tokens.tokens(), config.d_model, self.ffn_dim);
        let Workspace { x, sum, context, wide } = work;
        let (x, sum, context) = (x.get(n * d), sum.get(n * d), context.get(n * d));
        let wide = wide.get(n * f.max(3 * d));
        self.embed(config.family, on, tokens.ids(), positions, x)?;
        for (l, layer) in self.layers.iter().enumerate() {
            let qkv = &mut wide[..n * 3 * d];
            layer.qkv_proj.forward(x, qkv)?;
            match layer.encoder_attn {
                None => self.heads.bidirectional(tokens.starts(), qkv, context)?,
                Some(_) => self.heads.causal(tokens.starts(), qkv, &mut past, l, context)?,
            }
            layer.out_proj.added(context, x, sum)?;
            layer.self_attn_layer_norm.forward(sum, x)?;

            if let Some(cross) = &layer.encoder_attn {
                let q = &mut wide[..n * d];
                cross.q_proj.forward(x, q)?;
                self.heads.cross(tokens.starts(), q, past.caches(), l, context)?;
                cross.out_proj.added(context, x, sum)?;
                cross.layer_norm.forward(sum, x)?;
            }

            let inside = &mut wide[..n * f];
            layer.fc1.activated(x, config.activation_function, inside)?;
            layer.fc2.added(inside, x, sum)?;
            layer.final_layer_norm.forward(sum, x)?;
        }
        Ok(())
    }

    /// An empty cache of up to `capacity` tokens, without a source.
    pub fn cache(&self, capacity: usize) -> Cache {
        self.heads.caches(self.layers.len(), capacity)
    }

    /// A cache for each of `sources`, without tokens. The states of the sources are in `x` of the workspace.
    pub fn sources(
        &self,
        d: usize,
        sources: &Batch,
        capacity: usize,
        work: &mut Workspace,
    ) -> Result<Vec<Cache>, Error> {
        let Workspace { x, wide, .. } = work;
        let (x, kv) = (x.get(sources.tokens() * d), wide.get(sources.tokens() * 2 * d));
        let cross = self.layers.iter().filter_map(|layer| layer.encoder_attn.as_ref());
        self.heads.source_caches(sources.starts(), x, cross.map(|cross| &cross.kv_proj), kv, capacity)
    }

    /// x = scale word\[id\] + position\[i\], normalised if the family has the norm.
    fn embed(
        &mut self,
        family: Family,
        on: Arithmetic,
        ids: &[u32],
        positions: &[u32],
        x: &mut [f32],
    ) -> Result<(), Error> {
        let words = Lookup { table: self.embed_tokens.view(), ids };
        let [_, d] = words.table.shape();
        let table = match &mut self.embed_positions {
            Positions::Learned(table) => table.view(),
            Positions::Sinusoids(rows) => {
                let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
                if rows.len() < longest * d {
                    *rows = sinusoids(longest.next_power_of_two(), d);
                }
                View::new(rows, [rows.len() / d, d])?
            }
        };
        let table = table.slice(0, family.offset..table.shape()[0]);
        if self.embed_scale == 1.0 {
            let lookups = &[words, Lookup { table, ids: positions }];
            on.backend.run(Embedding::new(lookups, ViewMut::new(x, [ids.len(), d])?))?;
        } else {
            on.backend.run(Embedding::new(&[words], ViewMut::new(x, [ids.len(), d])?))?;
            for (x, &position) in x.chunks_exact_mut(d).zip(positions) {
                for (x, p) in x.iter_mut().zip(table.row([position as usize, 0])) {
                    *x = *x * self.embed_scale + p;
                }
            }
        }
        self.layernorm_embedding.as_ref().map_or(Ok(()), |norm| norm.in_place(x))
    }

    /// Linear layers of all layers.
    pub fn linear(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(Layer::linear)
    }
}

impl Parameters for Stack {
    /// Without the word table, which encoder and decoder may share.
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let positions = match &self.embed_positions {
            Positions::Learned(table) => Some(table as &dyn Parameters),
            Positions::Sinusoids(_) => None,
        };
        let mut found: Vec<_> = positions.map(Parameters::parameters).unwrap_or_default();
        found.extend(parameters_of(&[&self.layernorm_embedding, &self.layers]));
        found
    }
}

impl Parameters for Layer {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        parameters_of(&[
            &self.qkv_proj,
            &self.out_proj,
            &self.self_attn_layer_norm,
            &self.encoder_attn,
            &self.fc1,
            &self.fc2,
            &self.final_layer_norm,
        ])
    }
}

impl Parameters for CrossAttention {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let Self { q_proj, kv_proj, out_proj, layer_norm } = self;
        parameters_of(&[q_proj, kv_proj, out_proj, layer_norm])
    }
}

impl Layer {
    fn linear(&self) -> impl Iterator<Item = &Linear> {
        let Self { qkv_proj, out_proj, encoder_attn, fc1, fc2, .. } = self;
        let cross = encoder_attn.as_ref().map(|cross| [&cross.q_proj, &cross.kv_proj, &cross.out_proj]);
        [qkv_proj, out_proj].into_iter().chain(cross.into_iter().flatten()).chain([fc1, fc2])
    }
}

/// Sinusoids, \[positions, D\]. Row p is sin(p w_i) for i < ceil(D / 2), then cos(p w_i) for i < floor(D / 2), with
/// w_i = 10000^(-2 i / D).
fn sinusoids(positions: usize, d: usize) -> Vec<f32> {
    let angle = |p: usize, i: usize| p as f64 / 1e4f64.powf((2 * i) as f64 / d as f64);
    let row = |p| {
        let sines = (0..d.div_ceil(2)).map(move |i| angle(p, i).sin() as f32);
        sines.chain((0..d / 2).map(move |i| angle(p, i).cos() as f32))
    };
    (0..positions).flat_map(row).collect()
}

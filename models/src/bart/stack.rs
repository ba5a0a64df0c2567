//! Encoder or decoder of BART and Marian: embeddings and layers.

use super::config::Config;
use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::layers::{
    Blocks, Cache, EmbeddingTable, Growing, Heads, Linear, Norm, Parameter, Parameters, Past, Run, Selection,
    Slot, add, add_constants, dropout, parameters_of, scale,
};
use std::sync::Arc;

/// Epsilon of layer norms, added to the variance: PyTorch's default, which no config changes.
const EPS: f32 = 1e-5;

/// `model.encoder` or `model.decoder`.
#[derive(Debug)]
pub(super) struct Stack {
    config: Config,
    on: Arithmetic,
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
}

/// Embeddings of positions.
#[derive(Debug)]
enum Positions {
    /// embed_positions, \[offset + max_position_embeddings, D\].
    Learned(EmbeddingTable),
    /// \[positions met so far, D\].
    Sinusoids(Growing<Vec<f32>>),
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
            config: config.clone(),
            on,
            embed_tokens,
            embed_positions: match family.sinusoids {
                true => Positions::Sinusoids(Growing::default()),
                false => {
                    Positions::Learned(EmbeddingTable::open(weights, &at("embed_positions"), [positions, d])?)
                }
            },
            layernorm_embedding: normalised.then(|| norm(at("layernorm_embedding"))).transpose()?,
            layers: (0..layers).map(layer).collect::<Result<_, Error>>()?,
            embed_scale: if config.scale_embedding { (d as f64).sqrt() as f32 } else { 1.0 },
            heads: Heads { dropout: config.attention_dropout, ..Heads::of_width(on, heads, d) },
        })
    }

    /// Computes the states of `tokens`, \[tokens, D\], in [`Slot::X`].
    pub fn run<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        positions: &[u32],
        mut past: Past<'m, '_>,
    ) -> Result<(), Error> {
        self.embed(run, tokens.ids(), positions)?;
        dropout(run, self.on.backend, self.config.dropout, Slot::X)?;
        (0..self.layers.len()).try_for_each(|layer| run.block(self, tokens, &mut past, layer))
    }

    /// An empty cache of up to `capacity` tokens, without a source.
    pub fn cache(&self, capacity: usize) -> Cache {
        self.heads.caches(self.layers.len(), capacity)
    }

    /// A cache for each of `sources`, without tokens. The states of the sources are in [`Slot::SOURCE`].
    pub fn sources<'m>(
        &'m self,
        run: &mut Run<'m>,
        sources: &Batch,
        capacity: usize,
    ) -> Result<Vec<Cache>, Error> {
        let cross = self.layers.iter().filter_map(|layer| layer.encoder_attn.as_ref());
        self.heads.source_caches(run, sources.starts(), cross.map(|cross| &cross.kv_proj), capacity)
    }

    /// x = scale word\[id\] + position\[i\], normalised if the family has the norm.
    fn embed<'m>(&'m self, run: &mut Run<'m>, ids: &[u32], positions: &[u32]) -> Result<(), Error> {
        let (config, on) = (&self.config, self.on);
        let words = Selection { table: &self.embed_tokens, ids };
        match &self.embed_positions {
            Positions::Learned(table) => {
                let offset = config.family.offset as u32;
                let rows: Vec<u32> = positions.iter().map(|position| position + offset).collect();
                let places = Selection { table, ids: &rows };
                if self.embed_scale == 1.0 {
                    EmbeddingTable::sum(run, on, &[words, places], Slot::X)?;
                } else {
                    EmbeddingTable::sum(run, on, &[words], Slot::X)?;
                    scale(run, self.embed_scale, Slot::X);
                    EmbeddingTable::sum(run, on, &[places], Slot::Y)?;
                    add(run, Slot::X, Slot::Y);
                }
            }
            Positions::Sinusoids(tables) => {
                let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
                let rows = tables.get(longest, |positions| sinusoids(positions, config.d_model));
                EmbeddingTable::sum(run, on, &[words], Slot::X)?;
                if self.embed_scale != 1.0 {
                    scale(run, self.embed_scale, Slot::X);
                }
                add_constants(run, rows, positions, Slot::X);
            }
        }
        self.layernorm_embedding.as_ref().map_or(Ok(()), |norm| norm.in_place(run, Slot::X))
    }

    /// Linear layers of all layers.
    pub fn linear(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(Layer::linear)
    }
}

impl Blocks for Stack {
    fn block<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        past: &mut Past<'m, '_>,
        l: usize,
    ) -> Result<(), Error> {
        let (config, backend, layer) = (&self.config, self.on.backend, &self.layers[l]);
        let (starts, p) = (tokens.starts(), config.dropout);
        layer.qkv_proj.forward(run, Slot::X, Slot::WIDE)?;
        match layer.encoder_attn {
            None => self.heads.bidirectional(run, starts)?,
            Some(_) => self.heads.causal(run, starts, past, l)?,
        }
        layer.out_proj.added(run, Slot::CONTEXT, Slot::X, p, Slot::Y)?;
        layer.self_attn_layer_norm.forward(run, Slot::Y, Slot::X)?;

        if let Some(cross) = &layer.encoder_attn {
            cross.q_proj.forward(run, Slot::X, Slot::WIDE)?;
            self.heads.cross(run, starts, &cross.kv_proj, past, l)?;
            cross.out_proj.added(run, Slot::CONTEXT, Slot::X, p, Slot::Y)?;
            cross.layer_norm.forward(run, Slot::Y, Slot::X)?;
        }

        layer.fc1.activated(run, Slot::X, config.activation_function, Slot::WIDE)?;
        dropout(run, backend, config.activation_dropout, Slot::WIDE)?;
        layer.fc2.added(run, Slot::WIDE, Slot::X, p, Slot::Y)?;
        layer.final_layer_norm.forward(run, Slot::Y, Slot::X)
    }

    fn live(&self) -> &'static [Slot] {
        &[Slot::X]
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

//! Encoder or decoder of T5: its layers.

use super::Config;
use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::layers::{
    Blocks, Cache, EmbeddingTable, Heads, Linear, Norm, Parameter, Parameters, Past, RelativeBias, Run, Slot,
    dropout, parameters_of,
};

/// `encoder` or `decoder`.
#[derive(Debug)]
pub(super) struct Stack {
    config: Config,
    on: Arithmetic,
    /// block.N.
    layers: Vec<Layer>,
    /// block.0.layer.0.SelfAttention.relative_attention_bias, \[buckets, heads\].
    relative_attention_bias: EmbeddingTable,
    /// final_layer_norm, \[D\].
    final_layer_norm: Norm,
}

/// `block.N`.
#[derive(Debug)]
struct Layer {
    /// layer.0.layer_norm, \[D\].
    attention_layer_norm: Norm,
    /// layer.0.SelfAttention.{q, k, v}, fused: \[D, 3 I\].
    qkv: Linear,
    /// layer.0.SelfAttention.o, \[I, D\].
    o: Linear,
    /// layer.1; only the decoder has it.
    cross: Option<CrossAttention>,
    /// layer.1.layer_norm, in the decoder layer.2.layer_norm, \[D\].
    feed_forward_layer_norm: Norm,
    /// DenseReluDense.wi, or DenseReluDense.{wi_0, wi_1} as a gated pair, \[D, F\] each.
    wi: Linear,
    /// DenseReluDense.wo, \[F, D\].
    wo: Linear,
}

/// `block.N.layer.1` of the decoder: cross-attention and the norm before it.
#[derive(Debug)]
struct CrossAttention {
    /// layer_norm, \[D\].
    layer_norm: Norm,
    /// EncDecAttention.q, \[D, I\].
    q: Linear,
    /// EncDecAttention.{k, v}, fused: \[D, 2 I\].
    kv: Linear,
    /// EncDecAttention.o, \[I, D\].
    o: Linear,
}

impl Stack {
    /// Reads the layers of the encoder, or of the decoder if `decodes`.
    pub fn open(config: &Config, weights: &Weights, on: Arithmetic, decodes: bool) -> Result<Self, Error> {
        let stack = if decodes { "decoder" } else { "encoder" };
        let (d, f, i) = (config.d_model, config.d_ff, config.inner_width());
        let norm = |name: String| Norm::open_rms(weights, &name, d, config.layer_norm_epsilon, on);
        // `inward` fuses layers from D to I; `outward` is the layer from I to D.
        let inward = |at: &str, names: &[&str]| {
            let parts: Vec<_> = names.iter().map(|name| (format!("{at}.{name}"), i)).collect();
            Linear::open_fused(weights, &parts, d, false, on)
        };
        let outward = |at: &str| Linear::open_as(weights, &format!("{at}.o.weight"), None, [d, i], on);
        let layer = |n| {
            let at = |name: &str| format!("{stack}.block.{n}.layer.{name}");
            let attention = at("0.SelfAttention");
            let cross = || {
                let attention = at("1.EncDecAttention");
                Ok::<_, Error>(CrossAttention {
                    layer_norm: norm(at("1.layer_norm"))?,
                    q: inward(&attention, &["q"])?,
                    kv: inward(&attention, &["k", "v"])?,
                    o: outward(&attention)?,
                })
            };
            let last = at(if decodes { "2" } else { "1" });
            let dense = |name: &str| format!("{last}.DenseReluDense.{name}.weight");
            Ok(Layer {
                attention_layer_norm: norm(at("0.layer_norm"))?,
                qkv: inward(&attention, &["q", "k", "v"])?,
                o: outward(&attention)?,
                cross: decodes.then(cross).transpose()?,
                feed_forward_layer_norm: norm(format!("{last}.layer_norm"))?,
                wi: match config.gated {
                    true => Linear::open_gated(weights, [&dense("wi_0"), &dense("wi_1")], [f, d], on)?,
                    false => Linear::open_as(weights, &dense("wi"), None, [f, d], on)?,
                },
                wo: Linear::open_as(weights, &dense("wo"), None, [d, f], on)?,
            })
        };
        let layers = if decodes { config.num_decoder_layers } else { config.num_layers };
        let bias = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias");
        let buckets = config.relative_attention_num_buckets;
        Ok(Self {
            config: config.clone(),
            on,
            layers: (0..layers).map(layer).collect::<Result<_, Error>>()?,
            relative_attention_bias: EmbeddingTable::open(weights, &bias, [buckets, config.num_heads])?,
            final_layer_norm: norm(format!("{stack}.final_layer_norm"))?,
        })
    }

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// A cache for each source, without tokens and with room for `capacity`. The states of the sources are in
    /// [`Slot::SOURCE`].
    pub fn sources<'m>(
        &'m self,
        run: &mut Run<'m>,
        starts: &[usize],
        capacity: usize,
    ) -> Result<Vec<Cache>, Error> {
        let layers = self.layers.iter().filter_map(|layer| layer.cross.as_ref()).map(|cross| &cross.kv);
        self.config.heads(self.on).source_caches(run, starts, layers, capacity)
    }

    /// Computes the states after the last norm in [`Slot::Y`], from embeddings in [`Slot::X`], both \[tokens, D\].
    pub fn run<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        mut past: Past<'m, '_>,
    ) -> Result<(), Error> {
        let (backend, p) = (self.on.backend, self.config.dropout_rate);
        dropout(run, backend, p, Slot::X)?;
        self.norm_of(0).forward(run, Slot::X, Slot::Y)?;
        (0..self.layers.len()).try_for_each(|layer| run.block(self, tokens, &mut past, layer))?;
        dropout(run, backend, p, Slot::Y)
    }

    /// Norm before a layer, or the last one.
    fn norm_of(&self, layer: usize) -> &Norm {
        self.layers.get(layer).map_or(&self.final_layer_norm, |layer| &layer.attention_layer_norm)
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
        let (starts, p, to_source) = (tokens.starts(), config.dropout_rate, config.heads(self.on));
        let distance = RelativeBias {
            table: &self.relative_attention_bias,
            bidirectional: layer.cross.is_none(),
            max_distance: config.relative_attention_max_distance,
        };
        layer.qkv.forward(run, Slot::Y, Slot::WIDE)?;
        let heads = Heads { distance: Some(distance), ..to_source };
        match &layer.cross {
            None => heads.bidirectional(run, starts)?,
            Some(_) => heads.causal(run, starts, past, l)?,
        }
        layer.o.forward(run, Slot::CONTEXT, Slot::Y)?;
        dropout(run, backend, p, Slot::Y)?;

        if let Some(cross) = &layer.cross {
            cross.layer_norm.after_adding(run, Slot::Y, Slot::X)?;
            cross.q.forward(run, Slot::Y, Slot::WIDE)?;
            to_source.cross(run, starts, &cross.kv, past, l)?;
            cross.o.forward(run, Slot::CONTEXT, Slot::Y)?;
            dropout(run, backend, p, Slot::Y)?;
        }
        layer.feed_forward_layer_norm.after_adding(run, Slot::Y, Slot::X)?;
        layer.wi.activated(run, Slot::Y, config.activation, Slot::WIDE)?;
        dropout(run, backend, p, Slot::WIDE)?;
        layer.wo.forward(run, Slot::WIDE, Slot::Y)?;
        dropout(run, backend, p, Slot::Y)?;
        self.norm_of(l + 1).after_adding(run, Slot::Y, Slot::X)
    }

    /// The next layer's input, and the states that its output is added to.
    fn live(&self) -> &'static [Slot] {
        &[Slot::X, Slot::Y]
    }
}

impl Parameters for Stack {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        parameters_of(&[&self.relative_attention_bias, &self.layers, &self.final_layer_norm])
    }
}

impl Parameters for Layer {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let Self { attention_layer_norm, qkv, o, cross, feed_forward_layer_norm, wi, wo } = self;
        parameters_of(&[attention_layer_norm, qkv, o, cross, feed_forward_layer_norm, wi, wo])
    }
}

impl Parameters for CrossAttention {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let Self { layer_norm, q, kv, o } = self;
        parameters_of(&[layer_norm, q, kv, o])
    }
}

impl Layer {
    fn linear(&self) -> impl Iterator<Item = &Linear> {
        let cross = self.cross.iter().flat_map(|CrossAttention { q, kv, o, .. }| [q, kv, o]);
        [&self.qkv, &self.o, &self.wi, &self.wo].into_iter().chain(cross)
    }
}

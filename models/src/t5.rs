//! T5 (Raffel et al. 2019, arXiv:1910.10683), and T5 1.1 and Flan-T5 (Chung et al. 2022,
//! arXiv:2210.11416): an encoder, and a decoder that reads what the encoder made of a source.
//!
//! ```text
//! x = shared[id]
//! each layer:  x = x + o(attention(q, k, v of RMS(x)))        the decoder's sees what is before
//!              x = x + o(attention(q of RMS(x), k, v of source))                 decoder alone
//!              x = x + wo(relu(wi(RMS(x))))                                             or, 1.1:
//!              x = x + wo(gelu(wi_0(h)) * wi_1(h)), h = RMS(x)
//! logits       lm_head(RMS(x)); 1.0: shared^T RMS(x) / sqrt(D)
//! ```
//!
//! Nothing says where a token is but a bias of each head for the distance from query to key, which is
//! the same in all layers of the encoder, and of the decoder; a source is seen without. Dot products
//! are not scaled: the initial weights were.

use crate::arithmetic::Arithmetic;
use crate::batch::{self, Batch};
use crate::error::Error;
use crate::generator::{self, Cache, Generator, Want};
use crate::layers::{Buffer, Heads, KvCache, Linear, Norm, Table};
use crate::model::{Each, Model, Output};
use crate::weights::Weights;
use tilewright_kernels::DistanceBias;

mod config;

pub use config::Config;

/// What of a T5 is computed, by the classes of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `T5EncoderModel`: states of the encoder.
    Encoder,
    /// `T5Model`: states of the decoder.
    Bare,
    /// `T5ForConditionalGeneration`: logits of the next token.
    ConditionalGeneration,
}

/// The encoder and, if the class has them, the decoder and its head.
#[derive(Debug)]
pub struct T5 {
    config: Config,
    on: Arithmetic,
    /// shared, \[vocab_size, D\].
    shared: Table,
    encoder: Stack,
    decoder: Option<Stack>,
    /// lm_head, \[D, vocab_size\]: the embedding, where they are tied.
    lm_head: Option<Linear>,
    tied: bool,
    work: Workspace,
}

/// `encoder` or `decoder`.
#[derive(Debug)]
struct Stack {
    layers: Vec<Layer>,
    /// block.0.layer.0.SelfAttention.relative_attention_bias, \[buckets, heads\].
    relative_attention_bias: Table,
    /// final_layer_norm, \[D\]; that before a tied head times 1 / sqrt(D), which rounds no more often than
    /// to multiply the states.
    final_layer_norm: Norm,
}

/// `block.N`.
#[derive(Debug)]
struct Layer {
    /// layer.0.layer_norm, \[D\].
    attention_layer_norm: Norm,
    /// layer.0.SelfAttention.{q, k, v}, as one layer: \[D, 3 I\].
    qkv: Linear,
    /// layer.0.SelfAttention.o, \[I, D\].
    o: Linear,
    /// layer.1, of the decoder.
    cross: Option<Cross>,
    /// layer.1.layer_norm, of the decoder layer.2.layer_norm: \[D\].
    feed_forward_layer_norm: Norm,
    /// ..DenseReluDense.wi, or {wi_0, wi_1} as a pair: \[D, F\].
    wi: Linear,
    /// ..DenseReluDense.wo, \[F, D\].
    wo: Linear,
}

/// `block.N.layer.1` of the decoder.
#[derive(Debug)]
struct Cross {
    /// layer_norm, \[D\].
    layer_norm: Norm,
    /// EncDecAttention.q, \[D, I\].
    q: Linear,
    /// EncDecAttention.{k, v}, as one layer: \[D, 2 I\].
    kv: Linear,
    /// EncDecAttention.o, \[I, D\].
    o: Linear,
}

/// Working memory: it grows to the largest batch, then nothing is allocated.
#[derive(Debug, Default)]
struct Workspace {
    /// \[tokens, D\]: the states.
    x: Buffer,
    /// \[tokens, D\]: what a block reads, and what it adds to the states.
    y: Buffer,
    /// \[tokens, I\]: what attention found.
    context: Buffer,
    /// \[tokens, max(3 I, F)\]: inside of a block.
    wide: Buffer,
    /// States whose logits are wanted.
    rows: Vec<f32>,
}

impl T5 {
    /// Reads what `class` has from `weights`. The head is `lm_head` where there is one, else the embedding.
    ///
    /// # Errors
    /// Those of [`Weights::get`], and [`Error::Input`] if the config has a size of 0 or the like.
    pub fn open(config: Config, weights: &Weights, on: Arithmetic, class: Class) -> Result<Self, Error> {
        let tied = !weights.contains("lm_head.weight");
        Self::with_head(config, weights, on, class, tied)
    }

    /// A model with random weights, the same for a seed on every machine. Its head is the embedding if
    /// outputs are scaled, as in T5 1.0.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or the like.
    ///
    /// ```
    /// use tilewright::generator::{Generator, Want};
    /// use tilewright::t5::{Class, Config, T5};
    /// use tilewright::{Arithmetic, Batch};
    /// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
    /// let config = Config { vocab_size: 99, d_model: 24, d_ff: 40, num_heads: 2, d_kv: 8, ..Config::default() };
    /// let mut t5 = T5::random(config, 0, on, Class::ConditionalGeneration)?;
    /// let (mut source, mut start, mut logits) = (Batch::default(), Batch::default(), Vec::new());
    /// source.push(&[37, 5, 1], &[0; 3])?;
    /// start.push(&[0], &[0])?;
    /// let mut caches = t5.encode(&source, 20)?;
    /// t5.extend(&start, &mut [&mut caches[0]], Want::Last, &mut logits)?;
    /// assert_eq!((logits.len(), caches[0].len()), (99, 1));
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    pub fn random(config: Config, seed: u64, on: Arithmetic, class: Class) -> Result<Self, Error> {
        let tied = config.scale_decoder_outputs;
        Self::with_head(config, &Weights::random(seed), on, class, tied)
    }

    fn with_head(
        config: Config,
        weights: &Weights,
        on: Arithmetic,
        class: Class,
        tied: bool,
    ) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        // Checkpoints have the one table under one or several of these names.
        let names = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"];
        let has = |name: &&str| weights.contains(&format!("{name}.weight"));
        let shared = names.into_iter().find(has).unwrap_or(names[0]);
        let (words, d) = (config.vocab_size, config.d_model);
        let head = if tied { format!("{shared}.weight") } else { "lm_head.weight".to_owned() };
        let lm_head = match class {
            Class::ConditionalGeneration => Some(Linear::open_as(weights, &head, None, [words, d], on)?),
            Class::Encoder | Class::Bare => None,
        };
        let mut decoder = match class {
            Class::Encoder => None,
            Class::Bare | Class::ConditionalGeneration => Some(Stack::open(&config, weights, on, true)?),
        };
        if let Some(decoder) = &mut decoder
            && lm_head.is_some()
            && config.scale_decoder_outputs
        {
            decoder.final_layer_norm.scale((d as f64).powf(-0.5) as f32);
        }
        Ok(Self {
            on,
            shared: Table::open(weights, shared, [words, d])?,
            encoder: Stack::open(&config, weights, on, false)?,
            decoder,
            lm_head,
            tied,
            config,
            work: Workspace::default(),
        })
    }

    /// The config it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The states of the encoder, \[tokens, D\], in the workspace.
    fn encoder_states(&mut self, sources: &Batch) -> Result<&[f32], Error> {
        batch::below("input_ids", &sources.ids, self.config.vocab_size)?;
        without_holes("attention_mask", sources)?;
        let Self { config, on, shared, encoder, work, .. } = self;
        let n = sources.tokens() * config.d_model;
        shared.get(*on, sources.ids(), work.x.get(n))?;
        encoder.run(config, *on, sources.starts(), &mut [], work)?;
        Ok(work.y.get(n))
    }

    /// An empty cache for each of `sources`, whose states are in the workspace.
    fn source_caches(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        let (heads, width) = (self.config.heads(self.on), 2 * self.config.inner_width());
        let Workspace { y, wide, .. } = &mut self.work;
        let (y, kv) = (y.get(sources.tokens() * self.config.d_model), wide.get(sources.tokens() * width));
        let mut found: Vec<Vec<KvCache>> = vec![Vec::new(); sources.len()];
        let layers = self.decoder.iter().flat_map(|decoder| &decoder.layers);
        for cross in layers.filter_map(|layer| layer.cross.as_ref()) {
            cross.kv.forward(y, kv)?;
            for (source, layer) in found.iter_mut().zip(heads.sources(sources.starts(), kv)?) {
                source.push(layer);
            }
        }
        let with = |source: Vec<KvCache>| Cache { source: Some(source.into()), ..self.cache(capacity) };
        Ok(found.into_iter().map(with).collect())
    }

    /// Appends `tokens` to the caches and leaves their states, \[tokens, D\], in `y` of the workspace.
    fn decoder_states(&mut self, tokens: &Batch, caches: &mut [&mut Cache]) -> Result<(), Error> {
        generator::check(tokens, caches, self.config.vocab_size, self.max_tokens())?;
        without_holes("decoder_attention_mask", tokens)?;
        let Self { config, on, shared, decoder, work, .. } = self;
        let Some(decoder) = decoder else { return Err(no_decoder()) };
        if let Some(sequence) = caches.iter().position(|cache| cache.source.is_none()) {
            let why = format!("sequence {sequence}: it has no source");
            return Err(Error::Input { name: "caches", why });
        }
        shared.get(*on, tokens.ids(), work.x.get(tokens.tokens() * config.d_model))?;
        decoder.run(config, *on, tokens.starts(), caches, work)
    }
}

impl Stack {
    fn open(config: &Config, weights: &Weights, on: Arithmetic, decodes: bool) -> Result<Self, Error> {
        let stack = if decodes { "decoder" } else { "encoder" };
        let (d, f, i) = (config.d_model, config.d_ff, config.inner_width());
        let norm = |name: String| Norm::open_rms(weights, &name, d, config.layer_norm_epsilon, on);
        // Several layers from D to I, as one, or the one from I to D.
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
                Ok::<_, Error>(Cross {
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
            layers: (0..layers).map(layer).collect::<Result<_, Error>>()?,
            relative_attention_bias: Table::open(weights, &bias, [buckets, config.num_heads])?,
            final_layer_norm: norm(format!("{stack}.final_layer_norm"))?,
        })
    }

    /// From embeddings in `x` of the workspace to states after the last norm in `y`, both \[tokens, D\]; a
    /// decoder appends the tokens to the caches.
    fn run(
        &self,
        config: &Config,
        on: Arithmetic,
        starts: &[usize],
        caches: &mut [&mut Cache],
        work: &mut Workspace,
    ) -> Result<(), Error> {
        let n = starts.last().map_or(0, |&end| end);
        let (d, f, i) = (config.d_model, config.d_ff, config.inner_width());
        let Workspace { x, y, context, wide, .. } = work;
        let (x, y, context) = (x.get(n * d), y.get(n * d), context.get(n * i));
        let wide = wide.get(n * f.max(3 * i));
        let to_source = config.heads(on);
        let distance = |bidirectional| DistanceBias::T5 {
            table: self.relative_attention_bias.view(),
            bidirectional,
            max_distance: config.relative_attention_max_distance,
        };

        let norm_of =
            |l: usize| self.layers.get(l).map_or(&self.final_layer_norm, |l| &l.attention_layer_norm);
        norm_of(0).forward(x, y)?;
        for (l, layer) in self.layers.iter().enumerate() {
            let qkv = &mut wide[..n * 3 * i];
            layer.qkv.forward(y, qkv)?;
            let heads = Heads { distance: Some(distance(layer.cross.is_none())), ..to_source };
            match &layer.cross {
                None => heads.bidirectional(starts, qkv, context)?,
                Some(_) => heads.causal(starts, qkv, caches, l, context)?,
            }
            layer.o.forward(context, y)?;

            if let Some(cross) = &layer.cross {
                cross.layer_norm.after_adding(y, x)?;
                let q = &mut wide[..n * i];
                cross.q.forward(y, q)?;
                to_source.cross(starts, q, caches, l, context)?;
                cross.o.forward(context, y)?;
            }
            layer.feed_forward_layer_norm.after_adding(y, x)?;
            let inside = &mut wide[..n * f];
            layer.wi.activated(y, config.activation, inside)?;
            layer.wo.forward(inside, y)?;
            norm_of(l + 1).after_adding(y, x)?;
        }
        Ok(())
    }

    fn parameters(&self) -> usize {
        let others = self.relative_attention_bias.parameters() + self.final_layer_norm.parameters();
        others + self.layers.iter().map(Layer::parameters).sum::<usize>()
    }
}

impl Layer {
    fn parameters(&self) -> usize {
        let Self { attention_layer_norm, qkv, o, cross, feed_forward_layer_norm, wi, wo } = self;
        let cross = cross.as_ref().map_or(0, |Cross { layer_norm, q, kv, o }| {
            layer_norm.parameters() + [q, kv, o].map(Linear::parameters).iter().sum::<usize>()
        });
        let norms = attention_layer_norm.parameters() + feed_forward_layer_norm.parameters();
        norms + [qkv, o, wi, wo].map(Linear::parameters).iter().sum::<usize>() + cross
    }
}

/// Refuses a mask that hides tokens between others: the distance of two tokens is that of their rows.
fn without_holes(name: &'static str, batch: &Batch) -> Result<(), Error> {
    for (sequence, ends) in batch.starts().windows(2).enumerate() {
        let positions = &batch.positions[ends[0]..ends[1]];
        if let Some(before) = positions.windows(2).find(|two| two[1] != two[0] + 1) {
            let why = format!(
                "hides what is between tokens {} and {} of sequence {sequence}; expected padding at its ends",
                before[0], before[1]
            );
            return Err(Error::Input { name, why });
        }
    }
    Ok(())
}

fn no_decoder() -> Error {
    Error::Input { name: "decoder_input_ids", why: "given to a model that has no decoder".to_owned() }
}

impl Generator for T5 {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    /// No limit: distances have none.
    fn max_tokens(&self) -> usize {
        usize::MAX
    }

    fn encodes(&self) -> bool {
        true
    }

    fn cache(&self, capacity: usize) -> Cache {
        let heads = self.config.heads(self.on);
        let layers = self.decoder.iter().flat_map(|decoder| &decoder.layers);
        Cache { layers: layers.map(|_| heads.cache(capacity)).collect(), source: None }
    }

    fn encode(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        if self.decoder.is_none() {
            return Err(no_decoder());
        }
        self.encoder_states(sources)?;
        self.source_caches(sources, capacity)
    }

    fn extend(
        &mut self,
        tokens: &Batch,
        caches: &mut [&mut Cache],
        want: Want,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        if self.lm_head.is_none() {
            return Err(Error::Input { name: "logits", why: "the model has no head".to_owned() });
        }
        self.decoder_states(tokens, caches)?;
        let Self { config, lm_head: Some(lm_head), work, .. } = self else { return Err(no_decoder()) };
        let Workspace { y, rows, .. } = work;
        let states = generator::wanted(want, tokens, y.get(tokens.tokens() * config.d_model), rows);
        logits.resize(states.len() / config.d_model * config.vocab_size, 0.0);
        lm_head.forward(states, logits)
    }
}

impl Model for T5 {
    /// Of the encoder alone.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        if self.decoder.is_some() {
            let why = "missing; expected what the decoder reads".to_owned();
            return Err(Error::Input { name: "decoder_input_ids", why });
        }
        let states = self.encoder_states(batch)?.to_vec();
        Ok(vec![Output::new("last_hidden_state", Each::Token, batch.tokens(), states)])
    }

    fn forward_pair(&mut self, batch: &Batch, decoder: &Batch) -> Result<Vec<Output>, Error> {
        if self.decoder.is_none() {
            return Err(no_decoder());
        }
        let encoder_states = self.encoder_states(batch)?.to_vec();
        let longest = decoder.starts().windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
        let mut caches = self.source_caches(batch, longest)?;
        let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
        let (name, values) = if self.lm_head.is_some() {
            let mut logits = Vec::new();
            self.extend(decoder, &mut caches, Want::All, &mut logits)?;
            ("logits", logits)
        } else {
            self.decoder_states(decoder, &mut caches)?;
            ("last_hidden_state", self.work.y.get(decoder.tokens() * self.config.d_model).to_vec())
        };
        Ok(vec![
            Output::new(name, Each::DecoderToken, decoder.tokens(), values),
            Output::new("encoder_last_hidden_state", Each::Token, batch.tokens(), encoder_states),
        ])
    }

    /// No limit: distances have none.
    fn max_length(&self) -> usize {
        usize::MAX
    }

    fn generator(&mut self) -> Option<&mut dyn Generator> {
        if self.lm_head.is_some() { Some(self) } else { None }
    }

    fn parameters(&self) -> Vec<(&'static str, usize)> {
        let mut parts =
            vec![("word embeddings", self.shared.parameters()), ("encoder", self.encoder.parameters())];
        parts.extend(self.decoder.iter().map(|decoder| ("decoder", decoder.parameters())));
        let head = self.lm_head.iter().filter(|_| !self.tied);
        parts.extend(head.map(|head| ("head", head.parameters())));
        parts
    }
}

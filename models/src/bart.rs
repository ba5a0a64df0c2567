//! BART (Lewis et al. 2019, arXiv:1910.13461) and Marian (Junczys-Dowmunt et al. 2018,
//! arXiv:1804.00344): the encoder and decoder of Vaswani et al. 2017 (arXiv:1706.03762), which normalise
//! what each block adds up.
//!
//! ```text
//! x = LN(word[id] * scale + position[i])
//! encoder      each layer:  x = LN(x + dense(attention(x)))
//!                           x = LN(x + dense(activation(dense(x))))
//! decoder      each layer:  x = LN(x + dense(attention(x))), of each token to all up to itself
//!                           x = LN(x + dense(attention(x, states of the encoder)))
//!                           x = LN(x + dense(activation(dense(x))))
//! logits       head(x) + bias, head = word^T where they are tied
//! class        dense(tanh(dense(x of the last end token)))
//! ```
//!
//! | [`Family`] | positions | first norm | scale | a decoder given nothing reads |
//! |---|---|---|---|---|
//! | BART | a table | as above | 1, or sqrt(D) by config | the inputs after a start token |
//! | Marian | \[sin \| cos\] of the position | none | the same | nothing: an error |

use crate::arithmetic::Arithmetic;
use crate::batch::{self, Batch};
use crate::error::Error;
use crate::generator::{self, Cache, Generator, Want};
use crate::layers::{Buffer, Heads, KvCache, Linear, Norm, Table};
use crate::model::{Each, Model, Output};
use crate::weights::Weights;
use std::sync::Arc;
use tilewright_kernels::{Activation, Embedding, Lookup, ViewMut};

mod config;

pub use config::{Config, Family};

/// Added to variances; no config says otherwise.
const EPS: f32 = 1e-5;

/// Which class of transformers a model is, by what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `BartModel`, `MarianModel`: the states of encoder and decoder.
    Bare,
    /// `BartForConditionalGeneration`, `MarianMTModel`: logits of words.
    ConditionalGeneration,
    /// `BartForSequenceClassification`: the class of a text.
    SequenceClassification,
}

/// Encoder, decoder and head.
#[derive(Debug)]
pub struct Bart {
    config: Config,
    on: Arithmetic,
    encoder: Stack,
    decoder: Stack,
    head: Head,
    work: Workspace,
}

/// What reads the states of the decoder.
#[derive(Debug)]
enum Head {
    None,
    /// lm_head and final_logits_bias, \[D, vocab_size\].
    Words(Linear),
    Classes {
        /// classification_head.dense, \[D, D\].
        dense: Linear,
        /// classification_head.out_proj, \[D, classes\].
        out_proj: Linear,
    },
}

/// `model.encoder` or `model.decoder`.
#[derive(Debug)]
struct Stack {
    /// \[vocab_size, D\], times the scale.
    embed_tokens: Arc<Table>,
    /// \[offset + max_position_embeddings, D\]; of sinusoids, of the positions met so far: \[positions, D\].
    embed_positions: Table,
    /// \[D\].
    layernorm_embedding: Option<Norm>,
    layers: Vec<Layer>,
    heads: Heads<'static>,
    /// Width F inside of feed-forward blocks.
    ffn_dim: usize,
}

/// `layers.N`.
#[derive(Debug)]
struct Layer {
    /// self_attn.{q_proj, k_proj, v_proj}, as one layer: \[D, 3 D\].
    qkv_proj: Linear,
    /// self_attn.out_proj, \[D, D\].
    out_proj: Linear,
    /// \[D\].
    self_attn_layer_norm: Norm,
    /// Of the decoder.
    encoder_attn: Option<Cross>,
    /// \[D, F\].
    fc1: Linear,
    /// \[F, D\].
    fc2: Linear,
    /// \[D\].
    final_layer_norm: Norm,
}

/// `encoder_attn` and the norm after it.
#[derive(Debug)]
struct Cross {
    /// q_proj, \[D, D\].
    q_proj: Linear,
    /// {k_proj, v_proj}, as one layer: \[D, 2 D\].
    kv_proj: Linear,
    /// out_proj, \[D, D\].
    out_proj: Linear,
    /// encoder_attn_layer_norm, \[D\].
    layer_norm: Norm,
}

/// Working memory: it grows to the largest batch, then nothing is allocated.
#[derive(Debug, Default)]
struct Workspace {
    /// \[tokens, D\]: the states.
    x: Buffer,
    /// \[tokens, D\]: those and what a block adds to them.
    sum: Buffer,
    /// \[tokens, D\]: what attention found.
    context: Buffer,
    /// \[tokens, max(3 D, F)\]: inside of a block.
    wide: Buffer,
    /// States whose logits are wanted.
    rows: Vec<f32>,
}

impl Bart {
    /// Reads what `class` has from `weights`, whose names may lack the prefix `model.`.
    ///
    /// # Errors
    /// Those of [`Weights::get`], and [`Error::Input`] if the config has a size of 0 or the like.
    pub fn open(config: Config, weights: Weights, on: Arithmetic, class: Class) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        let weights = &weights.with_base("model.");
        let (d, words) = (config.d_model, config.decoder_words());
        let (tied, shared) = (config.tie_word_embeddings, config.share_encoder_decoder_embeddings);
        // Checkpoints have the table of several users under the name of one or of several of them.
        let names = ["model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"];
        let [_, of_encoder, of_decoder, of_head] = names;
        let has = |name: &&str| weights.contains(&format!("{name}.weight"));
        let first = |names: &[&'static str]| names.iter().copied().find(has).unwrap_or(names[0]);
        let [of_encoder, of_decoder, of_head] = match (tied, shared) {
            (true, true) => [first(&names); 3],
            (true, false) => [of_encoder, first(&names[2..]), first(&names[2..])],
            (false, _) => [of_encoder, of_decoder, of_head],
        };

        let source_words = Table::open(weights, of_encoder, [config.vocab_size, d])?;
        let target_words = match of_decoder == of_encoder {
            true => None,
            false => Some(Table::open(weights, of_decoder, [words, d])?),
        };
        let head = match class {
            Class::Bare => Head::None,
            Class::ConditionalGeneration => {
                let name = "final_logits_bias";
                let bias = weights.contains(name).then(|| weights.get(name, &[1, words])).transpose()?;
                let own = match of_head == of_decoder {
                    true => None,
                    false => Some(Table::open(weights, of_head, [words, d])?),
                };
                let table = own.as_ref().or(target_words.as_ref()).unwrap_or(&source_words);
                Head::Words(Linear::new(&table.weight, bias, [words, d], on)?)
            }
            Class::SequenceClassification => Head::Classes {
                dense: Linear::open(weights, "classification_head.dense", [d, d], on)?,
                out_proj: Linear::open(
                    weights,
                    "classification_head.out_proj",
                    [config.num_labels(), d],
                    on.exactly(),
                )?,
            },
        };
        let scaled = |mut table: Table| {
            if config.scale_embedding {
                let scale = (d as f64).sqrt() as f32;
                table.weight.iter_mut().for_each(|weight| *weight *= scale);
            }
            Arc::new(table)
        };
        let source_words = scaled(source_words);
        let target_words = target_words.map_or(source_words.clone(), scaled);
        Ok(Self {
            on,
            encoder: Stack::open(&config, weights, on, source_words, false)?,
            decoder: Stack::open(&config, weights, on, target_words, true)?,
            head,
            config,
            work: Workspace::default(),
        })
    }

    /// A model with random weights, the same for a seed on every machine.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or the like.
    ///
    /// ```
    /// use tilewright::bart::{Bart, Class, Config, Family};
    /// use tilewright::generator::{Generator, Want};
    /// use tilewright::{Arithmetic, Batch};
    /// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
    /// let small = Config { vocab_size: 99, d_model: 32, max_position_embeddings: 40, ..Config::of(Family::MARIAN) };
    /// let config = Config { encoder_layers: 2, encoder_ffn_dim: 50, decoder_layers: 1, decoder_ffn_dim: 50, ..small };
    /// let mut marian = Bart::random(config, 0, on, Class::ConditionalGeneration)?;
    /// let (mut source, mut start, mut logits) = (Batch::default(), Batch::default(), Vec::new());
    /// source.push(&[37, 5, 0], &[0; 3])?;
    /// start.push(&[98], &[0])?;
    /// let mut caches = marian.encode(&source, 20)?;
    /// marian.extend(&start, &mut [&mut caches[0]], Want::Last, &mut logits)?;
    /// assert_eq!((logits.len(), caches[0].len()), (99, 1));
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    pub fn random(config: Config, seed: u64, on: Arithmetic, class: Class) -> Result<Self, Error> {
        Self::open(config, Weights::random(seed), on, class)
    }

    /// The config it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Leaves the states of the encoder, \[tokens, D\], in `x` of the workspace.
    fn encoder_states(&mut self, sources: &Batch) -> Result<(), Error> {
        let Self { config, on, encoder, work, .. } = self;
        batch::below("input_ids", &sources.ids, config.vocab_size)?;
        batch::below("position", &sources.positions, config.max_position_embeddings)?;
        encoder.run(config, *on, sources, &sources.positions, &mut [], work)
    }

    /// An empty cache for each of `sources`, whose states are in `x` of the workspace.
    fn source_caches(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        let (n, d) = (sources.tokens(), self.config.d_model);
        let Workspace { x, wide, .. } = &mut self.work;
        let (x, kv) = (x.get(n * d), wide.get(n * 2 * d));
        let mut found: Vec<Vec<KvCache>> = vec![Vec::new(); sources.len()];
        for cross in self.decoder.layers.iter().filter_map(|layer| layer.encoder_attn.as_ref()) {
            cross.kv_proj.forward(x, kv)?;
            for (source, layer) in found.iter_mut().zip(self.decoder.heads.sources(sources.starts(), kv)?) {
                source.push(layer);
            }
        }
        let with = |source: Vec<KvCache>| Cache { source: Some(source.into()), ..self.cache(capacity) };
        Ok(found.into_iter().map(with).collect())
    }

    /// Appends `tokens` to the caches and leaves the states of the decoder, \[tokens, D\], in `x` of the
    /// workspace.
    fn decoder_states(&mut self, tokens: &Batch, caches: &mut [&mut Cache]) -> Result<(), Error> {
        let Self { config, on, decoder, work, .. } = self;
        let positions =
            generator::check(tokens, caches, config.decoder_words(), config.max_position_embeddings)?;
        if let Some(sequence) = caches.iter().position(|cache| cache.source.is_none()) {
            let why = format!("sequence {sequence}: it has no source");
            return Err(Error::Input { name: "caches", why });
        }
        decoder.run(config, *on, tokens, &positions, caches, work)
    }

    /// What the decoder reads if it is given nothing: a start token and all but the last column of the
    /// padded batch, whose padding the decoder sees as tokens; and the place of each token of `batch` in it.
    fn shifted(&self, batch: &Batch) -> Result<(Batch, Vec<usize>), Error> {
        let (mut decoder, mut places) = (Batch::default(), Vec::new());
        for ends in batch.starts().windows(2) {
            let (ids, columns) = (&batch.ids[ends[0]..ends[1]], &batch.positions[ends[0]..ends[1]]);
            let (before, last) = (decoder.tokens(), columns[columns.len() - 1] as usize);
            let mut shifted = vec![self.config.pad_token_id; last + 1];
            shifted[0] = self.config.decoder_start_token_id;
            for (&id, &column) in ids.iter().zip(columns).take(ids.len() - 1) {
                shifted[column as usize + 1] = id;
            }
            decoder.push(&shifted, &vec![0; shifted.len()])?;
            places.extend(columns.iter().map(|&column| before + column as usize));
        }
        Ok((decoder, places))
    }

    /// Runs encoder, decoder and head, which sees the states of the `places` among the tokens of `decoder`;
    /// of all, if there are none.
    fn outputs(
        &mut self,
        batch: &Batch,
        decoder: &Batch,
        places: Option<&[usize]>,
    ) -> Result<Vec<Output>, Error> {
        if decoder.len() != batch.len() {
            let why = format!("expected {} sequences, found {}", batch.len(), decoder.len());
            return Err(Error::Input { name: "decoder_input_ids", why });
        }
        let d = self.config.d_model;
        let ends = match self.head {
            Head::Classes { .. } => Some(self.ends(batch, decoder)?),
            Head::None | Head::Words(_) => None,
        };
        self.encoder_states(batch)?;
        let encoder_states = self.work.x.get(batch.tokens() * d).to_vec();
        let longest = decoder.starts().windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
        let mut caches = self.source_caches(batch, longest)?;
        self.decoder_states(decoder, &mut caches.iter_mut().collect::<Vec<_>>())?;

        let states = self.work.x.get(decoder.tokens() * d);
        let states = match ends.as_deref().or(places) {
            Some(places) => places.iter().flat_map(|&t| &states[t * d..(t + 1) * d]).copied().collect(),
            None => states.to_vec(),
        };
        let rows = states.len() / d;
        let output = match &self.head {
            Head::None => Output::new("last_hidden_state", Each::DecoderToken, rows, states),
            Head::Words(lm_head) => {
                let mut logits = vec![0.0; rows * lm_head.width()];
                lm_head.forward(&states, &mut logits)?;
                Output::new("logits", Each::DecoderToken, rows, logits)
            }
            Head::Classes { dense, out_proj } => {
                let mut inside = vec![0.0; rows * d];
                dense.activated(&states, Activation::Tanh, &mut inside)?;
                let mut logits = vec![0.0; rows * out_proj.width()];
                out_proj.forward(&inside, &mut logits)?;
                Output::new("logits", Each::Sequence, rows, logits)
            }
        };
        let states = Output::new("encoder_last_hidden_state", Each::Token, batch.tokens(), encoder_states);
        Ok(vec![output, states])
    }

    /// Where the decoder has what stands in the column of each sequence's last end token.
    fn ends(&self, batch: &Batch, decoder: &Batch) -> Result<Vec<usize>, Error> {
        let end = self.config.eos_token_id;
        let place = |sequence: usize| {
            let [tokens, mut of_decoder] =
                [batch, decoder].map(|batch| batch.starts()[sequence]..batch.starts()[sequence + 1]);
            let Some(last) = tokens.rev().find(|&t| batch.ids[t] == end) else {
                let why =
                    format!("sequence {sequence} has no end token {end}, at whose place its class is read");
                return Err(Error::Input { name: "input_ids", why });
            };
            let column = batch.positions[last];
            of_decoder.find(|&t| decoder.positions[t] == column).ok_or_else(|| {
                let why = format!("sequence {sequence} has nothing in column {column}, where its inputs end");
                Error::Input { name: "decoder_input_ids", why }
            })
        };
        (0..batch.len()).map(place).collect()
    }
}

impl Stack {
    fn open(
        config: &Config,
        weights: &Weights,
        on: Arithmetic,
        embed_tokens: Arc<Table>,
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
                Ok::<_, Error>(Cross {
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
                true => sinusoids(0, d),
                false => Table::open(weights, &at("embed_positions"), [positions, d])?,
            },
            layernorm_embedding: normalised.then(|| norm(at("layernorm_embedding"))).transpose()?,
            layers: (0..layers).map(layer).collect::<Result<_, Error>>()?,
            heads: Heads::of_width(on, heads, d),
            ffn_dim,
        })
    }

    /// The states of `tokens`, \[tokens, D\], in `x` of the workspace; a decoder appends them to the caches.
    fn run(
        &mut self,
        config: &Config,
        on: Arithmetic,
        tokens: &Batch,
        positions: &[u32],
        caches: &mut [&mut Cache],
        work: &mut Workspace,
    ) -> Result<(), Error> {
        let (n, d, f) = (tokens.tokens(), config.d_model, self.ffn_dim);
        let Workspace { x, sum, context, wide, .. } = work;
        let (x, sum, context) = (x.get(n * d), sum.get(n * d), context.get(n * d));
        let wide = wide.get(n * f.max(3 * d));
        self.embed(config.family, on, tokens.ids(), positions, x)?;
        for (l, layer) in self.layers.iter().enumerate() {
            let qkv = &mut wide[..n * 3 * d];
            layer.qkv_proj.forward(x, qkv)?;
            match layer.encoder_attn {
                None => self.heads.bidirectional(tokens.starts(), qkv, context)?,
                Some(_) => self.heads.causal(tokens.starts(), qkv, caches, l, context)?,
            }
            layer.out_proj.added(context, x, sum)?;
            layer.self_attn_layer_norm.forward(sum, x)?;

            if let Some(cross) = &layer.encoder_attn {
                let q = &mut wide[..n * d];
                cross.q_proj.forward(x, q)?;
                self.heads.cross(tokens.starts(), q, caches, l, context)?;
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

    /// x = word\[id\] + position\[i\], normalised where the family does.
    fn embed(
        &mut self,
        family: Family,
        on: Arithmetic,
        ids: &[u32],
        positions: &[u32],
        x: &mut [f32],
    ) -> Result<(), Error> {
        let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
        let [rows, d] = self.embed_positions.view().shape();
        if family.sinusoids && rows < longest {
            self.embed_positions = sinusoids(longest.next_power_of_two(), d);
        }
        let table = self.embed_positions.view();
        on.backend.run(Embedding {
            lookups: &[
                Lookup { table: self.embed_tokens.view(), ids },
                Lookup { table: table.slice(0, family.offset..table.shape()[0]), ids: positions },
            ],
            out: ViewMut::new(x, [ids.len(), d])?,
        })?;
        self.layernorm_embedding.as_ref().map_or(Ok(()), |norm| norm.in_place(x))
    }

    /// Number of weights and biases, without the word table.
    fn parameters(&self, family: Family) -> usize {
        let positions = if family.sinusoids { 0 } else { self.embed_positions.parameters() };
        let norm = self.layernorm_embedding.as_ref().map_or(0, Norm::parameters);
        positions + norm + self.layers.iter().map(Layer::parameters).sum::<usize>()
    }
}

impl Layer {
    fn parameters(&self) -> usize {
        let Self { qkv_proj, out_proj, self_attn_layer_norm, encoder_attn, fc1, fc2, final_layer_norm } =
            self;
        let cross = encoder_attn.as_ref().map_or(0, |Cross { q_proj, kv_proj, out_proj, layer_norm }| {
            [q_proj, kv_proj, out_proj].map(Linear::parameters).iter().sum::<usize>()
                + layer_norm.parameters()
        });
        let norms = self_attn_layer_norm.parameters() + final_layer_norm.parameters();
        [qkv_proj, out_proj, fc1, fc2].map(Linear::parameters).iter().sum::<usize>() + norms + cross
    }
}

/// sin(p w_i) for i < ceil(D / 2), then cos(p w_i) for i < floor(D / 2), with w_i = 10000^(-2 i / D), of each
/// position p.
fn sinusoids(positions: usize, d: usize) -> Table {
    let angle = |p: usize, i: usize| p as f64 / 1e4f64.powf((2 * i) as f64 / d as f64);
    let row = |p| {
        let sines = (0..d.div_ceil(2)).map(move |i| angle(p, i).sin() as f32);
        sines.chain((0..d / 2).map(move |i| angle(p, i).cos() as f32))
    };
    Table::new((0..positions).flat_map(row).collect(), [positions, d])
}

impl Generator for Bart {
    fn vocab_size(&self) -> usize {
        self.config.decoder_words()
    }

    fn max_tokens(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn encodes(&self) -> bool {
        true
    }

    fn cache(&self, capacity: usize) -> Cache {
        let layers = self.decoder.layers.iter().map(|_| self.decoder.heads.cache(capacity));
        Cache { layers: layers.collect(), source: None }
    }

    fn encode(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
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
        if !matches!(self.head, Head::Words(_)) {
            return Err(Error::Input { name: "logits", why: "the model has no head for words".to_owned() });
        }
        self.decoder_states(tokens, caches)?;
        let Self { config, head: Head::Words(lm_head), work, .. } = self else { unreachable!("seen above") };
        let Workspace { x, rows, .. } = work;
        let states = generator::wanted(want, tokens, x.get(tokens.tokens() * config.d_model), rows);
        logits.resize(states.len() / config.d_model * lm_head.width(), 0.0);
        lm_head.forward(states, logits)
    }
}

impl Model for Bart {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        if !self.config.family.shifts_inputs {
            let why = "missing; expected what the decoder reads".to_owned();
            return Err(Error::Input { name: "decoder_input_ids", why });
        }
        // Before anything is made of them.
        batch::below("position", &batch.positions, self.config.max_position_embeddings)?;
        let (decoder, places) = self.shifted(batch)?;
        self.outputs(batch, &decoder, Some(&places))
    }

    fn forward_pair(&mut self, batch: &Batch, decoder: &Batch) -> Result<Vec<Output>, Error> {
        self.outputs(batch, decoder, None)
    }

    fn max_length(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn generator(&mut self) -> Option<&mut dyn Generator> {
        if matches!(self.head, Head::Words(_)) { Some(self) } else { None }
    }

    fn parameters(&self) -> Vec<(&'static str, usize)> {
        let (family, [source, target]) =
            (self.config.family, [&self.encoder, &self.decoder].map(|stack| &stack.embed_tokens));
        let other = if Arc::ptr_eq(source, target) { 0 } else { target.parameters() };
        let head = match &self.head {
            Head::None => 0,
            Head::Words(lm_head) if self.config.tie_word_embeddings => {
                lm_head.parameters() - target.parameters()
            }
            Head::Words(lm_head) => lm_head.parameters(),
            Head::Classes { dense, out_proj } => dense.parameters() + out_proj.parameters(),
        };
        vec![
            ("word embeddings", source.parameters() + other),
            ("encoder", self.encoder.parameters(family)),
            ("decoder", self.decoder.parameters(family)),
            ("head", head),
        ]
    }
}

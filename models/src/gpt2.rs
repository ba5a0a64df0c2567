//! GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019): a pre-norm decoder with
//! learned positions.
//!
//! ```text
//! x = wte[id] + wpe[position]
//! each layer:  x = x + dense(attention(dense(LN(x))))
//!              x = x + dense(GELU(dense(LN(x))))
//! logits       LN(x) wte^T
//! ```
//!
//! Checkpoints store the weights of dense layers as \[in, out\], the transpose of other families.

use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::causal_lm::{self, CausalLm, LmHead, Want};
use crate::checkpoint::config::{self, Fields, named};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::labels::{self, Labels, Loss, Totals};
use crate::layers::{
    Blocks, Cache, EmbeddingTable, Heads, Linear, ModelLinear, Norm, Parameter, Parameters, Past, Run,
    Selection, Slot, Workspace, dropout, parameters_of,
};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use tilewright_kernels::Activation;

/// config.json. A missing field has the default of transformers' `GPT2Config`, the size of the
/// model with 124 million parameters.
#[derive(Clone, Debug)]
pub struct Config {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// Entries of the position table: upper bound of the tokens of a sequence.
    pub n_positions: usize,
    /// Width H of a token's state.
    pub n_embd: usize,
    /// Number of layers.
    pub n_layer: usize,
    /// Attention heads of each layer, each H / heads wide.
    pub n_head: usize,
    /// Width I inside of the feed-forward block; 4 H if absent.
    pub n_inner: Option<usize>,
    /// Activation inside of the feed-forward block.
    pub activation_function: Activation,
    /// Epsilon of layer norms, added to the variance.
    pub layer_norm_epsilon: f32,
    /// True if attention scores are divided by the square root of a head's width.
    pub scale_attn_weights: bool,
    /// True if attention scores of layer n, counted from 0, are also divided by n + 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// True if the head is the word table, `wte`.
    pub tie_word_embeddings: bool,
    /// Probability that training drops an element of the embeddings.
    pub embd_pdrop: f32,
    /// Probability that training drops a weight of attention.
    pub attn_pdrop: f32,
    /// Probability that training drops an element of a block's output.
    pub resid_pdrop: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluTanh,
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            resid_pdrop: 0.1,
        }
    }
}

impl Config {
    /// Reads the fields of config.json.
    ///
    /// # Errors
    /// If a field has the wrong type or an unsupported value; the message names the field.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        fields.only("add_cross_attention", false)?;
        let or = Self::default();
        let config = config::take! { fields or or:
            vocab_size, n_positions, n_embd, n_layer, n_head, n_inner, layer_norm_epsilon,
            scale_attn_weights, scale_attn_by_inverse_layer_idx, tie_word_embeddings, embd_pdrop, attn_pdrop, resid_pdrop;
            activation_function: fields.activation("activation_function", or.activation_function)?,
        };
        // Other spellings of these fields, which transformers reads too.
        fields.only("hidden_size", config.n_embd)?;
        fields.only("num_hidden_layers", config.n_layer)?;
        fields.only("num_attention_heads", config.n_head)?;
        fields.only("max_position_embeddings", config.n_positions)?;
        config.check().map_err(|why| fields.error(why))?;
        Ok(config)
    }

    /// Width I inside of the feed-forward block.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// Refuses impossible sizes; names the field.
    fn check(&self) -> Result<(), String> {
        config::positive(&named!(self: vocab_size, n_positions, n_embd, n_layer, n_head))?;
        config::positive(&[("n_inner", self.inner())])?;
        config::eps("layer_norm_epsilon", self.layer_norm_epsilon)?;
        config::probabilities(&named!(self: embd_pdrop, attn_pdrop, resid_pdrop))?;
        let [heads, width] = named!(self: n_head, n_embd);
        config::divides(heads, width)
    }
}

/// The decoder, and the head of a causal LM.
#[derive(Debug)]
pub struct Gpt2 {
    config: Config,
    on: Arithmetic,
    /// wte, \[vocab_size, H\].
    wte: EmbeddingTable,
    /// wpe, \[n_positions, H\].
    wpe: EmbeddingTable,
    /// h.N.
    h: Vec<Layer>,
    /// ln_f, \[H\].
    ln_f: Norm,
    /// lm_head, \[H, vocab_size\]; wte if the two are tied.
    lm_head: LmHead,
    work: Workspace,
}

/// `h.N`.
#[derive(Debug)]
struct Layer {
    /// ln_1, \[H\].
    ln_1: Norm,
    /// attn.c_attn, \[H, 3 H\]: queries, keys and values.
    c_attn: Linear,
    /// attn.c_proj, \[H, H\].
    attn_c_proj: Linear,
    /// ln_2, \[H\].
    ln_2: Norm,
    /// mlp.c_fc, \[H, I\].
    c_fc: Linear,
    /// mlp.c_proj, \[I, H\].
    mlp_c_proj: Linear,
}

impl Layer {
    fn linear(&self) -> [&Linear; 4] {
        [&self.c_attn, &self.attn_c_proj, &self.c_fc, &self.mlp_c_proj]
    }
}

impl Parameters for Layer {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let Self { ln_1, c_attn, attn_c_proj, ln_2, c_fc, mlp_c_proj } = self;
        parameters_of(&[ln_1, c_attn, attn_c_proj, ln_2, c_fc, mlp_c_proj])
    }
}

impl Gpt2 {
    /// Reads the decoder from `weights`, whose names may lack the prefix `transformer.`, and the head if `with_head`.
    ///
    /// # Errors
    /// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value.
    pub fn open(config: Config, weights: Weights, on: Arithmetic, with_head: bool) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        let weights = &weights.with_base("transformer.");
        let (h, i, words, eps) =
            (config.n_embd, config.inner(), config.vocab_size, config.layer_norm_epsilon);
        let layer = |n| {
            let at = |name: &str| format!("transformer.h.{n}.{name}");
            let linear = |name, shape| Linear::open_transposed(weights, &at(name), shape, on);
            Ok(Layer {
                ln_1: Norm::open(weights, &at("ln_1"), h, eps, on)?,
                c_attn: linear("attn.c_attn", [h, 3 * h])?,
                attn_c_proj: linear("attn.c_proj", [h, h])?,
                ln_2: Norm::open(weights, &at("ln_2"), h, eps, on)?,
                c_fc: linear("mlp.c_fc", [h, i])?,
                mlp_c_proj: linear("mlp.c_proj", [i, h])?,
            })
        };
        let names = ["transformer.wte", "lm_head"];
        let ([wte, head], tied) = LmHead::names(weights, config.tie_word_embeddings, names, [words, h])?;
        let lm_head = || Linear::open_as(weights, &format!("{head}.weight"), None, [words, h], on);
        Ok(Self {
            on,
            wte: EmbeddingTable::open(weights, wte, [words, h])?,
            wpe: EmbeddingTable::open(weights, "transformer.wpe", [config.n_positions, h])?,
            h: (0..config.n_layer).map(layer).collect::<Result<_, Error>>()?,
            ln_f: Norm::open(weights, "transformer.ln_f", h, eps, on)?,
            lm_head: LmHead::new(with_head.then(lm_head).transpose()?, tied),
            config,
            work: Workspace::default(),
        })
    }

    /// A causal LM with random weights, which depend on `seed` alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or another impossible value.
    ///
    /// ```
    /// use tilewright::causal_lm::{CausalLm, Want};
    /// use tilewright::{Arithmetic, Batch, gpt2::{Config, Gpt2}};
    /// let config = Config { n_layer: 2, n_embd: 24, n_head: 3, vocab_size: 90, ..Config::default() };
    /// let mut gpt2 = Gpt2::random(config, 0, Arithmetic::f32(tilewright_kernels::Backend::best()))?;
    /// let (mut cache, mut logits) = (gpt2.cache(8), Vec::new());
    /// let mut prompt = Batch::default();
    /// prompt.push(&[7, 8, 9], &[0; 3])?;
    /// gpt2.extend(&prompt, &mut [&mut cache], Want::Last, &mut logits)?;
    /// assert_eq!((logits.len(), cache.len()), (90, 3));
    /// # Ok::<(), tilewright::Error>(())
    /// ```
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
        let (config, backend) = (&self.config, self.on.backend);
        let positions = causal_lm::check(tokens, &past, config.vocab_size, config.n_positions)?;
        let words = Selection { table: &self.wte, ids: tokens.ids() };
        let places = Selection { table: &self.wpe, ids: &positions };
        EmbeddingTable::sum(run, self.on, &[words, places], Slot::X)?;
        dropout(run, backend, config.embd_pdrop, Slot::X)?;
        self.h[0].ln_1.forward(run, Slot::X, Slot::Y)?;
        (0..self.h.len()).try_for_each(|layer| run.block(self, tokens, &mut past, layer))
    }
}

impl Blocks for Gpt2 {
    fn block<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        past: &mut Past<'m, '_>,
        l: usize,
    ) -> Result<(), Error> {
        let (config, backend, layer) = (&self.config, self.on.backend, &self.h[l]);
        let heads = heads(config, self.on, l);
        layer.c_attn.forward(run, Slot::Y, Slot::WIDE)?;
        heads.causal(run, tokens.starts(), past, l)?;
        layer.attn_c_proj.forward(run, Slot::CONTEXT, Slot::Y)?;
        dropout(run, backend, config.resid_pdrop, Slot::Y)?;
        layer.ln_2.after_adding(run, Slot::Y, Slot::X)?;

        layer.c_fc.activated(run, Slot::Y, config.activation_function, Slot::WIDE)?;
        layer.mlp_c_proj.forward(run, Slot::WIDE, Slot::Y)?;
        dropout(run, backend, config.resid_pdrop, Slot::Y)?;
        let next = self.h.get(l + 1).map_or(&self.ln_f, |next| &next.ln_1);
        next.after_adding(run, Slot::Y, Slot::X)
    }

    /// The next layer's input, and the states that its output is added to.
    fn live(&self) -> &'static [Slot] {
        &[Slot::X, Slot::Y]
    }
}

/// Attention heads of layer `layer`.
fn heads(config: &Config, on: Arithmetic, layer: usize) -> Heads<'static> {
    let heads = Heads::of_width(on, config.n_head, config.n_embd);
    let scale = if config.scale_attn_weights { heads.scale } else { 1.0 };
    let divisor = if config.scale_attn_by_inverse_layer_idx { layer + 1 } else { 1 };
    Heads { scale: scale / divisor as f32, dropout: config.attn_pdrop, ..heads }
}

impl CausalLm for Gpt2 {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_tokens(&self) -> usize {
        self.config.n_positions
    }

    fn cache(&self, capacity: usize) -> Cache {
        heads(&self.config, self.on, 0).caches(self.h.len(), capacity)
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

impl Model for Gpt2 {
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
        self.config.n_positions
    }

    fn causal_lm(&mut self) -> Option<&mut dyn CausalLm> {
        if self.lm_head.exists() { Some(self) } else { None }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        Part::list([
            ("word embeddings", self.wte.parameters()),
            ("other embeddings", self.wpe.parameters()),
            ("layers", parameters_of(&[&self.h, &self.ln_f])),
            ("head", self.lm_head.parameters()),
        ])
    }

    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        self.h
            .iter()
            .flat_map(|layer| ModelLinear::of("layers", layer.linear(), 1))
            .chain(self.lm_head.linear_layer())
            .collect()
    }
}

//! BART (Lewis et al. 2019, arXiv:1910.13461) and Marian (Junczys-Dowmunt et al. 2018,
//! arXiv:1804.00344): the post-norm encoder and decoder of Vaswani et al. 2017 (arXiv:1706.03762).
//!
//! ```text
//! x = LN(word[id] * scale + position[i]); scale = 1, or sqrt(D) if scale_embedding
//! encoder      each layer:  x = LN(x + dense(attention(x)))
//!                           x = LN(x + dense(activation(dense(x))))
//! decoder      each layer:  x = LN(x + dense(causal attention(x)))
//!                           x = LN(x + dense(cross-attention(x, states of the encoder)))
//!                           x = LN(x + dense(activation(dense(x))))
//! logits       head(x) + bias; head = word^T if they are tied
//! class        dense(tanh(dense(x of the last end token)))
//! ```
//!
//! | [`Family`] | positions | norm of embeddings | decoder inputs if none are given |
//! |---|---|---|---|
//! | BART | a table | yes | a start token and the encoder's inputs |
//! | Marian | sinusoids: first all sines, then all cosines | no | none: an error |

use crate::arithmetic::Arithmetic;
use crate::batch::{self, Batch};
use crate::causal_lm::{self, CausalLm, LmHead, Want};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::exchange::shifted_labels;
use crate::labels::{self, Labels, Loss};
use crate::layers::{
    Cache, EmbeddingTable, Linear, ModelLinear, Parameter, Parameters, Past, Run, Slot, Workspace,
    cross_entropy, dropout, parameters_of, select_rows,
};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use std::sync::Arc;
use tilewright_kernels::Activation;

mod config;
mod stack;

pub use config::{Config, Family};
use stack::Stack;

/// Class of transformers: the outputs of a BART or Marian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BartClass {
    /// `BartModel`, `MarianModel`: the states of the encoder and of the decoder.
    Bare,
    /// `BartForConditionalGeneration`, `MarianMTModel`: logits of the next token.
    ConditionalGeneration,
    /// `BartForSequenceClassification`: the class of a text.
    SequenceClassification,
}

/// Encoder, decoder and head.
#[derive(Debug)]
pub struct Bart {
    config: Config,
    on: Arithmetic,
    /// model.encoder.
    encoder: Stack,
    /// model.decoder.
    decoder: Stack,
    /// lm_head, \[D, vocab_size\], with final_logits_bias, \[1, vocab_size\]; the decoder's word table if tied.
    lm_head: LmHead,
    /// classification_head.
    classification_head: Option<Classifier>,
    work: Workspace,
}

/// `classification_head`.
#[derive(Debug)]
struct Classifier {
    /// dense, \[D, D\].
    dense: Linear,
    /// out_proj, \[D, classes\].
    out_proj: Linear,
}

impl Classifier {
    /// Computes the logits of the rows of `x` in [`Slot::LOGITS`]. Training drops inputs of both layers with this
    /// probability.
    fn forward<'m>(&'m self, run: &mut Run<'m>, p: f32, x: Slot) -> Result<(), Error> {
        let backend = self.dense.backend();
        dropout(run, backend, p, x)?;
        self.dense.activated(run, x, Activation::Tanh, Slot::HEAD)?;
        dropout(run, backend, p, Slot::HEAD)?;
        self.out_proj.forward(run, Slot::HEAD, Slot::LOGITS)
    }
}

fn missing_decoder() -> Error {
    Error::Input { name: "decoder_input_ids", why: "missing; expected the tokens of the decoder".to_owned() }
}

/// Refuses batches of different numbers of sequences.
fn same_number(batch: &Batch, decoder: &Batch) -> Result<(), Error> {
    match decoder.len() == batch.len() {
        true => Ok(()),
        false => {
            let why = format!("expected {} sequences, found {}", batch.len(), decoder.len());
            Err(Error::Input { name: "decoder_input_ids", why })
        }
    }
}

impl Parameters for Classifier {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        parameters_of(&[&self.dense, &self.out_proj])
    }
}

impl Bart {
    /// Reads the parts of `class` from `weights`, whose names may lack the prefix `model.`.
    ///
    /// # Errors
    /// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value.
    pub fn open(config: Config, weights: Weights, on: Arithmetic, class: BartClass) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        let weights = &weights.with_base("model.");
        let (d, words) = (config.d_model, config.decoder_words());
        let (tied, shared) = (config.tie_word_embeddings, config.share_encoder_decoder_embeddings);
        // A shared table has the name of one user or of several.
        let names = ["model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"];
        let [_, of_encoder, of_decoder, of_head] = names;
        let has = |name: &&str| weights.contains(&format!("{name}.weight"));
        let first = |names: &[&'static str]| names.iter().copied().find(has).unwrap_or(names[0]);
        let [of_encoder, of_decoder, of_head] = match (tied, shared) {
            (true, true) => [first(&names); 3],
            (true, false) => [of_encoder, first(&names[2..]), first(&names[2..])],
            (false, _) => [of_encoder, of_decoder, of_head],
        };

        let padding = Some(config.pad_token_id);
        let source_words =
            EmbeddingTable::open(weights, of_encoder, [config.vocab_size, d])?.with_padding(padding);
        let target_words = match of_decoder == of_encoder {
            true => None,
            false => Some(EmbeddingTable::open(weights, of_decoder, [words, d])?.with_padding(padding)),
        };
        let lm_head = || {
            let name = "final_logits_bias";
            let bias = weights.contains(name).then(|| weights.constant(name, &[1, words])).transpose()?;
            let own = match of_head == of_decoder {
                true => None,
                false => Some(EmbeddingTable::open(weights, of_head, [words, d])?),
            };
            let table = own.as_ref().or(target_words.as_ref()).unwrap_or(&source_words);
            Linear::from_table(table, bias, on)
        };
        let lm_head = (class == BartClass::ConditionalGeneration).then(lm_head).transpose()?;
        let classifier = || {
            let linear = |name: &str, out, on| {
                Linear::open(weights, &format!("classification_head.{name}"), [out, d], on)
            };
            let out_proj = linear("out_proj", config.num_labels(), on.exactly())?;
            Ok::<_, Error>(Classifier { dense: linear("dense", d, on)?, out_proj })
        };
        let classification_head =
            (class == BartClass::SequenceClassification).then(classifier).transpose()?;
        let source_words = Arc::new(source_words);
        let target_words = target_words.map_or(source_words.clone(), Arc::new);
        Ok(Self {
            on,
            encoder: Stack::open(&config, weights, on, source_words, false)?,
            decoder: Stack::open(&config, weights, on, target_words, true)?,
            lm_head: LmHead::new(lm_head, tied),
            classification_head,
            config,
            work: Workspace::default(),
        })
    }

    /// A model with random weights, which depend on `seed` alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or another impossible value.
    ///
    /// ```
    /// use tilewright::bart::{Bart, BartClass, Config, Family};
    /// use tilewright::causal_lm::{CausalLm, Want};
    /// use tilewright::{Arithmetic, Batch};
    /// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
    /// let small = Config { vocab_size: 99, d_model: 32, max_position_embeddings: 40, ..Config::of(Family::MARIAN) };
    /// let config = Config { encoder_layers: 2, encoder_ffn_dim: 50, decoder_layers: 1, decoder_ffn_dim: 50, ..small };
    /// let mut marian = Bart::random(config, 0, on, BartClass::ConditionalGeneration)?;
    /// let (mut source, mut start, mut logits) = (Batch::default(), Batch::default(), Vec::new());
    /// source.push(&[37, 5, 0], &[0; 3])?;
    /// start.push(&[98], &[0])?;
    /// let mut caches = marian.encode(&source, 20)?;
    /// marian.extend(&start, &mut [&mut caches[0]], Want::Last, &mut logits)?;
    /// assert_eq!((logits.len(), caches[0].len()), (99, 1));
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    pub fn random(config: Config, seed: u64, on: Arithmetic, class: BartClass) -> Result<Self, Error> {
        Self::open(config, Weights::random(seed), on, class)
    }

    /// Config of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Computes the states of the encoder, \[tokens, D\], in [`Slot::SOURCE`].
    fn encoder_states<'m>(&'m self, run: &mut Run<'m>, sources: &'m Batch) -> Result<(), Error> {
        let Self { config, encoder, .. } = self;
        batch::below("input_ids", &sources.ids, config.vocab_size)?;
        batch::below("token_type_ids", &sources.types, 1)?;
        batch::below("position", &sources.positions, config.max_position_embeddings)?;
        encoder.run(run, sources, &sources.positions, Past::None)?;
        run.rename(Slot::X, Slot::SOURCE);
        Ok(())
    }

    /// A cache of up to `capacity` tokens for each of `sources`.
    fn source_caches<'m>(
        &'m self,
        run: &mut Run<'m>,
        sources: &'m Batch,
        capacity: usize,
    ) -> Result<Vec<Cache>, Error> {
        self.encoder_states(run, sources)?;
        self.decoder.sources(run, sources, capacity)
    }

    /// Computes the states of the decoder's `tokens`, \[tokens, D\], in [`Slot::X`].
    fn states<'m>(&'m self, run: &mut Run<'m>, tokens: &'m Batch, past: Past<'m, '_>) -> Result<(), Error> {
        let Self { config, decoder, .. } = self;
        let positions =
            causal_lm::check(tokens, &past, config.decoder_words(), config.max_position_embeddings)?;
        causal_lm::check_sources(&past)?;
        decoder.run(run, tokens, &positions, past)
    }

    /// Decoder inputs for a forward pass that was given none, and the place of each token of `batch` in them. As in
    /// transformers, the inputs are a start token and all but the last column of the padded batch; the decoder sees
    /// padding as tokens.
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

    /// Runs encoder, decoder and head. The head reads the states at `places`, which index the tokens of `decoder`;
    /// all states if `None`.
    fn outputs<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        decoder: &'m Batch,
        places: Option<&[usize]>,
    ) -> Result<Vec<Output>, Error> {
        same_number(batch, decoder)?;
        let ends = self.classification_head.is_some().then(|| self.ends(batch, decoder)).transpose()?;
        self.encoder_states(run, batch)?;
        let states = run.matrix(Slot::SOURCE).values().to_vec();
        let states = Output::new("encoder_last_hidden_state", Each::Token, batch.tokens(), states);
        self.states(run, decoder, Past::Source(batch.starts()))?;
        if let Some(places) = ends.as_deref().or(places) {
            select_rows(run, Slot::X, places, Slot::ROWS);
            run.rename(Slot::ROWS, Slot::X);
        }
        let output = match &self.classification_head {
            None => self.lm_head.output(run, Each::DecoderToken, Slot::X)?,
            Some(classifier) => {
                classifier.forward(run, self.config.classifier_dropout, Slot::X)?;
                let logits = run.matrix(Slot::LOGITS).values().to_vec();
                Output::new("logits", Each::Sequence, decoder.len(), logits)
            }
        };
        Ok(vec![output, states])
    }

    /// Index of the decoder token in the column of each sequence's last end token.
    fn ends(&self, batch: &Batch, decoder: &Batch) -> Result<Vec<usize>, Error> {
        let end = self.config.eos_token_id;
        let place = |sequence: usize| {
            let [tokens, mut of_decoder] =
                [batch, decoder].map(|batch| batch.starts()[sequence]..batch.starts()[sequence + 1]);
            let Some(last) = tokens.rev().find(|&t| batch.ids[t] == end) else {
                let why = format!(
                    "sequence {sequence}: expected an end token {end}, where the class is read, found none"
                );
                return Err(Error::Input { name: "input_ids", why });
            };
            let column = batch.positions[last];
            of_decoder.find(|&t| decoder.positions[t] == column).ok_or_else(|| {
                let why = format!("sequence {sequence}: expected a token in column {column}, where the inputs end, found none");
                Error::Input { name: "decoder_input_ids", why }
            })
        };
        (0..batch.len()).map(place).collect()
    }
}

impl CausalLm for Bart {
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
        self.decoder.cache(capacity)
    }

    fn encode(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        let mut work = core::mem::take(&mut self.work);
        let caches = self.source_caches(&mut Run::new(&mut work), sources, capacity);
        self.work = work;
        caches
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
        let done = done.and_then(|()| self.lm_head.logits(&mut run, want, tokens, Slot::X, logits));
        self.work = work;
        done
    }
}

impl Model for Bart {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        if !self.config.family.shifts_inputs {
            return Err(missing_decoder());
        }
        // `shifted` allocates up to the largest position.
        batch::below("position", &batch.positions, self.config.max_position_embeddings)?;
        let (decoder, places) = self.shifted(batch)?;
        let mut work = core::mem::take(&mut self.work);
        let outputs = self.outputs(&mut Run::new(&mut work), batch, &decoder, Some(&places));
        self.work = work;
        outputs
    }

    fn forward_pair(&mut self, batch: &Batch, decoder: &Batch) -> Result<Vec<Output>, Error> {
        let mut work = core::mem::take(&mut self.work);
        let outputs = self.outputs(&mut Run::new(&mut work), batch, decoder, None);
        self.work = work;
        outputs
    }

    /// A start token, and the labels but the last; for a classifier, the tokens of the batch but the last.
    fn decoder_inputs(&self, batch: &Batch, labels: &[&[i64]]) -> Result<Option<Batch>, Error> {
        let Config { decoder_start_token_id: start, pad_token_id: padding, .. } = self.config;
        Ok(Some(match self.classification_head {
            Some(_) => self.shifted(batch)?.0,
            None => shifted_labels(labels, [start, padding])?,
        }))
    }

    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        decoder: Option<&'m Batch>,
        of: &Labels,
    ) -> Result<Loss, Error> {
        let decoder = decoder.ok_or_else(missing_decoder)?;
        same_number(batch, decoder)?;
        self.encoder_states(run, batch)?;
        self.states(run, decoder, Past::Source(batch.starts()))?;
        let Some(classifier) = &self.classification_head else {
            labels::expect("labels", of.labels.len(), decoder.tokens())?;
            return self.lm_head.loss(run, Slot::X, &of.labels, of.tokens(&of.labels));
        };
        labels::expect("labels", of.labels.len(), batch.len())?;
        select_rows(run, Slot::X, &self.ends(batch, decoder)?, Slot::ROWS);
        classifier.forward(run, self.config.classifier_dropout, Slot::ROWS)?;
        let count = of.of_sequences(&of.labels);
        let backend = self.on.backend;
        let sum = cross_entropy(run, backend, Slot::LOGITS, &of.labels, (1.0 / count) as f32)?;
        let mut loss = Loss::default();
        loss.push("classes", sum, 1.0, count);
        Ok(loss)
    }

    fn max_length(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn causal_lm(&mut self) -> Option<&mut dyn CausalLm> {
        if self.lm_head.exists() { Some(self) } else { None }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let [source, target] = [&self.encoder, &self.decoder].map(|stack| &stack.embed_tokens);
        Part::list([
            ("word embeddings", parameters_of(&[source, target])),
            ("encoder", self.encoder.parameters()),
            ("decoder", self.decoder.parameters()),
            ("head", parameters_of(&[&self.lm_head, &self.classification_head])),
        ])
    }

    /// A source's token passes the encoder and the cross-attention's keys and values; a decoder's token passes the
    /// rest.
    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        let encoder = ModelLinear::of("encoder", self.encoder.linear(), 1);
        let decoder = ModelLinear::of("decoder", self.decoder.linear(), 1);
        encoder.chain(decoder).chain(self.lm_head.linear_layer()).collect()
    }
}

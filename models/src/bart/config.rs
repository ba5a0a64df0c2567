//! config.json of BART and Marian.

use crate::checkpoint::config::{self, Fields, named};
use crate::error::Error;
use std::collections::BTreeMap;
use std::path::Path;
use tilewright_kernels::Activation;

/// Differences between BART and Marian that no config names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// True if position embeddings are sinusoids, false if they are a table of the checkpoint.
    pub sinusoids: bool,
    /// Rows of that table before the row of position 0.
    pub offset: usize,
    /// True if embeddings are normalised.
    pub layernorm_embedding: bool,
    /// True if a decoder without inputs reads the encoder's inputs, shifted by one token.
    pub shifts_inputs: bool,
}

impl Family {
    /// BART.
    pub const BART: Self =
        Self { sinusoids: false, offset: 2, layernorm_embedding: true, shifts_inputs: true };
    /// Marian.
    pub const MARIAN: Self =
        Self { sinusoids: true, offset: 0, layernorm_embedding: false, shifts_inputs: false };
}

/// config.json. A missing field has the default of transformers' `BartConfig` or `MarianConfig`.
#[derive(Clone, Debug)]
pub struct Config {
    /// BART or Marian.
    pub family: Family,
    /// Entries of the encoder's word table.
    pub vocab_size: usize,
    /// Entries of the decoder's word table, if the decoder has a table of its own.
    pub decoder_vocab_size: usize,
    /// True if encoder and decoder share a word table.
    pub share_encoder_decoder_embeddings: bool,
    /// True if the head is the decoder's word table. If false, encoder, decoder and head have a tensor each.
    pub tie_word_embeddings: bool,
    /// Upper bound of the tokens of a sequence.
    pub max_position_embeddings: usize,
    /// Width D of a token's state.
    pub d_model: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Attention heads of each encoder layer, each D / heads wide.
    pub encoder_attention_heads: usize,
    /// Width F inside of the encoder's feed-forward blocks.
    pub encoder_ffn_dim: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Attention heads of each decoder layer, for self-attention and for cross-attention.
    pub decoder_attention_heads: usize,
    /// Width F inside of the decoder's feed-forward blocks.
    pub decoder_ffn_dim: usize,
    /// Activation inside of feed-forward blocks.
    pub activation_function: Activation,
    /// True if word embeddings are multiplied by sqrt(D).
    pub scale_embedding: bool,
    /// Padding token.
    pub pad_token_id: u32,
    /// End token. A classifier reads the state at the last end token of a text.
    pub eos_token_id: u32,
    /// First token of a decoder.
    pub decoder_start_token_id: u32,
    /// Names of the classes, by number.
    pub id2label: Option<BTreeMap<usize, String>>,
    /// Probability that training drops an element of the embeddings, or of a block's output.
    pub dropout: f32,
    /// Probability that training drops a weight of attention.
    pub attention_dropout: f32,
    /// Probability that training drops an element inside of a feed-forward block.
    pub activation_dropout: f32,
    /// Probability that training drops an input of a layer of the classifier.
    pub classifier_dropout: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self::of(Family::BART)
    }
}

impl Config {
    /// Config of an empty config.json: sizes and tokens of the family's defaults.
    pub fn of(family: Family) -> Self {
        let bart = Self {
            family,
            vocab_size: 50265,
            decoder_vocab_size: 50265,
            share_encoder_decoder_embeddings: true,
            tie_word_embeddings: true,
            max_position_embeddings: 1024,
            d_model: 1024,
            encoder_layers: 12,
            encoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            decoder_layers: 12,
            decoder_attention_heads: 16,
            decoder_ffn_dim: 4096,
            activation_function: Activation::GeluErf,
            scale_embedding: false,
            pad_token_id: 1,
            eos_token_id: 2,
            decoder_start_token_id: 2,
            id2label: None,
            dropout: 0.1,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            classifier_dropout: 0.0,
        };
        match family == Family::MARIAN {
            true => Self {
                vocab_size: 58101,
                decoder_vocab_size: 58101,
                pad_token_id: 58100,
                eos_token_id: 0,
                decoder_start_token_id: 58100,
                ..bart
            },
            false => bart,
        }
    }

    /// Number of classes of a classifier: 3 unless `id2label` says otherwise.
    pub fn num_labels(&self) -> usize {
        self.id2label.as_ref().map_or(3, BTreeMap::len)
    }

    /// Entries of the decoder's word table, and of the head.
    pub fn decoder_words(&self) -> usize {
        match self.share_encoder_decoder_embeddings {
            true => self.vocab_size,
            false => self.decoder_vocab_size,
        }
    }

    /// Reads a family's config.json from memory; errors name `path`.
    ///
    /// # Errors
    /// If it is damaged or a field has an unsupported value; the message names the field.
    pub fn from_bytes(path: &Path, bytes: &[u8], family: Family) -> Result<Self, Error> {
        Self::read(&Fields::from_bytes(path, bytes)?, family)
    }

    /// Reads the fields of config.json.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn read(fields: &Fields, family: Family) -> Result<Self, Error> {
        // Older checkpoints of other architectures have these classes, with other values of these fields.
        fields.only("normalize_before", false)?;
        fields.only("add_final_layer_norm", false)?;
        fields.only("normalize_embedding", family.layernorm_embedding)?;
        fields.only("static_position_embeddings", family.sinusoids)?;
        if !family.sinusoids {
            fields.only("extra_pos_embeddings", family.offset)?;
        }
        fields.only("is_decoder", false)?;
        fields.only("is_encoder_decoder", true)?;
        let or = Self::of(family);
        let vocab_size = fields.get("vocab_size", or.vocab_size)?;
        let config = config::take! { fields or or:
            tie_word_embeddings, max_position_embeddings, d_model, encoder_layers, encoder_attention_heads,
            encoder_ffn_dim, decoder_layers, decoder_attention_heads, decoder_ffn_dim, scale_embedding,
            pad_token_id, eos_token_id, decoder_start_token_id, dropout, attention_dropout, activation_dropout;
            classifier_dropout: fields.get("classifier_dropout", fields.get("classif_dropout", or.classifier_dropout)?)?,
            family,
            vocab_size,
            decoder_vocab_size: fields.get("decoder_vocab_size", vocab_size)?,
            share_encoder_decoder_embeddings: match family == Family::MARIAN {
                true => fields.get("share_encoder_decoder_embeddings", true)?,
                false => true,
            },
            activation_function: fields.activation("activation_function", or.activation_function)?,
            id2label: fields.labels()?.or(or.id2label),
        };
        // Other spellings of these fields, which transformers reads too.
        fields.only("hidden_size", config.d_model)?;
        fields.only("num_attention_heads", config.encoder_attention_heads)?;
        config.check().map_err(|why| fields.error(why))?;
        Ok(config)
    }

    /// Refuses impossible sizes; names the field.
    pub(super) fn check(&self) -> Result<(), String> {
        config::positive(&named!(
            self: vocab_size, decoder_vocab_size, max_position_embeddings, d_model, encoder_layers,
            encoder_attention_heads, encoder_ffn_dim, decoder_layers, decoder_attention_heads, decoder_ffn_dim
        ))?;
        config::positive(&[("number of labels", self.num_labels())])?;
        config::probabilities(&named!(
            self: dropout, attention_dropout, activation_dropout, classifier_dropout
        ))?;
        let [of_encoder, of_decoder, width] =
            named!(self: encoder_attention_heads, decoder_attention_heads, d_model);
        config::divides(of_encoder, width)?;
        config::divides(of_decoder, width)
    }
}

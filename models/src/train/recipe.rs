//! Recipes of pre-training: for each family the class that is trained, its objective for a tokenizer, and configs of several sizes.

use super::data::tokenizer_training::Family;
use super::objectives::{
    FullSentences, MaskedLmNextSentence, Masking, NextToken, Objective, ReplacedTokens, SentenceOrder,
    SpanCorruption, TextInfilling,
};
use crate::checkpoint::tokenizer::Tokenizer;
use crate::error::Error;
use serde_json::{Value, json};

/// Size of a preset.
///
/// ```
/// use tilewright::train::Preset;
/// assert_eq!(Preset::ALL.map(Preset::name), ["tiny", "mini", "small", "base"]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Two layers of width 128.
    Tiny,
    /// Four layers of width 256.
    Mini,
    /// Four layers of width 512.
    Small,
    /// Twelve layers of width 768.
    Base,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 4] = [Self::Tiny, Self::Mini, Self::Small, Self::Base];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Mini => "mini",
            Self::Small => "small",
            Self::Base => "base",
        }
    }

    /// Width of the states, layers and heads.
    fn sizes(self) -> [usize; 3] {
        match self {
            Self::Tiny => [128, 2, 2],
            Self::Mini => [256, 4, 4],
            Self::Small => [512, 4, 8],
            Self::Base => [768, 12, 12],
        }
    }
}

impl Family {
    /// Class that is trained.
    pub fn class(self) -> &'static str {
        match self {
            Self::Bert => "BertForPreTraining",
            Self::Roberta => "RobertaForMaskedLM",
            Self::Albert => "AlbertForPreTraining",
            Self::Electra => "ElectraForPreTraining",
            Self::Bart => "BartForConditionalGeneration",
            Self::T5 => "T5ForConditionalGeneration",
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
        }
    }

    /// The paper's objective with the paper's settings and the ids of its vocabulary.
    pub fn paper_objective(self) -> Box<dyn Objective> {
        match self {
            Self::Bert => Box::new(MaskedLmNextSentence::default()),
            Self::Roberta => Box::new(FullSentences::default()),
            Self::Albert => Box::new(SentenceOrder::default()),
            Self::Electra => Box::new(ReplacedTokens::default()),
            Self::Bart => Box::new(TextInfilling::default()),
            Self::T5 => Box::new(SpanCorruption::default()),
            Self::Gpt2 => Box::new(NextToken::default()),
            Self::Llama => Box::new(NextToken::llama()),
        }
    }

    /// The paper's objective for the ids of a tokenizer. `seq` is the length of a sequence; `masking` replaces the paper's
    /// where tokens are masked.
    ///
    /// # Errors
    /// [`Error::Input`] if the vocabulary lacks a special token of the family.
    pub fn objective(
        self,
        tokenizer: &Tokenizer,
        seq: usize,
        masking: Option<Masking>,
    ) -> Result<Box<dyn Objective>, Error> {
        let id = |names: &[&str]| {
            names.iter().find_map(|name| tokenizer.id(name)).ok_or_else(|| Error::Input {
                name: "tokenizer",
                why: format!("expected a token {} for {}, found none", names.join(" or "), self.name()),
            })
        };
        let vocabulary = tokenizer.vocab_size() as u32;
        let (cls, sep, mask): (&[_], &[_], &[_]) = (&["[CLS]"], &["[SEP]"], &["[MASK]", "<mask>"]);
        let (bos, eos): (&[_], &[_]) = (&["<s>"], &["</s>"]);
        // A piece that does not continue a word: `##ing` does, and so does a piece without `▁`.
        let word_starts = || {
            let pieces: Vec<String> =
                (0..vocabulary).map(|id| tokenizer.token(id).unwrap_or_default()).collect();
            let marked = pieces.iter().any(|piece| piece.starts_with('▁'));
            pieces.iter().map(|p| if marked { p.starts_with('▁') } else { !p.starts_with("##") }).collect()
        };
        Ok(match self {
            Self::Bert => {
                let or = MaskedLmNextSentence::default();
                let (cls, sep, mask) = (id(cls)?, id(sep)?, id(mask)?);
                let masking = masking.unwrap_or(or.masking);
                Box::new(MaskedLmNextSentence { seq, vocabulary, cls, sep, mask, masking, ..or })
            }
            Self::Roberta => {
                let or = FullSentences::default();
                let (bos, eos, mask) = (id(bos)?, id(eos)?, id(mask)?);
                let others = ["<pad>", "<unk>"].iter().filter_map(|name| tokenizer.id(name));
                let special = [bos, eos, mask].into_iter().chain(others).collect();
                let masking = masking.unwrap_or(or.masking);
                Box::new(FullSentences { seq, vocabulary, bos, eos, mask, special, masking, ..or })
            }
            Self::Albert => {
                let or = SentenceOrder::default();
                let (cls, sep, mask) = (id(cls)?, id(sep)?, id(mask)?);
                let (masking, word_starts) = (masking.unwrap_or(or.masking), Some(word_starts()));
                Box::new(SentenceOrder { seq, vocabulary, cls, sep, mask, masking, word_starts, ..or })
            }
            Self::Electra => {
                let or = ReplacedTokens::default();
                let (cls, sep, mask) = (id(cls)?, id(sep)?, id(mask)?);
                let masking = masking.unwrap_or(or.masking);
                Box::new(ReplacedTokens { seq, vocabulary, cls, sep, mask, masking, ..or })
            }
            Self::Bart => {
                let (bos, eos, mask) = (id(bos)?, id(eos)?, id(mask)?);
                Box::new(TextInfilling { seq, vocabulary, bos, eos, mask, ..TextInfilling::default() })
            }
            Self::T5 => {
                let sentinels =
                    (0..).take_while(|n| tokenizer.id(&format!("<extra_id_{n}>")).is_some()).count();
                let (pad, eos) = (id(&["<pad>"])?, id(eos)?);
                let sentinels = sentinels as u32;
                Box::new(SpanCorruption {
                    inputs: seq,
                    vocabulary,
                    sentinels,
                    pad,
                    eos,
                    ..SpanCorruption::default()
                })
            }
            Self::Gpt2 => {
                let end = Some(id(&["<|endoftext|>"])?);
                Box::new(NextToken { seq, vocabulary, end, ..NextToken::default() })
            }
            Self::Llama => {
                let start = id(&["<s>", "<|begin_of_text|>"]).ok();
                let end = Some(id(&["</s>", "<|end_of_text|>"])?);
                Box::new(NextToken { seq, vocabulary, start, end, ..NextToken::llama() })
            }
        })
    }

    /// config.json of a preset, for the vocabulary of a tokenizer and sequences of up to `seq` tokens.
    pub fn preset_config(self, preset: Preset, tokenizer: &Tokenizer, seq: usize) -> Value {
        let [h, layers, heads] = preset.sizes();
        let (words, positions) = (tokenizer.vocab_size(), seq.max(512));
        let id = |name: &str| tokenizer.id(name);
        let bert = json!({
            "vocab_size": words, "hidden_size": h, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": 4 * h, "max_position_embeddings": positions, "type_vocab_size": 2,
            "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": id("[PAD]").unwrap_or(0),
        });
        let mut config = match self {
            Self::Bert => bert,
            Self::Roberta => {
                let pad = id("<pad>").unwrap_or(1);
                with(
                    bert,
                    json!({
                        "max_position_embeddings": positions + pad as usize + 1, "type_vocab_size": 1, "pad_token_id": pad,
                        "layer_norm_eps": 1e-5, "bos_token_id": id("<s>"), "eos_token_id": id("</s>"),
                    }),
                )
            }
            Self::Albert => with(
                bert,
                json!({
                    "embedding_size": h.min(128), "num_hidden_groups": 1, "inner_group_num": 1, "hidden_act": "gelu_new",
                    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": id("<pad>").or(id("[PAD]")),
                    "bos_token_id": id("[CLS]"), "eos_token_id": id("[SEP]"),
                }),
            ),
            Self::Electra => with(bert, json!({ "embedding_size": h.min(128) })),
            Self::Bart => json!({
                "vocab_size": words, "d_model": h, "encoder_layers": layers.div_ceil(2),
                "decoder_layers": layers.div_ceil(2), "encoder_attention_heads": heads, "decoder_attention_heads": heads,
                "encoder_ffn_dim": 4 * h, "decoder_ffn_dim": 4 * h, "max_position_embeddings": positions.max(1024),
                "bos_token_id": id("<s>"), "eos_token_id": id("</s>"), "pad_token_id": id("<pad>"),
                "decoder_start_token_id": id("</s>"), "forced_eos_token_id": id("</s>"), "is_encoder_decoder": true,
            }),
            Self::T5 => json!({
                "vocab_size": words, "d_model": h, "d_kv": 64, "d_ff": 4 * h, "num_heads": heads,
                "num_layers": if preset == Preset::Small { 6 } else { layers },
                "num_decoder_layers": if preset == Preset::Small { 6 } else { layers },
                "feed_forward_proj": "relu", "pad_token_id": id("<pad>"), "eos_token_id": id("</s>"),
                "decoder_start_token_id": id("<pad>"), "is_encoder_decoder": true, "tie_word_embeddings": true,
            }),
            Self::Gpt2 => json!({
                "vocab_size": words, "n_embd": h, "n_layer": layers, "n_head": heads,
                "n_positions": seq.max(1024), "bos_token_id": id("<|endoftext|>"), "eos_token_id": id("<|endoftext|>"),
            }),
            Self::Llama => json!({
                "vocab_size": words, "hidden_size": h, "num_hidden_layers": layers, "num_attention_heads": heads,
                "num_key_value_heads": heads, "intermediate_size": (8 * h / 3).next_multiple_of(32),
                "max_position_embeddings": seq.max(2048), "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
                "bos_token_id": id("<s>").or(id("<|begin_of_text|>")),
                "eos_token_id": id("</s>").or(id("<|end_of_text|>")),
            }),
        };
        config["architectures"] = json!([self.class()]);
        config["model_type"] = self.name().into();
        config
    }
}

/// Config of a generator for the discriminator's config: layers as many, a quarter of the width, of the heads and of the
/// inside of the feed-forward block, as for ELECTRA-small.
pub fn generator_config(discriminator: &Value) -> Value {
    let quarter = |name: &str| discriminator[name].as_u64().unwrap_or(0).div_ceil(4).max(1);
    let heads = quarter("num_attention_heads");
    with(
        discriminator.clone(),
        json!({
            "architectures": ["ElectraForMaskedLM"], "num_attention_heads": heads,
            "hidden_size": quarter("hidden_size").next_multiple_of(heads),
            "intermediate_size": quarter("intermediate_size"),
        }),
    )
}

/// `config` with the fields of `others`.
fn with(mut config: Value, others: Value) -> Value {
    if let (Value::Object(config), Value::Object(others)) = (&mut config, others) {
        config.extend(others);
    }
    config
}

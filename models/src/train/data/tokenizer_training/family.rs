//! Families of models: special tokens, and the parts of their tokenizers around the vocabulary.
//!
//! transformers 5 builds normalizer, pre-tokenizer and decoder from the class that tokenizer_config.json names, and takes
//! vocabulary, merges and post-processor from tokenizer.json. The parts below are those of its classes, so both agree.

use super::{SENTINELS, sentinel};
use serde_json::{Value, json};

/// A family of models, with its kind of tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BERT: WordPiece.
    Bert,
    /// RoBERTa: byte-level BPE.
    Roberta,
    /// ALBERT: Unigram.
    Albert,
    /// ELECTRA: as BERT.
    Electra,
    /// BART: as RoBERTa.
    Bart,
    /// T5: Unigram with sentinels.
    T5,
    /// GPT-2: byte-level BPE.
    Gpt2,
    /// LLaMA: BPE with byte fallback.
    Llama,
}

/// Kind of vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    WordPiece,
    ByteLevelBpe,
    ByteFallbackBpe,
    Unigram,
}

/// Start of words in Unigram and LLaMA: U+2581.
const METASPACE: char = '\u{2581}';

impl Algorithm {
    /// Fields of the model in tokenizer.json, except for the vocabulary.
    pub fn fields(self) -> Value {
        let bpe = |byte_fallback: bool, unknown: Option<&str>| {
            json!({
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown,
                "continuing_subword_prefix": if byte_fallback { None } else { Some("") },
                "end_of_word_suffix": if byte_fallback { None } else { Some("") },
                "fuse_unk": byte_fallback,
                "byte_fallback": byte_fallback,
                "ignore_merges": false,
            })
        };
        match self {
            Self::WordPiece => json!({
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            }),
            Self::ByteLevelBpe => bpe(false, None),
            Self::ByteFallbackBpe => bpe(true, Some("<unk>")),
            Self::Unigram => json!({ "type": "Unigram" }),
        }
    }
}

impl Family {
    /// All families.
    pub const ALL: [Self; 8] = [
        Self::Bert,
        Self::Roberta,
        Self::Albert,
        Self::Electra,
        Self::Bart,
        Self::T5,
        Self::Gpt2,
        Self::Llama,
    ];

    /// `bert`, `roberta` and so on.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::Albert => "albert",
            Self::Electra => "electra",
            Self::Bart => "bart",
            Self::T5 => "t5",
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
        }
    }

    /// True if transformers' tokenizers of this family can lower-case.
    pub fn can_lowercase(self) -> bool {
        matches!(self, Self::Bert | Self::Electra | Self::Albert)
    }

    /// Special tokens; their ids are 0, 1 and so on.
    pub fn special_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Bert | Self::Electra => &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            Self::Roberta | Self::Bart => &["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            Self::Albert => &["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
            Self::T5 => &["<pad>", "</s>", "<unk>"],
            Self::Gpt2 => &["<|endoftext|>"],
            Self::Llama => &["<unk>", "<s>", "</s>"],
        }
    }

    /// Longest sequence of the published models, in tokens.
    pub fn max_length(self) -> usize {
        match self {
            Self::Bert | Self::Roberta | Self::Albert | Self::Electra | Self::T5 => 512,
            Self::Bart | Self::Gpt2 => 1024,
            Self::Llama => 2048,
        }
    }

    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::Bert | Self::Electra => Algorithm::WordPiece,
            Self::Roberta | Self::Bart | Self::Gpt2 => Algorithm::ByteLevelBpe,
            Self::Llama => Algorithm::ByteFallbackBpe,
            Self::T5 | Self::Albert => Algorithm::Unigram,
        }
    }

    /// Id of the token for unknown characters.
    pub(super) fn unknown_id(self) -> Option<usize> {
        self.special_tokens().iter().position(|token| matches!(*token, "[UNK]" | "<unk>"))
    }

    /// True if `token` takes the white space before it, as the published tokenizers' masks do.
    pub(super) fn strips_space_before(self, token: &str) -> bool {
        matches!((self, token), (Self::Roberta | Self::Bart, "<mask>") | (Self::Albert, "[MASK]"))
    }

    /// Normalizer, pre-tokenizer, post-processor and decoder, as tokenizer.json spells them.
    pub(super) fn parts(self, lowercase: bool) -> Value {
        let id =
            |token: &str| self.special_tokens().iter().position(|t| *t == token).expect("a special token");
        let special =
            |token: &str, type_id: u8| json!({ "SpecialToken": { "id": token, "type_id": type_id } });
        let text = |id: &str, type_id: u8| json!({ "Sequence": { "id": id, "type_id": type_id } });
        let template = |single: Value, pair: Value, tokens: &[&str]| {
            let tokens: serde_json::Map<_, _> = tokens
                .iter()
                .map(|t| ((*t).to_owned(), json!({ "id": t, "ids": [id(t)], "tokens": [t] })))
                .collect();
            json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens })
        };
        let between_cls_and_sep = || {
            template(
                json!([special("[CLS]", 0), text("A", 0), special("[SEP]", 0)]),
                json!([
                    special("[CLS]", 0),
                    text("A", 0),
                    special("[SEP]", 0),
                    text("B", 1),
                    special("[SEP]", 1)
                ]),
                &["[CLS]", "[SEP]"],
            )
        };
        let metaspace = |scheme: &str, split: bool| json!({ "type": "Metaspace", "replacement": METASPACE, "prepend_scheme": scheme, "split": split });
        let at_white_space = || {
            json!({
                "type": "Sequence",
                "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace("always", true)],
            })
        };
        let byte_level = |trim: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim, "use_regex": true });
        let [normalizer, pre_tokenizer, post_processor, decoder] = match self {
            Self::Bert | Self::Electra => [
                json!({
                    "type": "BertNormalizer",
                    "clean_text": true,
                    "handle_chinese_chars": true,
                    "strip_accents": null,
                    "lowercase": lowercase,
                }),
                json!({ "type": "BertPreTokenizer" }),
                between_cls_and_sep(),
                json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
            ],
            Self::Roberta | Self::Bart => [
                Value::Null,
                byte_level(true),
                json!({
                    "type": "RobertaProcessing",
                    "sep": ["</s>", id("</s>")],
                    "cls": ["<s>", id("<s>")],
                    "trim_offsets": true,
                    "add_prefix_space": false,
                }),
                byte_level(true),
            ],
            Self::Gpt2 => [Value::Null, byte_level(true), byte_level(false), byte_level(true)],
            Self::Albert => {
                let replace = |pattern: &str| json!({ "type": "Replace", "pattern": { "String": pattern }, "content": "\"" });
                let mut normalizers = vec![replace("``"), replace("''")];
                if lowercase {
                    let more = ["NFKD", "StripAccents", "Lowercase"];
                    normalizers.extend(more.map(|name| json!({ "type": name })));
                }
                [
                    json!({ "type": "Sequence", "normalizers": normalizers }),
                    at_white_space(),
                    between_cls_and_sep(),
                    metaspace("always", true),
                ]
            }
            Self::T5 => [
                Value::Null,
                at_white_space(),
                template(
                    json!([text("A", 0), special("</s>", 0)]),
                    json!([text("A", 0), special("</s>", 0), text("B", 0), special("</s>", 0)]),
                    &["</s>"],
                ),
                metaspace("always", true),
            ],
            Self::Llama => [
                Value::Null,
                metaspace("first", false),
                template(
                    json!([special("<s>", 0), text("A", 0)]),
                    json!([special("<s>", 0), text("A", 0), special("<s>", 1), text("B", 1)]),
                    &["<s>"],
                ),
                json!({
                    "type": "Sequence",
                    "decoders": [
                        { "type": "Replace", "pattern": { "String": METASPACE }, "content": " " },
                        { "type": "ByteFallback" },
                        { "type": "Fuse" },
                        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
                    ],
                }),
            ],
        };
        json!({
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
        })
    }

    /// Pre-tokenizer that makes the words of the training, if it differs from the tokenizer's own. LLaMA's own splits
    /// nothing: no merge crosses white space or touches a digit, because no word of the training does.
    pub(super) fn training_pre_tokenizer(self) -> Option<Value> {
        (self == Self::Llama).then(|| {
            json!({
                "type": "Sequence",
                "pretokenizers": [
                    { "type": "WhitespaceSplit" },
                    { "type": "Metaspace", "replacement": METASPACE, "prepend_scheme": "always", "split": true },
                    { "type": "Digits", "individual_digits": true },
                ],
            })
        })
    }

    /// Content of special_tokens_map.json: roles and their tokens.
    pub(super) fn special_tokens_map(self) -> Value {
        match self {
            Self::Bert | Self::Electra => json!({
                "unk_token": "[UNK]",
                "sep_token": "[SEP]",
                "pad_token": "[PAD]",
                "cls_token": "[CLS]",
                "mask_token": "[MASK]",
            }),
            Self::Roberta | Self::Bart => json!({
                "bos_token": "<s>",
                "eos_token": "</s>",
                "sep_token": "</s>",
                "cls_token": "<s>",
                "unk_token": "<unk>",
                "pad_token": "<pad>",
                "mask_token": mask("<mask>"),
            }),
            Self::Albert => json!({
                "bos_token": "[CLS]",
                "eos_token": "[SEP]",
                "sep_token": "[SEP]",
                "cls_token": "[CLS]",
                "unk_token": "<unk>",
                "pad_token": "<pad>",
                "mask_token": mask("[MASK]"),
            }),
            Self::T5 => {
                let sentinels: Vec<_> = (0..SENTINELS).map(sentinel).collect();
                json!({
                    "eos_token": "</s>",
                    "unk_token": "<unk>",
                    "pad_token": "<pad>",
                    "additional_special_tokens": sentinels,
                })
            }
            Self::Gpt2 => json!({
                "bos_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
            }),
            Self::Llama => json!({ "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>" }),
        }
    }

    /// Content of tokenizer_config.json.
    pub(super) fn config(self, lowercase: bool, max_length: usize) -> Value {
        let mut config = self.special_tokens_map();
        let own = match self {
            Self::Bert | Self::Electra => json!({
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": lowercase,
                "strip_accents": null,
                "tokenize_chinese_chars": true,
            }),
            Self::Roberta | Self::Bart => json!({
                "tokenizer_class": if self == Self::Bart { "BartTokenizer" } else { "RobertaTokenizer" },
                "add_prefix_space": false,
                "trim_offsets": true,
            }),
            Self::Albert => json!({
                "tokenizer_class": "AlbertTokenizer",
                "do_lower_case": lowercase,
                "keep_accents": !lowercase,
            }),
            Self::T5 => json!({ "tokenizer_class": "T5Tokenizer", "extra_ids": SENTINELS }),
            Self::Gpt2 => json!({ "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": false }),
            Self::Llama => json!({
                "tokenizer_class": "LlamaTokenizer",
                "add_bos_token": true,
                "add_eos_token": false,
                "add_prefix_space": true,
                "legacy": false,
            }),
        };
        for (field, value) in own.as_object().expect("an object") {
            config[field] = value.clone();
        }
        config["clean_up_tokenization_spaces"] = false.into();
        config["model_max_length"] = max_length.into();
        config
    }
}

/// A mask that takes the white space before it.
fn mask(content: &str) -> Value {
    json!({
        "content": content,
        "lstrip": true,
        "normalized": false,
        "rstrip": false,
        "single_word": false,
        "special": true,
    })
}

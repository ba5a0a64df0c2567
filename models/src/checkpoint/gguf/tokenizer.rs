//! Tokenizer of a GGUF file, as a tokenizer.json.
//!
//! ```text
//! tokenizer.ggml.model    gpt2    byte-level BPE: merges by rank, in words that tokenizer.ggml.pre splits
//!                         llama   SentencePiece: merges by score; unknown characters become bytes
//!                         bert    WordPiece: only the first piece of a word is marked, with U+2581
//! ```

use super::Gguf;
use crate::error::Error;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;

/// Mark at the start of a word.
const WORD: char = '\u{2581}';

/// Pattern of GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Pattern of LLaMA 3's words.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Values of `tokenizer.ggml.pre`, each with the patterns that split a text into words, in order of application.
const PRE: [(&str, &[&str]); 6] = [
    ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    ("gpt-2", &[GPT2]),
    ("llama-bpe", &[LLAMA3]),
    ("llama3", &[LLAMA3]),
    ("llama-v3", &[LLAMA3]),
    ("smollm", &[r"\p{N}", GPT2]),
];

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;
const BYTE: f64 = 6.0;

impl Gguf {
    /// The bytes of tokenizer.json.
    ///
    /// # Errors
    /// If a key is missing, of another type or length, or has an unsupported value. The message names the key.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, Error> {
        let (key, tokens_key) = ("tokenizer.ggml.model", "tokenizer.ggml.tokens");
        let model = self.required(key, self.string(key))?;
        let tokens = self.required(tokens_key, self.strings(tokens_key))?;
        let kinds = self.for_each_token("token_type", tokens.len())?.unwrap_or(&[]);
        let tokens: Vec<String> = match model {
            "bert" => tokens.iter().enumerate().map(|(id, t)| word_piece(t, kinds.get(id))).collect(),
            _ => tokens.iter().map(|t| t.to_string()).collect(),
        };
        let mut vocabulary = Map::new();
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = vocabulary.insert(token.clone(), id.into()) {
                return Err(self.error(format!("{tokens_key}: {first} and {id} are the same, {token:?}")));
            }
        }
        let mut tokenizer = match model {
            "gpt2" => self.byte_level(vocabulary)?,
            "llama" => self.sentence_piece(&tokens, kinds, vocabulary)?,
            "bert" => self.word_pieces(&tokens, vocabulary)?,
            other => {
                return Err(self.error(format!("{key}: expected gpt2, llama or bert, found {other:?}")));
            }
        };
        let added = |(id, &kind): (usize, &f64)| {
            [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind).then(|| {
                json!({
                    "id": id, "content": tokens[id], "special": kind != USER_DEFINED,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
        };
        tokenizer["version"] = "1.0".into();
        tokenizer["added_tokens"] = kinds.iter().enumerate().filter_map(added).collect();
        tokenizer["post_processor"] = self.around(model, &tokens)?;
        Ok(tokenizer.to_string().into_bytes())
    }

    /// The token of the role `name`: `mask`, `bos` or `eos`.
    pub(crate) fn special_token(&self, name: &str) -> Result<Option<&str>, Error> {
        let tokens = self.strings("tokenizer.ggml.tokens")?.unwrap_or(&[]);
        Ok(self.id(name, tokens.len())?.map(|id| &*tokens[id]))
    }

    /// `tokenizer.chat_template`.
    pub(crate) fn chat_template(&self) -> Result<Option<&str>, Error> {
        self.string("tokenizer.chat_template")
    }

    /// The array `tokenizer.ggml.{name}`: a number for each token.
    fn for_each_token(&self, name: &str, tokens: usize) -> Result<Option<&[f64]>, Error> {
        let key = format!("tokenizer.ggml.{name}");
        match self.numbers(&key)? {
            Some(numbers) if numbers.len() != tokens => {
                Err(self
                    .error(format!("{key}: expected {tokens}, one for each token, found {}", numbers.len())))
            }
            numbers => Ok(numbers),
        }
    }

    /// `tokenizer.ggml.{name}_token_id`, below `tokens`.
    fn id(&self, name: &str, tokens: usize) -> Result<Option<usize>, Error> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match self.unsigned(&key)?.map(|id| (id, usize::try_from(id))) {
            None => Ok(None),
            Some((_, Ok(id))) if id < tokens => Ok(Some(id)),
            Some((id, _)) => Err(self.error(format!("{key}: {id} is not below {tokens}"))),
        }
    }

    fn byte_level(&self, vocabulary: Map<String, Json>) -> Result<Json, Error> {
        let (pre, patterns) = self.pre()?;
        let key = "tokenizer.ggml.merges";
        let merges = self.required(key, self.strings(key))?.iter().map(|merge| {
            // The first token may start with a space.
            let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            at.map(|at| json!([merge[..at], merge[at + 1..]]))
                .ok_or_else(|| self.error(format!("{key}: expected two tokens, found {merge:?}")))
        });
        let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let steps: Vec<Json> = patterns.iter().map(split).chain([bytes.clone()]).collect();
        Ok(json!({
            "model": {
                "type": "BPE", "vocab": vocabulary, "merges": merges.collect::<Result<Vec<_>, _>>()?,
                "ignore_merges": is_llama3(pre),
            },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
            "decoder": bytes,
        }))
    }

    /// `tokenizer.ggml.pre` and its patterns.
    fn pre(&self) -> Result<(&str, &'static [&'static str]), Error> {
        let key = "tokenizer.ggml.pre";
        let pre = self.string(key)?.unwrap_or("default");
        PRE.iter().find(|row| row.0 == pre).map(|row| (pre, row.1)).ok_or_else(|| {
            let known = PRE.map(|row| row.0).join(", ");
            self.error(format!("{key}: expected one of {known}, found {pre:?}"))
        })
    }

    fn sentence_piece(
        &self,
        tokens: &[String],
        kinds: &[f64],
        vocabulary: Map<String, Json>,
    ) -> Result<Json, Error> {
        let key = "tokenizer.ggml.scores";
        let scores = self.required(key, self.for_each_token("scores", tokens.len()))?;
        let prefix = self.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let unknown = self.id("unknown", tokens.len())?.map(|id| &tokens[id]);
        let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": WORD });
        let first = json!({ "type": "Prepend", "prepend": WORD });
        let mut normalizers = vec![spaces];
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": WORD }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            normalizers.insert(0, first);
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Ok(json!({
            "model": {
                "type": "BPE", "vocab": vocabulary, "merges": merges(tokens, kinds, scores),
                "unk_token": unknown, "fuse_unk": true, "byte_fallback": kinds.contains(&BYTE),
            },
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "decoder": { "type": "Sequence", "decoders": decoders },
        }))
    }

    fn word_pieces(&self, tokens: &[String], vocabulary: Map<String, Json>) -> Result<Json, Error> {
        let unknown = self.id("unknown", tokens.len())?.map_or("[UNK]", |id| &tokens[id]);
        // The file has no key for the case: a vocabulary without capitals means lower case.
        let capitals =
            |token: &String| !token.starts_with('[') && token.contains(|c: char| c.is_ascii_uppercase());
        Ok(json!({
            "model": {
                "type": "WordPiece", "vocab": vocabulary, "unk_token": unknown,
                "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            },
            "normalizer": {
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": !tokens.iter().any(capitals),
            },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        }))
    }

    /// Post-processor: tokens before and after a text; null if there are none.
    fn around(&self, model: &str, tokens: &[String]) -> Result<Json, Error> {
        let id = |names: &[&str]| {
            names.iter().find_map(|name| self.id(name, tokens.len()).transpose()).transpose()
        };
        let (first, last) = match model {
            // The key is misspelt in the format.
            "bert" => (id(&["cls", "bos"])?, id(&["seperator", "separator", "eos"])?),
            _ => (id(&["bos"])?, id(&["eos"])?),
        };
        let by_default = match model {
            "gpt2" => is_llama3(self.pre()?.0),
            _ => true,
        };
        let before = self.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(by_default);
        let after = self.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(model == "bert");
        let (first, last) = (first.filter(|_| before), last.filter(|_| after));
        if first.is_none() && last.is_none() {
            return Ok(Json::Null);
        }
        let special = |id: usize| json!({ "SpecialToken": { "id": tokens[id], "type_id": 0 } });
        let text = |name: &str, part: u8| json!({ "Sequence": { "id": name, "type_id": part } });
        let with = |middle: &[Json]| -> Vec<Json> {
            first.map(special).into_iter().chain(middle.iter().cloned()).chain(last.map(special)).collect()
        };
        let ids = first
            .into_iter()
            .chain(last)
            .map(|id| (tokens[id].clone(), json!({ "id": tokens[id], "ids": [id], "tokens": [tokens[id]] })));
        Ok(json!({
            "type": "TemplateProcessing",
            "single": with(&[text("A", 0)]),
            "pair": with(&[text("A", 0), text("B", 1)]),
            "special_tokens": ids.collect::<Map<_, _>>(),
        }))
    }
}

/// True for the pre-tokenizers of LLaMA 3. As in llama.cpp, a word that is a token then stays whole, without merges, and
/// a text starts with `bos` unless `tokenizer.ggml.add_bos_token` says otherwise.
fn is_llama3(pre: &str) -> bool {
    PRE.iter().any(|row| row.0 == pre && row.1 == [LLAMA3])
}

/// A token of BERT in the spelling of vocab.txt.
fn word_piece(token: &str, kind: Option<&f64>) -> String {
    let is_special = kind == Some(&CONTROL) || token.starts_with('[') && token.ends_with(']');
    match token.strip_prefix(WORD) {
        Some(word) => word.to_owned(),
        None if is_special => token.to_owned(),
        None => format!("##{token}"),
    }
}

/// Merges of SentencePiece: all pairs of pieces that join to a piece, highest score first. SentencePiece merges
/// the neighbours whose joint piece has the highest score.
fn merges(tokens: &[String], kinds: &[f64], scores: &[f64]) -> Vec<Json> {
    // Pieces have some dozen letters; a piece of a megabyte would be split at a million places.
    const LONGEST: usize = 512;
    let merged = |&(id, token): &(usize, &String)| {
        token.len() <= LONGEST && ![UNKNOWN, CONTROL, BYTE].contains(kinds.get(id).unwrap_or(&1.0))
    };
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().filter(merged).map(|(id, token)| (&**token, id)).collect();
    let mut pairs = Vec::new();
    for (&token, &id) in &ids {
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                pairs.push((id, left, right));
            }
        }
    }
    pairs.sort_unstable_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.cmp(b)));
    pairs.into_iter().map(|(_, left, right)| json!([tokens[left], tokens[right]])).collect()
}

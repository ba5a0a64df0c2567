use super::*;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::train::data::text::{TextOptions, TextSources};

/// Prose with accents, digits, brackets, special tokens and rare characters.
fn text() -> String {
    let words = [
        "the",
        "sea",
        "sea's",
        "seaside",
        "unseen",
        "night",
        "knight",
        "nightly",
        "fell",
        "falling",
        "falls",
        "r\u{e9}sum\u{e9}",
        "1914",
        "41",
        "(now)",
        "``so''",
        "Sea",
        "The",
        "[MASK]",
        "</s>",
        "<s>",
        "other",
        "another",
        "mother",
        "abcabcabc",
        "cabcab",
        "aaaa",
        "aaaaaa",
    ];
    let mut text = String::new();
    for i in 0..3000_usize {
        text.push_str(words[(i * i + i / 7) % words.len()]);
        text.push_str(["", ".", ",", "!", " ", "\n"][i % 6]);
        text.push(if i % 97 == 0 { '\n' } else { ' ' });
    }
    text + "\u{4e00}\u{1f600} \u{e4}\u{f6}\u{fc}\n"
}

fn train_on(text: &str, training: &TokenizerTraining) -> Result<TrainedTokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), text).unwrap();
    let sources = TextSources::find(&[folder.path().to_owned()]).unwrap();
    training.train(&mut sources.documents(&TextOptions::default()), SentenceSplit::Lines, |_| ())
}

fn open(trained: &TrainedTokenizer) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    trained.write(folder.path()).unwrap();
    Tokenizer::open(folder.path()).unwrap()
}

#[test]
fn runs_with_any_number_of_threads_give_the_same_bytes() {
    let text = text();
    for family in Family::ALL {
        let training = TokenizerTraining::new(family, 420);
        let first = train_on(&text, &training).unwrap();
        for threads in [1, 2, 3, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| train_on(&text, &training)).unwrap();
            assert!(again == first, "{family:?} with {threads} threads");
        }
    }
}

#[test]
fn special_tokens_have_their_ids_and_surround_texts() {
    for (family, lowercase, single, pair) in [
        (Family::Bert, true, "[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
        (Family::Electra, false, "[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
        (Family::Roberta, false, "<s> A </s>", "<s> A </s> </s> B </s>"),
        (Family::Bart, false, "<s> A </s>", "<s> A </s> </s> B </s>"),
        (Family::Albert, true, "[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
        (Family::T5, false, "A </s>", "A </s> B </s>"),
        (Family::Gpt2, false, "A", "A B"),
        (Family::Llama, false, "<s> A", "<s> A <s> B"),
    ] {
        let trained =
            train_on(&text(), &TokenizerTraining { lowercase, ..TokenizerTraining::new(family, 420) });
        let trained = trained.unwrap();
        let tokenizer = open(&trained);
        assert_eq!(tokenizer.max_length(), Some(family.max_length()));
        for (id, token) in family.special_tokens().iter().enumerate() {
            assert_eq!(tokenizer.id(token), Some(id as u32), "{family:?}");
        }
        let count = if family == Family::T5 { SENTINELS } else { 0 };
        assert_eq!(tokenizer.special_ids().len(), family.special_tokens().len() + count);
        for i in 0..count {
            assert_eq!(tokenizer.id(&sentinel(i)), Some((trained.vocab_size - 1 - i) as u32));
        }
        let shape = |second: Option<&str>| {
            let (batch, places) = tokenizer.encode_placed("the sea", second).unwrap();
            let mut parts: Vec<String> = Vec::new();
            for (&id, place) in batch.ids().iter().zip(&places) {
                let part = match place.text {
                    Some(text) => ["A", "B"][text].to_owned(),
                    None => tokenizer.token(id).unwrap(),
                };
                if place.text.is_none() || parts.last() != Some(&part) {
                    parts.push(part);
                }
            }
            parts.join(" ")
        };
        assert_eq!([shape(None), shape(Some("another"))], [single, pair], "{family:?}");
    }
}

#[test]
fn tokens_decode_to_their_text() {
    for family in Family::ALL {
        let tokenizer = open(&train_on(&text(), &TokenizerTraining::new(family, 420)).unwrap());
        let text = "The unseen knight falls, r\u{e9}sum\u{e9} 1914";
        let ids = tokenizer.encode_as_written(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap().trim(), text, "{family:?}");
        assert!(ids.len() < text.len() / 2, "{family:?}: {} tokens", ids.len());
        if family.algorithm() != Algorithm::WordPiece && family.algorithm() != Algorithm::Unigram {
            let text = "\u{1f980}\u{4e8c} \t\nx";
            let ids = tokenizer.encode_as_written(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{family:?} knows every byte");
        }
    }
}

#[test]
fn lowercase_is_asked_for_and_refused_where_transformers_ignores_it() {
    for family in Family::ALL {
        let result =
            train_on(&text(), &TokenizerTraining { lowercase: true, ..TokenizerTraining::new(family, 420) });
        if !family.can_lowercase() {
            assert!(result.unwrap_err().to_string().contains("do not lower-case"), "{family:?}");
            continue;
        }
        let lower = open(&result.unwrap());
        let cased = open(&train_on(&text(), &TokenizerTraining::new(family, 420)).unwrap());
        let [a, b] = ["The R\u{c9}SUM\u{c9}", "the resume"];
        assert_eq!(lower.encode_as_written(a).unwrap(), lower.encode_as_written(b).unwrap());
        assert_ne!(cased.encode_as_written(a).unwrap(), cased.encode_as_written(b).unwrap());
    }
}

#[test]
fn llama_has_digits_alone_and_no_token_across_words() {
    let trained = train_on(&text(), &TokenizerTraining::new(Family::Llama, 420)).unwrap();
    let tokenizer = open(&trained);
    let ids = tokenizer.encode_as_written("the 1914 sea").unwrap();
    let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
    let position = tokens.iter().position(|token| token == "1").unwrap();
    assert_eq!(tokens[position..position + 4], ["1", "9", "1", "4"]);
    for id in 0..trained.vocab_size as u32 {
        let token = tokenizer.token(id).unwrap();
        let digits = token.chars().filter(char::is_ascii_digit).count();
        assert!(digits == 0 || token.chars().count() == 1 || token.starts_with("<0x"), "{token}");
        assert!(!token.chars().skip(1).any(|c| c == '\u{2581}'), "{token}");
    }
}

#[test]
fn merges_are_those_of_the_crate_tokenizers() {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    let counts = [("low", 5_u64), ("lower", 2), ("newest", 6), ("widest", 3), ("aaaaa", 4), ("banana", 7)];
    let counts = counts.map(|(word, count)| (word.to_owned(), count)).to_vec();
    let mut alphabet: Vec<char> = counts.iter().flat_map(|(word, _)| word.chars()).collect();
    alphabet.sort_unstable();
    alphabet.dedup();
    let words = Words { counts: counts.clone(), alphabet, ..Words::default() };
    let (tokens, _) = merges::train(&words, Vec::new(), "", 30, 1);
    let trainer = BpeTrainer::builder().vocab_size(30).show_progress(false).min_frequency(1).build();
    let mut model = BPE::default();
    let counts = counts.into_iter().map(|(word, count)| (word.into(), count)).collect();
    trainer.do_train(&counts, &mut model).unwrap();
    let mut expected: Vec<_> = model.get_vocab().into_iter().map(|(token, id)| (id, token)).collect();
    expected.sort_unstable();
    assert_eq!(tokens, expected.into_iter().map(|(_, token)| token).collect::<Vec<_>>());
}

#[test]
fn little_text_and_small_vocabularies_are_told() {
    for family in Family::ALL {
        let train =
            |vocab_size| train_on("the sea, the night\n", &TokenizerTraining::new(family, vocab_size));
        let error = train(3).unwrap_err().to_string();
        assert!(
            error.starts_with("vocab_size: 3 tokens") && error.contains("at least"),
            "{family:?}: {error}"
        );
        let least: usize = error.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(train(least - 1).unwrap_err().to_string().rsplit(' ').next(), Some(&*least.to_string()));
        assert!(train(least).unwrap().vocab_size <= least, "{family:?}");
        let few = train(5000).unwrap();
        assert!(few.vocab_size < 400, "{family:?}: {}", few.vocab_size);
        open(&few).encode_as_written("the sea").unwrap();
        assert!(train_on(" \n", &TokenizerTraining::new(family, 5000)).is_err());
        train_on("a\n", &TokenizerTraining::new(family, 5000)).unwrap();
    }
}

#[test]
fn rare_characters_are_no_tokens() {
    let rare = format!("{} \u{4e00}\u{4e8c} \u{4e09}", text());
    for family in [Family::Bert, Family::T5, Family::Llama] {
        let few = TokenizerTraining { alphabet: 30, ..TokenizerTraining::new(family, 420) };
        let tokenizer = open(&train_on(&rare, &few).unwrap());
        assert_eq!(tokenizer.id("\u{4e00}"), None, "{family:?}");
        let all = open(&train_on(&rare, &TokenizerTraining::new(family, 420)).unwrap());
        assert!(all.id("\u{4e00}").is_some(), "{family:?}");
    }
}

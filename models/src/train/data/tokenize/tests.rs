use super::*;
use crate::train::data::shards::{Leftover, SHARD_BYTES, ShardedCorpus, leftover};
use crate::train::data::text::{DocumentSplit, TextOptions, TextSources};
use crate::train::data::tokenizer_training::{Family, TokenizerTraining};
use crate::train::data::{Corpus as _, MemoryCorpus};

/// About a hundred documents of sentences that differ.
fn text() -> String {
    let words = ["the", "Old", "sea", "rose.", "Then", "fell;", "night", "came!", "We", "saw", "it?"];
    let sentence =
        |i: usize| (0..5 + i % 7).map(|j| words[(i * 5 + j * 3) % words.len()]).collect::<Vec<_>>();
    let lines: Vec<_> =
        (0..400).map(|i| sentence(i).join(" ") + if i % 4 == 3 { "\n" } else { "" }).collect();
    lines.join("\n")
}

/// A directory with a text and a tokenizer of `family` trained on it.
fn folder(family: Family) -> (tempfile::TempDir, TextSources, TextTokenizer) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), text()).unwrap();
    let sources = TextSources::find(&[folder.path().join("a.txt")]).unwrap();
    let mut documents = sources.documents(&TextOptions::default());
    let training = TokenizerTraining::new(family, 420);
    training.train(&mut documents, SentenceSplit::Lines, |_| ()).unwrap().write(folder.path()).unwrap();
    let tokenizer = TextTokenizer::open(folder.path()).unwrap();
    (folder, sources, tokenizer)
}

#[test]
fn shards_do_not_depend_on_threads() {
    let (folder, sources, tokenizer) = folder(Family::Roberta);
    let mut bytes = Vec::new();
    for threads in [1, 2, 5] {
        let out = folder.path().join(format!("{threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut documents = sources.documents(&TextOptions::default());
        let mut read = 0;
        let counts = pool
            .install(|| tokenize(&tokenizer, &mut documents, SentenceSplit::Lines, &out, 3000, |n| read = n))
            .unwrap();
        assert_eq!((counts.documents, counts.sentences, counts.unknown), (100, 400, 0));
        assert!(counts.shards > 2 && counts.tokens > 400, "{counts:?}");
        assert_eq!(read, sources.bytes());
        let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), counts.shards, "nothing else is in the directory");
        bytes.push(files.iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>());

        let corpus = ShardedCorpus::open(&out).unwrap();
        corpus.verify(|_| ()).unwrap();
        corpus.check_tokenizer(tokenizer.path(), tokenizer.hash()).unwrap();
        let texts = sources.documents(&TextOptions::default());
        let expected: Result<Vec<_>, _> =
            texts.map(|text| tokenizer.tokenize(&text?, SentenceSplit::Lines)).collect();
        let expected = MemoryCorpus(expected.unwrap());
        assert_eq!(corpus.documents(), expected.documents());
        for i in 0..corpus.documents() {
            assert_eq!(corpus.document(i).unwrap(), expected.0[i]);
            assert_eq!(corpus.len_of(i), expected.len_of(i));
        }
    }
    assert!(bytes[0] == bytes[1] && bytes[0] == bytes[2]);
}

fn one(text: &str, by: SentenceSplit) -> TextDocument {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    std::fs::write(&file, text).unwrap();
    let options = TextOptions { documents: DocumentSplit::Files, sentences: by, ..TextOptions::default() };
    TextSources::find(&[file]).unwrap().documents(&options).next().unwrap().unwrap()
}

#[test]
fn tokens_of_running_text_are_those_of_the_whole_text() {
    let text = "The sea rose. Then  night\ncame! \"We saw it?\" Old";
    for family in Family::ALL {
        let (.., tokenizer) = folder(family);
        let whole = tokenizer.tokenize(&one(text, SentenceSplit::Whole), SentenceSplit::Whole).unwrap();
        assert_eq!(whole.sentence_ends, [whole.tokens.len()], "{family:?}");
        let split =
            tokenizer.tokenize(&one(text, SentenceSplit::Punctuation), SentenceSplit::Punctuation).unwrap();
        assert_eq!(split.tokens, whole.tokens, "{family:?}");
        let sentences: Vec<_> =
            split.sentences().map(|ids| tokenizer.tokenizer.decode(ids).unwrap().to_lowercase()).collect();
        assert_eq!(sentences.len(), 4, "{family:?}: {sentences:?}");
        for (sentence, last) in sentences.iter().zip(["rose", "came", "it", "old"]) {
            let words = sentence.replace(['.', '!', '?', '"'], "");
            assert!(words.trim().ends_with(last), "{family:?}: {sentences:?}");
        }
    }
}

#[test]
fn lines_are_tokenized_one_by_one() {
    let (.., tokenizer) = folder(Family::Gpt2);
    let document = tokenizer.tokenize(&one("We saw\n\n the sea", SentenceSplit::Lines), SentenceSplit::Lines);
    let document = document.unwrap();
    let sentences: Vec<_> =
        document.sentences().map(|ids| tokenizer.tokenizer.decode(ids).unwrap()).collect();
    assert_eq!(sentences, ["We saw", "the sea"]);
}

#[test]
fn special_tokens_in_the_text_are_text() {
    for family in Family::ALL {
        let (.., tokenizer) = folder(family);
        let all = family.special_tokens().iter().copied().chain(["<extra_id_0>", "the"]);
        let text = all.collect::<Vec<_>>().join(" sea ");
        for by in [SentenceSplit::Lines, SentenceSplit::Punctuation, SentenceSplit::Whole] {
            let document = tokenizer.tokenize(&one(&text, by), by).unwrap();
            assert!(document.tokens.len() > 4, "{family:?}");
            for id in &document.tokens {
                let special = tokenizer.special.contains(id) && Some(*id) != tokenizer.unknown;
                assert!(!special, "{family:?}: {id} in {:?}", document.tokens);
            }
        }
    }
}

#[test]
fn unknown_tokens_are_counted() {
    for (family, text, expected) in [
        (Family::Bert, "the \u{4e00} sea", 1),
        (Family::Gpt2, "\u{4e00}", 0),
        (Family::T5, "sea \u{4e00}", 1),
    ] {
        let (folder, _, tokenizer) = folder(family);
        let file = folder.path().join("b.txt");
        std::fs::write(&file, text).unwrap();
        let mut documents = TextSources::find(&[file]).unwrap().documents(&TextOptions::default());
        let out = folder.path().join("out");
        let counts =
            tokenize(&tokenizer, &mut documents, SentenceSplit::Lines, &out, SHARD_BYTES, |_| ()).unwrap();
        assert_eq!((counts.documents, counts.unknown), (1, expected), "{family:?}");
    }
}

#[test]
fn interrupted_runs_start_over_and_corpora_are_kept() {
    let (folder, sources, tokenizer) = folder(Family::Bert);
    let out = folder.path().join("out");
    // A line that is not UTF-8 stops the run after the first batches.
    let bad = folder.path().join("bad.txt");
    std::fs::write(
        &bad,
        (text() + "\n\n").repeat(600).into_bytes().into_iter().chain([b'\n', 0xff]).collect::<Vec<_>>(),
    )
    .unwrap();
    let run = |sources: &TextSources| {
        let mut documents = sources.documents(&TextOptions::default());
        tokenize(&tokenizer, &mut documents, SentenceSplit::Lines, &out, 100_000, |_| ())
    };
    let error = run(&TextSources::find(&[bad]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("bad.txt: line") && error.contains("expected UTF-8"), "{error}");
    assert_eq!(leftover(&out).unwrap(), Leftover::Interrupted);
    assert!(ShardedCorpus::open(&out).unwrap_err().to_string().contains("run it again"));

    let hidden = out.join(".shard-00000.tokens.1");
    std::fs::write(&hidden, "").unwrap();
    let counts = run(&sources).unwrap();
    assert!(!hidden.exists());
    assert_eq!(ShardedCorpus::open(&out).unwrap().shards(), counts.shards);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), counts.shards);
    let error = run(&sources).unwrap_err().to_string();
    assert!(error.ends_with("already holds token shards"), "{error}");
}

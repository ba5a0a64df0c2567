use super::*;
use crate::train::data::{Corpus as _, Document};

const TOKENIZER: TokenizerHash = TokenizerHash([7; 32]);

/// Documents whose tokens and sentences tell them apart; some are empty.
fn documents(n: usize, vocab_size: u32) -> Vec<Document> {
    let document = |i: usize| {
        let tokens: Vec<u32> = (0..i % 5 * 3).map(|j| (i * 31 + j * 7) as u32 % vocab_size).collect();
        Document { sentence_ends: (1..=tokens.len() / 3).map(|end| 3 * end).collect(), tokens }
    };
    (0..n).map(document).collect()
}

fn write(directory: &Path, documents: &[Document], vocab_size: u32, shard_bytes: u64) -> usize {
    let mut writer = ShardWriter::create(directory, TOKENIZER, vocab_size, shard_bytes).unwrap();
    documents.iter().for_each(|document| writer.push(document).unwrap());
    writer.finish().unwrap()
}

#[test]
fn documents_are_read_as_written() {
    for (vocab_size, width) in [(100, 2), (1 << 16, 2), ((1 << 16) + 1, 4), (u32::MAX, 4)] {
        for shard_bytes in [0, 300, SHARD_BYTES] {
            let folder = tempfile::tempdir().unwrap();
            let mut documents = documents(40, vocab_size);
            documents.push(Document { tokens: vec![0, vocab_size - 1], sentence_ends: vec![1, 2] });
            let shards = write(&folder.path().join("new/corpus"), &documents, vocab_size, shard_bytes);
            let corpus = ShardedCorpus::open(&folder.path().join("new/corpus")).unwrap();
            corpus.verify(|_| ()).unwrap();
            assert_eq!(corpus.shards(), shards);
            match shard_bytes {
                0 => assert_eq!(shards, documents.len(), "a document for each shard"),
                300 => assert!((3..documents.len() / 2).contains(&shards), "{shards}"),
                _ => assert_eq!(shards, 1),
            }
            let first = std::fs::read(path(&folder.path().join("new/corpus"), 0)).unwrap();
            assert_eq!(first[12], width);
            assert_eq!((corpus.vocab_size(), corpus.tokenizer()), (vocab_size as usize, TOKENIZER));
            assert_eq!(corpus.documents(), documents.len());
            assert_eq!(corpus.tokens(), documents.iter().map(|d| d.tokens.len() as u64).sum::<u64>());
            assert_eq!(
                corpus.sentences(),
                documents.iter().map(|d| d.sentence_ends.len() as u64).sum::<u64>()
            );
            for (i, document) in documents.iter().enumerate().rev() {
                assert_eq!(corpus.len_of(i), document.tokens.len());
                assert_eq!(&corpus.document(i).unwrap(), document, "document {i}");
            }
        }
    }
}

#[test]
fn corpora_without_documents_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(write(folder.path(), &[], 9, SHARD_BYTES), 1);
    let corpus = ShardedCorpus::open(folder.path()).unwrap();
    corpus.verify(|_| ()).unwrap();
    assert_eq!((corpus.documents(), corpus.tokens()), (0, 0));
}

#[test]
fn documents_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), TOKENIZER, 9, SHARD_BYTES).unwrap();
    let mut refuse = |tokens: &[u32], ends: &[usize]| {
        let document = Document { tokens: tokens.to_vec(), sentence_ends: ends.to_vec() };
        writer.push(&document).unwrap_err().to_string()
    };
    assert!(refuse(&[1, 9], &[2]).contains("id 9 is not below 9"));
    for ends in [&[][..], &[1], &[3], &[1, 1, 2], &[2, 1], &[0, 2, 2]] {
        assert!(refuse(&[1, 2], ends).contains("do not ascend"), "{ends:?}");
    }
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is half-written");
}

/// Message of opening, reading and verifying the corpus in `directory`.
fn fault(directory: &Path) -> Option<String> {
    let check = || {
        let corpus = ShardedCorpus::open(directory)?;
        (0..corpus.documents()).try_for_each(|i| corpus.document(i).map(|_| ()))?;
        corpus.verify(|_| ())
    };
    check().err().map(|e| e.to_string())
}

#[test]
fn every_flipped_bit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &documents(12, 70_000), 70_000, SHARD_BYTES);
    assert_eq!(fault(folder.path()), None);
    let file = path(folder.path(), 0);
    let bytes = std::fs::read(&file).unwrap();
    let mut kinds = std::collections::HashSet::new();
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            std::fs::write(&file, damaged).unwrap();
            let why = fault(folder.path()).unwrap_or_else(|| panic!("bit {bit} of byte {at} is not missed"));
            assert!(why.starts_with(&file.display().to_string()), "{why}");
            for kind in ["no token shard", "of version", "header is damaged", "is damaged"] {
                if why.contains(kind) {
                    kinds.insert(kind);
                }
            }
            let expected = match at {
                0..8 => "is no token shard",
                8..12 => ": expected version 1",
                12..HEADER_BYTES => "the header is damaged",
                _ => "is damaged",
            };
            assert!(why.contains(expected), "byte {at}: {why}");
        }
    }
    assert_eq!(kinds.len(), 4);
}

#[test]
fn files_of_another_length_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &documents(12, 100), 100, SHARD_BYTES);
    let file = path(folder.path(), 0);
    let bytes = std::fs::read(&file).unwrap();
    for length in (0..bytes.len()).step_by(7).chain([HEADER_BYTES, bytes.len() - 1]) {
        std::fs::write(&file, &bytes[..length]).unwrap();
        let why = fault(folder.path()).unwrap();
        assert!(why.contains("is cut off") && why.contains(&format!("has {length} bytes")), "{why}");
    }
    std::fs::write(&file, [&bytes[..], b"x"].concat()).unwrap();
    assert!(fault(folder.path()).unwrap().contains("has 1 bytes after its end"));

    // A file that shrinks while it is open gives an error, not a signal.
    std::fs::write(&file, &bytes).unwrap();
    let corpus = ShardedCorpus::open(folder.path()).unwrap();
    std::fs::write(&file, &bytes[..HEADER_BYTES]).unwrap();
    let why = corpus.document(11).unwrap_err().to_string();
    assert!(why.contains("was cut off since it was opened"), "{why}");
}

#[test]
fn headers_that_promise_more_than_the_file_has_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &documents(3, 100), 100, SHARD_BYTES);
    let file = path(folder.path(), 0);
    let bytes = std::fs::read(&file).unwrap();
    let header =
        Header::from_bytes(&file, bytes[..HEADER_BYTES].try_into().unwrap(), bytes.len() as u64).unwrap();
    let most = u32::MAX;
    for hostile in [
        Header { documents: most, ..header.clone() },
        Header { tokens: most, sentences: most, documents: most, vocab_size: most, ..header.clone() },
    ] {
        std::fs::write(&file, [&hostile.to_bytes(), &bytes[HEADER_BYTES..]].concat()).unwrap();
        let why = fault(folder.path()).unwrap();
        assert!(why.contains("is cut off"), "{why}");
    }
    // Another width than the vocabulary asks for.
    let mut wide = header.to_bytes();
    wide[12] = 4;
    let crc = crc32fast::hash(&wide[..84]);
    wide[84..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&file, [&wide, &bytes[HEADER_BYTES..]].concat()).unwrap();
    assert!(fault(folder.path()).unwrap().contains("4 bytes a token for a vocabulary of 100"));
}

#[test]
fn shards_of_other_corpora_and_missing_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    let shards = write(&a, &documents(40, 100), 100, 300);
    let mut writer = ShardWriter::create(&b, TokenizerHash([8; 32]), 100, 300).unwrap();
    documents(40, 100).iter().for_each(|document| writer.push(document).unwrap());
    writer.finish().unwrap();

    let second = std::fs::read(path(&a, 1)).unwrap();
    std::fs::copy(path(&b, 1), path(&a, 1)).unwrap();
    assert!(fault(&a).unwrap().ends_with("is of another tokenizer than shard 0"));
    std::fs::copy(path(&a, 2), path(&a, 1)).unwrap();
    assert!(fault(&a).unwrap().ends_with("is shard 2, moved or renamed"));
    std::fs::write(path(&a, 1), second).unwrap();
    assert_eq!(fault(&a), None);

    std::fs::remove_file(path(&a, shards - 1)).unwrap();
    let why = fault(&a).unwrap();
    assert!(why.contains(&format!("{} shards, none of which is the last", shards - 1)), "{why}");
    let why = fault(&folder.path().join("none/such")).unwrap();
    assert!(why.contains("shard-00000.tokens: no such file: the directory"), "{why}");

    let corpus = ShardedCorpus::open(&b).unwrap();
    corpus.check_tokenizer(Path::new("tokenizer.json"), TokenizerHash([8; 32])).unwrap();
    let why = corpus.check_tokenizer(Path::new("tokenizer.json"), TOKENIZER).unwrap_err().to_string();
    assert!(why.starts_with("tokenizer.json: SHA-256 is 0707") && why.contains("has 0808"), "{why}");
}

#[test]
fn interrupted_runs_are_cleared_and_corpora_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    assert_eq!(leftover(&dir.join("none")).unwrap(), Leftover::Nothing);
    clear(&dir.join("none")).unwrap();

    let mut writer = ShardWriter::create(dir, TOKENIZER, 100, 300).unwrap();
    documents(40, 100).iter().for_each(|document| writer.push(document).unwrap());
    std::mem::forget(writer); // as a process that is killed
    std::fs::write(dir.join("notes"), "").unwrap();
    assert_eq!(leftover(dir).unwrap(), Leftover::Interrupted);
    let refused = ShardWriter::create(dir, TOKENIZER, 100, 300).unwrap_err().to_string();
    assert!(refused.ends_with("already holds token shards"), "{refused}");
    clear(dir).unwrap();
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1, "only the notes remain");

    write(dir, &documents(40, 100), 100, 300);
    assert_eq!(leftover(dir).unwrap(), Leftover::Corpus);
    std::fs::write(path(dir, 0), "damaged").unwrap();
    assert_eq!(leftover(dir).unwrap(), Leftover::Corpus);
}

#[test]
fn hashes_are_those_of_sha256sum() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(TokenizerHash::of(b"").to_string(), empty);
}

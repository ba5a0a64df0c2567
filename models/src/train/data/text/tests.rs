use super::*;
use std::io::Write as _;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Writes a file and reads its documents.
fn read(name: &str, bytes: &[u8], options: &TextOptions) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    let sources = TextSources::find(std::slice::from_ref(&file)).unwrap();
    assert_eq!(sources.bytes(), bytes.len() as u64);
    let mut documents = sources.documents(options);
    let mut texts = Vec::new();
    while let Some(document) = documents.next() {
        match document {
            Ok(document) => texts.push(document.text),
            Err(e) => {
                assert!(documents.next().is_none(), "nothing follows an error");
                let message = e.to_string();
                let place = format!("{}: ", file.display());
                return Err(message.strip_prefix(&place).expect("the file's name").to_owned());
            }
        }
    }
    assert_eq!(documents.bytes_read(), bytes.len() as u64);
    Ok(texts)
}

fn split(documents: DocumentSplit) -> TextOptions {
    TextOptions { documents, ..TextOptions::default() }
}

const TEXT: &str = "\u{feff}one\r\ntwo\n\n \n\nthree\nfour \u{e9}";

#[test]
fn plain_text_is_split_at_blank_lines_at_lines_or_at_files() {
    for (by, expected) in [
        (DocumentSplit::BlankLines, &["one\ntwo", "three\nfour \u{e9}"][..]),
        (DocumentSplit::Lines, &["one", "two", "three", "four \u{e9}"]),
        (DocumentSplit::Files, &["one\ntwo\n\n \n\nthree\nfour \u{e9}"]),
    ] {
        for (name, bytes) in [
            ("a.txt", TEXT.as_bytes().to_vec()),
            ("a.TXT.GZ", gzip(TEXT.as_bytes())),
            ("a.zst", zstd(TEXT.as_bytes())),
        ] {
            assert_eq!(read(name, &bytes, &split(by)).unwrap(), expected, "{name}");
        }
    }
    assert_eq!(read("empty", b"", &TextOptions::default()).unwrap(), [""; 0]);
    assert_eq!(read("blank", b" \n\r\n\n", &split(DocumentSplit::Files)).unwrap(), [""; 0]);
}

#[test]
fn compressed_files_may_have_several_parts() {
    let [a, b] = ["one\nt", "wo\n\nthree"].map(str::as_bytes);
    let expected = ["one\ntwo", "three"];
    assert_eq!(read("a.gz", &[gzip(a), gzip(b)].concat(), &TextOptions::default()).unwrap(), expected);
    let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"xyz"].concat();
    let frames = [skippable.clone(), zstd(a), skippable.clone(), zstd(b), skippable].concat();
    assert_eq!(read("a.zstd", &frames, &TextOptions::default()).unwrap(), expected);
}

#[test]
fn damaged_compressed_files_are_errors() {
    let text = "a line of text\n".repeat(5000);
    for (name, bytes) in [("a.gz", gzip(text.as_bytes())), ("a.zst", zstd(text.as_bytes()))] {
        let options = TextOptions::default();
        let cut = read(name, &bytes[..bytes.len() - 5], &options).unwrap_err();
        assert!(cut.contains("cannot be decompressed"), "{name}: {cut}");
        let trailing = read(name, &[&bytes, &b"text"[..]].concat(), &options).unwrap_err();
        assert!(trailing.contains("cannot be decompressed"), "{name}: {trailing}");
        let plain = read(name, text.as_bytes(), &options).unwrap_err();
        assert!(plain.starts_with("line 1: cannot be decompressed"), "{name}: {plain}");
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1; // in the checksum of zstd, in the length of gzip
        let flipped = read(name, &flipped, &options).unwrap_err();
        assert!(flipped.contains("cannot be decompressed"), "{name}: {flipped}");
    }
}

#[test]
fn json_lines_hold_one_document_each() {
    let lines =
        "{\"id\":[1,{}],\"text\":\"one\\ntwo\"}\n\n{\"text\":\" \"}\r\n{\"text\":\"thr\\u00e9e\",\"x\":null}";
    for (name, bytes) in [("a.jsonl", lines.as_bytes().to_vec()), ("a.ndjson.gz", gzip(lines.as_bytes()))] {
        assert_eq!(read(name, &bytes, &TextOptions::default()).unwrap(), ["one\ntwo", "thr\u{e9}e"]);
    }
    let options = TextOptions { field: "body".to_owned(), ..TextOptions::default() };
    assert_eq!(read("a.jsonl", b"{\"text\":3,\"body\":\"b\"}", &options).unwrap(), ["b"]);
    for (line, expected) in [
        ("{\"text\":3}", "line 2: field \"text\": invalid type: integer `3`, expected a string"),
        ("{\"txt\":\"\"}", "line 2: expected a field \"text\" with text, found none"),
        ("[\"text\"]", "line 2: invalid type: sequence, expected a JSON object with the field \"text\""),
        ("{\"text\":\"x\"", "line 2: EOF while parsing an object at byte 11"),
        ("{\"text\":\"x\"} {}", "line 2: trailing characters at byte 14"),
        (&format!("{{\"a\":{}", "[".repeat(100_000)), "line 2: EOF while parsing a list at byte"),
    ] {
        let error = read("a.jsonl", format!("{{\"text\":\"\"}}\n{line}").as_bytes(), &TextOptions::default());
        let error = error.unwrap_err();
        assert!(error.starts_with(expected), "{line:.40}: {error}");
    }
}

#[test]
fn errors_of_lines_name_the_line() {
    let error = read("a.txt", b"one\n\nt\xe9wo", &TextOptions::default()).unwrap_err();
    assert_eq!(error, "line 3: byte 2 is 0xe9: expected UTF-8");
    let short = |documents| TextOptions { documents, max_bytes: 8, ..TextOptions::default() };
    for end in ["", "\n", "\r\n"] {
        let fits = format!("12345678{end}");
        assert_eq!(read("a.txt", fits.as_bytes(), &short(DocumentSplit::Files)).unwrap(), ["12345678"]);
        let long = format!("one\n\n123456789{end}");
        let error = read("a.txt", long.as_bytes(), &short(DocumentSplit::Lines)).unwrap_err();
        assert_eq!(error, "line 3: has more than 8 bytes, the upper bound");
    }
    let error = read("a.txt", b"\none\ntwo\nthree", &short(DocumentSplit::Files)).unwrap_err();
    assert_eq!(error, "line 4: the document that starts in line 2 has more than 8 bytes, the upper bound");
    // A small file of zeros that decompresses to a gigabyte without a line end.
    let bomb = gzip(&vec![0; 1 << 24]);
    let error = read("a.gz", &bomb, &TextOptions { max_bytes: 1 << 20, ..TextOptions::default() });
    assert_eq!(error.unwrap_err(), "line 1: has more than 1048576 bytes, the upper bound");
}

#[test]
fn directories_are_read_in_the_order_of_their_paths() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::create_dir_all(dir.join("b/c")).unwrap();
    std::fs::create_dir(dir.join("empty")).unwrap();
    for name in
        ["z.txt", "b/c/2.jsonl.zst", "b/1.txt.gz", "a.txt", ".hidden.txt", "b.json", "notes", "C.ndjson"]
    {
        std::fs::write(dir.join(name), "").unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir, dir.join("b/loop")).unwrap();
    let found = TextSources::find(&[dir.join("notes"), dir.to_owned()]).unwrap();
    let names: Vec<_> = found.files().iter().map(|file| file.strip_prefix(dir).unwrap()).collect();
    assert_eq!(
        names,
        ["notes", "C.ndjson", "a.txt", "b/1.txt.gz", "b/c/2.jsonl.zst", "z.txt"].map(Path::new)
    );
    let error = TextSources::find(&[dir.join("empty")]).unwrap_err().to_string();
    assert!(error.contains("empty: holds no file that ends in .txt"), "{error}");
    let error = TextSources::find(&[dir.join("none.txt")]).unwrap_err().to_string();
    assert!(error.starts_with(&dir.join("none.txt").display().to_string()), "{error}");
}

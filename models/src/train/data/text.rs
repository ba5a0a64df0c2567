//! Text sources: documents and their sentences from plain text and JSON Lines, compressed or not.
//!
//! | file | content |
//! |---|---|
//! | `.jsonl`, `.ndjson` | one JSON object a line; the string in one field is a document |
//! | `.txt`, and every other name | plain text in UTF-8, split into documents by [`DocumentSplit`] |
//!
//! Each may end in `.gz`, `.zst` or `.zstd` too. Files are streamed: memory holds one line and one document.
//!
//! ```no_run
//! use tilewright::train::data::text::{TextOptions, TextSources};
//!
//! let sources = TextSources::find(&["corpus".into()])?;
//! for document in sources.documents(&TextOptions::default()) {
//!     let document = document?;
//!     println!("{} sentences", document.sentences.len());
//! }
//! # Ok::<(), tilewright::Error>(())
//! ```

mod field;
mod lines;
mod sentences;
mod zstd;

use crate::checkpoint::files;
use crate::error::Error;
use lines::Lines;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Extent of a document in plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DocumentSplit {
    /// Blank lines separate documents, as in BERT's `create_pretraining_data.py`.
    #[default]
    BlankLines,
    /// Each line is a document.
    Lines,
    /// Each file is a document.
    Files,
}

/// Extent of a sentence in a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SentenceSplit {
    /// Each line is a sentence, as in BERT's `create_pretraining_data.py`.
    #[default]
    Lines,
    /// Running text. A sentence ends at a blank line. It also ends where `.`, `!`, `?` or `…`, and any closing quotes
    /// and brackets, are followed by white space and then by an upper-case letter or an opening quote.
    ///
    /// The rule knows no abbreviations: it splits `Dr. Who`. It does not split before digits, lower-case letters, or
    /// in scripts without these marks.
    Punctuation,
    /// The document is one sentence.
    Whole,
}

/// Form of text sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Extent of a document in plain text. JSON Lines hold one document a line.
    pub documents: DocumentSplit,
    /// Extent of a sentence.
    pub sentences: SentenceSplit,
    /// Field of JSON Lines that holds the text.
    pub field: String,
    /// Upper bound of the bytes of a line and of a document, decompressed. Longer ones are errors.
    pub max_bytes: usize,
}

/// [`TextOptions::max_bytes`] by default. Tokenizing a document in one piece takes about 100 bytes of memory for each
/// byte of its text.
pub const MAX_BYTES: usize = 16 << 20;

/// Text of a batch: enough work for all threads, small beside a long document.
const BATCH_BYTES: usize = 4 << 20;

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            documents: DocumentSplit::default(),
            sentences: SentenceSplit::default(),
            field: "text".to_owned(),
            max_bytes: MAX_BYTES,
        }
    }
}

/// A document of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextDocument {
    /// The text. Lines end in `\n`.
    pub text: String,
    /// Ranges of bytes in `text`, one for each sentence, without white space around it; none is empty.
    pub sentences: Vec<Range<usize>>,
}

impl TextDocument {
    /// Parts of the text that a tokenizer takes one at a time: each sentence if lines are sentences, else the whole
    /// text, in which white space between sentences counts.
    pub fn pieces(&self, by: SentenceSplit) -> impl Iterator<Item = &str> {
        let whole = (by != SentenceSplit::Lines).then_some(&*self.text);
        let sentences = if whole.is_some() { &[][..] } else { &self.sentences };
        whole.into_iter().chain(sentences.iter().map(|range| &self.text[range.clone()]))
    }
}

/// Files of text, in the order in which they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSources {
    files: Vec<PathBuf>,
    bytes: u64,
}

impl TextSources {
    /// Finds the files that `paths` name. A directory stands for all files below it whose names end as the table
    /// [above](self) lists, `.txt` included, in the order of their paths' bytes. Hidden files, and links to
    /// directories, are left out.
    ///
    /// # Errors
    /// If a path does not exist or is neither a regular file nor a directory, or if a directory has no such file.
    pub fn find(paths: &[PathBuf]) -> Result<Self, Error> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        for path in paths {
            if path.is_dir() {
                let before = files.len();
                walk(path, &mut files)?;
                if files.len() == before {
                    let why =
                        "holds no file that ends in .txt, .jsonl or .ndjson, with or without .gz or .zst";
                    return Err(Error::File { path: path.clone(), why: why.to_owned() });
                }
            } else {
                files.push(path.clone());
            }
        }
        for path in &files {
            bytes += files::open(path)?.1;
        }
        Ok(Self { files, bytes })
    }

    /// The files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Sum of the files' lengths, compressed as they are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the documents. Documents without text are left out.
    pub fn documents(&self, options: &TextOptions) -> TextDocuments {
        TextDocuments {
            files: self.files.clone().into_iter(),
            lines: None,
            options: options.clone(),
            read: Arc::default(),
        }
    }
}

/// Adds all files of text below `directory`.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let io = |source| Error::Io { path: directory.to_owned(), source };
    let entries: Result<Vec<_>, _> = std::fs::read_dir(directory).map_err(io)?.collect();
    let mut entries = entries.map_err(io)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(io)?.is_dir() {
            walk(&path, files)?;
        } else if !path.is_dir() && Format::of(&path).is_known {
            files.push(path);
        }
    }
    Ok(())
}

/// Format of a file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    compression: Option<Compression>,
    is_json: bool,
    /// True if the name ends as text of this format does.
    is_known: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
}

impl Format {
    fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let (stem, compression) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Some(Compression::Gzip)),
            Some((stem, "zst" | "zstd")) => (stem, Some(Compression::Zstd)),
            _ => (&*name, None),
        };
        let is_json = stem.ends_with(".jsonl") || stem.ends_with(".ndjson");
        Self { compression, is_json, is_known: is_json || stem.ends_with(".txt") }
    }
}

/// Documents of [`TextSources`], in order. Ends after the first error.
#[derive(Debug)]
pub struct TextDocuments {
    files: std::vec::IntoIter<PathBuf>,
    /// The file that is being read.
    lines: Option<(Lines, bool)>,
    options: TextOptions,
    /// Bytes read from the files.
    read: Arc<AtomicU64>,
}

impl TextDocuments {
    /// Bytes read so far, compressed as they are: at most [`TextSources::bytes`], unless a file grows.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The next documents, enough for all threads. `None` at the end.
    pub(super) fn batch(&mut self) -> Result<Option<Vec<TextDocument>>, Error> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let Some(document) = self.next().transpose()? else { break };
            bytes += document.text.len();
            batch.push(document);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// The next document, if there is one.
    fn advance(&mut self) -> Result<Option<TextDocument>, Error> {
        loop {
            if self.lines.is_none() {
                let Some(path) = self.files.next() else { return Ok(None) };
                let format = Format::of(&path);
                let lines = Lines::open(path, format.compression, self.options.max_bytes, &self.read)?;
                self.lines = Some((lines, format.is_json));
            }
            let (lines, is_json) = self.lines.as_mut().expect("a file is open");
            let text = match is_json {
                true => json_document(lines, &self.options)?,
                false => plain_document(lines, &self.options)?,
            };
            let Some(text) = text else {
                self.lines = None;
                continue;
            };
            let sentences = sentences::split(&text, self.options.sentences);
            if !sentences.is_empty() {
                return Ok(Some(TextDocument { text, sentences }));
            }
        }
    }
}

impl Iterator for TextDocuments {
    type Item = Result<TextDocument, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.files = Vec::new().into_iter();
            self.lines = None;
        }
        next
    }
}

/// Text of the next line, a JSON object. `None` at the end of the file.
fn json_document(lines: &mut Lines, options: &TextOptions) -> Result<Option<String>, Error> {
    while let Some(line) = lines.next()? {
        if !line.trim().is_empty() {
            let text = field::string(line, &options.field).map_err(|why| lines.error(&why))?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Text up to the end of the document. `None` at the end of the file.
fn plain_document(lines: &mut Lines, options: &TextOptions) -> Result<Option<String>, Error> {
    let (mut text, mut first) = (String::new(), 0);
    while let Some(line) = lines.next()? {
        let is_blank = line.trim().is_empty();
        match options.documents {
            _ if is_blank && text.is_empty() => continue,
            DocumentSplit::BlankLines if is_blank => break,
            DocumentSplit::Lines => return Ok(Some(line.to_owned())),
            _ => {}
        }
        let fits = text.len() + line.len() < options.max_bytes || text.is_empty();
        if fits && !text.is_empty() {
            text.push('\n');
        }
        if fits {
            text.push_str(line);
        }
        let number = lines.number();
        if first == 0 {
            first = number;
        }
        if !fits {
            let max = options.max_bytes;
            let why = format!(
                "the document that starts in line {first} has more than {max} bytes, the upper bound"
            );
            return Err(lines.error(&why));
        }
    }
    Ok((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests;

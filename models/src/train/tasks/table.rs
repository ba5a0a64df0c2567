//! Tables with column names: CSV, TSV and JSON lines.
//!
//! ```text
//! .csv      fields may stand in double quotes (RFC 4180)
//! .tsv      fields have no quotes: a quote is text
//! .jsonl    an object for each line; values are strings, numbers or booleans
//! ```

use crate::checkpoint::files;
use crate::error::Error;
use serde_json::{Map, Value};
use std::path::Path;

/// Names of the columns that a task reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Text, or the first one of a pair.
    pub text: String,
    /// Second text of a pair.
    pub second: Option<String>,
    /// Label: a class, a number, or the target text.
    pub label: Option<String>,
}

/// Row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRow {
    /// Line of the file, from 1 up.
    pub line: u64,
    /// Text.
    pub text: String,
    /// Second text of a pair.
    pub second: Option<String>,
    /// Label, as the file writes it.
    pub label: Option<String>,
}

/// Error at a line of a file.
pub(super) fn at_line(path: &Path, line: u64, why: impl std::fmt::Display) -> Error {
    Error::File { path: path.to_owned(), why: format!("line {line}: {why}") }
}

/// Text of the file `path`, without a byte order mark.
///
/// # Errors
/// As [`files::bytes`]; [`Error::File`] if a line is not UTF-8.
pub(super) fn text(path: &Path) -> Result<String, Error> {
    let text = String::from_utf8(files::bytes(path)?).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        at_line(path, line as u64, "expected UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads the rows of the table `path`, whose extension names its format.
pub(super) fn read(path: &Path, columns: &Columns) -> Result<Vec<TextRow>, Error> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match &*extension {
        "csv" => separated(path, columns, csv::ReaderBuilder::new().delimiter(b',')),
        "tsv" => separated(path, columns, csv::ReaderBuilder::new().delimiter(b'\t').quoting(false)),
        "jsonl" | "ndjson" | "json" => json_lines(path, columns),
        _ => Err(Error::File {
            path: path.to_owned(),
            why: "expected a table whose name ends in .csv, .tsv or .jsonl".to_owned(),
        }),
    }
}

fn separated(path: &Path, columns: &Columns, format: &csv::ReaderBuilder) -> Result<Vec<TextRow>, Error> {
    let text = text(path)?;
    let text = text.as_bytes();
    let mut reader = format.from_reader(text);
    let damaged = |e: csv::Error| match e.kind() {
        csv::ErrorKind::UnequalLengths { pos: Some(at), expected_len, len } => {
            at_line(path, line_after(text, 0, at).1, format!("expected {expected_len} columns, found {len}"))
        }
        _ => Error::File { path: path.to_owned(), why: e.to_string() },
    };
    let names = reader.headers().map_err(damaged)?.clone();
    let column = |name: &str| {
        names.iter().position(|found| found == name).ok_or_else(|| {
            let found = names.iter().collect::<Vec<_>>().join(", ");
            at_line(path, 1, format!("expected a column {name}, found {found}"))
        })
    };
    let optional = |name: &Option<String>| name.as_deref().map(column).transpose();
    let (of_text, of_second) = (column(&columns.text)?, optional(&columns.second)?);
    let of_label = optional(&columns.label)?;
    let mut rows = Vec::new();
    // Bytes before the last record, and its line.
    let (mut counted, mut line) = (0, 1);
    for record in reader.records() {
        let record = record.map_err(damaged)?;
        if let Some(at) = record.position() {
            let (start, more) = line_after(text, counted, at);
            (counted, line) = (start, line + more - 1);
        }
        let field = |column: usize| record.get(column).unwrap_or_default().to_owned();
        rows.push(TextRow {
            line,
            text: field(of_text),
            second: of_second.map(field),
            label: of_label.map(field),
        });
    }
    Ok(rows)
}

/// Start of a record, and its line if that of byte `from` is 1. The crate's own number is that of the line before if lines
/// end in CR LF: a record ends at the CR, and the next one begins at the LF.
fn line_after(text: &[u8], from: usize, at: &csv::Position) -> (usize, u64) {
    let start = (at.byte() as usize).clamp(from, text.len());
    let ends = text[start..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let start = start + ends;
    (start, 1 + text[from..start].iter().filter(|&&byte| byte == b'\n').count() as u64)
}

fn json_lines(path: &Path, columns: &Columns) -> Result<Vec<TextRow>, Error> {
    let mut rows = Vec::new();
    for (line, json) in (1..).zip(text(path)?.lines()) {
        if json.trim().is_empty() {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_str(json).map_err(|e| {
            // The number of the line in the message is that in the one line of JSON.
            let (message, column) = (e.to_string(), e.column());
            let message = message.split(" at line ").next().unwrap_or_default();
            at_line(path, line, format!("column {column}: expected a JSON object, found a fault: {message}"))
        })?;
        let field = |name: &String| match object.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            Some(found) => {
                Err(at_line(path, line, format!("{name}: expected a string or a number, found {found}")))
            }
            None => {
                let found = object.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Err(at_line(path, line, format!("expected a field {name}, found {found}")))
            }
        };
        rows.push(TextRow {
            line,
            text: field(&columns.text)?,
            second: columns.second.as_ref().map(field).transpose()?,
            label: columns.label.as_ref().map(field).transpose()?,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, content: &[u8]) -> Result<Vec<TextRow>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let columns = Columns { text: "a".into(), second: None, label: Some("b".into()) };
        read(&path, &columns).map_err(|e| e.to_string().split_once(": ").unwrap().1.to_owned())
    }

    fn row(line: u64, text: &str, label: &str) -> TextRow {
        TextRow { line, text: text.into(), second: None, label: Some(label.into()) }
    }

    #[test]
    fn tables_give_rows_with_lines() {
        let csv = "\u{feff}b,c,a\r\n1,,\"x, \"\"y\"\"\nz\"\r\n\r\n2,3,\u{e9}\r\n";
        assert_eq!(of("t.csv", csv.as_bytes()), Ok(vec![row(2, "x, \"y\"\nz", "1"), row(5, "\u{e9}", "2")]));
        assert_eq!(of("t.tsv", b"a\tb\n\"x\ty\n"), Ok(vec![row(2, "\"x", "y")]));
        let json = b"{\"a\": \"x\", \"b\": 1, \"c\": []}\n\n{\"b\": true, \"a\": \"\"}\n";
        assert_eq!(of("t.jsonl", json), Ok(vec![row(1, "x", "1"), row(3, "", "true")]));
        assert_eq!(of("t.csv", b"a,b\n"), Ok(vec![]));
    }

    #[test]
    fn damaged_tables_name_the_line() {
        for (name, content, expected) in [
            ("t.csv", &b"a,b\n1,2\n3\n"[..], "line 3: expected 2 columns, found 1"),
            ("t.csv", b"a,c\n1,2\n", "line 1: expected a column b, found a, c"),
            ("t.csv", b"", "line 1: expected a column a, found "),
            ("t.tsv", b"a\tb\nx\ty\n\xff\t1\n", "line 3: expected UTF-8"),
            ("t.jsonl", b"{\"a\": \"x\", \"b\": 1}\n{\"a\": ]\n", "line 2: column 7: expected a JSON object"),
            ("t.jsonl", b"[1]\n", "line 1: column 0: expected a JSON object"),
            ("t.jsonl", b"{\"a\": \"x\"}\n", "line 1: expected a field b, found a"),
            ("t.jsonl", b"{\"a\": null, \"b\": 1}\n", "line 1: a: expected a string or a number, found null"),
            ("t.txt", b"a", "expected a table whose name ends in .csv, .tsv or .jsonl"),
        ] {
            let found = of(name, content).unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }
}

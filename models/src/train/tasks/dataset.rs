//! Labelled examples of a file, and the labels of a task.

use super::Task;
use super::conll::{self, TaggedSentence};
use super::squad::{self, Question};
use super::table::{self, Columns, TextRow, at_line};
use crate::checkpoint::config::Fields;
use crate::error::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Labelled examples of a file.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub(super) task: Task,
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

/// Content of a file, by the kind of its task.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Rows(Vec<TextRow>),
    Sentences(Vec<TaggedSentence>),
    Questions(Vec<Question>),
}

impl Dataset {
    /// Reads the file `path` for `task`: see [`tasks`](super).
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`], which names the line, if the file is damaged, has no examples or lacks a column.
    pub fn read(task: Task, path: &Path, columns: &Columns) -> Result<Self, Error> {
        let content = match task {
            Task::Tag => Content::Sentences(conll::read(path, columns)?),
            Task::Answer => Content::Questions(squad::read(path)?),
            _ => Content::Rows(table::read(path, columns)?),
        };
        let dataset = Self { task, path: path.to_owned(), content };
        match dataset.len() {
            0 => Err(Error::File { path: dataset.path, why: "has no examples".to_owned() }),
            _ => Ok(dataset),
        }
    }

    /// Number of rows, sentences or questions.
    pub fn len(&self) -> usize {
        match &self.content {
            Content::Rows(rows) => rows.len(),
            Content::Sentences(sentences) => sentences.len(),
            Content::Questions(questions) => questions.len(),
        }
    }

    /// True if the file has no examples; [`read`](Self::read) refuses it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Labels for a new head: those of `id2label` in the checkpoint's config if they include all labels of the file;
    /// else the labels of the file, sorted, integers by value. Tasks without classes have none, but a regression has one.
    ///
    /// # Errors
    /// [`Error::File`] if a label is empty, or all examples have one label; errors of the config.
    pub fn labels(&self, config: &Fields) -> Result<Vec<String>, Error> {
        match self.task {
            Task::Regress => return Ok(vec!["LABEL_0".to_owned()]),
            task if !task.has_classes() => return Ok(Vec::new()),
            _ => {}
        }
        let mut found = BTreeSet::new();
        match &self.content {
            Content::Rows(rows) => {
                for TextRow { line, label, .. } in rows {
                    match label.as_deref() {
                        None | Some("") => {
                            return Err(at_line(&self.path, *line, "expected a label, found none"));
                        }
                        Some(label) => found.insert(label),
                    };
                }
            }
            Content::Sentences(sentences) => {
                found.extend(sentences.iter().flat_map(|sentence| sentence.tags.iter().map(String::as_str)));
            }
            Content::Questions(_) => {}
        }
        let known = known_labels(config)?;
        if found.iter().all(|label| known.iter().any(|known| known == label)) {
            return Ok(known);
        }
        if found.len() < 2 {
            let why = format!("expected at least 2 labels, found {} alone", Vec::from_iter(found).join(", "));
            return Err(Error::File { path: self.path.clone(), why });
        }
        let mut labels: Vec<String> = found.into_iter().map(str::to_owned).collect();
        let number = |label: &String| label.parse::<i64>();
        if labels.iter().all(|label| number(label).is_ok()) {
            labels.sort_by_key(|label| number(label).unwrap_or_default());
        }
        Ok(labels)
    }
}

/// Labels in the config, by number; none if it has none, or their numbers have gaps.
pub(super) fn known_labels(config: &Fields) -> Result<Vec<String>, Error> {
    let labels: BTreeMap<usize, String> = config.labels()?.unwrap_or_default();
    let complete = labels.keys().enumerate().all(|(i, &number)| i == number);
    Ok(if complete { labels.into_values().collect() } else { Vec::new() })
}

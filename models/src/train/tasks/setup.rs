//! Model of a task: a checkpoint opened with the class of the task, its tokenizer and its labels.

use super::dataset::known_labels;
use super::{Dataset, Task};
use crate::architectures::Architecture;
use crate::arithmetic::Arithmetic;
use crate::checkpoint::arena::Arena;
use crate::checkpoint::config::Fields;
use crate::checkpoint::files;
use crate::checkpoint::initial::Initialization;
use crate::checkpoint::save;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::model::Model;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tilewright_kernels::Backend;

/// Everything about a task's model but the model: class, config, tokenizer, labels.
#[derive(Clone, Debug)]
pub struct TaskSetup {
    /// Task.
    pub task: Task,
    /// Class of transformers.
    pub architecture: Architecture,
    /// config.json of the class, with the labels.
    pub config: Fields,
    /// Tokenizer of the checkpoint.
    pub tokenizer: Tokenizer,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Upper bound of the tokens of a sequence; longer texts are cut.
    pub max_length: usize,
    /// Directory of the checkpoint.
    directory: PathBuf,
}

/// A model in training for a task.
#[derive(Debug)]
pub struct TaskModel {
    /// Class, config, tokenizer, labels.
    pub setup: TaskSetup,
    /// Model.
    pub model: Box<dyn Model>,
    /// Its parameters.
    pub arena: Arena,
    /// Parameters of the head that the checkpoint lacks: they have initial values.
    pub initialized: Vec<String>,
    /// Tensors of the checkpoint that the class does not read.
    pub unread: Vec<String>,
}

impl TaskModel {
    /// Opens the checkpoint in the directory `dir` for fine-tuning on `data`. A head that the checkpoint lacks, or has
    /// for other labels, takes initial values of the seed. `max_length` limits the tokens of a sequence further.
    ///
    /// # Errors
    /// If a file is missing or damaged, the family has no class for the task, a tensor outside of the head is missing, or
    /// `max_length` exceeds the model's length.
    pub fn for_training(
        dir: &Path,
        data: &Dataset,
        max_length: Option<usize>,
        seed: u64,
        backend: Backend,
    ) -> Result<Self, Error> {
        let task = data.task;
        let architecture = Architecture::of_kind(dir, task.classes())?;
        if task == Task::Regress && architecture.model_type == "bart" {
            let why = format!("{} has no regression", architecture.class);
            return Err(Error::File { path: dir.to_owned(), why });
        }
        let mut config = Fields::open(dir)?;
        // Labels of a head for another task are no classes of this one.
        let is_of_task = Architecture::of(dir).is_ok_and(|of| of.class == architecture.class);
        let labels = match is_of_task {
            true => data.labels(&config)?,
            false => data.labels(&Fields::default())?,
        };
        set_labels(&mut config, task, architecture, &labels);
        let initialization = Initialization::new(architecture.model_type, &config, seed)?;
        let weights = Weights::open(dir)?.with_full_names().with_missing(initialization);
        Self::open(dir, task, architecture, config, labels, max_length, weights, backend)
    }

    /// Opens the checkpoint in the directory `dir` for an evaluation.
    ///
    /// # Errors
    /// As [`for_training`](Self::for_training), and if the checkpoint is of another class or a tensor is missing.
    pub fn for_evaluation(
        dir: &Path,
        task: Task,
        max_length: Option<usize>,
        backend: Backend,
    ) -> Result<Self, Error> {
        let architecture = Architecture::of(dir)?;
        if !task.classes().iter().any(|kind| architecture.class.ends_with(kind)) {
            let kinds = task.classes().join(" or .. ");
            let why = format!("{}: expected a class .. {kinds} for {}", architecture.class, task.name());
            return Err(Error::File { path: dir.to_owned(), why });
        }
        let config = Fields::open(dir)?;
        let labels = if task.has_classes() { known_labels(&config)? } else { Vec::new() };
        if task.has_classes() && labels.len() < 2 {
            return Err(config.error("expected id2label with at least 2 labels".to_owned()));
        }
        Self::open(dir, task, architecture, config, labels, max_length, Weights::open(dir)?, backend)
    }

    #[allow(clippy::too_many_arguments, reason = "the two callers prepare them")]
    fn open(
        dir: &Path,
        task: Task,
        architecture: Architecture,
        config: Fields,
        labels: Vec<String>,
        max_length: Option<usize>,
        weights: Weights,
        backend: Backend,
    ) -> Result<Self, Error> {
        if !dir.is_dir() || files::find_gguf(dir).is_some() {
            let why = "expected a directory with config.json, tokenizer.json and safetensors".to_owned();
            return Err(Error::File { path: dir.to_owned(), why });
        }
        let mut tokenizer = Tokenizer::open(dir)?;
        let weights = weights.trainable();
        let model = architecture.open_with(&config, weights.clone(), Arithmetic::f32(backend))?;
        let initialized = weights.initialized();
        let parts = model.parts();
        let head: Vec<&str> = parts
            .iter()
            .filter(|part| part.name == "head")
            .flat_map(|part| part.parameters.iter().map(|parameter| parameter.name))
            .collect();
        if let Some(name) = initialized.iter().find(|name| !head.contains(&name.as_str())) {
            let why = format!("missing, or not of the shape that {} expects", architecture.class);
            return Err(Error::Tensor { path: dir.to_owned(), name: name.clone(), why });
        }
        let of_model = model.max_length();
        if let Some(asked) = max_length.filter(|&asked| asked > of_model) {
            let why = format!("expected at most {of_model} tokens, the model's positions, found {asked}");
            return Err(Error::Input { name: "maximum length", why });
        }
        let own = tokenizer.max_length().unwrap_or(usize::MAX).min(of_model);
        let max_length = max_length.unwrap_or(own);
        // Texts of a causal LM are split, and contexts of questions have windows.
        if !matches!(task, Task::Causal | Task::Answer) {
            tokenizer.truncate(max_length)?;
        }
        let unread = weights.unread().map(str::to_owned).collect();
        let directory = dir.to_owned();
        let setup = TaskSetup { task, architecture, config, tokenizer, labels, max_length, directory };
        Ok(Self { setup, model, arena: weights.into_arena(), initialized, unread })
    }
}

impl TaskSetup {
    /// Writes the model to the directory `to` in Hugging Face's layout: parameters, tokenizer, config with labels.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, to: &Path, arena: &Arena) -> Result<(), Error> {
        save::save_model(&self.directory, to, &self.config, arena)
    }
}

/// Writes the class and its labels to the config.
fn set_labels(config: &mut Fields, task: Task, architecture: Architecture, labels: &[String]) {
    config.set("architectures", vec![architecture.class]);
    // Parameters are written as f32.
    config.set("dtype", "float32");
    config.set("torch_dtype", Value::Null);
    if labels.is_empty() {
        return;
    }
    let numbered = || labels.iter().enumerate();
    let id2label: Map<String, Value> =
        numbered().map(|(i, label)| (i.to_string(), label.clone().into())).collect();
    let label2id: Map<String, Value> = numbered().map(|(i, label)| (label.clone(), i.into())).collect();
    config.set("id2label", id2label);
    config.set("label2id", label2id);
    config.set("num_labels", Value::Null);
    let problem = match task {
        Task::Classify | Task::Pairs => "single_label_classification".into(),
        Task::Regress => "regression".into(),
        _ => Value::Null,
    };
    config.set("problem_type", problem);
}

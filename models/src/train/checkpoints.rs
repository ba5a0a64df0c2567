//! Checkpoints of a run: directories in its output.
//!
//! ```text
//! OUT/checkpoint-STEP/model.safetensors, config.json, ..    the model, in Hugging Face's layout
//! OUT/checkpoint-STEP/optimizer.safetensors                 states of the optimizer
//! OUT/checkpoint-STEP/trainer_state.json                    number of the step; what the run keeps beside its trainer
//! ```
//!
//! A directory is written whole or not at all. The two newest are kept: should the disk lose the last one, the run goes
//! on from the one before.

use super::directory::write_directory;
use super::trainer::Trainer;
use crate::checkpoint::config;
use crate::checkpoint::files;
use crate::checkpoint::save::write_tensors;
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::whole_file;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// State of a run in trainer_state.json.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
struct TrainerState {
    global_step: u64,
    /// Steps skipped since the last one that was not.
    #[serde(default)]
    skipped: u32,
    /// State of the run beside its trainer.
    #[serde(default)]
    run: Value,
}

/// Name of a checkpoint's directory, as transformers names it.
const PREFIX: &str = "checkpoint-";
/// Number of checkpoints that are kept.
const KEPT: usize = 2;

/// Saves a checkpoint in a directory of `out`. `model` writes the files of the model.
///
/// # Errors
/// [`Error::Io`]; errors of `model`.
pub fn save(
    out: &Path,
    trainer: &Trainer,
    run: Value,
    model: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let step = trainer.steps();
    write_directory(&out.join(format!("{PREFIX}{step}")), |to| {
        model(to)?;
        let states = trainer.states();
        let names: Vec<String> = (0..states.len()).map(|n| format!("state.{n}")).collect();
        let tensors = names.iter().zip(states).map(|(name, s)| (name.as_str(), vec![s.len()], &s[..]));
        write_tensors(&to.join("optimizer.safetensors"), tensors)?;
        let state = serde_json::json!(TrainerState { global_step: step, skipped: trainer.skipped(), run });
        whole_file::write(&to.join("trainer_state.json"), state.to_string().as_bytes())
    })?;
    for (_, old) in list(out)?.into_iter().rev().skip(KEPT) {
        fs::remove_dir_all(&old).map_err(|source| Error::Io { path: old, source })?;
    }
    Ok(())
}

/// Gives the trainer the state of the newest checkpoint in `out`, and returns the file and the run's state in it; `None`
/// if there is no checkpoint.
///
/// # Errors
/// If a file of the checkpoint is missing or damaged, or is of another model.
pub fn resume(out: &Path, trainer: &mut Trainer) -> Result<Option<(PathBuf, Value)>, Error> {
    let Some((step, dir)) = list(out)?.pop() else { return Ok(None) };
    let path = dir.join("trainer_state.json");
    let TrainerState { global_step, skipped, run } = config::read(&path)?;
    if global_step != step {
        let why = format!("global_step: expected {step}, found {global_step}");
        return Err(Error::File { path, why });
    }
    let weights = Weights::open(&dir)?;
    let arena = trainer.arena();
    let mut values = Vec::with_capacity(arena.values().len());
    for tensor in arena.tensors() {
        values.extend(weights.get(&tensor.name, &tensor.shape)?);
    }
    let of_states = dir.join("optimizer.safetensors");
    let states = Weights::from_bytes(of_states.clone(), files::bytes(&of_states)?)?;
    let lengths = trainer.states().iter().map(Vec::len).enumerate();
    let states = lengths.map(|(n, len)| states.get(&format!("state.{n}"), &[len]));
    let states = states.collect::<Result<Vec<_>, Error>>()?;
    trainer.restore(step, skipped, &values, states)?;
    Ok(Some((path, run)))
}

/// Checkpoints in `out` and their steps, in ascending order.
fn list(out: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let io = |source| Error::Io { path: out.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(out).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if let Some(step) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

//! Saving: a model in Hugging Face's layout, and the states of a run.
//!
//! ```text
//! DIR/model.safetensors        all parameters, f32, under the names that transformers reads
//! DIR/optimizer.safetensors    states of the optimizer, with the layout of the arena; only in checkpoints of a run
//! DIR/trainer_state.json       number of the step; only in checkpoints of a run
//! ```
//!
//! A directory is written under a hidden name, synced, and renamed: it is there whole or not at all.

use crate::checkpoint::arena::Arena;
use crate::error::Error;
use crate::whole_file;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::Path;

/// Writes parameters to `path` as a safetensors file, atomically: those to which `name` gives a name, from their name in
/// the arena.
///
/// # Errors
/// [`Error::Io`].
pub fn write_model(path: &Path, arena: &Arena, name: impl Fn(&str) -> Option<&str>) -> Result<(), Error> {
    let values = arena.values();
    let learnt = arena.tensors().iter().map(|t| (t.name.as_str(), &t.shape, &values[t.range.clone()]));
    let constant = arena.constants().iter().map(|(name, shape, values)| (name.as_str(), shape, &values[..]));
    let named =
        learnt.chain(constant).filter_map(|(of, shape, values)| Some((name(of)?, shape.clone(), values)));
    write_tensors(path, named)
}

/// Writes f32 tensors to `path` as a safetensors file, atomically.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write_tensors<'t>(
    path: &Path,
    tensors: impl Iterator<Item = (&'t str, Vec<usize>, &'t [f32])>,
) -> Result<(), Error> {
    let tensors: Vec<_> = tensors
        .map(|(name, shape, values)| {
            (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (*name, view.expect("as many bytes as the shape says"))
    });
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata)
        .map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })?;
    whole_file::write(path, &bytes)
}

/// Writes the directory `path`, atomically: `fill` writes its files to a hidden directory beside it, which is renamed.
/// A directory `path` that exists already is left as it is.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be written; errors of `fill`.
pub(super) fn write_directory(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    if beside.exists() {
        // Left by a run that was interrupted here.
        fs::remove_dir_all(&beside).map_err(io(&beside))?;
    }
    fs::create_dir_all(&beside).map_err(io(&beside))?;
    fill(&beside)?;
    whole_file::sync_directory(&beside)?;
    fs::rename(&beside, path).map_err(io(path))?;
    path.parent().map_or(Ok(()), whole_file::sync_directory)
}

/// Files that a model needs beside its parameters.
const OTHER_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "added_tokens.json",
    "chat_template.jinja",
];

/// Writes the model to the directory `to`: the parameters to which `name` gives a name, as [`write_model`], and the files
/// of `from` that transformers reads beside them.
///
/// # Errors
/// [`Error::Io`].
pub fn save_model(
    from: &Path,
    to: &Path,
    arena: &Arena,
    name: impl Fn(&str) -> Option<&str>,
) -> Result<(), Error> {
    for name in OTHER_FILES {
        let (source, target) = (from.join(name), to.join(name));
        if source.is_file() && !target.exists() {
            let bytes = fs::read(&source).map_err(|e| Error::Io { path: source.clone(), source: e })?;
            whole_file::write(&target, &bytes)?;
        }
    }
    write_model(&to.join("model.safetensors"), arena, name)
}

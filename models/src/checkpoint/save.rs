//! Saving: a model in Hugging Face's layout.
//!
//! ```text
//! DIR/model.safetensors                 all parameters, f32, under the names that transformers reads
//! DIR/tokenizer.json, vocab.txt, ..     copies
//! DIR/config.json                       the last file: a directory with a config is whole
//! ```

use crate::checkpoint::arena::Arena;
use crate::checkpoint::config::Fields;
use crate::checkpoint::files;
use crate::error::Error;
use crate::whole_file;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// Files that transformers reads beside the parameters and the config.
const OTHER_FILES: [&str; 12] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "source.spm",
    "special_tokens_map.json",
    "spiece.model",
    "target.spm",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Writes a model to the directory `to`, which is made if need be: the parameters, copies of the files of the directory
/// `from` beside them, and the config. Each file is written atomically.
///
/// # Errors
/// [`Error::Io`].
pub fn save_model(from: &Path, to: &Path, config: &Fields, arena: &Arena) -> Result<(), Error> {
    std::fs::create_dir_all(to).map_err(|source| Error::Io { path: to.to_owned(), source })?;
    copy_files(from, to)?;
    write_parameters(&to.join("model.safetensors"), arena, |name| Some(name))?;
    whole_file::write(&to.join("config.json"), config.to_json().as_bytes())
}

/// Copies the files of the directory `from` that transformers reads beside the parameters and the config.
///
/// # Errors
/// [`Error::Io`].
pub fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    for name in OTHER_FILES {
        let source = from.join(name);
        if source.is_file() {
            whole_file::write(&to.join(name), &files::bytes(&source)?)?;
        }
    }
    Ok(())
}

/// Writes parameters to `path` as a safetensors file, atomically: those to which `name` gives a name, from their name in
/// the arena.
///
/// # Errors
/// [`Error::Io`].
pub fn write_parameters(
    path: &Path,
    arena: &Arena,
    name: impl Fn(&str) -> Option<&str>,
) -> Result<(), Error> {
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
pub(crate) fn write_tensors<'t>(
    path: &Path,
    tensors: impl Iterator<Item = (&'t str, Vec<usize>, &'t [f32])>,
) -> Result<(), Error> {
    // Chunk by chunk, because an iterator over bytes takes several times as long.
    let bytes = |values: &[f32]| {
        let mut bytes = vec![0; size_of_val(values)];
        bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, v)| *to = v.to_le_bytes());
        bytes
    };
    let tensors: Vec<_> = tensors.map(|(name, shape, values)| (name, shape, bytes(values))).collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (*name, view.expect("as many bytes as the shape says"))
    });
    // transformers refuses files that do not name their framework.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata)
        .map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })?;
    whole_file::write(path, &bytes)
}

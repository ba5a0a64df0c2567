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
use serde_json::json;
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

/// Writes f32 tensors to `path` as a safetensors file, atomically, without a copy of them in memory.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write_tensors<'t>(
    path: &Path,
    tensors: impl Iterator<Item = (&'t str, Vec<usize>, &'t [f32])>,
) -> Result<(), Error> {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by_key(|(name, ..)| *name);
    // transformers refuses files that do not name their framework.
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut end = 0;
    for (name, shape, values) in &tensors {
        let start = end;
        end += size_of_val(*values);
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        header.insert((*name).to_owned(), entry);
    }
    let mut header = serde_json::Value::from(header).to_string();
    // Values start at a multiple of 8 bytes.
    header.extend(core::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    whole_file::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut bytes = [0; 1 << 14];
        for (.., values) in &tensors {
            for values in values.chunks(bytes.len() / size_of::<f32>()) {
                let bytes = &mut bytes[..size_of_val(values)];
                bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, v)| *to = v.to_le_bytes());
                file.write_all(bytes)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn files_of_tensors_are_safetensors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let long: Vec<f32> = (0..10_001).map(|i| i as f32).collect();
        let tensors = [("b", vec![10_001], &long[..]), ("a", vec![], &[7.0]), ("empty", vec![0, 3], &[])];
        write_tensors(&path, tensors.clone().into_iter()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (start, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!((start + 8) % 8, 0);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), 3);
        for (name, shape, values) in tensors {
            let found = file.tensor(name).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!((found.shape(), found.data()), (&shape[..], &bytes[..]), "{name}");
        }
    }
}

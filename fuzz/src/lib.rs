//! Helpers of the fuzz targets: files made of bytes, and calls of every method of a model.
#![forbid(unsafe_code)]

use arbitrary::Arbitrary;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tilewright::Batch;
use tilewright::causal_lm::Want;
use tilewright::layers::Cache;
use tilewright::model::Model;
use tilewright_kernels::Backend;
use tilewright_verify::Entry;

/// Runs the case of `check` that `bytes` select, on every backend.
///
/// # Panics
/// If the case fails on a backend.
pub fn run(check: &Entry, bytes: &[u8]) {
    for &backend in Backend::available() {
        if let Err(failure) = check.case_of_bytes(backend, bytes) {
            panic!("{failure}");
        }
    }
}

/// A file: arbitrary bytes, or a valid file with a few bytes changed.
#[derive(Arbitrary, Debug)]
pub enum File<'a> {
    Bytes(&'a [u8]),
    /// Positions and bytes to overwrite in a valid file, and the length to cut it to.
    Edited(Vec<(u16, u8)>, Option<u16>),
}

impl File<'_> {
    pub fn content(&self, sound: &[u8]) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Edited(edits, end) => {
                let mut bytes = sound.to_vec();
                for &(at, byte) in edits {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = byte;
                }
                bytes.truncate(end.map_or(usize::MAX, usize::from));
                bytes
            }
        }
    }
}

/// A temporary directory of this process, in memory if the system has `/dev/shm`.
///
/// # Panics
/// If it cannot be created.
pub fn directory() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let dir = base.join(format!("tilewright-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        dir
    });
    &DIR
}

/// Calls every method of a model. Errors are allowed, because an id may be outside its table.
pub fn use_model(model: &mut dyn Model, ids: &[u32]) {
    let mut batch = Batch::default();
    if batch.push_ids(ids).is_err() {
        return;
    }
    let _ = model.forward(&batch);
    let _ = model.forward_pair(&batch, &batch);
    let _ = (model.parts(), model.linear_layers(), model.max_length());
    let Some(model) = model.causal_lm() else { return };
    let room = ids.len() + 1;
    let mut caches = match model.encodes() {
        true => model.encode(&batch, room).unwrap_or_default(),
        false => vec![model.cache(room)],
    };
    for want in [Want::Last, Want::All] {
        // The caches may be full the second time.
        let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
        let _ = model.extend(&batch, &mut caches, want, &mut Vec::new());
    }
}

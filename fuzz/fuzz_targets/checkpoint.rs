//! The readers of config.json and of safetensors, on arbitrary bytes and on a checkpoint with a few
//! bytes changed: they load it or refuse it, and what was loaded runs.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;
use tilewright::model::{ARCHITECTURES, Architecture};
use tilewright::{Arithmetic, Batch};
use tilewright_kernels::Backend;

static CONFIG: &[u8] = include_bytes!("../../tests/golden/bert-masked-lm/config.json");
static WEIGHTS: &[u8] = include_bytes!("../../tests/golden/bert-masked-lm/model.safetensors");

#[derive(Arbitrary, Debug)]
enum File<'a> {
    Bytes(&'a [u8]),
    /// Bytes to put in the place of a sound file's, and where it ends.
    Edited(Vec<(u16, u8)>, Option<u16>),
}

impl File<'_> {
    fn content(&self, sound: &[u8]) -> Vec<u8> {
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

/// A directory of this process, in memory where there is such a file system.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let dir = base.join(format!("tilewright-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    dir
});

fuzz_target!(|case: (File, File)| {
    let dir = &*DIR;
    std::fs::write(dir.join("config.json"), case.0.content(CONFIG)).expect("written");
    std::fs::write(dir.join("model.safetensors"), case.1.content(WEIGHTS)).expect("written");
    for architecture in Architecture::of(dir).iter().chain(ARCHITECTURES) {
        let Ok(mut model) = architecture.load(dir, Arithmetic::f32(Backend::PORTABLE)) else { continue };
        let mut batch = Batch::default();
        if batch.push(&[1, 2, 3], &[0, 0, 1]).is_ok() {
            // An error where the tables are too small.
            let _ = model.forward(&batch);
        }
    }
});

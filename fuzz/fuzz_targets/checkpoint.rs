//! The readers of config.json and of safetensors, on arbitrary bytes and on valid checkpoints with a few bytes changed:
//! every checkpoint is refused, or loads and runs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tilewright::Arithmetic;
use tilewright::architectures::{ARCHITECTURES, Architecture};
use tilewright_fuzz::{File, directory, use_model};
use tilewright_kernels::Backend;

/// config.json and model.safetensors of a golden checkpoint.
macro_rules! sound {
    ($name:literal) => {
        [
            include_bytes!(concat!("../../tests/golden/", $name, "/config.json")) as &[u8],
            include_bytes!(concat!("../../tests/golden/", $name, "/model.safetensors")),
        ]
    };
}

static SOUND: [[&[u8]; 2]; 9] = [
    sound!("bert-masked-lm"),
    sound!("roberta-masked-lm"),
    sound!("albert-pre-training"),
    sound!("electra-pre-training"),
    sound!("bart"),
    sound!("marian"),
    sound!("t5"),
    sound!("gpt2"),
    sound!("llama"),
];

fuzz_target!(|case: (u8, File, File)| {
    let (dir, [config, weights]) = (directory(), SOUND[usize::from(case.0) % SOUND.len()]);
    std::fs::write(dir.join("config.json"), case.1.content(config)).expect("written");
    std::fs::write(dir.join("model.safetensors"), case.2.content(weights)).expect("written");
    for architecture in Architecture::of(dir).iter().chain(ARCHITECTURES) {
        if let Ok(mut model) = architecture.load(dir, Arithmetic::f32(Backend::PORTABLE)) {
            use_model(&mut *model, &[1, 2, 3]);
        }
    }
});

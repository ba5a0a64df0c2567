//! The reader of GGUF files, on arbitrary bytes and on valid files with a few bytes changed: every file is refused, or
//! its tensors, config and tokenizer are read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tilewright::checkpoint::gguf::Gguf;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::checkpoint::weights::Weights;
use tilewright_fuzz::File;

static SOUND: [&[u8]; 4] = [
    include_bytes!("../../tests/golden/gguf/llama.gguf"),
    include_bytes!("../../tests/golden/gguf/blocks.gguf"),
    include_bytes!("../../tests/golden/gguf/smollm.gguf"),
    include_bytes!("../../tests/golden/gguf/pieces.gguf"),
];

fuzz_target!(|case: (u8, File)| {
    let bytes = case.1.content(SOUND[usize::from(case.0) % SOUND.len()]);
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf".as_ref(), &bytes) else { return };
    let _ = gguf.config_json();
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let _ = tokenizer.encode(&["the quick 12 fox"]);
    }
    let Ok(weights) = Weights::from_gguf("fuzz.gguf".into(), bytes) else { return };
    for (name, tensor) in gguf.tensors() {
        let _ = weights.get(name, &tensor.shape);
    }
    for name in weights.names() {
        let _ = weights.get(name, &[32, 32]);
    }
});

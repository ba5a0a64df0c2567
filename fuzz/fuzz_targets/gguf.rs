//! The reader of GGUF files, on arbitrary bytes and on sound files with a few bytes changed: it reads them
//! or refuses them, and whatever it read gives its tensors, config and tokenizer or an error.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tilewright::gguf::Gguf;
use tilewright::tokenizer::Tokenizer;
use tilewright::weights::Weights;

static SOUND: [&[u8]; 4] = [
    include_bytes!("../../tests/golden/gguf/llama.gguf"),
    include_bytes!("../../tests/golden/gguf/blocks.gguf"),
    include_bytes!("../../tests/golden/gguf/smollm.gguf"),
    include_bytes!("../../tests/golden/gguf/pieces.gguf"),
];

#[derive(Arbitrary, Debug)]
enum File<'a> {
    Bytes(&'a [u8]),
    /// Which sound file, bytes to put in the place of its own, and where it ends.
    Edited(u8, Vec<(u16, u8)>, Option<u16>),
}

fuzz_target!(|file: File| {
    let bytes = match file {
        File::Bytes(bytes) => bytes.to_vec(),
        File::Edited(which, edits, end) => {
            let mut bytes = SOUND[usize::from(which) % SOUND.len()].to_vec();
            for (at, byte) in edits {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(end.map_or(usize::MAX, usize::from));
            bytes
        }
    };
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

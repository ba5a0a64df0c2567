//! Damaged files: errors name the file and the key or tensor. A claimed size beyond the file allocates no memory.

use super::golden;
use super::write::{File, string};
use std::path::Path;
use tilewright::Arithmetic;
use tilewright::architectures::Architecture;
use tilewright::checkpoint::gguf::{Gguf, Type};
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::checkpoint::weights::Weights;
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;

/// The error of a file. Asserts that it names the file, and that reading allocated little memory.
fn error(bytes: &[u8]) -> String {
    let mut result = None;
    let used = allocation_counter::measure(|| result = Some(Gguf::from_bytes(Path::new("bad.gguf"), bytes)));
    let error = result.unwrap().expect_err("damaged").to_string();
    assert!(error.starts_with("bad.gguf: "), "{error}");
    assert!(used.bytes_max <= 8 * bytes.len() as u64 + 4096, "{error}: {} bytes", used.bytes_max);
    error
}

/// A valid file of two tensors.
fn sound() -> File {
    let mut file = File::new("llama");
    file.u32("llama.attention.head_count", 2);
    file.strings("tokenizer.ggml.tokens", &["a", "b"]);
    file.floats("output_norm.weight", &[4], &[1.0; 4]);
    file.tensor("blk.0.attn_q.weight", &[32, 4], 2, vec![0; 4 * 18]);
    file
}

fn changed(change: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = sound();
    change(&mut file);
    file.bytes()
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = sound().bytes();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn a_file_that_ends_anywhere_is_an_error() {
    for (name, bytes) in [
        ("small", sound().bytes()),
        ("llama", std::fs::read(golden("gguf/llama.gguf")).unwrap()),
        ("smollm", std::fs::read(golden("gguf/smollm.gguf")).unwrap()),
    ] {
        let whole = Gguf::from_bytes(Path::new(name), &bytes).unwrap();
        // Cut padding at the end is no damage, and a file without tensors has no data.
        let tensors = whole.tensors().values();
        let end = tensors.map(|t| t.bytes.end).max().unwrap_or_else(|| bytes.len() - 32);
        for len in (0..end).step_by(if end > 4000 { 13 } else { 1 }) {
            error(&bytes[..len]);
        }
        let last = whole.tensors().iter().max_by_key(|(_, t)| t.bytes.end);
        if let Some((last, _)) = last {
            let error = error(&bytes[..end - 1]);
            assert!(error.contains(&format!("tensor {last}: ")), "{error}");
        }
    }
}

#[test]
fn damaged_headers_are_errors_that_name_key_or_tensor() {
    let (q, norm) = ("tensor blk.0.attn_q.weight: ", "tensor output_norm.weight: ");
    let nested = |depth: usize| -> Vec<u8> {
        let one = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        [&one.repeat(depth)[..], &4u32.to_le_bytes(), &0u64.to_le_bytes()].concat()
    };
    let huge = u64::MAX.to_le_bytes();
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "not a GGUF file"),
        (patched(0, b"GGML"), "not a GGUF file: it starts with \"GGML\""),
        (patched(4, &1u32.to_le_bytes()), "expected version 2 or 3, found 1"),
        (patched(4, &4u32.to_le_bytes()), "expected version 2 or 3, found 4"),
        (patched(4, &3u32.to_be_bytes()), "expected a little-endian file"),
        (patched(8, &huge), "number of tensors: expected 18446744073709551615 times 32 bytes"),
        (patched(8, &3u64.to_le_bytes()), "name of tensor 2"),
        (patched(16, &huge), "number of keys: expected 18446744073709551615 times 13 bytes"),
        (patched(16, &4u64.to_le_bytes()), ""),
        (patched(24, &huge), "name of key 0: expected 18446744073709551615 times 1 bytes"),
        (changed(|f| f.key("k", 13, vec![])), "k: expected a type of value from 0 to 12, found 13"),
        (changed(|f| f.key("k", 7, vec![2])), "k: expected a bool, 0 or 1, found 2"),
        (changed(|f| f.key("k", 8, huge.to_vec())), "k: expected 18446744073709551615 times 1"),
        (changed(|f| f.key("k", 8, [&string("ab")[..8], b"\xffx"].concat())), "k: invalid utf-8"),
        (changed(|f| f.key("k", 9, array(0, u64::MAX))), "k: expected 18446744073709551615 times 1"),
        (changed(|f| f.key("k", 9, array(10, 1 << 61))), "k: expected 2305843009213693952 times 8"),
        (changed(|f| f.key("k", 9, array(8, 1 << 40))), "k: expected 1099511627776 times 8"),
        (changed(|f| f.key("k", 9, array(99, 1))), "k: expected a type of value from 0 to 12, found 99"),
        (changed(|f| f.key("k", 9, nested(4))), "k: expected at most 4 arrays in each other"),
        (changed(|f| f.key("k", 9, nested(1000))), "k: expected at most 4 arrays in each other"),
        (changed(|f| f.u32("llama.attention.head_count", 2)), "llama.attention.head_count: there are two"),
        (changed(|f| f.u32("general.alignment", 0)), "general.alignment: expected a multiple of 8, found 0"),
        (changed(|f| f.u32("general.alignment", 12)), "general.alignment: expected a multiple of 8"),
        (changed(|f| f.string("general.alignment", "x")), "general.alignment: expected an integer"),
        (changed(|f| f.key("general.alignment", 10, (u64::MAX - 7).to_le_bytes().to_vec())), norm),
        (changed(|f| f.u32("split.count", 2)), "split.count"),
        (changed(|f| f.tensors[1].name = f.tensors[0].name.clone()), norm),
        (changed(|f| f.tensors[0].dimensions = vec![]), "expected 1 to 4 dimensions, found 0"),
        (changed(|f| f.tensors[0].dimensions = vec![1; 5]), "expected 1 to 4 dimensions, found 5"),
        (changed(|f| f.tensors[0].kind = 10), "output_norm.weight: expected one of the types F32"),
        (changed(|f| f.tensors[0].kind = 10), "found Q2_K, number 10"),
        (changed(|f| f.tensors[0].kind = 99), "found number 99"),
        (changed(|f| f.tensors[0].offset = 16), "expected an offset that is a multiple of 32, found 16"),
        (changed(|f| f.tensors[1].offset = 1 << 20), q),
        (changed(|f| f.tensors[1].offset = u64::MAX - 63), q),
        (changed(|f| f.tensors[1].offset = 0u64.wrapping_sub(32)), "overlaps tensor"),
        (changed(|f| f.tensors[1].dimensions = vec![32, 400]), "ends after the file of"),
        (changed(|f| f.tensors[1].dimensions = vec![32, 1 << 60]), q),
        (changed(|f| f.tensors[1].dimensions = vec![1 << 32, 1 << 32, 1 << 32]), q),
        (
            changed(|f| f.tensors[1].dimensions = vec![16, 8]),
            "expected rows of blocks of 32 in Q4_0, found 16",
        ),
        (
            changed(|f| f.tensors[1].dimensions = vec![128, 1]),
            "expected rows of llama.attention.head_count heads",
        ),
        (changed(|f| f.keys.truncate(1)), "expected rows of llama.attention.head_count heads"),
        (
            changed(|f| f.keys[1].2 = u32::MAX.to_le_bytes().to_vec()),
            "expected rows of llama.attention.head_count heads",
        ),
    ];
    for (bytes, part) in cases {
        let error = error(&bytes);
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(Gguf::from_bytes(Path::new("sound"), &changed(|f| f.key("k", 9, nested(3)))).is_ok());
}

#[test]
fn damaged_tensors_are_errors_that_name_them() {
    let weights =
        |change: &dyn Fn(&mut File)| Weights::from_gguf("bad.gguf".into(), changed(|f| change(f))).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let error = weights(&|_| {}).get(name, &[4, 64]).unwrap_err().to_string();
    assert_eq!(error, "bad.gguf: tensor blk.0.attn_q.weight: expected shape [4, 64], found [4, 32]");
    let error = weights(&|_| {}).get("lm_head.weight", &[2, 4]).unwrap_err().to_string();
    assert_eq!(error, "bad.gguf: tensor lm_head.weight: missing; expected shape [2, 4]");

    let nan = f32::NAN.to_le_bytes();
    let bad = weights(&|f| f.tensors[0].data[8..12].copy_from_slice(&nan));
    let error = bad.get("model.norm.weight", &[4]).unwrap_err().to_string();
    assert_eq!(error, "bad.gguf: tensor output_norm.weight: element 2 is NaN");
    let infinite = half::f16::INFINITY.to_le_bytes();
    let bad = weights(&|f| f.tensors[1].data[18..20].copy_from_slice(&infinite));
    let error = bad.get(name, &[4, 32]).unwrap_err().to_string();
    assert!(error.contains("tensor blk.0.attn_q.weight: element 32 is "), "{error}");
    let error = bad.groups(name, [4, 32], Format::Q4_0).unwrap_err().to_string();
    assert_eq!(error, "bad.gguf: tensor blk.0.attn_q.weight: the scale of block 1 is inf");

    // `groups` returns `None` for another type or shape; `get` reports the fault.
    assert!(bad.groups(name, [4, 32], Format::Q8_0).unwrap().is_none());
    assert!(bad.groups(name, [4, 64], Format::Q4_0).unwrap().is_none());
    // Two tensors that map to one Hugging Face name.
    let twice = changed(|f| f.floats("model.norm.weight", &[4], &[1.0; 4]));
    let error = Weights::from_gguf("bad.gguf".into(), twice).unwrap_err().to_string();
    assert!(error.contains("tensor model.norm.weight: also in bad.gguf"), "{error}");
}

/// A model needs every tensor under its name, in its shape, and finite.
#[test]
fn models_of_damaged_files_are_errors_that_name_the_tensor() {
    for file in ["llama", "bert-model"] {
        let path = golden(&format!("gguf/{file}.gguf"));
        let sound = std::fs::read(&path).unwrap();
        let gguf = Gguf::from_bytes(&path, &sound).unwrap();
        let weights = |bytes| Weights::from_gguf("bad.gguf".into(), bytes);
        let open = |weights| {
            let on = Arithmetic::f32(Backend::PORTABLE);
            Architecture::of(&path).unwrap().open(&path, weights, on).map(drop)
        };
        for (name, tensor) in gguf.tensors() {
            let header = string(name);
            let at = sound.windows(header.len()).position(|w| w == header).unwrap() + header.len();
            let changed = |at: usize, byte: u8| {
                let mut bytes = sound.clone();
                bytes[at] = byte;
                weights(bytes)
            };
            // Damages one letter of the name, the number of rows, and the first number.
            let error = changed(at - 1, b'?').and_then(open).expect_err(name).to_string();
            assert!(error.contains("bad.gguf: tensor ") && error.contains("missing"), "{name}: {error}");
            let rows = at + 4 + 8 * (tensor.shape.len() - 1);
            let fewer = changed(rows, sound[rows] - 1).and_then(open);
            let error = fewer.expect_err(name).to_string();
            assert!(error.contains(&format!("bad.gguf: tensor {name}: expected ")), "{error}");
            let mut bytes = sound.clone();
            let nan = if tensor.kind == Type::F32 { &[0, 0, 0xc0, 0x7f][..] } else { &[0xc0, 0x7f] };
            bytes[tensor.bytes.start..][..nan.len()].copy_from_slice(nan);
            let error = weights(bytes).and_then(open).expect_err(name).to_string();
            assert_eq!(error, format!("bad.gguf: tensor {name}: element 0 is NaN"));
        }
    }
}

#[test]
fn any_byte_may_change_and_nothing_panics() {
    for (name, step) in [("llama", 17), ("smollm", 41), ("pieces", 67), ("bert-model", 211)] {
        let sound = std::fs::read(golden(&format!("gguf/{name}.gguf"))).unwrap();
        for at in (0..sound.len()).step_by(step) {
            for byte in [0, 0x7f, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = byte;
                let Ok(gguf) = Gguf::from_bytes(Path::new("bad.gguf"), &bytes) else { continue };
                let _ = gguf.config_json();
                // Only changes in the header can matter to the tokenizer.
                if at < gguf.tensors().values().map(|t| t.bytes.start).min().unwrap_or(usize::MAX) {
                    let _ = Tokenizer::from_gguf(&gguf).map(|t| t.encode(&["the quick 12 fox"]));
                }
            }
        }
    }
}

//! Fused attention against its definition, with any masks, biases, heads, sequences and strides.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for check in tilewright_verify::checks(Some("attention")) {
        tilewright_fuzz::run(check, bytes);
    }
});

//! Row kernels against their definitions. The first byte selects the kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let others = ["gemm", "attention"]; // have separate targets
    let checks: Vec<_> = tilewright_verify::checks(None).filter(|c| !others.contains(&c.kernel)).collect();
    tilewright_fuzz::run(checks[usize::from(which) % checks.len()], bytes);
});

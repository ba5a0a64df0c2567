//! Loops of multiply-adds and loads for aarch64.
//!
//! ```text
//! multiply-adds of an instruction
//!   fmla .4s   4   f32       bfdot    8 = 4 x 2        bf16     sdot   16 = 4 x 4        int8
//!   fmla .8h   8   f16       bfmmla  16 = 2 x 2 x 4    bf16     smmla  32 = 2 x 2 x 8    int8
//! ```

use super::{LINES, MultiplyAdds, STREAMS, Streams};
use crate::isa::LINE;
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;

/// Makes a loop of chains in vector registers: `instruction acc, a, b` for each accumulator of the list.
///
/// Registers 30 and 31 hold a and b. `to` is the arrangement of acc, `from` that of a and b. `each` is the number of
/// multiply-adds of one instruction.
macro_rules! chains {
    (
        $name:literal, [$($feature:tt)+], $value:literal, each $each:literal,
        $instruction:literal $to:literal $from:literal [$($acc:literal)+]
    ) => {{
        #[target_feature($(enable = $feature),+)]
        fn run(steps: usize) {
            if steps == 0 {
                return;
            }
            // SAFETY: the block accesses registers only, and declares them. The features are enabled.
            unsafe {
                asm!(
                    $(concat!("dup v", $acc, ".4s, {value:w}"),)+
                    "dup v30.4s, {value:w}",
                    "dup v31.4s, {value:w}",
                    ".p2align 5",
                    "2:",
                    $(concat!($instruction, " v", $acc, $to, ", v30", $from, ", v31", $from),)+
                    "subs x9, x9, #1",
                    "b.ne 2b",
                    value = in(reg) $value,
                    inout("x9") steps => _,
                    clobber_abi("C"), // every vector register
                    options(nomem, nostack),
                );
            }
        }
        MultiplyAdds {
            name: $name,
            each_step: $each * [$($acc),+].len() as u64,
            detect: || true $(&& is_aarch64_feature_detected!($feature))+,
            run,
        }
    }};
}

/// [`chains`] in 24 registers.
macro_rules! neon {
    ($($row:tt)+) => {
        chains!($($row)+ [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23])
    };
}

/// All loops of AArch64. The values are 1/2 in each data type, 1 in int8.
pub(super) const LOOPS: &[MultiplyAdds] = &[
    neon!("f32 neon", ["neon"], 0x3f00_0000u32, each 4, "fmla" ".4s" ".4s"),
    neon!("f16 fp16", ["neon" "fp16"], 0x3800_3800u32, each 8, "fmla" ".8h" ".8h"),
    neon!("bf16 bfmmla", ["neon" "bf16"], 0x3f00_3f00u32, each 16, "bfmmla" ".4s" ".8h"),
    neon!("bf16 bfdot", ["neon" "bf16"], 0x3f00_3f00u32, each 8, "bfdot" ".4s" ".8h"),
    neon!("int8 i8mm", ["neon" "i8mm"], 0x0101_0101u32, each 32, "smmla" ".4s" ".16b"),
    neon!("int8 dotprod", ["neon" "dotprod"], 0x0101_0101u32, each 16, "sdot" ".4s" ".16b"),
];

/// Reads every turn of `streams`, half a cache line by each `ldp`.
///
/// # Safety
/// `streams` has at least one turn, and all turns are valid for reads.
pub(in crate::isa) unsafe fn read_q(streams: Streams) {
    let stream = |i: usize| streams.first.wrapping_byte_add(i * streams.stride);
    // SAFETY: `streams` has at least one turn, and all turns are valid for reads (precondition of `read_q`).
    unsafe {
        asm!(
            ".p2align 5",
            "2:",
            "ldp q0, q1, [{a}]",
            "ldp q2, q3, [{a}, #32]",
            "ldp q4, q5, [{b}]",
            "ldp q6, q7, [{b}, #32]",
            "ldp q16, q17, [{c}]",
            "ldp q18, q19, [{c}, #32]",
            "ldp q20, q21, [{d}]",
            "ldp q22, q23, [{d}, #32]",
            "ldp q0, q1, [{a}, #64]",
            "ldp q2, q3, [{a}, #96]",
            "ldp q4, q5, [{b}, #64]",
            "ldp q6, q7, [{b}, #96]",
            "ldp q16, q17, [{c}, #64]",
            "ldp q18, q19, [{c}, #96]",
            "ldp q20, q21, [{d}, #64]",
            "ldp q22, q23, [{d}, #96]",
            "add {a}, {a}, #128",
            "add {b}, {b}, #128",
            "add {c}, {c}, #128",
            "add {d}, {d}, #128",
            "subs x9, x9, #1",
            "b.ne 2b",
            a = inout(reg) stream(0) => _,
            b = inout(reg) stream(1) => _,
            c = inout(reg) stream(2) => _,
            d = inout(reg) stream(3) => _,
            inout("x9") streams.turns => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _,
            out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _,
            out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            options(readonly, nostack),
        );
    }
}

// The addresses of `read_q` assume these values.
const _: () = assert!(STREAMS == 4 && LINES * LINE == 128);

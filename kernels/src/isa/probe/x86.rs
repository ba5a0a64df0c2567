//! Loops of multiply-adds and loads for x86-64.
//!
//! ```text
//! multiply-adds of an instruction           latency, and at best each cycle
//!   vfmadd231ps   8 ymm, 16 zmm   f32       4, 2 (Zen 4: 1 zmm)
//!   vfmadd231ph   32 zmm          f16       4, 2
//!   vdpbf16ps     32 zmm          bf16      6, 1
//!   vpdpbusd      32 ymm, 64 zmm  int8      4 to 5, 2 (Zen 4: 1 zmm)
//!   tdpbf16ps     16 x 16 x 32    bf16      52, one in 16 cycles
//!   tdpbssd       16 x 16 x 64    int8      52, one in 16 cycles
//! ```

use super::{LINES, MultiplyAdds, STREAMS, Streams};
use crate::isa::LINE;
use crate::isa::amx::{self, TILE_ROW_BYTES, TileConfig};
use core::arch::asm;

// Four bytes that repeat 1/2 in each data type, 1 in int8.
const F32_HALF: u32 = 0x3f00_0000;
const F16_HALF: u32 = 0x3800_3800;
const BF16_HALF: u32 = 0x3f00_3f00;
const INT8_ONE: u32 = 0x0101_0101;

/// Makes a loop of chains in vector registers: `instruction acc, a, b` for each accumulator of the list.
///
/// Registers 14 and 15 hold a and b. `each` is the number of multiply-adds of one instruction.
macro_rules! chains {
    (
        $name:literal, [$($feature:tt)+], $value:expr, each $each:literal,
        $instruction:literal $register:literal [$($acc:literal)+]
    ) => {{
        #[target_feature($(enable = $feature),+)]
        fn run(steps: usize) {
            if steps == 0 {
                return;
            }
            // SAFETY: the block accesses registers only, and declares them. The features are enabled.
            unsafe {
                asm!(
                    "vmovd xmm15, {value:e}",
                    $(concat!("vpbroadcastd ", $register, $acc, ", xmm15"),)+
                    concat!("vpbroadcastd ", $register, "14, xmm15"),
                    concat!("vpbroadcastd ", $register, "15, xmm15"),
                    ".p2align 5",
                    "2:",
                    $(concat!(
                        $instruction, " ", $register, $acc, ", ", $register, "14, ", $register, "15"
                    ),)+
                    "dec rcx",
                    "jnz 2b",
                    "vzeroupper",
                    value = in(reg) $value,
                    inout("rcx") steps => _,
                    clobber_abi("sysv64"), // every vector register
                    options(nomem, nostack),
                );
            }
        }
        MultiplyAdds {
            name: $name,
            each_step: $each * [$($acc),+].len() as u64,
            detect: || true $(&& is_x86_feature_detected!($feature))+,
            run,
        }
    }};
}

/// [`chains`] in the 16 registers of AVX2.
macro_rules! ymm {
    ($($row:tt)+) => { chains!($($row)+ "ymm" [0 1 2 3 4 5 6 7 8 9 10 11]) };
}

/// [`chains`] in the 32 registers of AVX-512.
macro_rules! zmm {
    ($($row:tt)+) => {
        chains!($($row)+ "zmm" [0 1 2 3 4 5 6 7 8 9 10 11 16 17 18 19 20 21 22 23 24 25 26 27])
    };
}

/// Makes a loop of four chains in AMX tiles.
macro_rules! tiles {
    ($name:literal, $feature:expr, $value:expr, each $each:expr, $instruction:literal) => {{
        /// # Safety
        /// [`amx::detect`] returned `Granted` for the feature.
        unsafe fn run(steps: usize) {
            if steps == 0 {
                return;
            }
            let row = [$value; TILE_ROW_BYTES / size_of::<u32>()];
            // SAFETY: this process may use AMX and the feature (precondition of `run`). The block reads `CONFIG` and,
            // with a stride of 0, `row` repeatedly. It releases the tiles, and no code outside of such a block uses
            // tiles.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "tileloadd tmm4, [{row} + {stride}*1]",
                    "tileloadd tmm5, [{row} + {stride}*1]",
                    "tileloadd tmm6, [{row} + {stride}*1]",
                    "tileloadd tmm7, [{row} + {stride}*1]",
                    ".p2align 5",
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec rcx",
                    "jnz 2b",
                    "tilerelease",
                    config = in(reg) &raw const CONFIG,
                    row = in(reg) row.as_ptr(),
                    stride = in(reg) 0usize,
                    inout("rcx") steps => _,
                    clobber_abi("sysv64"), // every tile
                    options(readonly, nostack),
                );
            }
        }
        MultiplyAdds {
            name: $name,
            each_step: 4 * $each,
            detect: || amx::detect($feature) == amx::AmxSupport::Granted,
            run,
        }
    }};
}

/// Configuration of eight tiles of full size.
static CONFIG: TileConfig = TileConfig::of([amx::TILE_ROWS as u8; 8]);

/// All loops of x86-64.
pub(super) const LOOPS: &[MultiplyAdds] = &[
    zmm!("f32 avx512", ["avx512f"], F32_HALF, each 16, "vfmadd231ps"),
    ymm!("f32 avx2", ["avx2" "fma"], F32_HALF, each 8, "vfmadd231ps"),
    zmm!("f16 avx512fp16", ["avx512f" "avx512fp16"], F16_HALF, each 32, "vfmadd231ph"),
    tiles!("bf16 amx", amx::BF16, BF16_HALF, each 16 * 16 * 32, "tdpbf16ps"),
    zmm!("bf16 avx512bf16", ["avx512f" "avx512bf16"], BF16_HALF, each 32, "vdpbf16ps"),
    tiles!("int8 amx", amx::INT8, INT8_ONE, each 16 * 16 * 64, "tdpbssd"),
    zmm!("int8 avx512vnni", ["avx512f" "avx512vnni"], INT8_ONE, each 64, "vpdpbusd"),
    // Without the prefix, an assembler may choose the encoding of AVX-512.
    ymm!("int8 avxvnni", ["avx2" "avxvnni"], INT8_ONE, each 32, "{{vex}} vpdpbusd"),
];

/// Reads every turn of `streams`, half a cache line by each AVX load.
///
/// # Safety
/// - `streams` has at least one turn, and all turns are valid for reads.
/// - AVX may be used.
pub(in crate::isa) unsafe fn read_ymm(streams: Streams) {
    /// Loads both halves of the cache line at the address `$place`.
    macro_rules! line {
        ($low:literal $high:literal $place:literal) => {
            concat!("vmovaps ymm", $low, ", [", $place, "]\nvmovaps ymm", $high, ", [", $place, " + 32]")
        };
    }
    // SAFETY: `streams` has at least one turn, all turns are valid for reads, and AVX may be used (preconditions of
    // `read_ymm`).
    unsafe {
        asm!(
            ".p2align 5",
            "2:",
            line!(0 1 "{p}"),
            line!(2 3 "{p} + {stride}"),
            line!(4 5 "{p} + 2*{stride}"),
            line!(6 7 "{q}"),
            line!(0 1 "{p} + 64"),
            line!(2 3 "{p} + {stride} + 64"),
            line!(4 5 "{p} + 2*{stride} + 64"),
            line!(6 7 "{q} + 64"),
            "add {p}, 128",
            "add {q}, 128",
            "dec {turns}",
            "jnz 2b",
            "vzeroupper",
            p = inout(reg) streams.first => _,
            q = inout(reg) streams.first.byte_add(3 * streams.stride) => _,
            stride = in(reg) streams.stride,
            turns = inout(reg) streams.turns => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            // `vzeroupper` clears the upper halves of these registers too.
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(readonly, nostack),
        );
    }
}

/// Reads every turn of `streams`, a cache line by each AVX-512 load.
///
/// # Safety
/// - `streams` has at least one turn, and all turns are valid for reads.
/// - AVX-512 may be used.
pub(in crate::isa) unsafe fn read_zmm(streams: Streams) {
    // SAFETY: `streams` has at least one turn, all turns are valid for reads, and AVX-512 may be used (preconditions of
    // `read_zmm`).
    unsafe {
        asm!(
            ".p2align 5",
            "2:",
            "vmovaps zmm0, [{p}]",
            "vmovaps zmm1, [{p} + {stride}]",
            "vmovaps zmm2, [{p} + 2*{stride}]",
            "vmovaps zmm3, [{q}]",
            "vmovaps zmm4, [{p} + 64]",
            "vmovaps zmm5, [{p} + {stride} + 64]",
            "vmovaps zmm6, [{p} + 2*{stride} + 64]",
            "vmovaps zmm7, [{q} + 64]",
            "add {p}, 128",
            "add {q}, 128",
            "dec {turns}",
            "jnz 2b",
            "vzeroupper",
            p = inout(reg) streams.first => _,
            q = inout(reg) streams.first.byte_add(3 * streams.stride) => _,
            stride = in(reg) streams.stride,
            turns = inout(reg) streams.turns => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            // `vzeroupper` clears the upper halves of these registers too.
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(readonly, nostack),
        );
    }
}

// The addresses of `read_ymm` and `read_zmm` assume these values.
const _: () = assert!(STREAMS == 4 && LINES * LINE == 128);

//! AMX: its detection, the permission to use it, and (in `tiles`) the matrix product's tiles.
//!
//! The compiler knows nothing of its eight registers: they are in use only inside one `asm!` block,
//! from `ldtilecfg` to `tilerelease`.

mod tiles;

pub use tiles::KGroup;

use core::arch::asm;
use core::mem::offset_of;
use std::sync::OnceLock;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Bytes of a row of a tile.
pub const TILE_ROW_BYTES: usize = 64;

/// The operand of `ldtilecfg`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile; there are eight tiles, and the other fields have to be 0.
    row_bytes: [u16; 16],
    /// Rows of each tile; 0 for an unused tile.
    rows: [u8; 16],
}

const _: () = assert!(
    size_of::<TileConfig>() == 64
        && offset_of!(TileConfig, row_bytes) == 16
        && offset_of!(TileConfig, rows) == 48
);

impl TileConfig {
    /// Configures tiles of full width with `tile_rows` rows each; a tile of 0 rows is unused.
    pub const fn of(tile_rows: [u8; 8]) -> Self {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < tile_rows.len() {
            rows[tile] = tile_rows[tile];
            row_bytes[tile] = if tile_rows[tile] > 0 { TILE_ROW_BYTES as u16 } else { 0 };
            tile += 1;
        }
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

/// Proof that AMX's tiles may be used, and be multiplied as bf16 and as int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(());

impl Amx {
    /// The proof, if it can be had. Asks for the permission.
    pub fn detect() -> Option<Self> {
        (found() == Found::Granted).then_some(Self(()))
    }
}

/// Result of detecting AMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The CPU has no AMX, or not all of it.
    Absent,
    /// The CPU has it, but the operating system does not let this process use it.
    Refused,
    /// It may be used.
    Granted,
}

/// Detects everything that [`Amx`] proves, once per process.
pub fn found() -> Found {
    static FOUND: OnceLock<Found> = OnceLock::new();
    *FOUND.get_or_init(|| detect(BF16 | INT8))
}

/// Bits of EDX of CPUID leaf 7: AMX-TILE, AMX-BF16, AMX-INT8.
const TILE: u32 = 1 << 24;
pub const BF16: u32 = 1 << 22;
pub const INT8: u32 = 1 << 25;

/// The component of the extended state that tiles are; their configuration is the one before it.
const TILE_DATA: u64 = 18;

/// Detects `features` of the CPU, the state that the operating system saves, and the permission of this
/// process. Linux grants the permission to a process that asks, unless configured not to.
pub fn detect(features: u32) -> Found {
    // AVX2 is detected only where leaf 7 exists and XGETBV may be executed.
    if !is_x86_feature_detected!("avx2") || leaf_7_edx() & (TILE | features) != TILE | features {
        Found::Absent
    } else if xcr0() >> (TILE_DATA - 1) & 0b11 == 0b11 && permitted() {
        Found::Granted
    } else {
        Found::Refused
    }
}

fn leaf_7_edx() -> u32 {
    let edx: u32;
    // SAFETY: every x86-64 has the instruction, and it touches registers alone. RBX, which
    // compilers keep for themselves, is restored.
    unsafe {
        asm!(
            "mov {rbx}, rbx",
            "cpuid",
            "mov rbx, {rbx}",
            rbx = out(reg) _,
            inout("eax") 7 => _,
            inout("ecx") 0 => _,
            out("edx") edx,
            options(nomem, nostack, preserves_flags),
        );
    }
    edx
}

fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller has found that the operating system enables it.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Asks for the permission, which all threads of the process then have.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    let status: i64;
    // SAFETY: this call reads and writes no memory of the process; the kernel keeps all
    // registers but those declared.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    status == 0
}

/// How others grant it is unknown here.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

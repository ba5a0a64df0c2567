//! AMX: its detection, the permission to use it, and its microkernels (`tiles`).
//!
//! The compiler does not allocate the eight tile registers. Each `asm!` block configures them by `ldtilecfg` and
//! releases them by `tilerelease`, or a `session` does so for many blocks.

mod session;
mod tiles;

pub use tiles::KGroup;

use core::arch::asm;
use core::mem::offset_of;
use std::sync::OnceLock;

/// Maximum number of rows of a tile register.
pub const TILE_ROWS: usize = 16;

/// Maximum number of bytes of a row of a tile register.
pub const TILE_ROW_BYTES: usize = 64;

/// Operand of `ldtilecfg`; reserved fields are 0.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile; entries past the eight tiles are reserved.
    row_bytes: [u16; 16],
    /// Rows of each tile, 0 for an unused tile; entries past the eight tiles are reserved.
    rows: [u8; 16],
}

const _: () = assert!(
    size_of::<TileConfig>() == 64
        && offset_of!(TileConfig, row_bytes) == 16
        && offset_of!(TileConfig, rows) == 48
);

impl TileConfig {
    /// Configures tiles of full width, tile t with `tile_rows[t]` rows; a tile of 0 rows is unused.
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

/// Proof that this process may use AMX-TILE, AMX-BF16 and AMX-INT8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(());

impl Amx {
    /// Returns the proof if the CPU supports AMX and the operating system permits it. Requests the permission.
    pub fn detect() -> Option<Self> {
        (support() == AmxSupport::Granted).then_some(Self(()))
    }
}

/// Result of detecting AMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmxSupport {
    /// The CPU lacks one of the features.
    Absent,
    /// The CPU supports the features, but the operating system does not permit this process to use them.
    Refused,
    /// This process may use the features.
    Granted,
}

/// Detects everything that [`Amx`] proves, once per process.
pub fn support() -> AmxSupport {
    static SUPPORT: OnceLock<AmxSupport> = OnceLock::new();
    *SUPPORT.get_or_init(|| detect(BF16 | INT8))
}

/// Bits of EDX of CPUID leaf 7: AMX-TILE, AMX-BF16, AMX-INT8.
const TILE: u32 = 1 << 24;
pub const BF16: u32 = 1 << 22;
pub const INT8: u32 = 1 << 25;

/// Number of the XSAVE state component of tile data; that of the tile configuration precedes it.
const TILE_DATA: u64 = 18;

/// Checks that the CPU supports AMX-TILE and `features` (bits of EDX of CPUID leaf 7), that the operating system saves
/// the state of tiles, and that it permits this process to use them.
///
/// Linux grants the permission to a process that requests it, unless configured not to.
pub fn detect(features: u32) -> AmxSupport {
    // std detects AVX2 only where leaf 7 exists and the operating system enables XGETBV.
    if !is_x86_feature_detected!("avx2") || leaf_7_edx() & (TILE | features) != TILE | features {
        AmxSupport::Absent
    } else if xcr0() >> (TILE_DATA - 1) & 0b11 == 0b11 && permitted() {
        AmxSupport::Granted
    } else {
        AmxSupport::Refused
    }
}

fn leaf_7_edx() -> u32 {
    let edx: u32;
    // SAFETY: every x86-64 CPU supports `cpuid`, which accesses registers only. The block restores RBX, which the
    // compiler reserves.
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
    // SAFETY: `detect`, the only caller, has checked that the operating system enables XGETBV. The instruction reads
    // registers only.
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

/// Requests the permission, which holds for all threads of the process; true if it is granted.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    let status: i64;
    // SAFETY: this system call accesses no memory of the process. The kernel preserves all registers but the declared
    // ones.
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

/// Returns false: how other operating systems grant the permission is unknown here.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

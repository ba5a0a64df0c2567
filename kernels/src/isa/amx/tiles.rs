//! Microkernels of AMX, 32x32 sums of f32 or i32.
//!
//! ```text
//! data  instruction  k-group    CPUID leaf 7.0                 tmm registers, 16 rows x 16 lanes each
//! bf16  tdpbf16ps    2 k-steps  AMX-TILE EDX[24], -BF16 [22]   4 sums + 2 of A + 2 of B = 8
//! int8  tdpbusd      4 k-steps  AMX-TILE EDX[24], -INT8 [25]   4 sums + 2 of A + 2 of B = 8
//!
//!                      b0: tmm6           b1: tmm7
//!                   16 k-groups x 16   16 k-groups x 16     a turn takes 16 k-groups of k:
//! a0: tmm4                                                  4 loads, 4 products
//! 16 rows x 16        c0: tmm0           c1: tmm1
//! a1: tmm5                                                  cycles of a turn on Sapphire Rapids
//! 16 rows x 16        c2: tmm2           c3: tmm3             4 products of 16      64
//!                                                             4 loads of 16 lines   32, on another port
//! ```
//!
//! 2x2 tiles of sums share each load between two products; a third row or column of sums does not fit eight
//! registers. NR of AVX-512, 32, is two tiles wide.
//!
//! Up to 16 rows use the upper half, c0 and c1, alone. A single row multiplies two panels at a time, without a1: b0 and
//! b1 belong to one panel, b2 and b3 to the other.
//!
//! A microkernel is written once, as a list of operations. `assembly` turns the list into instructions. Tests run the
//! list on a software model of AMX, on every CPU.

use super::session::configure;
use super::{Amx, TILE_ROW_BYTES, TILE_ROWS, TileConfig};
use crate::isa::avx512::Avx512;
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Bf16Pair, Isa, K_GROUPS, Lane, Prefetch, Tile};
use core::arch::asm;
use core::mem::offset_of;

/// Data type of a k-group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KGroup {
    /// Two bf16.
    ///
    /// A turn sums the even k-steps of its 16 k-groups, and the odd k-steps, each as a chain of fused multiply-adds. It
    /// adds the two, and adds the result to the sum. Each operation rounds to nearest even, and flushes denormal
    /// operands and results to zero. A sum of k k-steps is within (k / 32 + 17) u sum|a b| of exact, to first order,
    /// plus 2^-126 for each of its operations.
    Bf16,
    /// Four int8, unsigned in A: exact.
    Int8,
}

impl KGroup {
    /// Instruction that multiplies k-groups of this type.
    pub const fn instruction(self) -> &'static str {
        match self {
            Self::Bf16 => "tdpbf16ps",
            Self::Int8 => "tdpbusd",
        }
    }
}

/// Bytes of a k-group and of a sum.
const LANE: usize = size_of::<f32>();

/// Bytes from one row of A to the next, a compile-time constant.
const A_ROW: usize = A_STRIDE * LANE;

/// Bytes from one k-group to the next in a panel.
const B_ROW: usize = Avx512::NR * LANE;

// Displacements and counts in the lists and the assembly assume these values.
const _: () = assert!(
    TILE_ROWS == 16 && K_GROUPS * LANE == TILE_ROW_BYTES && B_ROW == 2 * TILE_ROW_BYTES && STREAMS == 4
);

/// Arguments of an assembly block.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Plan {
    pub config: TileConfig,
    /// 1 if the block configures the tiles, and 1 if it releases them.
    pub configure: [usize; 2],
    /// Row 0 of A.
    pub a: *const u8,
    /// Panels: one panel twice for a tile, two panels for a single row.
    pub b: [*const u8; 2],
    /// Sums: of rows 0 and 16 for a tile, of both panels for a single row.
    pub c: [*mut u8; 2],
    /// Bytes from one row of C to the next.
    pub c_stride: usize,
    /// Number of turns, of 16 k-groups each.
    pub turns: usize,
    /// 1 if the sums start from C, 0 if from zero.
    pub accumulate: usize,
    /// First cache line to prefetch. A turn prefetches four lines of each stream.
    pub prefetch: *const f32,
    /// Bytes from one prefetched line of a stream to the next.
    pub step: usize,
    /// Bytes from the third line of a stream in a turn to the first line of the next stream.
    pub jump: usize,
    /// Number of streams.
    pub streams: usize,
}

/// Operations for 17 to 32 rows.
macro_rules! tall {
    ($make:ident $($to:tt)*) => {
        $make! { $($to)* sums [0 c0, 1 c1, 2 c2, 3 c3] turn [
            load(4 a0) load(6 b0) multiply(0 4 6) load(7 b1) multiply(1 4 7)
            load(5 a1) multiply(2 5 6) prefetch() multiply(3 5 7)
        ] }
    };
}

/// Operations for 1 to 16 rows.
macro_rules! flat {
    ($make:ident $($to:tt)*) => {
        $make! { $($to)* sums [0 c0, 1 c1] turn [
            load(4 a0) load(6 b0) multiply(0 4 6) load(7 b1) multiply(1 4 7) prefetch()
        ] }
    };
}

/// Operations for one row and two panels.
macro_rules! two {
    ($make:ident $($to:tt)*) => {
        $make! { $($to)* sums [0 c0, 1 c1, 2 c2, 3 c3] turn [
            load(4 a0) load(5 b0) multiply(0 4 5) load(6 b2) multiply(2 4 6)
            load(7 b1) multiply(1 4 7) load(5 b3) multiply(3 4 5)
        ] }
    };
}

/// Memory operand of a tile of A, B or C.
macro_rules! place {
    (a0) => {
        "[{a} + {a_row}*1]"
    };
    (a1) => {
        "[{a} + {a_row}*1 + 16*{A_ROW}]"
    };
    (b0) => {
        "[{b0} + {b_row}*1]"
    };
    (b1) => {
        "[{b0} + {b_row}*1 + 64]"
    };
    (b2) => {
        "[{b1} + {b_row}*1]"
    };
    (b3) => {
        "[{b1} + {b_row}*1 + 64]"
    };
    (c0) => {
        "[{x} + {z}*1]"
    };
    (c1) => {
        "[{x} + {z}*1 + 64]"
    };
    (c2) => {
        "[{y} + {z}*1]"
    };
    (c3) => {
        "[{y} + {z}*1 + 64]"
    };
}

/// Assembly text of an operation.
macro_rules! text {
    ($multiply:literal load($tile:literal $place:ident)) => {
        concat!("tileloadd tmm", $tile, ", ", place!($place))
    };
    ($multiply:literal multiply($sum:literal $a:literal $b:literal)) => {
        concat!($multiply, " tmm", $sum, ", tmm", $a, ", tmm", $b)
    };
    ($multiply:literal prefetch()) => {
        // Prefetch four lines of each stream.
        "mov {y}, [{plan} + {prefetch} + 24]\n\
         mov {x}, {next}\n\
         6:\n\
         prefetcht1 [{x}]\n\
         prefetcht1 [{x} + {step}]\n\
         lea {x}, [{x} + 2*{step}]\n\
         prefetcht1 [{x}]\n\
         prefetcht1 [{x} + {step}]\n\
         add {x}, {z}\n\
         dec {y}\n\
         jnz 6b\n\
         lea {next}, [{next} + 4*{step}]"
    };
}

/// Defines a function that executes a list of operations as assembly.
macro_rules! assembly {
    (
        $name:ident $multiply:literal
        sums [$($sum:literal $c:ident),*] turn [$($op:ident $arguments:tt)*]
    ) => {
        /// # Safety
        /// - AMX may be used.
        /// - The rows of A, panels and C that `plan` names are valid for the reads and writes of the operations.
        // Not inlined, so that all calls share one assembly block.
        #[inline(never)]
        unsafe fn $name(plan: &Plan) {
            // SAFETY: AMX may be used, and the memory that `plan` names is valid (preconditions of the function). The
            // block or the session around it releases the tiles, and no code outside of such a block uses tiles.
            unsafe {
                asm!(
                    "cmp qword ptr [{plan} + {configure}], 0",
                    "je 7f",
                    "ldtilecfg [{plan}]",
                    "7:",
                    "mov {x}, [{plan} + {c}]",
                    "mov {y}, [{plan} + {c} + 8]",
                    "mov {z}, [{plan} + {c_stride}]",
                    "cmp qword ptr [{plan} + {accumulate}], 0",
                    "jne 3f",
                    $(concat!("tilezero tmm", $sum),)*
                    "jmp 4f",
                    "3:",
                    $(concat!("tileloadd tmm", $sum, ", ", place!($c)),)*
                    "4:",
                    "mov {a}, [{plan} + {a_at}]",
                    "mov {b0}, [{plan} + {b_at}]",
                    "mov {b1}, [{plan} + {b_at} + 8]",
                    "mov {turns}, [{plan} + {turns_at}]",
                    "mov {next}, [{plan} + {prefetch}]",
                    "mov {step}, [{plan} + {prefetch} + 8]",
                    "mov {z}, [{plan} + {prefetch} + 16]",
                    "mov {a_row}, {A_ROW}",
                    "mov {b_row}, {B_ROW}",
                    "test {turns}, {turns}",
                    "jz 5f",
                    ".p2align 5",
                    "2:",
                    $(text!($multiply $op $arguments),)*
                    "add {a}, 64",
                    "add {b0}, {turn_of_b}",
                    "add {b1}, {turn_of_b}",
                    "dec {turns}",
                    "jnz 2b",
                    "5:",
                    "mov {x}, [{plan} + {c}]",
                    "mov {y}, [{plan} + {c} + 8]",
                    "mov {z}, [{plan} + {c_stride}]",
                    $(concat!("tilestored ", place!($c), ", tmm", $sum),)*
                    "cmp qword ptr [{plan} + {configure} + 8], 0",
                    "je 8f",
                    "tilerelease",
                    "8:",
                    plan = in(reg) plan,
                    a = out(reg) _, a_row = out(reg) _,
                    b0 = out(reg) _, b1 = out(reg) _, b_row = out(reg) _,
                    turns = out(reg) _, next = out(reg) _, step = out(reg) _,
                    // Outside of the loop: both pointers to C and its stride. In the loop: the line to prefetch, the
                    // number of streams left, and `jump`.
                    x = out(reg) _, y = out(reg) _, z = out(reg) _,
                    A_ROW = const A_ROW,
                    B_ROW = const B_ROW,
                    turn_of_b = const K_GROUPS * B_ROW,
                    configure = const offset_of!(Plan, configure),
                    a_at = const offset_of!(Plan, a),
                    b_at = const offset_of!(Plan, b),
                    c = const offset_of!(Plan, c),
                    c_stride = const offset_of!(Plan, c_stride),
                    turns_at = const offset_of!(Plan, turns),
                    accumulate = const offset_of!(Plan, accumulate),
                    prefetch = const offset_of!(Plan, prefetch),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}
tall!(assembly bf16_tall "tdpbf16ps");
tall!(assembly int8_tall "tdpbusd");
flat!(assembly bf16_flat "tdpbf16ps");
flat!(assembly int8_flat "tdpbusd");
two!(assembly bf16_two "tdpbf16ps");

// Offsets that the assembly block assumes.
const _: () = assert!(
    offset_of!(Plan, config) == 0
        && offset_of!(Plan, step) == offset_of!(Plan, prefetch) + 8
        && offset_of!(Plan, jump) == offset_of!(Plan, prefetch) + 16
        && offset_of!(Plan, streams) == offset_of!(Plan, prefetch) + 24
);

impl Plan {
    /// Returns the plan of a tile, and true if the tile has more than 16 rows.
    #[inline(always)]
    pub(super) fn tile<Operand: Lane, Sum: Lane>(t: Tile<Operand, Sum>) -> (Self, bool) {
        debug_assert!(t.b_stride == Avx512::NR && t.k.is_multiple_of(K_GROUPS));
        let upper = t.rows.min(TILE_ROWS) as u8;
        let lower = (t.rows as u8).saturating_sub(TILE_ROWS as u8);
        let b = TILE_ROWS as u8;
        let Prefetch { from, stride, step } = t.prefetch;
        let plan = Self {
            config: TileConfig::of([upper, upper, lower, lower, upper, lower, b, b]),
            configure: [1; 2],
            a: t.a.cast(),
            b: [t.b.cast(); 2],
            c: [t.c, t.c.wrapping_add(TILE_ROWS * t.c_stride)].map(<*mut Sum>::cast),
            c_stride: t.c_stride * LANE,
            turns: t.k / K_GROUPS,
            accumulate: usize::from(t.accumulate),
            prefetch: from,
            step: step * LANE,
            jump: (stride * LANE).wrapping_sub(2 * step * LANE),
            streams: Prefetch::streams::<Avx512>(t.rows),
        };
        (plan, lower > 0)
    }

    /// Returns the plan of one row and the panels `first` and `first + 1`.
    #[inline(always)]
    pub(super) fn row<Operand: Lane, Sum: Lane>(
        t: Tile<Operand, Sum>,
        panel_stride: usize,
        first: usize,
    ) -> Self {
        let b = TILE_ROWS as u8;
        Self {
            config: TileConfig::of([1, 1, 1, 1, 1, b, b, b]),
            b: [first, first + 1].map(|panel| t.b.wrapping_add(panel * panel_stride).cast()),
            c: [first, first + 1].map(|panel| t.c.wrapping_add(panel * t.c_stride).cast()),
            ..Self::tile(Tile { rows: 1, ..t }).0
        }
    }
}

/// Height that stands for the configuration of one row and two panels, which is not that of a tile of one row.
const ROW_HEIGHT: usize = 0;

impl Amx {
    /// Maximum number of rows of a tile of C.
    pub const ROWS: usize = 2 * TILE_ROWS;

    /// Computes a tile, as [`Microkernel::run`](crate::isa::Microkernel::run).
    ///
    /// # Safety
    /// The preconditions of [`Microkernel::run`](crate::isa::Microkernel::run) hold with [`ROWS`](Self::ROWS) as MR.
    #[inline(always)]
    pub unsafe fn run<Operand: Lane, Sum: Lane>(self, k_group: KGroup, tile: Tile<Operand, Sum>) {
        let (mut plan, tall) = Plan::tile(tile);
        plan.configure = configure(tile.rows);
        // SAFETY: `self` proves AMX. The bullets under `Tile` hold and k is a multiple of K_GROUPS (preconditions of
        // `run`), so the rows of A, the panel and C that the plan names are valid.
        unsafe {
            match (k_group, tall) {
                (KGroup::Bf16, true) => bf16_tall(&plan),
                (KGroup::Bf16, false) => bf16_flat(&plan),
                (KGroup::Int8, true) => int8_tall(&plan),
                (KGroup::Int8, false) => int8_flat(&plan),
            }
        }
    }

    /// Multiplies one row of bf16 by several panels, as [`Microkernel::gemv`](crate::isa::Microkernel::gemv).
    ///
    /// # Safety
    /// The preconditions of [`Microkernel::gemv`](crate::isa::Microkernel::gemv) hold.
    #[inline(always)]
    pub unsafe fn bf16_gemv(self, tile: Tile<Bf16Pair, f32>, panel_stride: usize) {
        for first in (0..STREAMS).step_by(2) {
            let mut plan = Plan::row(tile, panel_stride, first);
            plan.configure = configure(ROW_HEIGHT);
            // SAFETY: `self` proves AMX. The bullets under `Tile` hold for one row and each panel, and k is a multiple
            // of K_GROUPS (preconditions of `bf16_gemv`), so the row, the panels and C that the plan names are valid.
            unsafe { bf16_two(&plan) }
        }
    }
}

#[cfg(test)]
mod tests;

//! The matrix product's tiles in the registers of AMX.
//!
//! ```text
//!                     b0: tmm6        b1: tmm7      32x32 sums of f32 or i32: four registers. A turn
//!                  16 words x 16   16 words x 16    takes 16 words of k: four loads, four products.
//! a0: tmm4
//! 16 rows x 16     c0: tmm0        c1: tmm1         cycles of a turn on Sapphire Rapids
//! a1: tmm5                                            4 products of 16      64
//! 16 rows x 16     c2: tmm2        c3: tmm3           4 loads of 16 lines   32, of another port
//! ```
//!
//! Up to 16 rows need the upper half alone. A single row takes two panels at a time, b0 and b1 of the one,
//! b2 and b3 of the other, and no a1.
//!
//! A program is written once, as a list of operations. `assembly` turns the list into instructions; the tests
//! run the list on a software model of AMX, on every CPU.

use super::{Amx, TILE_ROW_BYTES, TILE_ROWS, TileConfig};
use crate::isa::avx512::Avx512;
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Bf16Pair, Isa, K_GROUPS, Lane, Prefetch, Tile};
use core::arch::asm;
use core::mem::offset_of;

/// Element types of a k-group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KGroup {
    /// Pairs of bf16. A turn adds up the even and the odd k-steps of its 16 words by themselves, each as if
    /// by fused multiply-adds, then the two, then that to the sum; every step rounds to nearest even and takes
    /// and returns denormals as zeros. So a sum of k k-steps is within (k / 32 + 17) u sum|a b| of exact, to
    /// first order, plus 2^-126 for each of its operations.
    Bf16,
    /// Quads of int8, unsigned in A: exact.
    Int8,
}

impl KGroup {
    /// The instruction that multiplies them.
    pub const fn instruction(self) -> &'static str {
        match self {
            Self::Bf16 => "tdpbf16ps",
            Self::Int8 => "tdpbusd",
        }
    }
}

/// Bytes of a word.
const LANE: usize = size_of::<f32>();

/// Bytes between rows of A, which are so far apart at compile time.
const A_ROW: usize = A_STRIDE * LANE;

/// Bytes between words of k in a panel.
const B_ROW: usize = Avx512::NR * LANE;

// The programs' displacements have been written for this.
const _: () = assert!(
    TILE_ROWS == 16 && K_GROUPS * LANE == TILE_ROW_BYTES && B_ROW == 2 * TILE_ROW_BYTES && STREAMS == 4
);

/// All that a program reads.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Plan {
    pub config: TileConfig,
    /// Row 0 of A.
    pub a: *const u8,
    /// The panel, or two.
    pub b: [*const u8; 2],
    /// Sums of rows 0 and 16 of the panel, or of row 0 and both panels.
    pub c: [*mut u8; 2],
    /// Bytes between rows of C.
    pub c_stride: usize,
    /// 16 words of k each.
    pub turns: usize,
    /// 1 if the sums start from C, 0 if from zero.
    pub accumulate: usize,
    /// The first line to be prefetched. In every turn it is four of each of `streams` streams: lines `step`
    /// bytes apart, and from the third of them `jump` bytes to the next stream.
    pub prefetch: *const f32,
    pub step: usize,
    pub jump: usize,
    pub streams: usize,
}

/// Sums of over 16 rows.
macro_rules! tall {
    ($make:ident $($to:tt)*) => {
        $make! { $($to)* sums [0 c0, 1 c1, 2 c2, 3 c3] turn [
            load(4 a0) load(6 b0) multiply(0 4 6) load(7 b1) multiply(1 4 7)
            load(5 a1) multiply(2 5 6) prefetch() multiply(3 5 7)
        ] }
    };
}

/// Sums of up to 16 rows.
macro_rules! flat {
    ($make:ident $($to:tt)*) => {
        $make! { $($to)* sums [0 c0, 1 c1] turn [
            load(4 a0) load(6 b0) multiply(0 4 6) load(7 b1) multiply(1 4 7) prefetch()
        ] }
    };
}

/// Sums of a row and two panels.
macro_rules! two {
    ($make:ident $($to:tt)*) => {
        $make! { $($to)* sums [0 c0, 1 c1, 2 c2, 3 c3] turn [
            load(4 a0) load(5 b0) multiply(0 4 5) load(6 b2) multiply(2 4 6)
            load(7 b1) multiply(1 4 7) load(5 b3) multiply(3 4 5)
        ] }
    };
}

/// Where a tile stands in memory.
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

/// The text of an operation.
macro_rules! text {
    ($multiply:literal load($tile:literal $place:ident)) => {
        concat!("tileloadd tmm", $tile, ", ", place!($place))
    };
    ($multiply:literal multiply($sum:literal $a:literal $b:literal)) => {
        concat!($multiply, " tmm", $sum, ", tmm", $a, ", tmm", $b)
    };
    ($multiply:literal prefetch()) => {
        // For each stream, four lines.
        "mov {y}, [{plan} + {prefetch} + 24]\n\
         mov {x}, {ahead}\n\
         6:\n\
         prefetcht1 [{x}]\n\
         prefetcht1 [{x} + {step}]\n\
         lea {x}, [{x} + 2*{step}]\n\
         prefetcht1 [{x}]\n\
         prefetcht1 [{x} + {step}]\n\
         add {x}, {z}\n\
         dec {y}\n\
         jnz 6b\n\
         lea {ahead}, [{ahead} + 4*{step}]"
    };
}

/// A function that carries out a plan.
macro_rules! assembly {
    (
        $name:ident $multiply:literal
        sums [$($sum:literal $c:ident),*] turn [$($op:ident $arguments:tt)*]
    ) => {
        /// # Safety
        /// AMX may be used; the memory of the plan is valid for what its operations read and write.
        // Not inlined: many calls share the one assembly block.
        #[inline(never)]
        unsafe fn $name(plan: &Plan) {
            // SAFETY: AMX may be used and the plan's memory is valid (preconditions of the function). The block
            // releases the tiles, and no code outside of such a block uses tiles.
            unsafe {
                asm!(
                    "ldtilecfg [{plan}]",
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
                    "mov {ahead}, [{plan} + {prefetch}]",
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
                    "tilerelease",
                    plan = in(reg) plan,
                    a = out(reg) _, a_row = out(reg) _,
                    b0 = out(reg) _, b1 = out(reg) _, b_row = out(reg) _,
                    turns = out(reg) _, ahead = out(reg) _, step = out(reg) _,
                    // C and its stride; in the loop, a stream, how many remain, and the jump to the next.
                    x = out(reg) _, y = out(reg) _, z = out(reg) _,
                    A_ROW = const A_ROW,
                    B_ROW = const B_ROW,
                    turn_of_b = const K_GROUPS * B_ROW,
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

// Constants that the assembly block is written for.
const _: () = assert!(
    offset_of!(Plan, config) == 0
        && offset_of!(Plan, step) == offset_of!(Plan, prefetch) + 8
        && offset_of!(Plan, jump) == offset_of!(Plan, prefetch) + 16
        && offset_of!(Plan, streams) == offset_of!(Plan, prefetch) + 24
);

impl Plan {
    /// A tile's, and whether it is a tall one.
    #[inline(always)]
    pub(super) fn tile<Operand: Lane, Sum: Lane>(t: Tile<Operand, Sum>) -> (Self, bool) {
        debug_assert!(t.b_stride == Avx512::NR && t.k.is_multiple_of(K_GROUPS));
        let upper = t.rows.min(TILE_ROWS) as u8;
        let lower = (t.rows as u8).saturating_sub(TILE_ROWS as u8);
        let b = TILE_ROWS as u8;
        let Prefetch { from, stride, step } = t.prefetch;
        let plan = Self {
            config: TileConfig::of([upper, upper, lower, lower, upper, lower, b, b]),
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

    /// Plan of one row and the panels `first` and `first + 1`.
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

impl Amx {
    /// Most rows of a tile.
    pub const ROWS: usize = 2 * TILE_ROWS;

    /// [`Microkernel::run`](crate::isa::Microkernel::run).
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn run<Operand: Lane, Sum: Lane>(self, k_group: KGroup, tile: Tile<Operand, Sum>) {
        let (plan, tall) = Plan::tile(tile);
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call. The plan
        // needs what a tile does.
        unsafe {
            match (k_group, tall) {
                (KGroup::Bf16, true) => bf16_tall(&plan),
                (KGroup::Bf16, false) => bf16_flat(&plan),
                (KGroup::Int8, true) => int8_tall(&plan),
                (KGroup::Int8, false) => int8_flat(&plan),
            }
        }
    }

    /// [`Microkernel::gemv`](crate::isa::Microkernel::gemv) of pairs of bf16.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn bf16_gemv(self, tile: Tile<Bf16Pair, f32>, panel_stride: usize) {
        for first in (0..STREAMS).step_by(2) {
            // SAFETY: the caller of `bf16_gemv` guarantees its preconditions, which are those of this call.
            // The plan needs what two of the panels do.
            unsafe { bf16_two(&Plan::row(tile, panel_stride, first)) }
        }
    }
}

#[cfg(test)]
mod tests;

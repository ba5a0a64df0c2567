//! Four k-groups of a tile by pairs (`bfmmla`, `smmla`), in one block of assembly.
//!
//! ```text
//! registers   24 sums (s00 to s27) + 6 of A (f0 to f2, g0 to g2) + 2 of B (x, y) = 32
//! ```
//!
//! Loads of A pass through x and y before those of B. The block is assembly because the compiler moved sums between
//! registers, 44 times in these 48 instructions.

/// Multiplies of one pair of columns, whose k-groups are in register `$b`, by 1 to 3 pairs of rows.
macro_rules! column {
    (1 $text:literal $of:literal $half:literal $b:literal $j:literal) => {
        concat!($text, " {s0", $j, ":v}.4s, {", $half, "0:v}", $of, ", {", $b, ":v}", $of, "\n")
    };
    (2 $text:literal $of:literal $half:literal $b:literal $j:literal) => {
        concat!(
            column!(1 $text $of $half $b $j),
            $text, " {s1", $j, ":v}.4s, {", $half, "1:v}", $of, ", {", $b, ":v}", $of, "\n"
        )
    };
    (3 $text:literal $of:literal $half:literal $b:literal $j:literal) => {
        concat!(
            column!(2 $text $of $half $b $j),
            $text, " {s2", $j, ":v}.4s, {", $half, "2:v}", $of, ", {", $b, ":v}", $of, "\n"
        )
    };
}

/// Multiplies of two k-groups of all columns. Each pair of columns has a number and an offset from `b` in bytes.
///
/// The loads are `ldr`: llvm-mca counts three operations to an `ldp`, and dispatch would bound the loop (15.5 cycles).
macro_rules! two_k_groups {
    ($pairs:tt $text:literal $of:literal $half:literal [$($even:literal $at:literal, $odd:literal $next:literal);*]) => {
        concat!($(
            "ldr {x:q}, [{b}, #", $at, "]\n",
            "ldr {y:q}, [{b}, #", $next, "]\n",
            column!($pairs $text $of $half "x" $even),
            column!($pairs $text $of $half "y" $odd),
        )*)
    };
}

/// Loads of row pair `$i`: the first two k-groups of both rows to `f$i`, the second two to `g$i`.
macro_rules! rows {
    ($i:literal) => {
        concat!(
            "ldr {x:q}, [{a}, #{even",
            $i,
            "}]\n",
            "ldr {y:q}, [{a}, #{odd",
            $i,
            "}]\n",
            "trn1 {f",
            $i,
            ":v}.2d, {x:v}.2d, {y:v}.2d\n",
            "trn2 {g",
            $i,
            ":v}.2d, {x:v}.2d, {y:v}.2d",
        )
    };
}

/// Assembly block of `$pairs` row pairs; the last pair may have one row.
macro_rules! block {
    (
        $extension:literal $text:literal $of:literal $R:ident $a:ident $b:ident $sums:ident
        $pairs:tt [$($i:literal $even:ident $odd:ident $f:ident $g:ident),*] [$($s:ident = $si:literal $sj:literal),*]
    ) => {
        asm!(
            concat!(".arch_extension ", $extension),
            $(rows!($i),)*
            two_k_groups!($pairs $text $of "f" [0 0, 1 16; 2 32, 3 48; 4 64, 5 80; 6 96, 7 112]),
            two_k_groups!($pairs $text $of "g" [0 128, 1 144; 2 160, 3 176; 4 192, 5 208; 6 224, 7 240]),
            a = in(reg) $a,
            b = in(reg) $b,
            x = out(vreg) _,
            y = out(vreg) _,
            $($f = out(vreg) _, $g = out(vreg) _,)*
            $($s = inout(vreg) $sums[$si][$sj].0,)*
            $(
                $even = const 2 * $i * A_STRIDE * size_of::<f32>(),
                $odd = const $crate::isa::neon::tiles::partner::<$R>($i) * A_STRIDE * size_of::<f32>(),
            )*
            options(pure, readonly, nostack, preserves_flags),
        )
    };
}

/// Defines `ByPairs::four_k_groups` by the instruction `$text` of an extension, whose operands have the arrangement
/// `$of`.
macro_rules! four_k_groups {
    ($extension:literal $text:literal $of:literal) => {
        #[inline(always)]
        unsafe fn four_k_groups<const R: usize>(
            self,
            sums: &mut tiles::Sums,
            a: *const Self::Operand,
            b: *const Self::Operand,
        ) {
            // SAFETY: four k-groups of `R` rows at `a`, `A_STRIDE` apart, and of NR columns at `b` are valid for
            // reads (precondition of `four_k_groups`). The block reads no other memory: `partner` is below `R`. A
            // value of this type proves the instruction.
            unsafe {
                match R.div_ceil(2) {
                    1 => block!(
                        $extension $text $of R a b sums 1 [0 even0 odd0 f0 g0]
                        [s00 = 0 0, s01 = 0 1, s02 = 0 2, s03 = 0 3, s04 = 0 4, s05 = 0 5, s06 = 0 6, s07 = 0 7]
                    ),
                    2 => block!(
                        $extension $text $of R a b sums 2 [0 even0 odd0 f0 g0, 1 even1 odd1 f1 g1]
                        [s00 = 0 0, s01 = 0 1, s02 = 0 2, s03 = 0 3, s04 = 0 4, s05 = 0 5, s06 = 0 6, s07 = 0 7, s10 = 1 0, s11 = 1 1, s12 = 1 2, s13 = 1 3, s14 = 1 4, s15 = 1 5, s16 = 1 6, s17 = 1 7]
                    ),
                    3 => block!(
                        $extension $text $of R a b sums 3 [0 even0 odd0 f0 g0, 1 even1 odd1 f1 g1, 2 even2 odd2 f2 g2]
                        [s00 = 0 0, s01 = 0 1, s02 = 0 2, s03 = 0 3, s04 = 0 4, s05 = 0 5, s06 = 0 6, s07 = 0 7, s10 = 1 0, s11 = 1 1, s12 = 1 2, s13 = 1 3, s14 = 1 4, s15 = 1 5, s16 = 1 6, s17 = 1 7, s20 = 2 0, s21 = 2 1, s22 = 2 2, s23 = 2 3, s24 = 2 4, s25 = 2 5, s26 = 2 6, s27 = 2 7]
                    ),
                    _ => unreachable!("a tile has 1..=MR rows"),
                }
            }
        }
    };
}

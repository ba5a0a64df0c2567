//! The contract of [`Microkernel`]: tiles against scalar arithmetic, bit by bit.
//!
//! An instruction that rounds is compared with its emulation. The emulation is compared with f64, within the error
//! bound that the microkernel documents.

use super::emulated::{add, bfdot, fma, halves};
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, I16, Isa, K_GROUPS, Microkernel, OuterProduct, Prefetch, Tile};
use crate::{Backend, Kernel};
use half::bf16;
use std::io::Write;

/// A microkernel to test: an instruction, or a model of one.
pub(crate) struct TestedMicrokernel<'a> {
    pub backend: &'a str,
    pub instruction: &'a str,
    pub signed: bool,
    pub rows: usize,
    pub depth: usize,
    /// Columns of a panel.
    pub nr: usize,
    /// [`Microkernel::run`].
    pub tile: &'a dyn Fn(Tile),
    /// [`Microkernel::gemv`] of a tile and a `panel_stride`.
    pub row: &'a dyn Fn(Tile, usize),
}

/// Distribution of a product's operands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    /// In \[-1, 1), or all integers.
    Plain,
    /// Floats: zeros, denormals, and numbers whose products are denormal, absorb all others, or overflow. Integers: the
    /// ends of the range.
    Edges,
}

/// Bits that a microkernel must not use: NaN as f32 and as two bf16, and nonzero as integers.
const POISON: u32 = 0x7fc1_7fc1;

/// The `i`-th of a fixed sequence without pattern.
fn hash(i: usize) -> u32 {
    let hash = (i as u32 ^ 0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 13)
}

impl Numbers {
    fn bf16(self, i: usize) -> u16 {
        let h = hash(i);
        match self {
            Self::Plain => bf16::from_f32((h >> 8) as f32 / (1 << 23) as f32 - 1.0).to_bits(),
            // Most are about 2^-63: their products lie on both sides of the smallest normal number.
            Self::Edges => match h % 8 {
                0 => (h >> 16) as u16 & 0x807f,
                1 => (h >> 16) as u16 & 0x8000 | 0x3f80,
                2 => (h >> 16) as u16 & 0xc7ff | 0x2000,
                3..5 => (h >> 16) as u16 & 0x83ff | 0x0400,
                _ => (h >> 16) as u16 & 0x80ff | 0x1f80,
            },
        }
    }

    fn byte(self, i: usize, signed: bool) -> u8 {
        let zero = if signed { 0 } else { 0x80 };
        match self {
            Self::Plain => hash(i) as u8,
            // Each end fills 512 consecutive bytes, so that sums grow large.
            Self::Edges => [0x80, 0x7f, 0x80, 0x81][hash(i / 512) as usize % 4] ^ zero,
        }
    }

    fn i16(self, i: usize) -> i16 {
        match self {
            Self::Plain => i16::from((hash(i) as u8).cast_signed()) - i16::from(hash(i) & 0x100 != 0),
            Self::Edges => [i16::MIN, i16::MAX, -255, 255][hash(i / 64) as usize % 4],
        }
    }

    /// The `i`-th k-group.
    fn k_group(self, tested: &TestedMicrokernel<'_>, i: usize, signed: bool) -> u32 {
        match tested.instruction {
            float if rounds(float) => pair(|half| self.bf16(2 * i + half)),
            "i16" => pair(|half| self.i16(2 * i + half).cast_unsigned()),
            _ => u32::from_le_bytes(core::array::from_fn(|byte| self.byte(4 * i + byte, signed))),
        }
    }

    /// A sum to start from.
    fn start(self, tested: &TestedMicrokernel<'_>, i: usize) -> u32 {
        let tiny = if self == Self::Edges { 1e-36 } else { 1.0 };
        match tested.instruction {
            float if rounds(float) => (super::noise(i) * tiny).to_bits(),
            _ => hash(i) >> 8,
        }
    }
}

/// True if the instruction multiplies bf16 and rounds its f32 sums.
fn rounds(instruction: &str) -> bool {
    matches!(instruction, "vdpbf16ps" | "tdpbf16ps" | "bfmmla")
}

/// Returns a k-group of two halves, the even k-step in the low half.
fn pair(half: impl Fn(usize) -> u16) -> u32 {
    u32::from(half(0)) | u32::from(half(1)) << 16
}

/// Expected bits of a sum that starts from `start`, over a row of A and a column of B.
fn expected(tested: &TestedMicrokernel<'_>, a: &[u32], b: &[u32], start: u32) -> u32 {
    let float = f32::from_bits(start);
    let k_groups = a.iter().zip(b).map(|(&a, &b)| (a, b));
    match tested.instruction {
        "vdpbf16ps" => k_groups
            .fold(float, |sum, (a, b)| {
                let (a, b) = (halves(a), halves(b));
                fma(a[0], b[0], fma(a[1], b[1], sum))
            })
            .to_bits(),
        "tdpbf16ps" => a
            .chunks(K_GROUPS)
            .zip(b.chunks(K_GROUPS))
            .fold(float, |sum, (a, b)| {
                let chain = |half: usize| {
                    a.iter().zip(b).fold(0.0, |sum, (&a, &b)| fma(halves(a)[half], halves(b)[half], sum))
                };
                add(sum, add(chain(0), chain(1)))
            })
            .to_bits(),
        "bfmmla" => k_groups.fold(float, |sum, (a, b)| bfdot(a, b, sum)).to_bits(),
        "i16" => k_groups.fold(start, |sum, (a, b)| {
            let product = |at: u32| i32::from((a >> at) as i16) * i32::from((b >> at) as i16);
            sum.wrapping_add(product(0).wrapping_add(product(16)).cast_unsigned())
        }),
        _ => k_groups.fold(start, |sum, (a, b)| {
            let number = |a: u8| if tested.signed { i32::from(a.cast_signed()) } else { i32::from(a) };
            let bytes = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
            let products = bytes.map(|(a, b)| number(a) * i32::from(b.cast_signed()));
            sum.wrapping_add(products.sum::<i32>().cast_unsigned())
        }),
    }
}

/// Documented error bound of a sum of `k` k-steps, in units of u sum|a b|, where the sum includes |C|.
fn roundings(tested: &TestedMicrokernel<'_>, k: usize) -> Option<usize> {
    match tested.instruction {
        "vdpbf16ps" => Some(k),
        "tdpbf16ps" => Some(k / 32 + 17),
        "bfmmla" => Some(k + 2),
        _ => None,
    }
}

/// Operands and expected sums of a test: all rows of A, the columns of [`STREAMS`] panels of B, and the initial C.
struct TestProduct {
    k: usize,
    a: Vec<Vec<u32>>,
    columns: Vec<Vec<u32>>,
    start: Option<Vec<Vec<u32>>>,
    expected: Vec<Vec<u32>>,
}

impl TestProduct {
    fn new(tested: &TestedMicrokernel<'_>, numbers: Numbers, k: usize, accumulate: bool) -> Self {
        let columns = STREAMS * tested.nr;
        let k_group = |i: usize, signed: bool| numbers.k_group(tested, i, signed);
        let a: Vec<Vec<u32>> =
            (0..tested.rows).map(|i| (0..k).map(|w| k_group(i * k + w, tested.signed)).collect()).collect();
        let columns: Vec<Vec<u32>> =
            (0..columns).map(|j| (0..k).map(|w| k_group(1_000_003 + j * k + w, true)).collect()).collect();
        let start = |i: usize, j: usize| numbers.start(tested, 7 + i * columns.len() + j);
        let starts: Vec<Vec<u32>> = (0..tested.rows)
            .map(|i| (0..columns.len()).map(|j| if accumulate { start(i, j) } else { 0 }).collect())
            .collect();
        // `check_row` multiplies the first and the last row by all panels, `check_tile` every row by one panel.
        let of_row = |i: usize| {
            let needed = if i == 0 || i + 1 == tested.rows { columns.len() } else { tested.nr };
            let sums = columns[..needed].iter().zip(&starts[i]);
            sums.map(|(b, &start)| expected(tested, &a[i], b, start)).collect()
        };
        let expected = (0..tested.rows).map(of_row).collect();
        Self { k, expected, a, columns, start: accumulate.then_some(starts) }
    }

    /// Packs the panels, with [`POISON`] between them.
    fn panels(&self, tested: &TestedMicrokernel<'_>, panels: usize, panel_stride: usize) -> Vec<u32> {
        let mut b = vec![POISON; (panels - 1) * panel_stride + self.k * tested.nr];
        let depth = tested.depth;
        for (j, column) in self.columns[..panels * tested.nr].iter().enumerate() {
            for (w, &k_group) in column.iter().enumerate() {
                let in_panel = (w / depth * tested.nr + j % tested.nr) * depth + w % depth;
                b[j / tested.nr * panel_stride + in_panel] = k_group;
            }
        }
        b
    }

    /// Asserts that the expected sums are within the documented bound of sums in f64.
    fn check_bound(&self, tested: &TestedMicrokernel<'_>) {
        let Some(roundings) = roundings(tested, 2 * self.k) else { return };
        let u = f64::from(f32::EPSILON) / 2.0;
        for (i, sums) in self.expected.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                let start = self.start.as_ref().map_or(0.0, |c| f64::from(f32::from_bits(c[i][j])));
                let (mut exact, mut magnitude) = (start, start.abs());
                for (&a, &b) in self.a[i].iter().zip(&self.columns[j]) {
                    for (a, b) in halves(a).into_iter().zip(halves(b)) {
                        let product = f64::from(a) * f64::from(b);
                        exact += product;
                        magnitude += product.abs();
                    }
                }
                let error = (f64::from(f32::from_bits(sum)) - exact).abs();
                let bound = 1.001 * roundings as f64 * u * magnitude + 4.0 * self.k as f64 * 2f64.powi(-126);
                let case = tested.instruction;
                assert!(error <= bound, "{case} k {} [{i}, {j}]: error {error:e} > {bound:e}", self.k);
            }
        }
    }
}

/// Checks every clause of the contract of [`Microkernel`].
pub(crate) fn check(tested: &TestedMicrokernel<'_>) {
    for numbers in [Numbers::Plain, Numbers::Edges] {
        for k in [16, 32, 48, 384] {
            for accumulate in [false, true] {
                let product = TestProduct::new(tested, numbers, k, accumulate);
                if numbers == Numbers::Plain {
                    product.check_bound(tested);
                }
                let case = format!(
                    "{} {}, {numbers:?} numbers, {k} k-groups, accumulate {accumulate}",
                    tested.backend, tested.instruction
                );
                for rows in 1..=tested.rows {
                    check_tile(tested, &product, rows, &case);
                }
                check_row(tested, &product, 0, &case);
                check_row(tested, &product, tested.rows - 1, &case);
            }
        }
    }
}

fn check_tile(tested: &TestedMicrokernel<'_>, product: &TestProduct, rows: usize, case: &str) {
    let (k, nr, c_stride) = (product.k, tested.nr, tested.nr + 5);
    let mut a = vec![POISON; (rows - 1) * A_STRIDE + k];
    for (i, row) in product.a[..rows].iter().enumerate() {
        a[i * A_STRIDE..][..k].copy_from_slice(row);
    }
    let b = product.panels(tested, 1, k * nr);
    let mut c = vec![POISON; rows * c_stride];
    if let Some(start) = &product.start {
        c.chunks_mut(c_stride).zip(start).for_each(|(c, start)| c[..nr].copy_from_slice(&start[..nr]));
    }
    (tested.tile)(Tile {
        rows,
        k,
        a: a.as_ptr().cast(),
        b: b.as_ptr().cast(),
        b_stride: nr,
        c: c.as_mut_ptr().cast(),
        c_stride,
        accumulate: product.start.is_some(),
        prefetch: Prefetch { from: core::ptr::null(), stride: 4096, step: 16 }, // any address is allowed
    });
    for (i, c) in c.chunks(c_stride).enumerate() {
        compare(
            tested.instruction,
            &c[..nr],
            &product.expected[i][..nr],
            &format!("{case}: row {i} of {rows}"),
        );
        assert_eq!(c[nr..], [POISON; 5], "{case}: row {i} of {rows}, wrote past it");
    }
}

/// Checks [`Microkernel::gemv`] of row `i`.
fn check_row(tested: &TestedMicrokernel<'_>, product: &TestProduct, i: usize, case: &str) {
    let (k, nr, c_stride, panel_stride) = (product.k, tested.nr, tested.nr + 3, product.k * tested.nr + 64);
    let a = product.a[i].clone();
    let b = product.panels(tested, STREAMS, panel_stride);
    let mut c = vec![POISON; STREAMS * c_stride];
    if let Some(start) = &product.start {
        c.chunks_mut(c_stride).zip(start[i].chunks(nr)).for_each(|(c, start)| c[..nr].copy_from_slice(start));
    }
    let tile = Tile {
        rows: 1,
        k,
        a: a.as_ptr().cast(),
        b: b.as_ptr().cast(),
        b_stride: nr,
        c: c.as_mut_ptr().cast(),
        c_stride,
        accumulate: product.start.is_some(),
        prefetch: Prefetch::none(core::ptr::null()),
    };
    (tested.row)(tile, panel_stride);
    for (q, (c, expected)) in c.chunks(c_stride).zip(product.expected[i].chunks(nr)).enumerate() {
        compare(tested.instruction, &c[..nr], expected, &format!("{case}: row {i} alone, panel {q}"));
        assert_eq!(c[nr..], [POISON; 3], "{case}: row {i} alone, wrote past panel {q}");
    }
}

#[track_caller]
fn compare(instruction: &str, found: &[u32], expected: &[u32], case: &str) {
    for (j, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let floats = [found, expected].map(f32::from_bits);
        // Edges may overflow to NaN, whose payload is the instruction's choice.
        let nan = rounds(instruction) && found != POISON && floats.iter().all(|x| x.is_nan());
        assert!(
            found == expected || nan,
            "{case}, column {j}: {found:#x}, expected {expected:#x} ({floats:?})"
        );
    }
}

/// Checks a microkernel of `isa`.
#[inline(always)]
fn check_on<I: Isa, M: Microkernel<I>>(isa: I, microkernel: M) {
    check(&TestedMicrokernel {
        backend: I::NAME,
        instruction: microkernel.instruction(),
        signed: M::SIGNED,
        rows: microkernel.rows(),
        depth: microkernel.depth(),
        nr: I::NR,
        tile: &|tile| {
            isa.run(
                #[inline(always)]
                || {
                    // SAFETY: `check_tile` passes rows of A, a panel and C of the sizes and strides of `tile`, with 1 to
                    // `rows` rows and k a multiple of K_GROUPS.
                    unsafe { microkernel.run(isa, tile.typed()) }
                },
            )
        },
        row: &|tile, stride| {
            isa.run(
                #[inline(always)]
                || {
                    // SAFETY: `check_row` passes one row of A, STREAMS panels `stride` apart and their sums, with k a
                    // multiple of K_GROUPS.
                    unsafe { microkernel.gemv(isa, tile.typed(), stride) }
                },
            )
        },
    });
}

on_every_backend! {
    fn pairs_of_bf16<I>(isa) {
        isa.bf16().inspect(|&microkernel| check_on(isa, microkernel));
    }

    fn quads_of_int8<I>(isa) {
        isa.int8().inspect(|&microkernel| check_on(isa, microkernel));
    }

    fn pairs_of_i16<I>(isa) {
        check_on(isa, OuterProduct(I16));
    }
}

/// Tests `sdot` also on CPUs with `smmla`, which [`Isa::int8`] prefers.
#[cfg(target_arch = "aarch64")]
#[test]
fn quads_of_int8_by_sdot() {
    let isa = crate::isa::neon::Neon::detect().expect("AArch64 has it").without_i8mm();
    match isa.int8() {
        Some(microkernel) => check_on(isa, microkernel),
        None => drop(writeln!(std::io::stderr(), "SKIPPED neon sdot: not on this CPU")),
    }
}

#[test]
fn what_this_cpu_lacks_is_named() {
    let all: &[(&str, &str)] = if cfg!(target_arch = "x86_64") {
        &[
            ("amx", "tdpbf16ps"),
            ("amx", "tdpbusd"),
            ("avx512", "vdpbf16ps"),
            ("avx512", "vpdpbusd"),
            ("avx2", "vpdpbusd"),
        ]
    } else if cfg!(target_arch = "aarch64") {
        &[("neon", "bfmmla"), ("neon", "smmla")]
    } else {
        &[]
    };
    for &(backend, instruction) in all {
        let instructions = |b: Backend| [b.bf16_instruction(), b.int8_instruction()];
        if !Backend::named(backend).is_ok_and(|b| instructions(b).contains(&Some(instruction))) {
            // Not `eprintln`: the test harness hides its output while tests pass.
            let _ = writeln!(std::io::stderr(), "SKIPPED {backend} {instruction}: not on this CPU");
        }
    }
}

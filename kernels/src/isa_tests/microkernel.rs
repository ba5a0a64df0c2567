//! The contract of [`Microkernel`]: tiles of words against scalar arithmetic, bit by bit.
//!
//! An instruction that rounds is compared with its emulation; the emulation is compared with f64 and the error
//! bound of the instruction's documentation.

use super::emulated::{add, bfdot, fma, halves};
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, I16, Isa, K_GROUPS, Microkernel, OuterProduct, Prefetch, Tile};
use crate::{Backend, Kernel};
use half::bf16;
use std::io::Write;

/// A way to multiply words, behind which may stand an instruction or a model of one.
pub(crate) struct Subject<'a> {
    pub backend: &'a str,
    pub instruction: &'a str,
    pub signed: bool,
    pub rows: usize,
    pub depth: usize,
    /// Columns of a panel.
    pub nr: usize,
    pub tile: &'a dyn Fn(Tile),
    pub row: &'a dyn Fn(Tile, usize),
}

/// Distribution of a product's operands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    /// In \[-1, 1), or all integers.
    Plain,
    /// Zeros, denormals, and products that are denormal, lose all others or overflow; the ends of the integers'
    /// range.
    Edges,
}

/// Words that must not be used: NaN as floats and as pairs of bf16, and no zero as integers.
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
            // About 2^-63 in most: products on both sides of the smallest normal number.
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
            // Long stretches of the same end.
            Self::Edges => [0x80, 0x7f, 0x80, 0x81][hash(i / 512) as usize % 4] ^ zero,
        }
    }

    fn i16(self, i: usize) -> i16 {
        match self {
            Self::Plain => i16::from((hash(i) as u8).cast_signed()) - i16::from(hash(i) & 0x100 != 0),
            Self::Edges => [i16::MIN, i16::MAX, -255, 255][hash(i / 64) as usize % 4],
        }
    }

    /// The word at `i`.
    fn word(self, subject: &Subject<'_>, i: usize, signed: bool) -> u32 {
        match subject.instruction {
            float if rounds(float) => pair(|half| self.bf16(2 * i + half)),
            "i16" => pair(|half| self.i16(2 * i + half).cast_unsigned()),
            _ => u32::from_le_bytes(core::array::from_fn(|byte| self.byte(4 * i + byte, signed))),
        }
    }

    /// A sum to start from.
    fn start(self, subject: &Subject<'_>, i: usize) -> u32 {
        let tiny = if self == Self::Edges { 1e-36 } else { 1.0 };
        match subject.instruction {
            float if rounds(float) => (super::noise(i) * tiny).to_bits(),
            _ => hash(i) >> 8,
        }
    }
}

/// True if words are pairs of bf16, and sums f32.
fn rounds(instruction: &str) -> bool {
    matches!(instruction, "vdpbf16ps" | "tdpbf16ps" | "bfmmla")
}

fn pair(half: impl Fn(usize) -> u16) -> u32 {
    u32::from(half(0)) | u32::from(half(1)) << 16
}

/// The sum that starts from `start`, of a row of A and a column of B.
fn expected(subject: &Subject<'_>, a: &[u32], b: &[u32], start: u32) -> u32 {
    let float = f32::from_bits(start);
    let words = a.iter().zip(b).map(|(&a, &b)| (a, b));
    match subject.instruction {
        "vdpbf16ps" => words
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
        "bfmmla" => words.fold(float, |sum, (a, b)| bfdot(a, b, sum)).to_bits(),
        "i16" => words.fold(start, |sum, (a, b)| {
            let product = |at: u32| i32::from((a >> at) as i16) * i32::from((b >> at) as i16);
            sum.wrapping_add(product(0).wrapping_add(product(16)).cast_unsigned())
        }),
        _ => words.fold(start, |sum, (a, b)| {
            let number = |a: u8| if subject.signed { i32::from(a.cast_signed()) } else { i32::from(a) };
            let bytes = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
            let products = bytes.map(|(a, b)| number(a) * i32::from(b.cast_signed()));
            sum.wrapping_add(products.sum::<i32>().cast_unsigned())
        }),
    }
}

/// The documented bound on the error of a sum of k k-steps, in units of u sum|a b| (C among them).
fn roundings(subject: &Subject<'_>, k: usize) -> Option<usize> {
    match subject.instruction {
        "vdpbf16ps" => Some(k),
        "tdpbf16ps" => Some(k / 32 + 17),
        "bfmmla" => Some(k + 2),
        _ => None,
    }
}

/// A product: all rows of A, `STREAMS` panels of B, and sums to start from, every one row by row.
struct Product {
    k: usize,
    a: Vec<Vec<u32>>,
    columns: Vec<Vec<u32>>,
    start: Option<Vec<Vec<u32>>>,
    expected: Vec<Vec<u32>>,
}

impl Product {
    fn new(subject: &Subject<'_>, numbers: Numbers, k: usize, accumulate: bool) -> Self {
        let columns = STREAMS * subject.nr;
        let word = |i: usize, signed: bool| numbers.word(subject, i, signed);
        let a: Vec<Vec<u32>> =
            (0..subject.rows).map(|i| (0..k).map(|w| word(i * k + w, subject.signed)).collect()).collect();
        let columns: Vec<Vec<u32>> =
            (0..columns).map(|j| (0..k).map(|w| word(1_000_003 + j * k + w, true)).collect()).collect();
        let start = |i: usize, j: usize| numbers.start(subject, 7 + i * columns.len() + j);
        let starts: Vec<Vec<u32>> = (0..subject.rows)
            .map(|i| (0..columns.len()).map(|j| if accumulate { start(i, j) } else { 0 }).collect())
            .collect();
        // Rows but the first and the last need one panel only.
        let of_row = |i: usize| {
            let needed = if i == 0 || i + 1 == subject.rows { columns.len() } else { subject.nr };
            let sums = columns[..needed].iter().zip(&starts[i]);
            sums.map(|(b, &start)| expected(subject, &a[i], b, start)).collect()
        };
        let expected = (0..subject.rows).map(of_row).collect();
        Self { k, expected, a, columns, start: accumulate.then_some(starts) }
    }

    /// The packed panels, with words that must not be used between them.
    fn panels(&self, subject: &Subject<'_>, panels: usize, panel_stride: usize) -> Vec<u32> {
        let mut b = vec![POISON; (panels - 1) * panel_stride + self.k * subject.nr];
        let depth = subject.depth;
        for (j, column) in self.columns[..panels * subject.nr].iter().enumerate() {
            for (w, &word) in column.iter().enumerate() {
                let in_panel = (w / depth * subject.nr + j % subject.nr) * depth + w % depth;
                b[j / subject.nr * panel_stride + in_panel] = word;
            }
        }
        b
    }

    /// Compares with f64 and the error bound.
    fn check_bound(&self, subject: &Subject<'_>) {
        let Some(roundings) = roundings(subject, 2 * self.k) else { return };
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
                let case = subject.instruction;
                assert!(error <= bound, "{case} k {} [{i}, {j}]: error {error:e} > {bound:e}", self.k);
            }
        }
    }
}

/// Checks every clause of the contract.
pub(crate) fn check(subject: &Subject<'_>) {
    for numbers in [Numbers::Plain, Numbers::Edges] {
        for k in [16, 32, 48, 384] {
            for accumulate in [false, true] {
                let product = Product::new(subject, numbers, k, accumulate);
                if numbers == Numbers::Plain {
                    product.check_bound(subject);
                }
                let case = format!(
                    "{} {}, {numbers:?} numbers, {k} words, accumulate {accumulate}",
                    subject.backend, subject.instruction
                );
                for rows in 1..=subject.rows {
                    check_tile(subject, &product, rows, &case);
                }
                check_row(subject, &product, 0, &case);
                check_row(subject, &product, subject.rows - 1, &case);
            }
        }
    }
}

fn check_tile(subject: &Subject<'_>, product: &Product, rows: usize, case: &str) {
    let (k, nr, c_stride) = (product.k, subject.nr, subject.nr + 5);
    let mut a = vec![POISON; (rows - 1) * A_STRIDE + k];
    for (i, row) in product.a[..rows].iter().enumerate() {
        a[i * A_STRIDE..][..k].copy_from_slice(row);
    }
    let b = product.panels(subject, 1, k * nr);
    let mut c = vec![POISON; rows * c_stride];
    if let Some(start) = &product.start {
        c.chunks_mut(c_stride).zip(start).for_each(|(c, start)| c[..nr].copy_from_slice(&start[..nr]));
    }
    (subject.tile)(Tile {
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
            subject.instruction,
            &c[..nr],
            &product.expected[i][..nr],
            &format!("{case}: row {i} of {rows}"),
        );
        assert_eq!(c[nr..], [POISON; 5], "{case}: row {i} of {rows}, wrote past it");
    }
}

/// Row `i` alone.
fn check_row(subject: &Subject<'_>, product: &Product, i: usize, case: &str) {
    let (k, nr, c_stride, panel_stride) =
        (product.k, subject.nr, subject.nr + 3, product.k * subject.nr + 64);
    let a = product.a[i].clone();
    let b = product.panels(subject, STREAMS, panel_stride);
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
    (subject.row)(tile, panel_stride);
    for (q, (c, expected)) in c.chunks(c_stride).zip(product.expected[i].chunks(nr)).enumerate() {
        compare(subject.instruction, &c[..nr], expected, &format!("{case}: row {i} alone, panel {q}"));
        assert_eq!(c[nr..], [POISON; 3], "{case}: row {i} alone, wrote past panel {q}");
    }
}

#[track_caller]
fn compare(instruction: &str, found: &[u32], expected: &[u32], case: &str) {
    for (j, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let floats = [found, expected].map(f32::from_bits);
        // Overflow is among the edges; which NaN it ends in is the instruction's.
        let nan = rounds(instruction) && found != POISON && floats.iter().all(|x| x.is_nan());
        assert!(
            found == expected || nan,
            "{case}, column {j}: {found:#x}, expected {expected:#x} ({floats:?})"
        );
    }
}

/// Checks a way of `isa`'s.
#[inline(always)]
fn check_on<I: Isa, M: Microkernel<I>>(isa: I, way: M) {
    check(&Subject {
        backend: I::NAME,
        instruction: way.instruction(),
        signed: M::SIGNED,
        rows: way.rows(),
        depth: way.depth(),
        nr: I::NR,
        tile: &|tile| {
            isa.run(
                #[inline(always)]
                || {
                    // SAFETY: `check` keeps the contract of `Microkernel`.
                    unsafe { way.run(isa, tile.typed()) }
                },
            )
        },
        row: &|tile, stride| {
            isa.run(
                #[inline(always)]
                || {
                    // SAFETY: as above.
                    unsafe { way.gemv(isa, tile.typed(), stride) }
                },
            )
        },
    });
}

on_every_backend! {
    fn pairs_of_bf16<I>(isa) {
        isa.bf16().inspect(|&way| check_on(isa, way));
    }

    fn quads_of_int8<I>(isa) {
        isa.int8().inspect(|&way| check_on(isa, way));
    }

    fn pairs_of_i16<I>(isa) {
        check_on(isa, OuterProduct(I16));
    }
}

/// `sdot`, where there is `smmla` too.
#[cfg(target_arch = "aarch64")]
#[test]
fn quads_of_int8_by_sdot() {
    let isa = crate::isa::neon::Neon::detect().expect("AArch64 has it").without_i8mm();
    match isa.int8() {
        Some(way) => check_on(isa, way),
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
        let ways = |b: Backend| [b.bf16_instruction(), b.int8_instruction()];
        if !Backend::named(backend).is_ok_and(|b| ways(b).contains(&Some(instruction))) {
            // Not `eprintln`, which the test harness keeps to itself while tests pass.
            let _ = writeln!(std::io::stderr(), "SKIPPED {backend} {instruction}: not on this CPU");
        }
    }
}

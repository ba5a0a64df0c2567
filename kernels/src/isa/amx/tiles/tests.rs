//! The lists of operations on a software model of AMX (Intel SDM, volume 2), on every CPU.
//!
//! They check which tiles a list loads, their addresses, and the products of tiles. On CPUs with AMX, the tests of
//! `Microkernel` run the instructions, which are made of the same lists.

use super::{A_ROW, Amx, B_ROW, KGroup, LANE, Plan, STREAMS, TILE_ROW_BYTES, TILE_ROWS};
use crate::isa::avx512::Avx512;
use crate::isa::{A_STRIDE, Isa, K_GROUPS, Prefetch, Tile};
use crate::isa_tests::emulated::{add, fma, halves};
use crate::isa_tests::microkernel::{TestedMicrokernel, check};
use core::ops::Range;
use std::collections::BTreeSet;

/// An operation of a turn.
#[derive(Clone, Copy)]
enum Op {
    Load(usize, Place),
    Multiply(usize, usize, usize),
    Prefetch,
}

/// Memory operand of a tile: `place!` as an address and a stride, in bytes.
type Place = fn(&Registers) -> (usize, usize);

/// A list of operations, from which `assembly` makes instructions.
struct Program {
    sums: &'static [(usize, Place)],
    turn: &'static [Op],
}

macro_rules! at {
    (a0) => {
        |r| (r.a, A_ROW)
    };
    (a1) => {
        |r| (r.a + 16 * A_ROW, A_ROW)
    };
    (b0) => {
        |r| (r.b[0], B_ROW)
    };
    (b1) => {
        |r| (r.b[0] + 64, B_ROW)
    };
    (b2) => {
        |r| (r.b[1], B_ROW)
    };
    (b3) => {
        |r| (r.b[1] + 64, B_ROW)
    };
    (c0) => {
        |r| (r.c[0], r.c_stride)
    };
    (c1) => {
        |r| (r.c[0] + 64, r.c_stride)
    };
    (c2) => {
        |r| (r.c[1], r.c_stride)
    };
    (c3) => {
        |r| (r.c[1] + 64, r.c_stride)
    };
}

macro_rules! operation {
    (load($tile:literal $place:ident)) => {
        Op::Load($tile, at!($place))
    };
    (multiply($sum:literal $a:literal $b:literal)) => {
        Op::Multiply($sum, $a, $b)
    };
    (prefetch()) => {
        Op::Prefetch
    };
}

macro_rules! list {
    (sums [$($sum:literal $c:ident),*] turn [$($op:ident $arguments:tt)*]) => {
        Program { sums: &[$(($sum, at!($c))),*], turn: &[$(operation!($op $arguments)),*] }
    };
}

const TALL: Program = tall!(list);
const FLAT: Program = flat!(list);
const TWO: Program = two!(list);

/// General registers of an assembly block.
struct Registers {
    a: usize,
    b: [usize; 2],
    c: [usize; 2],
    c_stride: usize,
    next: usize,
}

/// Row of a tile register.
type TileRow = [u32; TILE_ROW_BYTES / LANE];

/// Software model of AMX: tile registers, and the memory that operations may access.
struct AmxModel {
    k_group: KGroup,
    rows: [usize; 8],
    tiles: [[TileRow; TILE_ROWS]; 8],
    readable: Vec<Range<usize>>,
    writable: Vec<Range<usize>>,
    prefetched: Vec<usize>,
}

impl AmxModel {
    /// Executes a list of operations as its assembly does.
    fn run(&mut self, program: &Program, plan: &Plan) {
        self.tiles = Default::default();
        for (tile, rows) in self.rows.iter_mut().enumerate() {
            *rows = plan.config.rows[tile].into();
            let row_bytes = if *rows > 0 { TILE_ROW_BYTES } else { 0 };
            assert!(*rows <= TILE_ROWS && usize::from(plan.config.row_bytes[tile]) == row_bytes);
        }
        let mut r = Registers {
            a: plan.a.addr(),
            b: plan.b.map(<*const u8>::addr),
            c: plan.c.map(<*mut u8>::addr),
            c_stride: plan.c_stride,
            next: plan.prefetch.addr(),
        };
        if plan.accumulate != 0 {
            for &(tile, place) in program.sums {
                self.load(tile, place(&r));
            }
        }
        for _ in 0..plan.turns {
            for &op in program.turn {
                match op {
                    Op::Load(tile, place) => self.load(tile, place(&r)),
                    Op::Multiply(sum, a, b) => self.multiply(sum, a, b),
                    Op::Prefetch => self.prefetch(plan, &mut r.next),
                }
            }
            r.a += 64;
            r.b = r.b.map(|b| b + K_GROUPS * B_ROW);
        }
        for &(tile, place) in program.sums {
            self.store(tile, place(&r));
        }
    }

    /// `tileloadd`: rows past the configured number become zeros.
    fn load(&mut self, tile: usize, (base, stride): (usize, usize)) {
        assert!(self.rows[tile] > 0, "tmm{tile} is not configured");
        self.tiles[tile] = Default::default();
        for (i, row) in self.tiles[tile][..self.rows[tile]].iter_mut().enumerate() {
            let at = base + i * stride;
            let all = at..at + TILE_ROW_BYTES;
            let valid = self.readable.iter().any(|r| r.start <= all.start && all.end <= r.end);
            assert!(valid, "row {i} of tmm{tile} is not in an operand");
            // SAFETY: the row lies in memory that the test lets the list read (checked above); `model` exposed its
            // provenance.
            *row = unsafe { core::ptr::with_exposed_provenance::<TileRow>(at).read_unaligned() };
        }
    }

    /// `tilestored`.
    fn store(&self, tile: usize, (base, stride): (usize, usize)) {
        for (i, row) in self.tiles[tile][..self.rows[tile]].iter().enumerate() {
            let at = base + i * stride;
            let all = at..at + TILE_ROW_BYTES;
            let valid = self.writable.iter().any(|r| r.start <= all.start && all.end <= r.end);
            assert!(valid, "row {i} of tmm{tile} is not in C");
            // SAFETY: the row lies in memory that the test lets the list write (checked above); `model` exposed its
            // provenance.
            unsafe { core::ptr::with_exposed_provenance_mut::<TileRow>(at).write_unaligned(*row) };
        }
    }

    /// `tdpbf16ps` or `tdpbusd`.
    fn multiply(&mut self, sum: usize, a: usize, b: usize) {
        // The instruction faults otherwise.
        assert!(sum != a && sum != b && a != b);
        assert!(self.rows[sum] > 0 && self.rows[sum] == self.rows[a]);
        assert_eq!(self.rows[b], TILE_ROW_BYTES / LANE, "B has a row for each k-group of a row of A");
        for m in 0..self.rows[sum] {
            let mut chains = [[0f32; 2]; TILE_ROW_BYTES / LANE];
            for k in 0..self.rows[b] {
                let a = self.tiles[a][m][k];
                for (n, chain) in chains.iter_mut().enumerate() {
                    let b = self.tiles[b][k][n];
                    match self.k_group {
                        KGroup::Bf16 => {
                            let (a, b) = (halves(a), halves(b));
                            *chain = [fma(a[0], b[0], chain[0]), fma(a[1], b[1], chain[1])];
                        }
                        KGroup::Int8 => {
                            let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
                            let products = products.map(|(a, b)| i32::from(a) * i32::from(b.cast_signed()));
                            let to = &mut self.tiles[sum][m][n];
                            *to = to.wrapping_add(products.sum::<i32>().cast_unsigned());
                        }
                    }
                }
            }
            if self.k_group == KGroup::Bf16 {
                for (to, chain) in self.tiles[sum][m].iter_mut().zip(chains) {
                    *to = add(f32::from_bits(*to), add(chain[0], chain[1])).to_bits();
                }
            }
        }
    }

    /// The loop of `prefetcht1`.
    fn prefetch(&mut self, plan: &Plan, next: &mut usize) {
        let mut stream = *next;
        for _ in 0..plan.streams {
            self.prefetched.extend([stream, stream.wrapping_add(plan.step)]);
            stream = stream.wrapping_add(2 * plan.step);
            self.prefetched.extend([stream, stream.wrapping_add(plan.step)]);
            stream = stream.wrapping_add(plan.jump);
        }
        *next = next.wrapping_add(4 * plan.step);
    }
}

/// Returns a model whose operations may access the operands and C of `t`, for `panels` panels.
fn model(k_group: KGroup, t: Tile, panels: usize, panel_stride: usize) -> AmxModel {
    let range = |at: usize, lanes: usize| at..at + lanes * LANE;
    let nr = Avx512::NR;
    let a = (0..t.rows).map(|i| range(t.a.expose_provenance() + i * A_ROW, t.k));
    let b = (0..panels).map(|q| range(t.b.expose_provenance() + q * panel_stride * LANE, t.k * nr));
    let c = (0..t.rows.max(panels)).map(|i| range(t.c.expose_provenance() + i * t.c_stride * LANE, nr));
    let writable: Vec<_> = c.collect();
    // Sums that start from zero must not read C.
    let from_c = if t.accumulate { writable.clone() } else { Vec::new() };
    AmxModel {
        k_group,
        rows: [0; 8],
        tiles: Default::default(),
        readable: a.chain(b).chain(from_c).collect(),
        writable,
        prefetched: Vec::new(),
    }
}

fn tile(k_group: KGroup, t: Tile) -> AmxModel {
    let mut model = model(k_group, t, 1, 0);
    let (plan, tall) = Plan::tile(t);
    model.run(if tall { &TALL } else { &FLAT }, &plan);
    model
}

fn row(k_group: KGroup, t: Tile, panel_stride: usize) {
    for first in (0..STREAMS).step_by(2) {
        model(k_group, t, STREAMS, panel_stride).run(&TWO, &Plan::row(t, panel_stride, first));
    }
}

#[test]
fn programs_on_the_model() {
    for k_group in [KGroup::Bf16, KGroup::Int8] {
        check(&TestedMicrokernel {
            backend: "model of amx",
            instruction: k_group.instruction(),
            signed: false,
            rows: Amx::ROWS,
            depth: 1,
            nr: Avx512::NR,
            tile: &|t| drop(tile(k_group, t)),
            row: &|t, panel_stride| row(k_group, t, panel_stride),
        });
    }
}

#[test]
fn prefetched_lines_are_those_of_other_tiles() {
    let (k, nr) = (384, Avx512::NR);
    let a = vec![0f32; Amx::ROWS * A_STRIDE];
    let (b, mut c) = (vec![0f32; k * nr], vec![0f32; Amx::ROWS * nr]);
    for rows in 1..=Amx::ROWS {
        let prefetch =
            Prefetch::share::<Avx512>((core::ptr::without_provenance(1 << 20), k * nr), [rows, k], 1, 3);
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        let t = Tile { rows, k, a, b, b_stride: nr, c, c_stride: nr, accumulate: false, prefetch };
        let found: BTreeSet<usize> = tile(KGroup::Int8, t).prefetched.into_iter().collect();
        let streams = Prefetch::streams::<Avx512>(rows);
        let line = |step: usize, stream: usize| {
            prefetch.from.addr() + LANE * (step * prefetch.step + stream * prefetch.stride)
        };
        let expected = (0..k / 4).flat_map(|step| (0..streams).map(move |stream| line(step, stream)));
        assert_eq!(found, expected.collect(), "{rows} rows");
    }
}

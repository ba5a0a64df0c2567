//! Panel layouts: where a weight of each format stands in a packed panel.
//!
//! ```text
//! k-steps    [k][NR] numbers: f32, bf16, f16, int8      f32 as they are; others dequantized or widened
//! k-groups   [k / 2][NR] pairs of bf16,                 read by the microkernel as they are
//!            [k / 4][NR] quads of int8
//! groups     of 32 k-steps: [NR] f16 scales ([NR] f16 minima), then int8 as [8][NR] quads, or int4 as
//!            [4][NR] quads of bytes for eight k-steps: four in the low halves of the bytes, four in the high
//! ```
//!
//! A backend without a dot instruction for pairs or quads uses k-steps instead, except for bf16. Where an
//! instruction takes several k-groups of a column at once, `depth` of them stand next to each other.

use super::blocks::{Block, GROUP, value};
use super::format::Format;
use super::quantize::Quantized;
use crate::backend::Kernel;
use crate::isa::{Isa, Microkernel};
use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

/// Order of the numbers in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// k-step by k-step, NR columns each.
    Steps,
    /// k-group by k-group; this number of k-groups of one column stands next to each other.
    KGroups(usize),
}

/// Format, order and width of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PanelLayout {
    pub format: Format,
    pub order: Order,
    /// Columns, `NR`.
    pub nr: usize,
}

impl core::fmt::Display for PanelLayout {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} columns of {}", self.nr, self.format.name())?;
        match self.order {
            Order::Steps => Ok(()),
            Order::KGroups(depth) => write!(f, " in k-groups, {depth} side by side"),
        }
    }
}

/// Kernel that returns the layout of a backend for a format.
pub(super) struct Describe(pub Format);

/// Columns of a panel of the reference backend, which has no microkernel: any number would do.
const REFERENCE_NR: usize = 16;

impl Kernel for Describe {
    type Output = PanelLayout;

    fn reference(self) -> PanelLayout {
        PanelLayout { format: self.0, order: Order::Steps, nr: REFERENCE_NR }
    }

    fn eval<I: Isa>(self, isa: I) -> PanelLayout {
        PanelLayout::of(isa, self.0)
    }
}

impl PanelLayout {
    /// The layout of an instruction set for a format.
    #[inline(always)]
    pub fn of<I: Isa>(isa: I, format: Format) -> Self {
        let depth = match format {
            // Pairs even without a dot instruction: one shift or mask makes a float of each half.
            Format::Bf16 => Some(isa.bf16().map_or(1, |multiply| multiply.depth())),
            Format::Int8 => isa.int8().map(|multiply| multiply.depth()),
            _ => None,
        };
        Self { format, order: depth.map_or(Order::Steps, Order::KGroups), nr: I::NR }
    }

    /// Bytes of a group of 32 k-steps, all columns.
    #[inline(always)]
    pub fn group_bytes(&self) -> usize {
        Block::bytes(self.format) * self.nr
    }

    /// Bytes of a panel of `k` k-steps, padded.
    pub fn panel_bytes(&self, k: usize) -> usize {
        let steps = k.next_multiple_of(self.format.steps());
        match self.format {
            Format::F32 => steps * self.nr * 4,
            Format::Bf16 | Format::F16 => steps * self.nr * 2,
            Format::Int8 => steps * self.nr,
            _ => steps / GROUP * self.group_bytes(),
        }
    }

    /// Index of the number at k-step `p` of `column`, where a k-group has `in_k_group` numbers.
    fn index(&self, p: usize, column: usize, in_k_group: usize) -> usize {
        match self.order {
            Order::Steps => p * self.nr + column,
            Order::KGroups(depth) => {
                let k_group = p / in_k_group;
                ((k_group / depth * self.nr + column) * depth + k_group % depth) * in_k_group + p % in_k_group
            }
        }
    }

    /// For k-step `p` of `column` in a format of groups: byte of the scale, byte of q, and first bit of q.
    fn grouped(&self, p: usize, column: usize) -> (usize, usize, usize) {
        let group = p / GROUP * self.group_bytes();
        let p = p % GROUP;
        match self.format {
            Format::Q8_0 => {
                (group + 2 * column, group + 2 * self.nr + 4 * (p / 4 * self.nr + column) + p % 4, 0)
            }
            _ => {
                let halves = if self.format == Format::Q4_1 { 2 } else { 1 };
                let quad = group + 2 * halves * self.nr + 4 * (p / 8 * self.nr + column);
                (group + 2 * column, quad + p % 4, p % 8 / 4 * 4)
            }
        }
    }

    /// Writes the numbers of a column, `N` bytes each, from its first k-step on.
    fn put<const N: usize>(&self, panel: &mut [u8], column: usize, numbers: impl Iterator<Item = [u8; N]>) {
        // Numbers of the column that follow each other in memory.
        let run = match self.order {
            Order::Steps => 1,
            Order::KGroups(depth) => depth * 4 / N,
        };
        let mut numbers = numbers.fuse();
        for runs in panel.chunks_exact_mut(N * run * self.nr) {
            for (to, from) in
                runs[N * run * column..][..N * run].as_chunks_mut().0.iter_mut().zip(&mut numbers)
            {
                *to = from;
            }
        }
    }

    /// Writes a column of `values` to its panel, whose bytes are 0. Returns the scale of int8, else 1, and the sum of
    /// the stored int8, else 0.
    pub fn write(&self, panel: &mut [u8], column: usize, values: &[f32]) -> (f32, i32) {
        match self.format {
            Format::F32 => unreachable!("f32 is packed by `Pack`"),
            Format::Bf16 => {
                self.put(panel, column, values.iter().map(|x| bf16::from_f32(*x).to_le_bytes()));
            }
            Format::F16 => {
                // As a slice: conversions one by one would each ask for the features of the CPU.
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                self.put(panel, column, halves.iter().map(|x| x.to_le_bytes()));
            }
            Format::Int8 => {
                let quantized = Quantized::symmetric(values.iter().copied());
                // Adding and subtracting 1.5 * 2^23 rounds small numbers to nearest, ties to even, on machines
                // without a rounding instruction too. NaN becomes 0, as in `Quantized::quantize`.
                const ROUND: f32 = 12_582_912.0;
                let quantize = |x: &f32| ((x * quantized.inverse + ROUND) - ROUND) as i8;
                let sum = values.iter().map(|x| i32::from(quantize(x))).sum();
                self.put(panel, column, values.iter().map(|x| [quantize(x).cast_unsigned()]));
                return (quantized.scale, sum);
            }
            _ => {
                for (group, values) in values.chunks(GROUP).enumerate() {
                    let mut padded = [0.0; GROUP];
                    padded[..values.len()].copy_from_slice(values);
                    self.write_block(panel, column, group, &Block::quantize(self.format, &padded));
                }
            }
        }
        (1.0, 0)
    }

    /// Writes a group of a column to a panel whose bytes are 0.
    pub fn write_block(&self, panel: &mut [u8], column: usize, group: usize, block: &Block) {
        for (i, q) in block.q.iter().enumerate() {
            let (scale, byte, shift) = self.grouped(group * GROUP + i, column);
            panel[scale..][..2].copy_from_slice(&block.scale.to_le_bytes());
            if self.format == Format::Q4_1 {
                panel[scale + 2 * self.nr..][..2].copy_from_slice(&block.min.to_le_bytes());
            }
            panel[byte] |= q.cast_unsigned() << shift;
        }
    }

    /// The weight at k-step `p` of `column`; of int8, without its scale.
    pub fn read(&self, panel: &[u8], p: usize, column: usize) -> f32 {
        let half = |byte: usize| [panel[byte], panel[byte + 1]];
        match self.format {
            Format::F32 => {
                let at = 4 * self.index(p, column, 1);
                f32::from_le_bytes(panel[at..at + 4].try_into().expect("four bytes"))
            }
            Format::Bf16 => bf16::from_le_bytes(half(2 * self.index(p, column, 2))).to_f32(),
            Format::F16 => f16::from_le_bytes(half(2 * self.index(p, column, 2))).to_f32(),
            Format::Int8 => f32::from(panel[self.index(p, column, 4)].cast_signed()),
            Format::Q8_0 | Format::Q4_0 | Format::Q4_1 => {
                let (scale, byte, shift) = self.grouped(p, column);
                let q = match self.format {
                    Format::Q8_0 => panel[byte].cast_signed(),
                    _ => (panel[byte] >> shift & 15).cast_signed(),
                };
                let min = if self.format == Format::Q4_1 { half(scale + 2 * self.nr) } else { [0; 2] };
                value(self.format, f16::from_le_bytes(half(scale)), f16::from_le_bytes(min), q)
            }
        }
    }
}

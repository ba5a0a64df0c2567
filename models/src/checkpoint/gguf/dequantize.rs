//! Dequantization of ggml's block types.
//!
//! ```text
//! F32 F16 BF16   a number each
//! Q8_0           f16 d,                32 bytes q                          w = d q
//! Q4_0 Q4_1      f16 d (f16 m),        16 bytes of two q each              w = d (q - 8),  d q + m
//! Q5_0 Q5_1      f16 d (f16 m), u32 of the fifth bits, 16 bytes as above   w = d (q - 16), d q + m
//!
//! blocks of 256, whose groups have integer scales s and minima m:
//! Q4_K           f16 d, f16 e, 12 bytes of 8 s and 8 m of six bits, 128 bytes of two q each
//! Q5_K           .. and 32 bytes of the fifth bits before them             w = d s q - e m
//! Q6_K           128 bytes of the low four bits, 64 of the high two, 16 int8 s, f16 d
//!                                                                          w = d s (q - 32)
//! ```
//!
//! Each product of d, s and q, and each sum, is exact in f32 or rounded like ggml's reference.

use half::{bf16, f16};

/// Type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    BF16,
    /// Groups of 32 of four bits with a scale.
    Q4_0,
    /// Groups of 32 of four bits with a scale and a minimum.
    Q4_1,
    /// Groups of 32 of five bits with a scale.
    Q5_0,
    /// Groups of 32 of five bits with a scale and a minimum.
    Q5_1,
    /// Groups of 32 of eight bits with a scale.
    Q8_0,
    /// Four bits in blocks of 256, groups of 32.
    Q4K,
    /// Five bits in blocks of 256, groups of 32.
    Q5K,
    /// Six bits in blocks of 256, groups of 16.
    Q6K,
}

impl Type {
    /// Each type with ggml's number and name, values per block, and bytes per block.
    const ALL: [(Self, u32, &'static str, usize, usize); 11] = [
        (Self::F32, 0, "F32", 1, 4),
        (Self::F16, 1, "F16", 1, 2),
        (Self::Q4_0, 2, "Q4_0", 32, 18),
        (Self::Q4_1, 3, "Q4_1", 32, 20),
        (Self::Q5_0, 6, "Q5_0", 32, 22),
        (Self::Q5_1, 7, "Q5_1", 32, 24),
        (Self::Q8_0, 8, "Q8_0", 32, 34),
        (Self::Q4K, 12, "Q4_K", 256, 144),
        (Self::Q5K, 13, "Q5_K", 256, 176),
        (Self::Q6K, 14, "Q6_K", 256, 210),
        (Self::BF16, 30, "BF16", 1, 2),
    ];

    /// Type with ggml's number.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        // Names of common unsupported types, for the message.
        let name = match number {
            10 => "Q2_K, ",
            11 => "Q3_K, ",
            16..=19 | 21..=23 | 29 => "IQ, ",
            20 => "IQ4_NL, ",
            24..=27 => "integers, ",
            28 => "F64, ",
            _ => "",
        };
        Self::ALL.into_iter().find(|t| t.1 == number).map(|t| t.0).ok_or_else(|| {
            let known = Self::ALL.map(|t| t.2).join(", ");
            format!("expected one of the types {known}, found {name}number {number}")
        })
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Values per block (all in one row) and bytes per block.
    pub fn block(self) -> (usize, usize) {
        let (_, _, _, numbers, bytes) = self.row();
        (numbers, bytes)
    }

    fn row(self) -> (Self, u32, &'static str, usize, usize) {
        Self::ALL.into_iter().find(|t| t.0 == self).expect("the table has all types")
    }

    /// Dequantizes whole blocks.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let (numbers, size) = self.block();
        let mut values = Vec::with_capacity(bytes.len() / size * numbers);
        match self {
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::BF16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => {
                bytes.chunks_exact(size).for_each(|block| self.group(block, &mut values));
            }
            Self::Q4K | Self::Q5K => {
                bytes.chunks_exact(size).for_each(|block| scaled_with_minima(block, &mut values));
            }
            Self::Q6K => bytes.chunks_exact(size).for_each(|block| scaled(block, &mut values)),
        }
        values
    }

    /// Dequantizes a group of 32.
    fn group(self, block: &[u8], values: &mut Vec<f32>) {
        let d = half_at(block, 0);
        let mut rest = &block[2..];
        if self == Self::Q8_0 {
            return values.extend(rest.iter().map(|q| d * f32::from(q.cast_signed())));
        }
        let minimum = matches!(self, Self::Q4_1 | Self::Q5_1).then(|| {
            let m = half_at(rest, 0);
            rest = &rest[2..];
            m
        });
        let mut fifth = 0;
        let five = matches!(self, Self::Q5_0 | Self::Q5_1);
        if five {
            fifth = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
            rest = &rest[4..];
        }
        values.extend((0..32).map(|i| {
            let q = rest[i % 16] >> (i / 16 * 4) & 15 | ((fifth >> i & 1) as u8) << 4;
            match minimum {
                Some(m) => d * f32::from(q) + m,
                None => d * (f32::from(q) - if five { 16.0 } else { 8.0 }),
            }
        }));
    }
}

/// Dequantizes Q4_K and Q5_K. Groups of 32 come in pairs: a byte holds one q of each group.
fn scaled_with_minima(block: &[u8], values: &mut Vec<f32>) {
    let (d, e) = (half_at(block, 0), half_at(block, 2));
    let (packed, rest) = block[4..].split_at(12);
    let (fifth, low) = rest.split_at(rest.len() - 128);
    for group in 0..8 {
        // Six bits each. The first four groups have a byte of their own; the last four have their low bits in
        // half a byte and their high bits on top of the first groups' bytes.
        let (s, m) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => (
                packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
                packed[group + 4] >> 4 | packed[group] >> 6 << 4,
            ),
        };
        let (scale, minimum) = (d * f32::from(s), e * f32::from(m));
        values.extend((0..32).map(|i| {
            let low = low[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
            let high = fifth.get(i).map_or(0, |bits| bits >> group & 1);
            scale * f32::from(low | high << 4) - minimum
        }));
    }
}

/// Dequantizes Q6_K: two halves of 128. A low byte holds two values 64 apart, a high byte four values 32 apart.
fn scaled(block: &[u8], values: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let d = half_at(rest, 16);
    values.extend((0..256).map(|i| {
        let (half, within) = (i / 128, i % 128);
        let low = low[half * 64 + within % 64] >> (within / 64 * 4) & 15;
        let high = high[half * 32 + within % 32] >> (within / 32 * 2) & 3;
        let q = f32::from(low | high << 4) - 32.0;
        d * f32::from(rest[i / 16].cast_signed()) * q
    }));
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

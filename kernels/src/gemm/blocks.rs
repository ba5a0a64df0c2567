//! Groups of 32 weights with a scale each, as GGUF files store them: ggml's `block_q8_0`, `block_q4_0` and
//! `block_q4_1`.
//!
//! ```text
//! Q8_0   f16 d             32 bytes q      w = d q            34 bytes
//! Q4_0   f16 d             16 bytes q      w = d (q - 8)      18 bytes
//! Q4_1   f16 d, f16 m      16 bytes q      w = d q + m        20 bytes
//! byte i of 16: q[i] in its low half, q[i + 16] in its high half
//! ```

use super::format::Format;
use half::f16;

/// Weights in a group, consecutive along k.
pub(super) const GROUP: usize = 32;

/// A group as its file stores it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Scale d.
    pub scale: f16,
    /// Minimum m; 0 except in `Q4_1`.
    pub min: f16,
    /// Stored q: signed in `Q8_0`, 0 to 15 in the other formats.
    pub q: [i8; GROUP],
}

/// The weight that a stored q stands for.
#[inline(always)]
pub(super) fn value(format: Format, scale: f16, min: f16, q: i8) -> f32 {
    let (d, q) = (scale.to_f32(), f32::from(q));
    match format {
        Format::Q4_0 => d * (q - 8.0),
        // Rounded once, as by the fused multiply-add of the kernels.
        Format::Q4_1 => (f64::from(d) * f64::from(q) + f64::from(min.to_f32())) as f32,
        _ => d * q,
    }
}

impl Block {
    /// Bytes of a group in its file.
    pub fn bytes(format: Format) -> usize {
        match format {
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            _ => 20,
        }
    }

    /// Reads a group from its [`bytes`](Self::bytes) bytes.
    pub fn read(format: Format, bytes: &[u8]) -> Self {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let min = if format == Format::Q4_1 { half(2) } else { f16::ZERO };
        let stored = &bytes[if format == Format::Q4_1 { 4 } else { 2 }..];
        let q = core::array::from_fn(|i| match format {
            Format::Q8_0 => stored[i].cast_signed(),
            _ => (stored[i % 16] >> (i / 16 * 4) & 15).cast_signed(),
        });
        Self { scale: half(0), min, q }
    }

    /// Quantizes a group as ggml's reference code does.
    pub fn quantize(format: Format, x: &[f32; GROUP]) -> Self {
        let finite = x.iter().all(|x| x.is_finite());
        let invert = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
        let (d, min) = match format {
            Format::Q8_0 => (x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0, 0.0),
            Format::Q4_0 => {
                // The largest magnitude, with its sign, becomes -8.
                let most = x.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
                (most / -8.0, 0.0)
            }
            _ => {
                let least = x.iter().copied().fold(f32::INFINITY, f32::min);
                let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                ((most - least) / 15.0, least)
            }
        };
        let q = x.map(|x| match format {
            Format::Q8_0 => (x * invert(d)).round() as i8,
            Format::Q4_0 => (x * invert(d) + 8.5).clamp(0.0, 15.0) as i8,
            _ => ((x - min) * invert(d) + 0.5).clamp(0.0, 15.0) as i8,
        });
        let scale = if finite { f16::from_f32(d) } else { f16::NAN };
        Self { scale, min: f16::from_f32(min), q }
    }
}

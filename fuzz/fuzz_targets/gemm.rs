//! The matrix product of operands that may not fit: views of any shape, strides and length.
//!
//! Every element is a small integer, so all sums of floats are exact. Every backend must agree with the definition bit
//! for bit, in the result and in the refusal. Quantized results must agree to a hundredth, which is far more than the
//! rounding of scales. Panics are failures too, and so are accesses outside the slices, which the sanitizer detects.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
use tilewright_kernels::{Activation, Backend, Error, View, ViewMut};

/// The largest batch, m, n and k: larger than a k-block and a tile, small enough for a few milliseconds.
const MOST: [u16; 4] = [2, 20, 40, 300];

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Operand {
    /// Dimension whose extent does not fit the other operands, and the difference.
    wrong: Option<(u8, i8)>,
    /// Strides; `None` for row-major.
    strides: Option<[u16; 3]>,
    /// Elements missing from the slice.
    missing: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Matrix,
    Packed,
    Gated,
    PackedGated,
}

/// Form of A.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Exact,
    Rounded,
    ZeroPoint,
}

#[derive(Arbitrary, Debug)]
struct Case {
    /// batch, m, n, k.
    extents: [u16; 4],
    kind: Kind,
    /// Format of packed weights.
    format: u8,
    left: Left,
    a: Operand,
    b: Operand,
    up: Operand,
    c: Operand,
    residual: Option<Operand>,
    biases: [Option<u8>; 2],
    negative: bool,
    accumulate: bool,
    relu: bool,
}

impl Case {
    fn format(&self) -> Format {
        Format::ALL[usize::from(self.format) % Format::ALL.len()]
    }

    /// True if the product rounds no operand.
    fn is_exact(&self) -> bool {
        matches!(self.kind, Kind::Matrix | Kind::Gated)
            || matches!(self.format(), Format::F32 | Format::Bf16 | Format::F16)
    }
}

/// Shape, strides and length of a slice. The view decides whether they fit each other.
struct Place {
    shape: [usize; 3],
    strides: [usize; 3],
    len: usize,
}

impl Operand {
    fn place(self, mut shape: [usize; 3]) -> Place {
        if let Some((dim, by)) = self.wrong {
            let extent = &mut shape[usize::from(dim) % 3];
            *extent = extent.saturating_add_signed(by.into());
        }
        let row_major = [shape[1] * shape[2], shape[2], 1];
        let strides = self.strides.map_or(row_major, |s| s.map(usize::from));
        let reach: usize = shape.iter().zip(strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        // Operands that fit each other take at most a megabyte.
        let len = (reach + 1).min(1 << 18).saturating_sub(self.missing.into());
        Place { shape, strides, len }
    }
}

/// Integers in -2..=2 without a pattern.
fn integers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) % 5).map(|x| x as f32 - 2.0).collect()
}

fn run(case: &Case, backend: Backend) -> Result<Vec<f32>, Error> {
    let [batch, m, n, k]: [usize; 4] = std::array::from_fn(|i| usize::from(case.extents[i] % (MOST[i] + 1)));
    let place = |operand: Operand, shape| {
        let place = operand.place(shape);
        (integers(place.len), place)
    };
    let (a, at) = place(case.a, [batch, m, k]);
    let a = View::with_strides(&a, at.shape, at.strides)?;
    let (b, at) = place(case.b, [batch, k, n]);
    let b = View::with_strides(&b, at.shape, at.strides)?;
    let (up, at) = place(case.up, [batch, k, n]);
    let up = View::with_strides(&up, at.shape, at.strides)?;
    let packed = match case.kind {
        Kind::Packed if b.shape()[0] > 0 => Some(PackedB::in_format(backend, case.format(), b.at(0))?),
        Kind::PackedGated if b.shape()[0] > 0 && up.shape()[0] > 0 => {
            Some(PackedB::gated_in_format(backend, case.format(), b.at(0), up.at(0))?)
        }
        _ => None,
    };
    let gated = matches!(case.kind, Kind::Gated | Kind::PackedGated);
    let residual = case.residual.map(|operand| place(operand, [batch, m, n]));
    let residual = match &residual {
        Some((data, at)) => Some(View::with_strides(data, at.shape, at.strides)?),
        None => None,
    };
    let [row_bias, column_bias] = case.biases;
    let bias = |missing: u8, len: usize| integers(len.saturating_sub((missing / 128).into()));
    let row_bias = row_bias.map(|missing| bias(missing, m));
    let column_bias = column_bias.map(|missing| bias(missing, if gated { 2 * n } else { n }));
    let (mut c, at) = place(case.c, [batch, m, n]);
    let rhs = match &packed {
        Some(packed) => Rhs::Packed(packed),
        None if gated => Rhs::Gated { gate: b.into(), up: up.into() },
        None => Rhs::Matrix(b.into()),
    };
    backend.run(Gemm {
        alpha: if case.negative { -1.0 } else { 1.0 },
        a: match case.left {
            Left::Exact => a.into(),
            Left::Rounded => Lhs::Rounded(a),
            Left::ZeroPoint => Lhs::ZeroPoint(a),
        },
        b: rhs,
        beta: if case.accumulate { -2.0 } else { 0.0 },
        c: ViewMut::with_strides(&mut c, at.shape, at.strides)?.into(),
        epilogue: Epilogue {
            row_bias: row_bias.as_deref(),
            column_bias: column_bias.as_deref(),
            activation: case.relu.then_some(Activation::Relu),
            residual,
            ..Epilogue::default()
        },
    })?;
    Ok(c)
}

fuzz_target!(|case: Case| {
    let expected = run(&case, Backend::REFERENCE);
    for &backend in Backend::available() {
        let found = run(&case, backend);
        if case.is_exact() {
            // Zeros of either sign compare equal, because the sign of an empty sum is unspecified.
            assert_eq!(found, expected, "{} of {case:?}", backend.name());
            continue;
        }
        match (&found, &expected) {
            (Ok(found), Ok(expected)) => {
                let near = |(x, y): (&f32, &f32)| (x - y).abs() <= 0.01 * (1.0 + y.abs());
                let all = found.len() == expected.len() && found.iter().zip(expected).all(near);
                assert!(all, "{} of {case:?}: {found:?}, not {expected:?}", backend.name());
            }
            _ => assert_eq!(found, expected, "{} of {case:?}", backend.name()),
        }
    }
});

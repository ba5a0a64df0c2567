//! Matrix product: C = alpha A B + beta C, with what follows a linear layer fused behind it.
//!
//! The blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), in the loops of Van Zee and van de Geijn, "BLIS" (2015), with two
//! departures:
//!
//! ```text
//! for jc in NC             only where an unpacked B serves several blocks of rows: the first of them
//!                          packs NC columns for all; elsewhere a task packs the panel it is at
//!   for batch, ic in MC    one task: its rows of A, all of k, packed once, stay in L2
//!     for jr in NR         a panel of B streams by, once per block of rows
//!       for pc in KC       KC x NR of it, read in order ..
//!         for ir in MR     .. while the rows of A pass: one register tile each
//!           for p in KC    MR x NR sums += column of A * row of B
//! ```
//!
//! 1. The loop over pc stands inside the loop over jr, so that unfinished sums are only ever MC x NR
//!    floats, in cache, and C is written once, by the epilogue.
//! 2. A tile starts from the sums of the block before it: every element is one chain of fused
//!    multiply-adds with p ascending, whatever MC, KC, the tile's rows, the number of threads or the
//!    packing. That is what makes a row's bits independent of all of them.
//!
//! A single row and a weight \[out, in\] that is not packed, whose columns of B are rows in memory, go
//! around packing: the weight is transposed in registers, block by block. A product of a few rows, a
//! panel and a few k-steps goes around tasks and the packing of A as well.

mod blocks;
mod dequantize;
mod epilogue;
mod format;
mod gemv_rows;
mod grouped;
mod layout;
mod lhs;
mod on_the_fly;
mod output;
mod pack;
mod packed;
mod panel;
mod prepacked;
mod product;
mod quantize;
mod reduced;
mod rhs;
mod small;
mod tasks;
mod walk;

pub use epilogue::Epilogue;
pub use format::Format;
pub use lhs::Lhs;
pub use packed::PackedB;
pub(crate) use panel::{multiply_panel, pack_pairs, pack_panels};
pub use quantize::Quantized;
pub use rhs::Rhs;

use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::view::AnyViewMut;
use half::{bf16, f16};
use layout::PanelLayout;
use on_the_fly::Unpacked;
use output::CPointer;
use prepacked::F32Panels;
use product::Product;
use rhs::of_batch;

/// C = epilogue(alpha A B + beta C), for each product of a batch.
///
/// # Errors
/// [`Error::Shape`] if A, B, C, biases or residual do not fit each other; [`Error::Invalid`] if weights were
/// packed for a backend with another layout (the reference reads all), if a gated pair has a beta that is not 0,
/// or if A is [`Lhs::ZeroPoint`] and the weights are not int8. C is not written then.
///
/// Rows and columns may have any strides; a dimension of A, B or the residual may be repeated by a
/// stride of 0, and a batch of 1 serves all. C is not read where `beta` is 0. With k = 0 the sums are
/// 0. NaN and infinities propagate as IEEE 754 says, also through `alpha`.
///
/// Numerics: every element is within gamma_k * sum |a| |b| of the exact sum, gamma_k = k u / (1 - k u),
/// u = 2^-24, plus one rounding for each operation of the epilogue. Its bits depend on nothing but
/// its row of A, its column of B and the backend.
///
/// ```
/// use tilewright_kernels::{Backend, View, ViewMut, gemm::{Epilogue, Gemm, Rhs}};
/// let (a, b) = ([1., 2., 3., 4.], [1., 0., 0., 1.]);
/// let mut c = [0.; 4];
/// Backend::best().run(Gemm {
///     alpha: 1.,
///     a: View::new(&a, [2, 2])?.into(),
///     b: Rhs::Matrix(View::new(&b, [2, 2])?.into()),
///     beta: 0.,
///     c: ViewMut::new(&mut c, [2, 2])?.into(),
///     epilogue: Epilogue { column_bias: Some(&[10., 20.]), ..Epilogue::default() },
/// })?;
/// assert_eq!(c, [11., 22., 13., 24.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Gemm<'a> {
    /// Factor of the product.
    pub alpha: f32,
    /// \[batch, m, k\], or \[1, m, k\] for all.
    pub a: Lhs<'a>,
    /// k x n.
    pub b: Rhs<'a>,
    /// Factor of the old C; 0 for a gated pair.
    pub beta: f32,
    /// \[batch, m, n\].
    pub c: AnyViewMut<'a, 3>,
    /// What is done to the product before it is stored.
    pub epilogue: Epilogue<'a>,
}

impl Gemm<'_> {
    /// Refuses operands that do not fit each other; returns k.
    fn check(&self) -> Result<usize, Error> {
        let [batch, m, n] = self.c.shape();
        let for_batch = |found: usize| if found == 1 { 1 } else { batch };
        let [a_batch, _, k] = self.a.shape();
        expect_shape("Gemm.a", &self.a.shape(), &[for_batch(a_batch), m, k])?;
        match self.b {
            Rhs::Matrix(b) => expect_shape("Gemm.b", &b.shape(), &[for_batch(b.shape()[0]), k, n])?,
            Rhs::Gated { gate, up } => {
                expect_shape("Gemm.b.gate", &gate.shape(), &[for_batch(gate.shape()[0]), k, n])?;
                expect_shape("Gemm.b.up", &up.shape(), &[for_batch(up.shape()[0]), k, n])?;
            }
            Rhs::Packed(b) => expect_shape("Gemm.b", &[b.k(), b.n()], &[k, n])?,
        }
        if self.b.is_gated() && self.beta != 0.0 {
            let why = format!("expected 0 with a gated pair, found {}", self.beta);
            return Err(Error::Invalid { what: "Gemm.beta", why });
        }
        if matches!(self.a, Lhs::ZeroPoint(_)) && self.b.format() != Format::Int8 {
            let why = format!("expected weights of int8 for a zero point, found {}", self.b.format().name());
            return Err(Error::Invalid { what: "Gemm.b", why });
        }
        self.epilogue.check(self.c.shape(), self.b.is_gated())?;
        Ok(k)
    }
}

/// Row `i` of A as the products take it: rounded or quantised where that is asked for.
fn define_row(a: Lhs<'_, 2>, i: usize, weights: Format) -> Vec<f64> {
    let row: Vec<f32> = (0..a.shape()[1]).map(|p| a.get([i, p])).collect();
    let quantized = match (a, weights) {
        (Lhs::Rounded(_), Format::Int8) => Quantized::symmetric(row.iter().copied()),
        (Lhs::ZeroPoint(_), Format::Int8) => Quantized::zero_point(row.iter().copied()),
        (Lhs::Rounded(_), Format::Bf16) => {
            return row.iter().map(|x| f64::from(bf16::from_f32(*x).to_f32())).collect();
        }
        (Lhs::Rounded(_), Format::F16) => {
            return row.iter().map(|x| f64::from(f16::from_f32(*x).to_f32())).collect();
        }
        (Lhs::Rounded(_), Format::Q8_0 | Format::Q4_0 | Format::Q4_1) => {
            let group = |group: &[f32]| {
                let quantized = Quantized::symmetric(group.iter().copied());
                group
                    .iter()
                    .map(move |&x| f64::from(quantized.quantize(x)) * f64::from(quantized.scale))
                    .collect::<Vec<_>>()
            };
            return row.chunks(blocks::GROUP).flat_map(group).collect();
        }
        _ => return row.into_iter().map(f64::from).collect(),
    };
    let integer = |x: f32| f64::from(i32::from(quantized.quantize(x)) - quantized.zero);
    row.into_iter().map(|x| integer(x) * f64::from(quantized.scale)).collect()
}

impl Kernel for Gemm<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(mut self) -> Result<(), Error> {
        let k = self.check()?;
        let [batch, m, n] = self.c.shape();
        let b = |up: bool, s: usize, p: usize, j: usize| match self.b {
            Rhs::Matrix(b) => f64::from(of_batch(b, s).get([p, j])),
            Rhs::Gated { gate, up: u } => f64::from(of_batch(if up { u } else { gate }, s).get([p, j])),
            Rhs::Packed(b) => b.get(up, p, j),
        };
        for s in 0..batch {
            let a = self.a.of_batch(s);
            for i in 0..m {
                let row = define_row(a, i, self.b.format());
                for j in 0..n {
                    let biased_sum = |up: bool| {
                        let mut sum = 0.0;
                        for (p, a) in row.iter().enumerate().take(k) {
                            sum += a * b(up, s, p, j);
                        }
                        let row_bias = self.epilogue.row_bias.map_or(0.0, |bias| f64::from(bias[i]));
                        let column = if up { n + j } else { j };
                        let column_bias =
                            self.epilogue.column_bias.map_or(0.0, |bias| f64::from(bias[column]));
                        f64::from(self.alpha) * sum + row_bias + column_bias
                    };
                    let mut v = biased_sum(false);
                    if self.beta != 0.0 {
                        v += f64::from(self.beta) * f64::from(self.c.get([s, i, j]));
                    }
                    if let Some(activation) = self.epilogue.activation {
                        v = activation.definition(v);
                    }
                    if self.b.is_gated() {
                        v *= biased_sum(true);
                    }
                    if let Some(residual) = self.epilogue.residual {
                        v += f64::from(of_batch(residual, s).get([i, j]));
                    }
                    self.c.set([s, i, j], v as f32);
                }
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(mut self, isa: I) -> Result<(), Error> {
        let k = self.check()?;
        if let Rhs::Packed(b) = self.b
            && b.layout() != PanelLayout::of(isa, b.format())
        {
            let (expected, found) = (PanelLayout::of(isa, b.format()), b.layout());
            let why = format!("expected panels of {expected} ({}), found {found}", I::NAME);
            return Err(Error::Invalid { what: "Gemm.b", why });
        }
        if self.c.is_empty() {
            return Ok(());
        }
        let product = Product {
            alpha: self.alpha,
            a: self.a,
            k,
            gated: self.b.is_gated(),
            beta: self.beta,
            epilogue: self.epilogue,
            shape: self.c.shape(),
            c_strides: self.c.strides(),
            c: CPointer::of(&mut self.c),
        };
        // SAFETY: the operands fit each other and packed weights are laid out for `I`, as checked above; C is not
        // empty and borrowed mutably.
        unsafe { compute(isa, &product, self.b) };
        Ok(())
    }
}

/// Computes C by the path for this A and B.
///
/// # Safety
/// - the operands' shapes fit each other;
/// - `b` is packed for `I` if it is packed;
/// - C is not empty, valid for writes (for reads if `beta` is not 0), and nothing else touches it.
unsafe fn compute<I: Isa>(isa: I, product: &Product<'_>, b: Rhs<'_>) {
    // SAFETY: each path has the preconditions of `compute`, besides those that its condition checks.
    unsafe {
        match b {
            Rhs::Packed(b) if b.format().is_grouped() && matches!(product.a, Lhs::Rounded(_)) => {
                product.grouped(isa, b);
            }
            Rhs::Packed(b) if b.format() != Format::F32 => product.reduced(isa, b),
            _ if product.is_small::<I>() => product.small(isa, b),
            Rhs::Packed(b) => {
                let grid = product.grid::<I>(product.row_blocks_of_threads::<I>(product.k));
                product.prepacked(isa, F32Panels { floats: b.panels(), first: 0 }, &grid);
            }
            Rhs::Matrix(b) => {
                let b = Unpacked { b, up: None };
                if product.is_gemv_of_rows::<I>(b) {
                    product.gemv_rows(isa, b);
                } else {
                    product.pack_on_the_fly(isa, b);
                }
            }
            Rhs::Gated { gate, up } => product.pack_on_the_fly(isa, Unpacked { b: gate, up: Some(up) }),
        }
    }
}

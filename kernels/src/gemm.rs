//! Matrix product with fused epilogue: C = epilogue(alpha A B + beta C).
//!
//! The loops follow Van Zee and van de Geijn, "BLIS" (2015), and Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication" (2008), in another order:
//!
//! ```text
//! jc in NC                 on_the_fly.rs: panels of an unpacked B that several tasks share, packed once
//!   batch, ic in MC        tasks.rs: one task packs its rows of A, all of k; they stay in L2
//!     jr in NR             walk.rs: one panel of B (GEMV: several side by side)
//!       pc in KC           walk.rs: one k-block of the panel, read in order, packed or dequantized if needed
//!         ir in MR         walk.rs: one strip of rows: the microkernel, and behind the last k-block the epilogue
//!           p in KC        isa: MR x NR sums += column of A * row of B
//! ```
//!
//! Paths are structs that implement `GemmPath`; `walk` runs jr, pc and ir for
//! all of them. `compute` chooses one by the types of A and B and by M:
//!
//! | path | B | A | file |
//! |---|---|---|---|
//! | prepacked, GEMV | packed f32 | any M, M = 1 | `prepacked.rs` |
//! | pack on the fly | f32, bf16, f16, unpacked | any M | `on_the_fly.rs`, `packing.rs` |
//! | GEMV of rows | f32 \[out, in\], unpacked | M = 1 | `gemv_rows.rs` |
//! | small product | f32, at most one panel | M <= 16, k <= 32 | `small.rs`, without a walk |
//! | reduced precision, GEMV, small M | packed bf16, f16, int8, groups | any M, M = 1, M <= 4 or 8 | `reduced.rs` |
//! | groups | packed groups of int8 or int4 | quantized | `grouped.rs` |
//!
//! Departures from BLIS, and why:
//!
//! 1. pc runs inside jr. Unfinished sums are then at most MC x NR floats, which stay in cache, and the epilogue
//!    writes C once.
//! 2. A microkernel starts from the sums of the k-block before it. Each element is one chain of fused
//!    multiply-adds with p ascending, whatever MC, KC, the strip, the threads or the packing: a row's bits depend
//!    on none of them.
//! 3. jc exists only where several tasks need the same packed panels. Elsewhere a task packs a panel when it
//!    reaches it, and reads it from L1 or L2.
//! 4. A is copied, not interleaved: a microkernel broadcasts single k-groups of A, for which rows at a fixed
//!    distance are as good, and a copy is cheaper than a transposition. An A with unit stride along m, such as dY^T
//!    in dW = dY^T X, is transposed in registers on the way.
//! 5. GEMV on an unpacked \[out, in\] weight packs nothing: columns of B are rows in memory, transposed in
//!    registers. A small product skips tasks and the packing of A as well.

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
mod packing;
mod pairs;
mod panel;
mod prepacked;
mod product;
mod quantize;
mod reduced;
mod rhs;
mod small;
mod tasks;
mod walk;

pub use epilogue::{Derivative, Epilogue};
pub use format::Format;
pub use lhs::Lhs;
pub use packed::PackedB;
pub(crate) use panel::{copy_rows, multiply_columns, multiply_panel, pack_pairs, pack_panels};
pub use quantize::Quantized;
pub use rhs::Rhs;

use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::view::{AnyView, AnyViewMut};
use half::{bf16, f16};
use layout::PanelLayout;
use on_the_fly::Unpacked;
use output::CPointer;
use packing::Floats;
use prepacked::PackedPanels;
use product::Product;
use rhs::{any_of_batch, of_batch};

/// Matrix product of a batch: C = epilogue(alpha A B + beta C).
///
/// A and B may have any strides. A stride of 0 repeats a dimension of A, B or the residual, and a batch of 1
/// serves all products. C is read only if `beta` is not 0. With k = 0 the sums are 0. NaN and infinities
/// propagate as IEEE 754 says, through `alpha` too.
///
/// # Errors
/// C is not written if the call fails:
/// - [`Error::Shape`] if the shapes of A, B, C and the operands of the epilogue do not fit each other;
/// - [`Error::Invalid`] if B was packed for a backend with another panel layout (the reference reads all layouts);
/// - [`Error::Invalid`] if B is a gated pair and `beta` is not 0;
/// - [`Error::Invalid`] if A is [`Lhs::ZeroPoint`] and the weights are not int8.
///
/// # Numerics
/// An element lies within gamma_k * sum |a| |b| of the exact sum, gamma_k = k u / (1 - k u), u = 2^-24, plus
/// one rounding for each operation of the epilogue. Its bits depend only on its row of A, its column of B and the
/// backend. [`Lhs`] has the bounds of reduced precision.
///
/// ```
/// use tilewright_kernels::{Backend, View, ViewMut, gemm::{Epilogue, Gemm, Rhs}};
/// let (a, b) = ([1., 2., 3., 4.], [1., 0., 0., 1.]);
/// let mut c = [0.; 4];
/// let b = Rhs::Matrix(View::new(&b, [2, 2])?.into());
/// Backend::best().run(Gemm {
///     epilogue: Epilogue { column_bias: Some(&[10., 20.]), ..Epilogue::default() },
///     ..Gemm::new(View::<2>::new(&a, [2, 2])?, b, ViewMut::<2>::new(&mut c, [2, 2])?)
/// })?;
/// assert_eq!(c, [11., 22., 13., 24.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Gemm<'a> {
    /// Factor of the product.
    pub alpha: f32,
    /// A, \[batch, m, k\], or \[1, m, k\] for all products.
    pub a: Lhs<'a>,
    /// B, \[k, n\] for each product.
    pub b: Rhs<'a>,
    /// Factor of the old C; must be 0 for a gated pair.
    pub beta: f32,
    /// C, \[batch, m, n\].
    pub c: AnyViewMut<'a, 3>,
    /// Operations on the sums before they are stored.
    pub epilogue: Epilogue<'a>,
}

impl<'a> Gemm<'a> {
    /// C = A B: no factors, no epilogue.
    pub fn new(a: impl Into<Lhs<'a>>, b: Rhs<'a>, c: impl Into<AnyViewMut<'a, 3>>) -> Self {
        Self { alpha: 1.0, a: a.into(), b, beta: 0.0, c: c.into(), epilogue: Epilogue::default() }
    }

    /// Returns k, or an error if the operands do not fit each other.
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
            Rhs::Packed(b) => {
                // The weight is fixed: where its n differs, C has the wrong shape.
                if b.n() != n {
                    expect_shape("Gemm.c", &[batch, m, n], &[batch, m, b.n()])?;
                }
                expect_shape("Gemm.b", &[b.k(), b.n()], &[k, n])?;
            }
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

/// Row `i` of A as the definition multiplies it: rounded or quantized if the operand asks for it.
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
            Rhs::Matrix(b) => f64::from(any_of_batch(b, s).get([p, j])),
            Rhs::Gated { gate, up: u } => f64::from(any_of_batch(if up { u } else { gate }, s).get([p, j])),
            Rhs::Packed(b) => b.get(up, p, j),
        };
        let (row_bias, column_bias) = (self.epilogue.row_bias, self.epilogue.column_bias);
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
                        let row_bias = row_bias.map_or(0.0, |bias| f64::from(bias[i]));
                        let column = if up { n + j } else { j };
                        let column_bias = column_bias.map_or(0.0, |bias| f64::from(bias[column]));
                        f64::from(self.alpha) * sum + row_bias + column_bias
                    };
                    let mut v = biased_sum(false);
                    if self.beta != 0.0 {
                        v += f64::from(self.beta) * f64::from(self.c.get([s, i, j]));
                    }
                    let up = if self.b.is_gated() { Some(biased_sum(true)) } else { None };
                    if let Some(aux) = &mut self.epilogue.aux {
                        aux.set([s, i, j], v as f32);
                        if let Some(up) = up {
                            aux.set([s, i, n + j], up as f32);
                        }
                    }
                    if let Some(activation) = self.epilogue.activation {
                        v = activation.definition(v);
                    }
                    if let Some(up) = up {
                        v *= up;
                    }
                    let of = |operand: &AnyView<'_, 3>| f64::from(any_of_batch(*operand, s).get([i, j]));
                    match &mut self.epilogue.derivative {
                        Some(Derivative::Of { activation, aux }) => {
                            v *= activation.definition_derivative(of(aux));
                        }
                        Some(Derivative::OfGated { activation, gate, up, dup }) => {
                            dup.set([s, i, j], (v * activation.definition(of(gate))) as f32);
                            v *= of(up) * activation.definition_derivative(of(gate));
                        }
                        None => {}
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
            let why = format!(
                "expected panels of {expected} ({}), found {found}: packed for another backend",
                I::NAME
            );
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
            operations: self.epilogue.operations(),
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
            _ if product.is_small::<I>(b) => product.small(isa, b),
            Rhs::Packed(b) => {
                let grid = product.grid::<I>(product.row_blocks_of_threads::<I>(product.k));
                product.prepacked(isa, Floats::EXACT, PackedPanels { floats: b.panels(), first: 0 }, &grid);
            }
            Rhs::Matrix(AnyView::F32(b)) if product.is_gemv_of_rows::<I>(b) => product.gemv_rows(isa, b),
            Rhs::Matrix(matrix) => product.pack_on_the_fly(isa, Unpacked { b: matrix, up: None }, b.format()),
            Rhs::Gated { gate, up } => {
                product.pack_on_the_fly(isa, Unpacked { b: gate, up: Some(up) }, b.format());
            }
        }
    }
}

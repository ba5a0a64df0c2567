//! Matrix product: C = alpha A B + beta C, with what follows a linear layer fused behind it.
//!
//! The blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), in the loops of Van Zee and van de Geijn, "BLIS" (2015), with two
//! departures:
//!
//! ```text
//! for batch, ic in MC      one task: its rows of A, all of k, packed once, stay in L2
//!   for jr in NR           a panel of B streams by, once per block of rows
//!     for pc in KC         KC x NR of it stay in L1 ..
//!       for ir in MR       .. while the rows of A pass: one register tile each
//!         for p in KC      MR x NR sums += column of A * row of B
//! ```
//!
//! 1. The loop over pc stands inside the loop over jr, so that unfinished sums are only ever MC x NR
//!    floats, in cache, and C is written once, by the epilogue. A packed panel needs no NC.
//! 2. A tile starts from the sums of the block before it: every element is one chain of fused
//!    multiply-adds with p ascending, whatever MC, KC, the tile's rows, the number of threads or the
//!    packing. That is what makes a row's bits independent of all of them.

mod epilogue;
mod pack;

pub use epilogue::Epilogue;
pub use pack::PackedB;

use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Tile};
use crate::view::{View, ViewMut};
use crate::{parallel, scratch};
use core::ops::Range;
use epilogue::Finish;
pub(crate) use pack::pack_panel;

/// k-steps of one block: KC x NR floats of B (32 KiB for the widest tile) and MR rows of A share L1.
/// Measured on 2048^3: 256 and 384 alike, 128 2% slower; it also fixes
/// [`A_STRIDE`](crate::isa::A_STRIDE).
pub const KC: usize = 256;

/// Bytes of A that a task packs: half of the smallest L2 (1 MiB) of the servers this is for, which
/// leaves the other half to B, C and prefetches.
const A_BLOCK_BYTES: usize = 512 << 10;

/// Multiply-adds, or elements of B times 16 (which then comes from L3 or memory), below which a
/// second thread costs more than it brings: about 20 us on one core, twice a wake-up of the pool.
const PARALLEL_WORK: usize = 2 << 20;

/// B of a [`Gemm`].
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a> {
    /// \[batch, k, n\] or \[1, k, n\] for all; packed anew in every call.
    Matrix(View<'a, 3>),
    /// Two matrices of that shape, for activation(A gate) * (A up).
    Gated {
        /// The matrix whose product goes through the activation.
        gate: View<'a, 3>,
        /// The matrix whose product multiplies it.
        up: View<'a, 3>,
    },
    /// One matrix, or pair, packed beforehand, for the whole batch.
    Packed(&'a PackedB),
}

/// C = epilogue(alpha A B + beta C), for each product of a batch.
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
    pub a: View<'a, 3>,
    /// k x n.
    pub b: Rhs<'a>,
    /// Factor of the old C; 0 for a gated pair.
    pub beta: f32,
    /// \[batch, m, n\].
    pub c: ViewMut<'a, 3>,
    /// What is done to the product before it is stored.
    pub epilogue: Epilogue<'a>,
}

/// The product `batch` of an operand that may have one for all.
#[inline(always)]
fn of_batch(v: View<'_, 3>, batch: usize) -> View<'_, 2> {
    v.at(if v.shape()[0] == 1 { 0 } else { batch })
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
        self.epilogue.check(self.c.shape(), self.b.is_gated())?;
        Ok(k)
    }
}

impl Rhs<'_> {
    #[inline(always)]
    fn is_gated(&self) -> bool {
        match self {
            Rhs::Matrix(_) => false,
            Rhs::Gated { .. } => true,
            Rhs::Packed(b) => b.is_gated(),
        }
    }
}

impl Kernel for Gemm<'_> {
    type Output = Result<(), Error>;

    fn reference(mut self) -> Result<(), Error> {
        let k = self.check()?;
        let [batch, m, n] = self.c.shape();
        let b = |up: bool, s: usize, p: usize, j: usize| match self.b {
            Rhs::Matrix(b) => of_batch(b, s).get([p, j]),
            Rhs::Gated { gate, up: u } => of_batch(if up { u } else { gate }, s).get([p, j]),
            Rhs::Packed(b) => b.get(up, p, j),
        };
        for s in 0..batch {
            let a = of_batch(self.a, s);
            for i in 0..m {
                for j in 0..n {
                    let biased_sum = |up: bool| {
                        let mut sum = 0.0;
                        for p in 0..k {
                            sum += f64::from(a.get([i, p])) * f64::from(b(up, s, p, j));
                        }
                        let row_bias = self.epilogue.row_bias.map_or(0.0, |bias| f64::from(bias[i]));
                        let column = if up { n + j } else { j };
                        let column_bias =
                            self.epilogue.column_bias.map_or(0.0, |bias| f64::from(bias[column]));
                        f64::from(self.alpha) * sum + row_bias + column_bias
                    };
                    let mut v = biased_sum(false);
                    if self.beta != 0.0 {
                        v += f64::from(self.beta) * f64::from(self.c.as_view().get([s, i, j]));
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
            && b.nr() != I::NR
        {
            let why = format!("expected panels of {} columns ({}), found {}", I::NR, I::NAME, b.nr());
            return Err(Error::Invalid { what: "Gemm.b", why });
        }
        if self.c.is_empty() {
            return Ok(());
        }
        let plan = Plan::new::<I>(self.c.shape(), k, self.b.is_gated());
        let operands = Operands {
            alpha: self.alpha,
            a: self.a,
            b: self.b,
            beta: self.beta,
            epilogue: self.epilogue,
            c: self.c.as_mut_ptr(),
            c_strides: self.c.strides(),
        };
        parallel::for_each(plan.tasks(), |task| {
            let task = plan.task(task);
            let floats = task.scratch::<I>(k);
            scratch::with(floats, |memory| {
                // SAFETY: tasks are disjoint blocks of C, which is borrowed mutably; `check` proved
                // the operands' shapes, and the memory is as long as the task asks for.
                isa.run(
                    #[inline(always)]
                    || unsafe { operands.block(isa, &task, memory) },
                );
            });
        });
        Ok(())
    }
}

/// How C is cut into tasks: blocks of rows of about [`A_BLOCK_BYTES`] of A, and where these are
/// fewer than the threads, groups of panels as well (each group packs the same rows of A again).
struct Plan {
    shape: [usize; 3],
    row_blocks: usize,
    groups: usize,
    panels: usize,
    /// Columns of C that a panel makes.
    width: usize,
}

/// One block of C: rows and panels of one product of the batch.
struct Task {
    batch: usize,
    rows: Range<usize>,
    panels: Range<usize>,
    width: usize,
}

/// Part `i` of `n` cut into `parts` that differ by at most one.
#[inline(always)]
fn part(n: usize, parts: usize, i: usize) -> Range<usize> {
    i * n / parts..(i + 1) * n / parts
}

impl Plan {
    fn new<I: Isa>(shape: [usize; 3], k: usize, gated: bool) -> Self {
        let [batch, m, n] = shape;
        let width = if gated { I::NR / 2 } else { I::NR };
        let panels = n.div_ceil(width);
        let most_rows = (A_BLOCK_BYTES / size_of::<f32>() / pack::packed_a_len(1, k).max(1)).max(4 * I::MR);
        let row_blocks = m.div_ceil(most_rows);
        let threads = parallel::threads();
        let work = batch * m.max(16) * panels * I::NR * k;
        let groups = if threads == 1 || work < PARALLEL_WORK {
            1
        } else {
            // Twice as many tasks as threads evens out threads that are not equally fast.
            (2 * threads).div_ceil(batch * row_blocks).min(panels)
        };
        Self { shape, row_blocks, groups, panels, width }
    }

    fn tasks(&self) -> usize {
        self.shape[0] * self.row_blocks * self.groups
    }

    fn task(&self, i: usize) -> Task {
        let (i, group) = (i / self.groups, i % self.groups);
        let (batch, block) = (i / self.row_blocks, i % self.row_blocks);
        Task {
            batch,
            rows: part(self.shape[1], self.row_blocks, block),
            panels: part(self.panels, self.groups, group),
            width: self.width,
        }
    }
}

impl Task {
    /// Floats of working memory: packed A, one unpacked panel's block, unfinished sums.
    fn scratch<I: Isa>(&self, k: usize) -> usize {
        pack::packed_a_len(self.rows.len(), k) + KC * I::NR + self.rows.len() * I::NR
    }
}

/// A checked [`Gemm`] that tasks share.
struct Operands<'a> {
    alpha: f32,
    a: View<'a, 3>,
    b: Rhs<'a>,
    beta: f32,
    epilogue: Epilogue<'a>,
    c: *mut f32,
    c_strides: [usize; 3],
}

// SAFETY: tasks write disjoint blocks through `c`.
unsafe impl Sync for Operands<'_> {}

impl Operands<'_> {
    /// Computes one block of C.
    ///
    /// # Safety
    /// The operands were checked; no one else touches the block; `memory` has the task's length.
    #[inline(always)]
    unsafe fn block<I: Isa>(&self, isa: I, task: &Task, memory: &mut [f32]) {
        let a = of_batch(self.a, task.batch).slice(0, task.rows.clone());
        let [m, k] = a.shape();
        let n = self.n();
        let gated = self.b.is_gated();
        let (packed_a, rest) = memory.split_at_mut(pack::packed_a_len(m, k));
        let (unpacked, sums) = rest.split_at_mut(KC * I::NR);
        // SAFETY: `packed_a` is that long.
        unsafe { pack::pack_a(isa, a, packed_a.as_mut_ptr()) };

        // SAFETY: the batch's product and the task's first row lie in C.
        let c = unsafe { self.c.add(task.batch * self.c_strides[0]) };
        let c_strides = [self.c_strides[1], self.c_strides[2]];
        let plain = self.alpha == 1.0 && self.beta == 0.0 && self.epilogue.is_empty() && !gated;
        // Strips of equal height: a last one of two rows would run at a fraction of the speed.
        let strips = m.div_ceil(I::MR);

        for panel in task.panels.clone() {
            let column = panel * task.width;
            let columns = task.width.min(n - column);
            let finish = Finish {
                alpha: self.alpha,
                beta: self.beta,
                epilogue: self.epilogue,
                residual: self.epilogue.residual.map(|r| of_batch(r, task.batch)),
                column,
                columns,
                n,
                gated,
                c,
                c_strides,
            };
            let direct = plain && columns == I::NR && c_strides[1] == 1;
            let (sums, sums_stride) = if direct {
                // SAFETY: the first element of the block in C.
                (unsafe { c.add(task.rows.start * c_strides[0] + column) }, c_strides[0])
            } else {
                (sums.as_mut_ptr(), I::NR)
            };
            // The sums over no k-steps at all are still to be stored.
            for pc in (0..k.max(1)).step_by(KC) {
                let kc = KC.min(k - pc);
                let b = match self.b {
                    // SAFETY: the panel's k-step pc, or the end if there is none.
                    Rhs::Packed(b) => unsafe { b.panels().as_ptr().add((panel * k + pc) * I::NR) },
                    Rhs::Matrix(b) => {
                        let b =
                            of_batch(b, task.batch).slice(0, pc..pc + kc).slice(1, column..column + columns);
                        // SAFETY: KC x NR floats of memory.
                        unsafe { pack_panel(isa, b, unpacked.as_mut_ptr(), I::NR) };
                        unpacked.as_ptr()
                    }
                    Rhs::Gated { gate, up } => {
                        for (half, b) in [gate, up].into_iter().enumerate() {
                            let b = of_batch(b, task.batch)
                                .slice(0, pc..pc + kc)
                                .slice(1, column..column + columns);
                            let to = unpacked[half * I::NR / 2..].as_mut_ptr();
                            // SAFETY: NR/2 floats of each of KC rows of NR floats of memory.
                            unsafe { pack_panel(isa, b, to, I::NR / 2) };
                        }
                        unpacked.as_ptr()
                    }
                };
                let last = pc + KC >= k;
                let slab = packed_a[pc / KC * m * crate::isa::A_STRIDE..].as_ptr();
                // Together, the strips prefetch the block of B that comes after this one.
                let lines = (kc * I::NR).div_ceil(16 * strips);
                for strip in 0..strips {
                    let rows = part(m, strips, strip);
                    // SAFETY: rows of the slab, KC x NR floats of B, and rows of the sums, which
                    // `direct` lets be C itself.
                    unsafe {
                        let c = sums.add(rows.start * sums_stride);
                        isa.gemm_tile(Tile {
                            rows: rows.len(),
                            k: kc,
                            a: slab.add(rows.start * crate::isa::A_STRIDE),
                            b,
                            b_stride: I::NR,
                            c,
                            c_stride: sums_stride,
                            accumulate: pc > 0,
                            prefetch: b.wrapping_add(kc * I::NR + strip * lines * 16),
                        });
                        if last && !direct {
                            finish.rows(isa, c, task.rows.start + rows.start, rows.len());
                        }
                    }
                }
            }
        }
    }

    /// Columns of C.
    #[inline(always)]
    fn n(&self) -> usize {
        match self.b {
            Rhs::Matrix(b) | Rhs::Gated { gate: b, .. } => b.shape()[2],
            Rhs::Packed(b) => b.n(),
        }
    }
}

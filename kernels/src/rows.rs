//! Rows of the row kernels: views, checks, and division among threads.

use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::RowSlices;
use crate::parallel;
use crate::scratch;
use crate::view::{View, ViewMut};

/// Rows that a kernel reads and writes: \[rows, columns\] of f32, bf16 or f16. Each row is contiguous; the distance
/// between rows is free.
///
/// Arithmetic is f32. A result in bf16 or f16 is the f32 result for the same elements, rounded once to nearest, ties to
/// even. Two kernels are exceptions: softmax and GELU in bf16 use coarser approximations, and state their error.
///
/// ```
/// use tilewright_kernels::{Activate, Activation, Backend, Rows, View, ViewMut};
/// let mut x = [-1., 0., 1., 2.];
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [2, 2])?);
/// Backend::best().run(Activate { rows, activation: Activation::Relu })?;
/// assert_eq!(x, [0., 0., 1., 2.]);
///
/// let mut x = [-1., 2.].map(half::bf16::from_f32);
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [1, 2])?);
/// Backend::best().run(Activate { rows, activation: Activation::Relu })?;
/// assert_eq!(x.map(f32::from), [0., 2.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub enum Rows<'a, T = f32> {
    /// Each row is replaced by its result.
    InPlace(ViewMut<'a, 2, T>),
    /// Rows of the first view are read, and the same rows of the second written.
    Into(View<'a, 2, T>, ViewMut<'a, 2, T>),
}

impl<'a, T> Rows<'a, T> {
    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Rows::InPlace(x) => x.shape(),
            Rows::Into(x, _) => x.shape(),
        }
    }

    /// The rows before `mid`, and the rows from `mid` on.
    ///
    /// # Panics
    /// If there are fewer than `mid` rows.
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            Rows::InPlace(x) => {
                let (low, high) = x.split_at(0, mid);
                (Rows::InPlace(low), Rows::InPlace(high))
            }
            Rows::Into(x, out) => {
                let (low, high) = out.split_at(0, mid);
                (Rows::Into(x.slice(0, 0..mid), low), Rows::Into(x.slice(0, mid..x.shape()[0]), high))
            }
        }
    }

    /// Returns the shape, or an error if rows are not contiguous or input and output differ in shape.
    pub(crate) fn check(&self, what: &'static str) -> Result<[usize; 2], Error> {
        match self {
            Rows::InPlace(x) => expect_unit_rows(what, x.has_unit_rows(), x.strides())?,
            Rows::Into(x, out) => {
                expect_unit_rows(what, x.has_unit_rows(), x.strides())?;
                expect_unit_rows(what, out.has_unit_rows(), out.strides())?;
                expect_shape(what, &out.shape(), &x.shape())?;
            }
        }
        Ok(self.shape())
    }

    /// The rows in order.
    #[inline(always)]
    pub(crate) fn into_iter(self) -> impl Iterator<Item = RowSlices<'a, T>> {
        let (x, out) = match self {
            Rows::InPlace(x) => (None, x),
            Rows::Into(x, out) => (Some(x), out),
        };
        out.into_rows().enumerate().map(
            #[inline(always)]
            move |(i, out)| match x {
                Some(x) => RowSlices::Into(x.row([i, 0]), out),
                None => RowSlices::InPlace(out),
            },
        )
    }
}

/// Returns an error if `unit` is false: elements of a row are not neighbours in memory.
pub(crate) fn expect_unit_rows<const D: usize>(
    what: &'static str,
    unit: bool,
    strides: [usize; D],
) -> Result<(), Error> {
    if unit {
        return Ok(());
    }
    Err(Error::Invalid { what, why: format!("expected rows with unit stride, found strides {strides:?}") })
}

/// Returns an error if a vector over columns is not `cols` long.
pub(crate) fn expect_columns(what: &'static str, vector: Option<&[f32]>, cols: usize) -> Result<(), Error> {
    match vector {
        Some(v) => expect_shape(what, &[v.len()], &[cols]),
        None => Ok(()),
    }
}

/// Returns an error if an epsilon is negative or NaN.
pub(crate) fn expect_eps(what: &'static str, eps: f32) -> Result<(), Error> {
    if eps >= 0.0 {
        return Ok(());
    }
    Err(Error::Invalid { what, why: format!("expected a number from 0 up, found {eps}") })
}

/// Optional output of one number for each row.
#[derive(Debug)]
pub(crate) struct PerRow<'a>(pub(crate) Option<&'a mut [f32]>);

impl PerRow<'_> {
    /// Returns an error if the number of outputs is not `rows`.
    pub(crate) fn check(&self, what: &'static str, rows: usize) -> Result<(), Error> {
        match &self.0 {
            Some(numbers) => expect_shape(what, &[numbers.len()], &[rows]),
            None => Ok(()),
        }
    }

    /// The rows before `mid`, and the rows from `mid` on.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.0.map(|numbers| numbers.split_at_mut(mid)).unzip();
        (Self(low), Self(high))
    }

    /// Stores the number of row `i`, if it is wanted.
    #[inline(always)]
    pub(crate) fn set(&mut self, i: usize, number: f32) {
        if let Some(numbers) = &mut self.0 {
            numbers[i] = number;
        }
    }
}

/// Work of a checked row kernel on a range of rows, which do not depend on each other.
pub(crate) trait RowTask: Sized + Send {
    /// Rows and columns, whose product measures the work. If it is 0, nothing runs.
    fn shape(&self) -> [usize; 2];

    /// Splits the task into the rows before `mid` and the rows from `mid` on.
    fn split_at(self, mid: usize) -> (Self, Self);

    /// Floats of working memory for [`run`](Self::run).
    #[inline(always)]
    fn memory(&self) -> usize {
        0
    }

    /// Computes all rows in order. It is called inside [`Isa::run`], and so must be `#[inline(always)]`.
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]);
}

/// Elements up to which a task runs on one thread. A layer norm of this many runs for 4 us, about as long as a handover
/// to an awake thread. Two threads normalise 128 rows of 768 in 8.4 us, one in 11.2 us.
pub(crate) const GRAIN: usize = 1 << 15;

/// Pieces of a long task for each thread. A thread that starts late, or is interrupted, leaves some to the others; each
/// piece costs the start of its rows: two threads computed the gradient of RMS norm in bf16, 4096x768, 1.68 times as fast
/// as one in pieces of [`GRAIN`], and 1.83 times in 8 pieces each (Sapphire Rapids, separate runs).
const PIECES: usize = 8;

/// Runs a task on the threads of the pool, in pieces of whole rows: about [`PIECES`] for each thread, of [`GRAIN`]
/// elements or more.
pub(crate) fn run<I: Isa, K: RowTask>(isa: I, task: K) {
    let ([rows, cols], threads) = (task.shape(), parallel::threads());
    if rows == 0 || cols == 0 {
        return;
    }
    let grain = if threads == 1 { usize::MAX } else { GRAIN.max(rows * cols / (PIECES * threads)) };
    split(isa, task, grain);
}

/// Halves a task until its parts have at most `grain` elements, or a single row.
fn split<I: Isa, K: RowTask>(isa: I, task: K, grain: usize) {
    let [rows, cols] = task.shape();
    if rows < 2 || rows * cols <= grain {
        return match task.memory() {
            0 => alone(isa, task, &mut []),
            floats => scratch::with(floats, |memory| alone(isa, task, memory)),
        };
    }
    let (low, high) = task.split_at(rows / 2);
    parallel::join(|| split(isa, low, grain), || split(isa, high, grain));
}

/// Runs a task on this thread.
fn alone<I: Isa, K: RowTask>(isa: I, task: K, memory: &mut [f32]) {
    isa.run(
        #[inline(always)]
        || task.run(isa, memory),
    );
}

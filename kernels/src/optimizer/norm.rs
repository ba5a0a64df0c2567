//! Norm of all gradients, and the factor that clips it (Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063).

use super::BLOCK;
use crate::backend::Kernel;
use crate::isa::Isa;
use crate::lanes::sum;
use crate::residual::IN_RANGE;
use crate::rows::{self, RowTask};
use crate::scratch;

/// Square root of the sum of all squares.
///
/// # Numerics
/// Squares are summed in f32 over each 2048 elements, and in f64 where they leave the range of f32; the sums of these
/// blocks are added in f64, in ascending order. So the norm errs by at most 70 u of itself, u = 2^-24, has the same
/// bits on any number of threads, and neither overflows nor underflows. NaN gives NaN, an infinity without NaN an
/// infinity.
///
/// ```
/// use tilewright_kernels::Backend;
/// use tilewright_kernels::optimizer::{GlobalNorm, clip_factor};
/// let norm = Backend::best().run(GlobalNorm { x: &[3e30, 0., -4e30] });
/// assert!((norm / 5e30 - 1.).abs() < 1e-6);
/// assert_eq!(clip_factor(0.5, 1.), 1.);
/// assert!((clip_factor(4., 1.) - 0.25).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GlobalNorm<'a> {
    /// Gradients of all parameters.
    pub x: &'a [f32],
}

/// Factor of gradients of norm `norm` that makes their norm at most `most`: min(1, most / (norm + 1e-6)), as
/// `torch.nn.utils.clip_grad_norm_`. NaN if the norm is.
pub fn clip_factor(norm: f64, most: f64) -> f32 {
    let factor = (most / (norm + 1e-6)) as f32;
    // `min` would turn NaN into 1.
    if factor > 1.0 { 1.0 } else { factor }
}

impl Kernel for GlobalNorm<'_> {
    type Output = f64;

    crate::backend::compile_here!();

    fn reference(self) -> f64 {
        self.x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    }

    fn eval<I: Isa>(self, isa: I) -> f64 {
        scratch::with(self.x.len().div_ceil(BLOCK), |norms| {
            rows::run(isa, BlockNorms { x: self.x, norms });
            total(norms)
        })
    }
}

/// Norm of vectors of these norms.
pub(super) fn total(norms: &[f32]) -> f64 {
    norms.iter().map(|&norm| f64::from(norm).powi(2)).sum::<f64>().sqrt()
}

/// Norms of the blocks of a range.
struct BlockNorms<'a> {
    x: &'a [f32],
    norms: &'a mut [f32],
}

impl RowTask for BlockNorms<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.norms.len(), BLOCK]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (x, norms) = (self.x.split_at(mid * BLOCK), self.norms.split_at_mut(mid));
        (Self { x: x.0, norms: norms.0 }, Self { x: x.1, norms: norms.1 })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        for (x, norm) in self.x.chunks(BLOCK).zip(self.norms) {
            *norm = block_norm(isa, x);
        }
    }
}

/// Norm of a vector, rounded to f32.
#[inline(always)]
pub(super) fn block_norm<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let squares = sum(
        isa,
        x,
        0.0,
        #[inline(always)]
        |x| x * x,
    );
    if IN_RANGE.contains(&squares) { squares.sqrt() } else { wide_norm(x) }
}

/// Norm of a vector whose squares leave the range of f32, or which is 0.
#[cold]
#[inline(never)]
fn wide_norm(x: &[f32]) -> f32 {
    if x.iter().all(|&x| x == 0.0) {
        return 0.0;
    }
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32
}

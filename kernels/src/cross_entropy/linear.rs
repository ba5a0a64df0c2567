//! Cross-entropy of a vocabulary projection, with the gradients of its operands: logits never whole.
//!
//! ```text
//! for each chunk of 160 tokens with a label:
//!     L = x W^T + bias                        [160, vocabulary], the only large buffer
//!     L = scale (softmax(L) - target)         in place, with the losses
//!     dbias += column sums of L
//!     for each block of 1024 entries of the vocabulary:
//!         dx += L[:, block] W[block]          in L2
//!         dW[block] += L[:, block]^T x
//! ```
//!
//! Liger-Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989) walks tokens likewise. Chunks of
//! the vocabulary, for all tokens at once, would move W and dW through the caches once, not once a chunk of tokens,
//! but compute every logit twice: a softmax needs its whole row before its first gradient. A fourth product of the
//! size of the other three costs more than that traffic.

use super::{
    CrossEntropy, CrossEntropyBackward, LossSum, Targets, check_losses, linear_cross_entropy,
    linear_cross_entropy_backward, store, with_losses,
};
use crate::backend::Kernel;
use crate::column_sums::add_columns;
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::gemm::{Epilogue, Gemm, Lhs, Rhs};
use crate::isa::{Isa, Vector};
use crate::lanes::{NONE, RowSlices, each, narrow, widen};
use crate::rows::{self, RowTask, Rows, expect_columns, expect_unit_rows};
use crate::scratch;
use crate::view::{View, ViewMut};

/// Tokens of a chunk: 15% of 1024 tokens, as BERT masks them, and less than a sixth of the logits of 1024 tokens. More
/// tokens would move W and dW less often.
const TOKENS: usize = 160;

/// Entries of the vocabulary of a block: 160 x 1024 numbers of L, 640 KiB, stay in an L2 of 1 MiB while both products
/// read them.
const ENTRIES: usize = 1024;

/// Loss of x W^T + bias against labels, and the gradients of x, W and bias.
///
/// Rows of x without a label are neither projected nor read. Without any gradient it computes the loss alone.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous, the smoothing is not in
/// \[0, 1\], or a label is outside of the vocabulary. The error names the label and its row.
///
/// # Memory
/// Beside its arguments and the packed operands of a [`Gemm`], the kernel takes 160 x (vocabulary + 2 d) floats.
///
/// # Numerics
/// Logits are products as of [`Gemm`], f32 sums of the exact operands, and never rounded to the type of x and W. Losses
/// and the gradients of logits are those of [`CrossEntropyBackward`] for these logits, but for gradients of logits below
/// 2^-126, which count as 0. dx is summed over blocks of 1024
/// entries of the vocabulary, and rounded once to its type. dW and dbias are f32, and sums over chunks of 160 labelled
/// tokens, added to the old gradient one chunk after the other. No bit depends on threads.
///
/// ```
/// use tilewright_kernels::{Backend, LinearCrossEntropy, Targets, View, ViewMut};
/// let (x, w) = ([1., 0., 7., 7.], [0., 0., 0., 0.]);
/// let (mut dx, mut dw) = ([7.; 4], [0.; 4]);
/// let loss = Backend::best().run(LinearCrossEntropy {
///     dx: Some(ViewMut::new(&mut dx, [2, 2])?),
///     dweight: Some(ViewMut::new(&mut dw, [2, 2])?),
///     ..LinearCrossEntropy::new(View::new(&x, [2, 2])?, View::new(&w, [2, 2])?, Targets::new(&[1, -100]))
/// })?;
/// assert!((loss.mean() - 2f64.ln()).abs() < 1e-6);
/// assert_eq!((dx, dw), ([0.; 4], [0.5, 0., -0.5, 0.]));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct LinearCrossEntropy<'a, T = f32> {
    /// x, \[tokens, d\].
    pub x: View<'a, 2, T>,
    /// W, \[vocabulary, d\].
    pub weight: View<'a, 2, T>,
    /// Bias, \[vocabulary\].
    pub bias: Option<&'a [f32]>,
    /// Label of each token, smoothing and weights.
    pub targets: Targets<'a>,
    /// Gradient of the result by each loss: 1 / [`Targets::total_weight`] for a mean.
    pub scale: f32,
    /// Loss of each token, \[tokens\], if wanted; 0 without a label.
    pub losses: Option<&'a mut [f32]>,
    /// Gradient of x, \[tokens, d\], if wanted; 0 for tokens without a label.
    pub dx: Option<ViewMut<'a, 2, T>>,
    /// Gradient of W, \[vocabulary, d\], if wanted: added to.
    pub dweight: Option<ViewMut<'a, 2>>,
    /// Gradient of the bias, \[vocabulary\], if wanted: added to.
    pub dbias: Option<&'a mut [f32]>,
}

impl<'a, T: Element> LinearCrossEntropy<'a, T> {
    /// The loss alone, without bias.
    pub fn new(x: View<'a, 2, T>, weight: View<'a, 2, T>, targets: Targets<'a>) -> Self {
        Self {
            x,
            weight,
            bias: None,
            targets,
            scale: 1.0,
            losses: None,
            dx: None,
            dweight: None,
            dbias: None,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let ([tokens, d], [vocabulary, _]) = (self.x.shape(), self.weight.shape());
        expect_unit_rows("LinearCrossEntropy.x", self.x.has_unit_rows(), self.x.strides())?;
        expect_unit_rows("LinearCrossEntropy.weight", self.weight.has_unit_rows(), self.weight.strides())?;
        expect_shape("LinearCrossEntropy.weight", &self.weight.shape(), &[vocabulary, d])?;
        expect_columns("LinearCrossEntropy.bias", self.bias, vocabulary)?;
        expect_columns("LinearCrossEntropy.dbias", self.dbias.as_deref(), vocabulary)?;
        if let Some(dx) = &self.dx {
            expect_unit_rows("LinearCrossEntropy.dx", dx.has_unit_rows(), dx.strides())?;
            expect_shape("LinearCrossEntropy.dx", &dx.shape(), &[tokens, d])?;
        }
        if let Some(dweight) = &self.dweight {
            expect_shape("LinearCrossEntropy.dweight", &dweight.shape(), &[vocabulary, d])?;
        }
        self.targets.check([tokens, vocabulary])?;
        check_losses("LinearCrossEntropy.losses", self.losses.as_deref(), tokens)
    }

    /// True if any gradient is wanted.
    fn wants_gradients(&self) -> bool {
        self.dx.is_some() || self.dweight.is_some() || self.dbias.is_some()
    }
}

impl<T: Element> Kernel for LinearCrossEntropy<'_, T> {
    type Output = Result<LossSum, Error>;

    crate::backend::compile_here!(T::linear_cross_entropy);

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { x, weight, bias, targets, scale, losses, mut dx, dweight, dbias } = self;
        let ([_, d], [vocabulary, _]) = (x.shape(), weight.shape());
        let wide = |view: View<'_, 2, T>| -> Vec<f64> {
            view.rows().flatten().map(|x| f64::from(x.to_f32())).collect()
        };
        let bias: Option<Vec<f64>> = bias.map(|bias| bias.iter().map(|&b| f64::from(b)).collect());
        let (wide_x, wide_weight) = (wide(x), wide(weight));
        // Without columns the logits are the bias alone.
        let (wide_x, wide_weight) = match d {
            0 => (vec![0.0; targets.labels.len()], vec![0.0; vocabulary]),
            _ => (wide_x, wide_weight),
        };
        let defined = linear_cross_entropy(&wide_x, &wide_weight, bias.as_deref(), &targets);
        let dlosses = vec![f64::from(scale); targets.labels.len()];
        let [wide_dx, wide_dweight, wide_dbias] =
            linear_cross_entropy_backward(&wide_x, &wide_weight, bias.as_deref(), &targets, &dlosses);
        if let Some(dx) = &mut dx {
            for t in 0..dx.shape()[0] {
                for k in 0..d {
                    dx.set([t, k], T::from_f32(wide_dx[t * d + k] as f32));
                }
            }
        }
        if let Some(mut dweight) = dweight {
            for j in 0..vocabulary {
                for k in 0..d {
                    let old = f64::from(dweight.as_view().get([j, k]));
                    dweight.set([j, k], (old + wide_dweight[j * d + k]) as f32);
                }
            }
        }
        if let Some(dbias) = dbias {
            for (dbias, new) in dbias.iter_mut().zip(wide_dbias) {
                *dbias = (f64::from(*dbias) + new) as f32;
            }
        }
        Ok(LossSum { sum: store(losses, &defined), weight: targets.total_weight() })
    }

    fn eval<I: Isa>(mut self, isa: I) -> Self::Output {
        self.check()?;
        let (tokens, losses) = (self.x.shape()[0], self.losses.take());
        let weight = self.targets.total_weight();
        if let Some(dx) = &mut self.dx {
            (0..tokens).for_each(|t| dx.row_mut([t, 0]).fill(T::default()));
        }
        let mut result = Ok(());
        let sum = with_losses(losses, tokens, |losses| result = self.chunks(isa, losses));
        result.map(|()| LossSum { sum, weight })
    }
}

impl<T: Element> LinearCrossEntropy<'_, T> {
    /// Computes all chunks of labelled tokens.
    fn chunks<I: Isa>(mut self, isa: I, losses: &mut [f32]) -> Result<(), Error> {
        let ([tokens, d], [vocabulary, _]) = (self.x.shape(), self.weight.shape());
        let labelled = (0..tokens).filter(|&t| self.targets.class(t).is_some()).count().min(TOKENS);
        scratch::with(labelled * (vocabulary + 2 * d), |memory| {
            let (logits, memory) = memory.split_at_mut(labelled * vocabulary);
            let (x, dx) = memory.split_at_mut(labelled * d);
            let mut chunk = Chunk { tokens: [0; TOKENS], labels: [0; TOKENS], count: 0 };
            let mut next = 0;
            while chunk.take(&self.targets, &mut next) {
                self.chunk(isa, &chunk, [&mut *logits, &mut *x, &mut *dx], losses)?;
            }
            Ok(())
        })
    }

    /// Computes one chunk, in memory for logits, x and dx.
    fn chunk<I: Isa>(
        &mut self,
        isa: I,
        chunk: &Chunk,
        [logits, x, dx]: [&mut [f32]; 3],
        losses: &mut [f32],
    ) -> Result<(), Error> {
        let ([_, d], [vocabulary, _], count) = (self.x.shape(), self.weight.shape(), chunk.count);
        let (rows, logits) = (chunk.tokens(), &mut logits[..count * vocabulary]);
        let (x, dx) = (&mut x[..count * d], &mut dx[..count * d]);
        isa.run(
            #[inline(always)]
            || {
                for (&t, x) in rows.iter().zip(x.chunks_exact_mut(d.max(1))) {
                    widen(isa, self.x.row([t, 0]), x);
                }
            },
        );
        let x = View::<2>::new(x, [count, d])?;
        // x holds numbers of type T: rounding changes none, and asks for the bf16 instruction of the CPU if T is bf16.
        Gemm {
            epilogue: Epilogue { column_bias: self.bias, ..Epilogue::default() },
            ..Gemm::new(
                Lhs::Rounded(x.into()),
                Rhs::Matrix(self.weight.transpose().into()),
                ViewMut::<2>::new(logits, [count, vocabulary])?,
            )
        }
        .eval(isa)?;
        let targets = Targets { labels: &chunk.labels[..count], ..self.targets };
        let mut of_chunk = [0.0; TOKENS];
        let of_chunk = &mut of_chunk[..count];
        let gradients = self.wants_gradients();
        if gradients {
            let rows = Rows::InPlace(ViewMut::new(logits, [count, vocabulary])?);
            CrossEntropyBackward { rows, targets, scale: self.scale, losses: Some(&mut *of_chunk) }
                .eval(isa)?;
            rows::run(isa, Flush(ViewMut::new(logits, [count, vocabulary])?));
        } else {
            let logits = View::new(logits, [count, vocabulary])?;
            CrossEntropy { logits, targets, losses: Some(&mut *of_chunk) }.eval(isa)?;
        }
        for (&t, &mut loss) in rows.iter().zip(of_chunk) {
            losses[t] = loss;
        }
        if !gradients {
            return Ok(());
        }
        let dlogits = View::<2>::new(logits, [count, vocabulary])?;
        if let Some(dbias) = &mut self.dbias {
            add_columns(isa, dlogits, dbias);
        }
        for block in (0..vocabulary).step_by(ENTRIES).map(|j| j..vocabulary.min(j + ENTRIES)) {
            let dlogits = dlogits.slice(1, block.clone());
            if self.dx.is_some() {
                let weight = Rhs::Matrix(self.weight.slice(0, block.clone()).into());
                let beta = if block.start == 0 { 0.0 } else { 1.0 };
                let dx = ViewMut::<2>::new(dx, [count, d])?;
                Gemm { beta, ..Gemm::new(dlogits, weight, dx) }.eval(isa)?;
            }
            if let Some(dweight) = &mut self.dweight {
                let c = dweight.reborrow().slice(0, block);
                Gemm { beta: 1.0, ..Gemm::new(dlogits.transpose(), Rhs::Matrix(x.into()), c) }.eval(isa)?;
            }
        }
        if let Some(to) = &mut self.dx {
            isa.run(
                #[inline(always)]
                || {
                    for (&t, dx) in rows.iter().zip(dx.chunks_exact(d.max(1))) {
                        narrow(isa, dx, to.row_mut([t, 0]));
                    }
                },
            );
        }
        Ok(())
    }
}

/// Tokens with a label.
struct Chunk {
    tokens: [usize; TOKENS],
    labels: [i64; TOKENS],
    count: usize,
}

impl Chunk {
    /// Takes the next labelled tokens, from token `next` on; false if none is left.
    fn take(&mut self, targets: &Targets<'_>, next: &mut usize) -> bool {
        self.count = 0;
        while self.count < TOKENS && *next < targets.labels.len() {
            if targets.class(*next).is_some() {
                (self.tokens[self.count], self.labels[self.count]) = (*next, targets.labels[*next]);
                self.count += 1;
            }
            *next += 1;
        }
        self.count > 0
    }

    fn tokens(&self) -> &[usize] {
        &self.tokens[..self.count]
    }
}

/// Replaces denormal numbers by 0. If the logits' standard deviation is 28, as of normally distributed x and W of 768
/// columns, many gradients of logits are denormal, and a multiply-add of denormals takes more than 100 cycles on Intel's
/// CPUs.
struct Flush<'a>(ViewMut<'a, 2>);

impl RowTask for Flush<'_> {
    fn shape(&self) -> [usize; 2] {
        self.0.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.0.split_at(0, mid);
        (Self(low), Self(high))
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let (zero, least) = (I::V::splat(isa, 0.0), I::V::splat(isa, f32::MIN_POSITIVE));
        for row in self.0.into_rows() {
            each(
                isa,
                &mut RowSlices::InPlace(row),
                NONE,
                #[inline(always)]
                |x, []| zero.select(x.abs().lt(least), x),
            );
        }
    }
}

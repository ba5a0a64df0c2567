//! A case prepared to run on a backend.

use super::{Aligned, AttentionShape, Case, Inputs, Operation, format};
use crate::models::{Models, TRAIN_CASES};
use crate::work::Compute;
use core::fmt;
use half::{bf16, f16};
use tilewright::Arithmetic;
use tilewright::Error;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
use tilewright_kernels::{
    Attention, AttentionBackward, Backend, CachedAttention, DropoutMask, Element, KvCache, LinearBackward,
    Precision, Start, View, ViewMut, Window,
};
use tilewright_peers::Dtype;

/// A case prepared to run on one backend.
pub struct Prepared<'a> {
    pub(super) run: Compute<'a>,
    pub(super) out: Aligned,
    /// True if `run` writes an output in a type other than f32, which only [`output`](Self::output) widens.
    pub(super) narrow: bool,
}

impl Prepared<'_> {
    /// Computes the case once, in the current pool.
    ///
    /// # Errors
    /// Errors of the kernel. The shapes of a case fit each other, so none is expected.
    pub fn run(&mut self) -> Result<(), Error> {
        (self.run)(if self.narrow { &mut [] } else { &mut self.out })
    }

    /// The result of the last run. A row kernel in a type other than f32 runs once more.
    ///
    /// # Errors
    /// The errors of [`run`](Self::run).
    pub fn output(&mut self) -> Result<&[f32], Error> {
        if self.narrow {
            (self.run)(&mut self.out)?;
        }
        Ok(&self.out)
    }
}

impl fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("outputs", &self.out.len()).finish_non_exhaustive()
    }
}

/// Converts the numbers to another type if `needed`, else returns an empty vector.
fn narrow<T>(x: &[f32], needed: bool, from_f32: impl Fn(f32) -> T) -> Vec<T> {
    x.iter().filter(|_| needed).map(|&x| from_f32(x)).collect()
}

/// The backward pass of a linear layer of numbers of type `T`.
fn linear_backward<'a, T: Element>(
    [m, k, n]: [usize; 3],
    inputs: &Inputs,
    backend: Backend,
    from_f32: impl Fn(f32) -> T + Copy,
) -> Result<Prepared<'a>, Error> {
    let aligned = |v: &[f32]| Aligned::new(v.len(), |i| from_f32(v[i]));
    let [x, weight, dy] = [&inputs.x, &inputs.y, &inputs.z].map(|v| aligned(v));
    let mut dx = Aligned::new(m * k, |_| T::default());
    let [mut dweight, mut dbias] = [n * k, n].map(|len| Aligned::new(len, |_| 0.0f32));
    let run = move |out: &mut [f32]| {
        if !out.is_empty() {
            // Gradients of one run.
            dweight.fill(0.0);
            dbias.fill(0.0);
        }
        backend.run(LinearBackward {
            dy: View::<2, T>::new(&dy, [m, n])?.into(),
            x: View::<2, T>::new(&x, [m, k])?.into(),
            weight: Rhs::Matrix(View::<2, T>::new(&weight, [n, k])?.into()),
            dx: Some(ViewMut::<2, T>::new(&mut dx, [m, k])?.into()),
            dweight: Some(ViewMut::new(&mut dweight, [n, k])?),
            dbias: Some(&mut dbias),
        })?;
        let gradients =
            dx.iter().map(|x| x.to_f32()).chain(dweight.iter().copied()).chain(dbias.iter().copied());
        out.iter_mut().zip(gradients).for_each(|(out, gradient)| *out = gradient);
        Ok(())
    };
    Ok(Prepared { run: Box::new(run), out: Aligned::new(m * k + n * k + n, |_| 0.0), narrow: true })
}

/// Prepares attention in the type `T`.
fn attention<'a, T: Element>(
    s: AttentionShape,
    inputs: &Inputs,
    backend: Backend,
    from_f32: impl Fn(f32) -> T + Copy,
) -> Result<Prepared<'a>, Error> {
    let shape = [s.batch, s.heads, s.queries, s.dim];
    let kv = [s.batch, s.kv_heads, s.keys, s.dim];
    let [q, k, v] = [&inputs.x, &inputs.y, &inputs.z].map(|x| narrow(x, true, from_f32));
    let mut out = vec![T::default(); q.len()];
    let window = if s.causal { Window::CAUSAL } else { Window::ALL };
    let run = move |_: &mut [f32]| {
        let (q, k, v) = (View::new(&q, shape)?, View::new(&k, kv)?, View::new(&v, kv)?);
        let (out, start) = (ViewMut::new(&mut out, shape)?, Start::At(s.keys - s.queries));
        Ok(backend.run(Attention { window, start, ..Attention::new(q, k, v, out) })?)
    };
    Ok(Prepared { run: Box::new(run), out: Aligned::default(), narrow: false })
}

/// An attention of numbers of type `T`, and its gradients of q, k and v.
fn attention_backward<'a, T: Element>(
    s: AttentionShape,
    inputs: &Inputs,
    backend: Backend,
    from_f32: impl Fn(f32) -> T,
) -> Result<Prepared<'a>, Error> {
    let shape = [s.batch, s.heads, s.queries, s.dim];
    let kv = [s.batch, s.kv_heads, s.keys, s.dim];
    let [q, k, v] = [&inputs.x, &inputs.y, &inputs.z].map(|x| Aligned::new(x.len(), |i| from_f32(x[i])));
    // The gradient of the outputs: other numbers of the same distribution.
    let dout = Aligned::new(q.len(), |i| q[q.len() - 1 - i]);
    let [mut out, mut dq] = [(); 2].map(|()| Aligned::new(q.len(), |_| T::default()));
    let [mut dk, mut dv] = [(); 2].map(|()| Aligned::new(k.len(), |_| T::default()));
    let mut lse = Aligned::new(q.len() / s.dim, |_| 0.0);
    let window = if s.causal { Window::CAUSAL } else { Window::ALL };
    let start = Start::At(s.keys - s.queries);
    let dropout = s.dropout.then(|| DropoutMask { probability: 0.1, ..DropoutMask::default() });
    let run = move |_: &mut [f32]| {
        let qkv = [View::new(&q[..], shape)?, View::new(&k[..], kv)?, View::new(&v[..], kv)?];
        let forward = Attention::new(qkv[0], qkv[1], qkv[2], ViewMut::new(&mut out[..], shape)?);
        let to_lse = ViewMut::new(&mut lse[..], [s.batch, s.heads, s.queries])?;
        backend.run(Attention { window, start, dropout, lse: Some(to_lse), ..forward })?;
        let backward = AttentionBackward::new(
            qkv,
            (View::new(&out[..], shape)?, View::new(&lse[..], [s.batch, s.heads, s.queries])?),
            View::new(&dout[..], shape)?,
            [
                ViewMut::new(&mut dq[..], shape)?,
                ViewMut::new(&mut dk[..], kv)?,
                ViewMut::new(&mut dv[..], kv)?,
            ],
        );
        Ok(backend.run(AttentionBackward { window, start, dropout, ..backward })?)
    };
    Ok(Prepared { run: Box::new(run), out: Aligned::default(), narrow: false })
}

/// Prepares attention of one sequence to a cache.
fn cached<'a>(
    s: AttentionShape,
    Inputs { x, y, z, .. }: &'a Inputs,
    backend: Backend,
    precision: Precision,
) -> Result<Prepared<'a>, Error> {
    let (shape, kv) = ([s.batch, s.heads, s.queries, s.dim], [s.kv_heads, s.keys, s.dim]);
    let q = View::new(&x[..], shape)?;
    let mut cache = KvCache::new(backend, precision, s.kv_heads, [s.dim, s.dim], s.keys);
    cache.append(View::new(&y[..], kv)?, View::new(&z[..], kv)?)?;
    let window = if s.causal { Window::CAUSAL } else { Window::ALL };
    let run = move |out: &mut [f32]| {
        let (caches, starts, out) = ([&cache], [0, s.queries], ViewMut::new(out, shape)?);
        let attention = CachedAttention::new(q, &caches, &starts, out);
        Ok(backend.run(CachedAttention { window, ..attention })?)
    };
    Ok(Prepared { run: Box::new(run), out: Aligned::new(x.len(), |_| 0.0), narrow: false })
}

impl Case {
    /// Prepares the case on `backend`. Returns `None` if this project lacks the kernel in this type.
    ///
    /// # Errors
    /// Errors of the model's config; kernels return none.
    pub fn prepare<'a>(
        &self,
        inputs: &'a Inputs,
        backend: Backend,
        models: &'a Models,
    ) -> Result<Option<Prepared<'a>>, Error> {
        if self.dtype != Dtype::F32
            && !matches!(self.operation, Operation::Rows { .. } | Operation::Training(_))
        {
            return self.prepare_narrow(inputs, backend, models);
        }
        let Inputs { x, y, .. } = inputs;
        Ok(Some(match self.operation {
            Operation::Linear { shape: [m, k, n], packed } => {
                let a = View::new(&x[..], [1, m, k])?;
                let w = View::new(&y[..], [n, k])?.transpose();
                let packed = packed.then(|| PackedB::new(backend, w));
                let run = move |out: &mut [f32]| {
                    let b = packed.as_ref().map_or(Rhs::Matrix(w.into()), Rhs::Packed);
                    let c = ViewMut::new(out, [1, m, n])?;
                    let (a, c) = (a.into(), c.into());
                    Ok(backend.run(Gemm { alpha: 1.0, a, b, beta: 0.0, c, epilogue: Epilogue::default() })?)
                };
                Prepared { run: Box::new(run), out: Aligned::new(m * n, |_| 0.0), narrow: false }
            }
            Operation::LinearBackward { shape } => linear_backward(shape, inputs, backend, |x| x)?,
            Operation::Attention(s) if s.cached => cached(s, inputs, backend, Precision::F32)?,
            Operation::Attention(s) if s.backward => attention_backward(s, inputs, backend, |x| x)?,
            Operation::Attention(s) => {
                let shape = [s.batch, s.heads, s.queries, s.dim];
                let kv = [s.batch, s.kv_heads, s.keys, s.dim];
                let q = View::new(&x[..], shape)?;
                let (k, v) = (View::new(&y[..], kv)?, View::new(&inputs.z[..], kv)?);
                let window = if s.causal { Window::CAUSAL } else { Window::ALL };
                let run = move |out: &mut [f32]| {
                    let out = ViewMut::new(out, shape)?;
                    let start = Start::At(s.keys - s.queries);
                    Ok(backend.run(Attention { window, start, ..Attention::new(q, k, v, out) })?)
                };
                Prepared { run: Box::new(run), out: Aligned::new(x.len(), |_| 0.0), narrow: false }
            }
            Operation::Rows { kernel, shape } => {
                return Ok(kernel.prepare(backend, shape, inputs, self.dtype));
            }
            Operation::Training(step) => return Ok(step.prepare(inputs, backend, self.dtype)),
            Operation::Model { model, task } => {
                let run = models.prepare(model, task, Arithmetic::f32(backend))?;
                Prepared { run, out: Aligned::default(), narrow: false }
            }
            Operation::Train(case) => {
                let run = TRAIN_CASES[case].prepare(backend, false)?;
                Prepared { run, out: Aligned::default(), narrow: false }
            }
        }))
    }

    /// Prepares cases in types other than f32: models, products with packed weights, attention.
    ///
    /// Activations have the type of the case, except for integer types, whose activations are f32 and quantized in
    /// every run. Outputs of products are f32. Outputs of attention have the type of the case, for the next product.
    /// Attention to caches takes and returns f32; only its caches have the type of the case.
    fn prepare_narrow<'a>(
        &self,
        inputs: &'a Inputs,
        backend: Backend,
        models: &'a Models,
    ) -> Result<Option<Prepared<'a>>, Error> {
        match (self.operation, self.dtype) {
            (Operation::LinearBackward { shape }, Dtype::Bf16) => {
                return linear_backward(shape, inputs, backend, bf16::from_f32).map(Some);
            }
            (Operation::LinearBackward { shape }, Dtype::F16) => {
                return linear_backward(shape, inputs, backend, f16::from_f32).map(Some);
            }
            (Operation::Attention(s), Dtype::Bf16) if s.cached => {
                return cached(s, inputs, backend, Precision::Bf16).map(Some);
            }
            (Operation::Attention(s), _) if s.cached => return Ok(None),
            (Operation::Attention(s), Dtype::Bf16) if s.backward => {
                return attention_backward(s, inputs, backend, bf16::from_f32).map(Some);
            }
            (Operation::Attention(s), Dtype::Bf16) => {
                return attention(s, inputs, backend, bf16::from_f32).map(Some);
            }
            (Operation::Attention(s), Dtype::F16) => {
                return attention(s, inputs, backend, f16::from_f32).map(Some);
            }
            (Operation::Model { model, task }, _) => {
                let run = models.prepare(model, task, models.arithmetic(backend, format(self.dtype)))?;
                return Ok(Some(Prepared { run, out: Aligned::default(), narrow: false }));
            }
            (Operation::Train(case), Dtype::Bf16) => {
                let run = TRAIN_CASES[case].prepare(backend, true)?;
                return Ok(Some(Prepared { run, out: Aligned::default(), narrow: false }));
            }
            _ => {}
        }
        let Operation::Linear { shape: [m, k, n], packed: true } = self.operation else {
            return Ok(None);
        };
        let w = View::new(&inputs.y[..], [n, k])?.transpose();
        let format = format(self.dtype);
        let packed = PackedB::in_format(backend, format, w)?;
        let x = &inputs.x[..];
        let bf16s = narrow(x, self.dtype == Dtype::Bf16, bf16::from_f32);
        let f16s = narrow(x, self.dtype == Dtype::F16, f16::from_f32);
        let run = move |out: &mut [f32]| {
            let a = match format {
                Format::Bf16 => View::<2, _>::new(&bf16s, [m, k])?.into(),
                Format::F16 => View::<2, _>::new(&f16s, [m, k])?.into(),
                _ => Lhs::Rounded(View::new(x, [1, m, k])?),
            };
            let (b, c) = (Rhs::Packed(&packed), ViewMut::new(out, [m, n])?.into());
            Ok(backend.run(Gemm { alpha: 1.0, a, b, beta: 0.0, c, epilogue: Epilogue::default() })?)
        };
        Ok(Some(Prepared { run: Box::new(run), out: Aligned::new(m * n, |_| 0.0), narrow: false }))
    }
}

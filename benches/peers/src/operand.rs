//! Operands of operations, checked, converted and aligned for the libraries.

use crate::{Dtype, Error, PeerCall, PeerOperation};
use half::{bf16, f16};
use std::ops::{Deref, DerefMut};

impl PeerOperation<'_> {
    /// Checks that all slices have the lengths of the shape, that no dimension is 0 (libraries treat empty matrices
    /// differently), and that all sizes fit the libraries' 32-bit integers.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match *self {
            PeerOperation::Linear { shape: [m, k, n], x, weight, .. } => {
                matrix("x", x, [m, k])?;
                matrix("weight", weight, [n, k])?;
                m.checked_mul(n).map(|_| ()).ok_or_else(|| Error(format!("an output of {m} x {n}")))
            }
            PeerOperation::LayerNorm { shape, x, weight, bias, .. } => {
                matrix("x", x, shape)?;
                matrix("weight", weight, [1, shape[1]])?;
                matrix("bias", bias, [1, shape[1]])
            }
            PeerOperation::Softmax { shape, x } | PeerOperation::Gelu { shape, x, .. } => {
                matrix("x", x, shape)
            }
        }
    }
}

fn matrix(name: &str, values: &[f32], shape: [usize; 2]) -> Result<(), Error> {
    if let Some(dim) = shape.into_iter().find(|&dim| dim == 0 || i32::try_from(dim).is_err()) {
        return Err(Error(format!("{name}: a dimension of {dim}")));
    }
    let [rows, columns] = shape;
    if rows.checked_mul(columns) != Some(values.len()) {
        return Err(Error(format!("{name}: {} numbers, expected {rows} x {columns}", values.len())));
    }
    Ok(())
}

/// A checked [`PeerOperation::Linear`]: its slices have the lengths of its shape.
#[derive(Clone, Copy)]
pub(crate) struct LinearLayer<'a> {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// \[m, k\].
    pub x: &'a [f32],
    /// \[n, k\].
    pub weight: &'a [f32],
    pub dtype: Dtype,
    pub packed: bool,
}

impl<'a> LinearLayer<'a> {
    /// Checks the operation. Returns `None` if it is not a linear layer.
    pub fn new(operation: PeerOperation<'a>) -> Result<Option<Self>, Error> {
        operation.check()?;
        let PeerOperation::Linear { shape: [m, k, n], x, weight, dtype, packed } = operation else {
            return Ok(None);
        };
        Ok(Some(Self { m, k, n, x, weight, dtype, packed }))
    }

    /// `x` and `weight` with every number converted.
    pub fn convert<T: Copy + Default>(&self, convert: impl Fn(f32) -> T) -> [AlignedBuffer<T>; 2] {
        [self.x, self.weight].map(|from| AlignedBuffer::collect(from.iter().map(|&x| convert(x))))
    }

    /// `x` and `weight` as bytes.
    pub fn int8(&self) -> Result<(AlignedBuffer<u8>, AlignedBuffer<i8>), Error> {
        let within = |values: &[f32], least: f32| {
            values.iter().find(|x| !(least..=127.0).contains(*x) || x.fract() != 0.0).copied()
        };
        match (within(self.x, 0.0), within(self.weight, -127.0)) {
            (Some(x), _) => Err(Error(format!("x: {x} is not a whole number in 0..=127"))),
            (_, Some(w)) => Err(Error(format!("weight: {w} is not a whole number in -127..=127"))),
            (None, None) => {
                let x = AlignedBuffer::collect(self.x.iter().map(|&x| x as u8));
                Ok((x, AlignedBuffer::collect(self.weight.iter().map(|&w| w as i8))))
            }
        }
    }
}

/// The bits of the nearest bf16.
pub(crate) fn bf16_bits(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

/// The bits of the nearest f16.
pub(crate) fn f16_bits(x: f32) -> u16 {
    f16::from_f32(x).to_bits()
}

/// Elements aligned to a cache line, so that no peer loses time to vectors that straddle lines.
pub(crate) struct AlignedBuffer<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> AlignedBuffer<T> {
    /// A buffer of `len` zeros.
    pub fn zeros(len: usize) -> Self {
        const LINE: usize = 64;
        let data = vec![T::default(); len + LINE / size_of::<T>()];
        Self { start: data.as_ptr().align_offset(LINE), data, len }
    }

    pub fn collect(values: impl ExactSizeIterator<Item = T>) -> Self {
        let mut buffer = Self::zeros(values.len());
        buffer.iter_mut().zip(values).for_each(|(to, value)| *to = value);
        buffer
    }
}

impl<T> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..][..self.len]
    }
}

impl<T> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..][..self.len]
    }
}

/// Element type of an output.
pub(crate) trait Number: Copy + Default + Send {
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    fn to_f32(self) -> f32 {
        self
    }
}

impl Number for f16 {
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

impl Number for i32 {
    /// Rounds to the nearest f32.
    fn to_f32(self) -> f32 {
        self as f32
    }
}

/// A call that passes its output to a function.
struct Computation<T, F> {
    y: AlignedBuffer<T>,
    compute: F,
}

impl<T: Number, F: FnMut(&mut [T]) + Send> PeerCall for Computation<T, F> {
    fn run(&mut self) {
        (self.compute)(&mut self.y);
    }

    fn output(&self) -> Vec<f32> {
        self.y.iter().map(|y| y.to_f32()).collect()
    }
}

/// A call of a function that writes `len` numbers.
pub(crate) fn call<'a, T: Number + 'a>(
    len: usize,
    compute: impl FnMut(&mut [T]) + Send + 'a,
) -> Box<dyn PeerCall + 'a> {
    Box::new(Computation { y: AlignedBuffer::zeros(len), compute })
}

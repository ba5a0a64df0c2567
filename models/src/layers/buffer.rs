//! Working memory.

use crate::error::Error;
use tilewright_kernels::{View, ViewMut};

/// Working memory that grows to the largest length asked for and never shrinks.
///
/// The memory starts at a cache line, so that vectors of kernels do not straddle two lines: normalising misaligned
/// rows takes half as long again.
#[derive(Clone, Debug, Default)]
struct WorkBuffer(Vec<f32>);

impl WorkBuffer {
    const LINE: usize = 64;

    /// Makes room for `len` floats.
    fn reserve(&mut self, len: usize) {
        let padded = len + Self::LINE / size_of::<f32>();
        if self.0.len() < padded {
            self.0.resize(padded, 0.0);
        }
    }

    fn skip(&self) -> usize {
        self.0.as_ptr().align_offset(Self::LINE)
    }
}

/// Matrix in working memory: \[rows, width\].
#[derive(Debug, Default)]
pub struct Matrix {
    buffer: WorkBuffer,
    rows: usize,
    width: usize,
}

impl Matrix {
    /// Changes the shape. The content is unspecified afterwards.
    pub(super) fn reshape(&mut self, [rows, width]: [usize; 2]) {
        self.buffer.reserve(rows * width);
        (self.rows, self.width) = (rows, width);
    }

    /// Number of floats that fit without an allocation.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.0.len().saturating_sub(WorkBuffer::LINE / size_of::<f32>())
    }

    /// Number of rows and their width.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// All elements, row-major.
    pub fn values(&self) -> &[f32] {
        let (skip, len) = (self.buffer.skip(), self.rows * self.width);
        self.buffer.0.get(skip..skip + len).unwrap_or_default()
    }

    /// All elements, row-major.
    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        let (skip, len) = (self.buffer.skip(), self.rows * self.width);
        self.buffer.0.get_mut(skip..skip + len).unwrap_or_default()
    }

    /// Row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values()[row * self.width..(row + 1) * self.width]
    }

    pub(super) fn view(&self) -> Result<View<'_, 2>, Error> {
        Ok(View::new(self.values(), self.shape())?)
    }

    pub(super) fn view_mut(&mut self) -> Result<ViewMut<'_, 2>, Error> {
        let shape = self.shape();
        Ok(ViewMut::new(self.values_mut(), shape)?)
    }
}

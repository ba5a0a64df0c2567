//! Slices of one row of a kernel: one slice in place, or an input and an output.

use core::ops::Range;

/// Slices of a row that is read and written.
#[derive(Debug)]
pub enum RowSlices<'a, T = f32> {
    /// Results replace the elements read.
    InPlace(&'a mut [T]),
    /// Input and output, of the same length.
    Into(&'a [T], &'a mut [T]),
}

impl<'a, T: Copy> RowSlices<'a, T> {
    /// Elements to read.
    #[inline(always)]
    pub(crate) fn input(&self) -> &[T] {
        match self {
            RowSlices::InPlace(x) => x,
            RowSlices::Into(x, _) => x,
        }
    }

    /// Elements to write.
    #[inline(always)]
    pub(crate) fn output(&mut self) -> &mut [T] {
        match self {
            RowSlices::InPlace(x) => x,
            RowSlices::Into(_, out) => out,
        }
    }

    /// Elements to write, for as long as the row lives.
    #[inline(always)]
    pub(crate) fn into_output(self) -> &'a mut [T] {
        match self {
            RowSlices::InPlace(x) => x,
            RowSlices::Into(_, out) => out,
        }
    }

    /// The columns before `mid`, and the columns from `mid` on.
    #[inline(always)]
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            RowSlices::InPlace(x) => {
                let (low, high) = x.split_at_mut(mid);
                (RowSlices::InPlace(low), RowSlices::InPlace(high))
            }
            RowSlices::Into(x, out) => {
                let ((x, x_high), (out, out_high)) = (x.split_at(mid), out.split_at_mut(mid));
                (RowSlices::Into(x, out), RowSlices::Into(x_high, out_high))
            }
        }
    }

    /// The columns in `range`.
    #[inline(always)]
    pub(crate) fn slice(&mut self, range: Range<usize>) -> RowSlices<'_, T> {
        match self {
            RowSlices::InPlace(x) => RowSlices::InPlace(&mut x[range]),
            RowSlices::Into(x, out) => RowSlices::Into(&x[range.clone()], &mut out[range]),
        }
    }

    /// Makes the output the input of later reads.
    #[inline(always)]
    pub(crate) fn keep_output(&mut self) {
        let written = core::mem::replace(self, RowSlices::InPlace(&mut []));
        *self = RowSlices::InPlace(written.into_output());
    }

    /// Copies the input to the output.
    #[inline(always)]
    pub(crate) fn copy(&mut self) {
        if let RowSlices::Into(x, out) = self {
            out.copy_from_slice(x);
        }
    }

    /// Pointers to the first element to read and to write, both valid for the length of the row.
    ///
    /// # Panics
    /// If input and output differ in length.
    #[inline(always)]
    pub(crate) fn pointers(&mut self) -> (*const T, *mut T) {
        match self {
            RowSlices::InPlace(x) => {
                let p = x.as_mut_ptr();
                (p.cast_const(), p)
            }
            RowSlices::Into(x, out) => {
                assert!(x.len() == out.len(), "input and output differ in length");
                (x.as_ptr(), out.as_mut_ptr())
            }
        }
    }
}

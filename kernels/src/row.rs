//! A row of a kernel: in place, or from one to another.

use core::ops::Range;

/// A row that is read and written.
#[derive(Debug)]
pub enum Row<'a, T = f32> {
    /// Results replace what was read.
    InPlace(&'a mut [T]),
    /// Reads from the first, writes to the second, of the same length.
    Into(&'a [T], &'a mut [T]),
}

impl<'a, T: Copy> Row<'a, T> {
    /// Elements to read.
    #[inline(always)]
    pub(crate) fn input(&self) -> &[T] {
        match self {
            Row::InPlace(x) => x,
            Row::Into(x, _) => x,
        }
    }

    /// Elements to write.
    #[inline(always)]
    pub(crate) fn output(&mut self) -> &mut [T] {
        match self {
            Row::InPlace(x) => x,
            Row::Into(_, out) => out,
        }
    }

    /// Elements to write, for as long as the row lives.
    #[inline(always)]
    pub(crate) fn into_output(self) -> &'a mut [T] {
        match self {
            Row::InPlace(x) => x,
            Row::Into(_, out) => out,
        }
    }

    /// The columns before `mid` and those from it on.
    #[inline(always)]
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            Row::InPlace(x) => {
                let (low, high) = x.split_at_mut(mid);
                (Row::InPlace(low), Row::InPlace(high))
            }
            Row::Into(x, out) => {
                let ((x, x_high), (out, out_high)) = (x.split_at(mid), out.split_at_mut(mid));
                (Row::Into(x, out), Row::Into(x_high, out_high))
            }
        }
    }

    /// Some of the columns.
    #[inline(always)]
    pub(crate) fn slice(&mut self, range: Range<usize>) -> Row<'_, T> {
        match self {
            Row::InPlace(x) => Row::InPlace(&mut x[range]),
            Row::Into(x, out) => Row::Into(&x[range.clone()], &mut out[range]),
        }
    }

    /// Reads what was written from now on.
    #[inline(always)]
    pub(crate) fn keep_output(&mut self) {
        let written = core::mem::replace(self, Row::InPlace(&mut []));
        *self = Row::InPlace(written.into_output());
    }

    /// Writes what is read.
    #[inline(always)]
    pub(crate) fn copy(&mut self) {
        if let Row::Into(x, out) = self {
            out.copy_from_slice(x);
        }
    }

    /// Where reading and writing start.
    #[inline(always)]
    pub(crate) fn pointers(&mut self) -> (*const T, *mut T) {
        match self {
            Row::InPlace(x) => {
                let p = x.as_mut_ptr();
                (p.cast_const(), p)
            }
            Row::Into(x, out) => {
                assert!(x.len() == out.len(), "input and output differ in length");
                (x.as_ptr(), out.as_mut_ptr())
            }
        }
    }
}

//! Working memory that a thread keeps between kernel calls, so that a steady state allocates nothing.

use crate::isa::LINE;
use crate::large_pages;
use std::cell::RefCell;

thread_local! {
    /// Buffers of this thread that are not in use: one for each level at which kernels nest.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of unspecified content. They are aligned to a cache line, so that a full vector never
/// straddles two lines.
///
/// The memory grows to the largest `len` requested on this thread. It is freed when the thread ends.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let padded = len + LINE / size_of::<f32>();
    if buffer.len() < padded {
        buffer = large_pages::vec(0.0, padded);
    }
    let skip = buffer.as_ptr().align_offset(LINE);
    let result = f(&mut buffer[skip..skip + len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

//! Working memory.

/// Working memory that grows to the largest length asked for and never shrinks.
///
/// The memory starts at a cache line, so that vectors of kernels do not straddle two lines: normalising misaligned
/// rows takes half as long again.
#[derive(Debug, Default)]
pub struct WorkBuffer(Vec<f32>);

impl WorkBuffer {
    /// `len` floats of unspecified content.
    pub fn get(&mut self, len: usize) -> &mut [f32] {
        const LINE: usize = 64;
        let padded = len + LINE / size_of::<f32>();
        if self.0.len() < padded {
            self.0.resize(padded, 0.0);
        }
        let skip = self.0.as_ptr().align_offset(LINE);
        &mut self.0[skip..skip + len]
    }
}

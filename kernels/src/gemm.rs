//! Placeholder while the loops are being written.

/// k-steps of one block.
pub const KC: usize = 256;

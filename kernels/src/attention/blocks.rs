//! Sizes of the blocks that attention works on.

use crate::isa::KC;

/// Keys of one block.
///
/// The weights of a strip are the A of the second product: they must fit a row of A.
pub(super) const BLOCK_KEYS: usize = 256;
const _: () = assert!(BLOCK_KEYS <= KC);

/// Rows that pass a panel of keys or values while the panel is in L1, in whole strips of up to MR rows.
pub(super) const GROUP_ROWS: usize = 28;

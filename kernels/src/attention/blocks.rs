//! Sizes of the blocks that attention works on.

use crate::isa::KC;

/// Keys of one block.
///
/// The weights of a strip are A of the product with V: a row of them must fit the KC k-groups of a row of A.
pub(super) const BLOCK_KEYS: usize = 256;
const _: () = assert!(BLOCK_KEYS <= KC);

/// Rows that a panel of keys or values multiplies while it is in L1, in whole strips of up to MR rows.
pub(super) const GROUP_ROWS: usize = 28;

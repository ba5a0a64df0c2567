//! Tables that grow with the positions met.

use std::sync::OnceLock;

/// Tables of a function of the position: one for each power of two met, computed at its first use.
#[derive(Debug)]
pub struct Growing<T>(Box<[OnceLock<T>]>);

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Self((0..usize::BITS).map(|_| OnceLock::new()).collect())
    }
}

impl<T> Growing<T> {
    /// A table of at least `positions` positions. `table` computes a table of the given number of positions.
    pub fn get(&self, positions: usize, table: impl FnOnce(usize) -> T) -> &T {
        let rounded = positions.next_power_of_two();
        self.0[rounded.trailing_zeros() as usize].get_or_init(|| table(rounded))
    }
}

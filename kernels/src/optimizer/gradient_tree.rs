//! Sum of the gradients of micro-batches, in an order that depends on their numbers alone.
//!
//! ```text
//!          ((0 + 1) + (2 + 3)) + 4            five micro-batches: one fixed binary tree over 0..5
//! level 0     0   1    2   3     4
//! ```
//!
//! A node is added to its sibling as soon as both have arrived, so that the bits of the sum do not depend on the order
//! of arrival. Addition of f32 commutes: the buffer that arrived first receives the sum.

use super::{Step, run};
use crate::backend::{Backend, Kernel};
use crate::error::{Error, expect_shape};
use crate::isa::Isa;

/// sum += x, over flat slices.
///
/// # Errors
/// [`Error::Shape`] if the slices differ in length.
///
/// ```
/// use tilewright_kernels::{Backend, optimizer::Add};
/// let mut sum = [1., 2.];
/// Backend::best().run(Add { x: &[10., 20.], sum: &mut sum })?;
/// assert_eq!(sum, [11., 22.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Add<'a> {
    /// Terms \[n\].
    pub x: &'a [f32],
    /// Sums \[n\].
    pub sum: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Self::Output {
        expect_shape("Add.x", &[self.x.len()], &[self.sum.len()])?;
        self.sum.iter_mut().zip(self.x).for_each(|(sum, x)| *sum += x);
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        expect_shape("Add.x", &[self.x.len()], &[self.sum.len()])?;
        run(isa, [self.sum], self.x, None, AddStep);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct AddStep;

impl Step<1> for AddStep {
    #[inline(always)]
    fn apply<I: Isa>(self, _: I, [sum]: [I::V; 1], x: I::V) -> [I::V; 1] {
        [sum + x]
    }
}

/// A node of the tree: the micro-batches `index << level .. (index + 1) << level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    level: u32,
    index: usize,
}

/// Sums gradients of micro-batches, pushed in any order, into one gradient of a step.
///
/// It holds a buffer for each node whose sibling has not arrived: at most log2(parts) + 1 if the parts arrive in
/// ascending order. Buffers serve later steps too, so that a steady state allocates nothing.
///
/// ```
/// use tilewright_kernels::{Backend, optimizer::GradientTree};
/// let mut tree = GradientTree::new(1, 3);
/// for part in [2, 0, 1] {
///     assert_eq!(tree.sum(), None);
///     tree.push(Backend::best(), part, &[part as f32])?;
/// }
/// assert_eq!(tree.sum(), Some(&[3.][..]));
/// tree.clear(); // for the next step
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct GradientTree {
    len: usize,
    arrived: Vec<bool>,
    waiting: Vec<(Node, Vec<f32>)>,
    free: Vec<Vec<f32>>,
}

impl GradientTree {
    /// A tree over the micro-batches `0..parts` of a step, with gradients of `len` numbers.
    pub fn new(len: usize, parts: usize) -> Self {
        Self { len, arrived: vec![false; parts], waiting: Vec::new(), free: Vec::new() }
    }

    /// Adds the gradients of micro-batch `part`.
    ///
    /// # Errors
    /// [`Error::Shape`] if their number is another; [`Error::Invalid`] if the part is outside of the tree or was
    /// pushed before. The tree is unchanged then.
    pub fn push(&mut self, backend: Backend, part: usize, gradients: &[f32]) -> Result<(), Error> {
        expect_shape("GradientTree.gradients", &[gradients.len()], &[self.len])?;
        let parts = self.arrived.len();
        let refused = |why| Err(Error::Invalid { what: "GradientTree.part", why });
        match self.arrived.get_mut(part) {
            None => return refused(format!("part {part} is outside of a tree of {parts} parts")),
            Some(true) => return refused(format!("part {part} was pushed before")),
            Some(arrived) => *arrived = true,
        }
        // The sum of the node, once it is no longer the caller's gradients.
        let mut sum: Option<Vec<f32>> = None;
        let mut node = Node { level: 0, index: part };
        while 1 << node.level < parts {
            let sibling = Node { index: node.index ^ 1, ..node };
            // A node without a sibling is its parent.
            if sibling.index << node.level < parts {
                let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == sibling) else {
                    break;
                };
                let (_, mut other) = self.waiting.swap_remove(at);
                backend.run(Add { x: sum.as_deref().unwrap_or(gradients), sum: &mut other })?;
                self.free.extend(sum.replace(other));
            }
            node = Node { level: node.level + 1, index: node.index / 2 };
        }
        let sum = sum.unwrap_or_else(|| {
            let mut copy = self.free.pop().unwrap_or_default();
            copy.clear();
            copy.extend_from_slice(gradients);
            copy
        });
        self.waiting.push((node, sum));
        Ok(())
    }

    /// The sum of all gradients, once all parts have arrived.
    pub fn sum(&self) -> Option<&[f32]> {
        if !self.arrived.iter().all(|arrived| *arrived) {
            return None;
        }
        self.waiting.first().map(|(_, sum)| &sum[..])
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        self.arrived.fill(false);
        self.free.extend(self.waiting.drain(..).map(|(_, buffer)| buffer));
    }
}

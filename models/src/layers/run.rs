//! Runs: the layer calls of one forward pass, and of the backward pass that may follow.
//!
//! ```text
//! let mut run = Run::new(&mut workspace);          inference: a slot is one buffer, overwritten by each call
//! linear.forward(&mut run, X, WIDE)?;
//! norm.forward(&mut run, SUM, X)?;
//!
//! let mut run = Run::recording(..);                training: each call that writes a slot makes a new matrix there,
//! model.loss(&mut run, ..)?;                       and notes on the tape what its backward needs
//! run.backward()?;                                 the tape from its end: gradients of all parameters
//! ```
//!
//! So a model's forward pass is written once. Its backward pass is the tape: a layer that is called twice (ALBERT), a
//! table with two uses and an encoder that every decoder layer reads need no code of their own, because gradients add
//! up. The order of calls fixes the order of all sums, so bits depend neither on threads nor on memory.

use crate::checkpoint::arena::Arena;
use crate::error::Error;
use crate::layers::buffer::Matrix;
use tilewright_kernels::half::bf16;
use tilewright_kernels::{DropoutMask, RandomBits};

mod block;
pub(super) mod gradients;
mod tape;

pub(crate) use block::Blocks;
pub(super) use gradients::Gradients;
use tape::Tape;
pub(super) use tape::{Call, Saved};

/// Name of a matrix in a forward pass, such as the states or the inside of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

/// Number of slots.
const SLOTS: usize = 12;

impl Slot {
    /// States of the tokens.
    pub const X: Self = Self(0);
    /// Input of a block, then the block's output, which the states add (pre-norm); or their sum (post-norm).
    pub const Y: Self = Self(1);
    /// Output of attention.
    pub const CONTEXT: Self = Self(2);
    /// Inside of a block: queries, keys and values, or the inside of the feed-forward block.
    pub const WIDE: Self = Self(3);
    /// States of the encoder of an encoder-decoder.
    pub const SOURCE: Self = Self(4);
    /// Keys and values of the source.
    pub const SOURCE_KV: Self = Self(5);
    /// Rows of the states that a head reads.
    pub const ROWS: Self = Self(6);
    /// Inside of a head.
    pub const HEAD: Self = Self(7);
    /// Outputs of a head.
    pub const LOGITS: Self = Self(8);
}

/// Matrix of a run: one writing of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(usize);

/// Working memory of runs. It grows to the largest batch; then nothing is allocated.
#[derive(Debug, Default)]
pub struct Workspace {
    matrices: Vec<Matrix>,
    /// Unused matrices of gradients.
    pool: Vec<Matrix>,
    /// A matrix in bf16.
    rounded: Vec<bf16>,
}

/// Random numbers of one step of training: a function of the seed, the step, and the place in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepRandom {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step.
    pub step: u32,
    /// Number of the first place: the micro-batches of a step have numbers of their own.
    pub first_site: u32,
    /// True if elements are dropped.
    pub dropout: bool,
}

/// Parameters of a model in training; empty for a model that holds its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values<'m> {
    pub f32: &'m [f32],
    /// The parameters in bf16, if linear layers multiply bf16.
    pub bf16: Option<&'m [bf16]>,
}

/// Layer calls of one forward pass, and their tape if a backward pass is to follow.
///
/// ```
/// use tilewright::checkpoint::weights::Weights;
/// use tilewright::layers::{Linear, Run, Slot, Workspace};
/// use tilewright::Arithmetic;
/// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
/// let linear = Linear::open(&Weights::random(0), "dense", [5, 3], on)?;
/// let mut workspace = Workspace::default();
/// let mut run = Run::new(&mut workspace);
/// run.set(Slot::X, [2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// linear.forward(&mut run, Slot::X, Slot::Y)?;
/// assert_eq!(run.matrix(Slot::Y).shape(), [2, 5]);
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Debug)]
pub struct Run<'m> {
    values: Values<'m>,
    matrices: &'m mut Vec<Matrix>,
    /// Matrix that each slot holds.
    current: [Version; SLOTS],
    /// Number of matrices so far.
    used: usize,
    random: StepRandom,
    /// Number of places that took random numbers so far.
    sites: u32,
    tape: Option<Tape<'m>>,
    /// True if the backward pass computes [blocks](Self::block) again.
    recomputes: bool,
    /// In a block that will be computed again, the number of matrices before it: these are kept, and the block's are
    /// overwritten as in inference.
    block: Option<usize>,
}

/// A matrix that a call is about to write.
#[derive(Debug)]
pub(super) struct Written {
    slot: Option<Slot>,
    version: Version,
    pub matrix: Matrix,
}

impl<'m> Run<'m> {
    /// A run that records nothing, of a model that holds its own parameters.
    pub fn new(workspace: &'m mut Workspace) -> Self {
        Self::of(&mut workspace.matrices, Values::default(), StepRandom::default(), None)
    }

    /// A run that records nothing, of a model whose parameters are in `arena`.
    pub fn evaluating(workspace: &'m mut Workspace, arena: &'m Arena) -> Self {
        Self::of(&mut workspace.matrices, Values::of(arena), StepRandom::default(), None)
    }

    /// A run of a model whose parameters are in `arena`, for [`backward`](Self::backward), which adds to `gradients`: an
    /// array with the layout of the arena.
    pub fn recording(
        workspace: &'m mut Workspace,
        arena: &'m Arena,
        gradients: &'m mut [f32],
        random: StepRandom,
    ) -> Self {
        let Workspace { matrices, pool, rounded } = workspace;
        let tape = Tape::new(Gradients::new(gradients, pool, rounded));
        Self::of(matrices, Values::of(arena), random, Some(tape))
    }

    /// This run, whose backward pass computes the inside of each layer again: it takes a third longer, and keeps of each
    /// layer only the outputs. The results have the same bits.
    #[must_use]
    pub fn recomputing(self, recomputes: bool) -> Self {
        Self { recomputes, ..self }
    }

    fn of(
        matrices: &'m mut Vec<Matrix>,
        values: Values<'m>,
        random: StepRandom,
        tape: Option<Tape<'m>>,
    ) -> Self {
        matrices.resize_with(matrices.len().max(SLOTS), Matrix::default);
        matrices[..SLOTS].iter_mut().for_each(|matrix| matrix.reshape([0, 0]));
        let current = core::array::from_fn(Version);
        Self {
            values,
            matrices,
            current,
            used: SLOTS,
            random,
            sites: 0,
            tape,
            recomputes: false,
            block: None,
        }
    }

    /// Puts a matrix, \[rows, width\] and row-major, in `slot`: an input of layers that are called alone.
    ///
    /// # Panics
    /// If there are fewer or more values than the shape says.
    pub fn set(&mut self, slot: Slot, shape: [usize; 2], values: &[f32]) {
        let mut written = self.take(slot, shape);
        written.matrix.values_mut().copy_from_slice(values);
        self.put(written);
    }

    /// Computes the gradients of all parameters, and ends the recording.
    ///
    /// # Errors
    /// [`Error::Kernel`] if a kernel refuses its arguments.
    pub fn backward(&mut self) -> Result<(), Error> {
        self.backward_to_start()?;
        self.tape = None;
        Ok(())
    }

    /// Computes the gradients of all calls on the tape.
    fn backward_to_start(&mut self) -> Result<(), Error> {
        while let Some(call) = self.tape.as_mut().and_then(Tape::pop) {
            match call {
                Call::Block(block) => self.repeat(block)?,
                call => {
                    let tape = self.tape.as_mut().expect("a call came from it");
                    tape.backward(call, self.values, self.matrices)?;
                }
            }
        }
        Ok(())
    }

    /// Parameters of a model in training; empty for others.
    pub(super) fn arena(&self) -> &'m [f32] {
        self.values.f32
    }

    /// Parameters of a model in training, and in bf16 if linear layers multiply these.
    pub(super) fn values(&self) -> Values<'m> {
        self.values
    }

    /// The matrix in `slot`.
    pub fn matrix(&self, slot: Slot) -> &Matrix {
        &self.matrices[self.current[slot.0].0]
    }

    /// True if a backward pass is to follow.
    pub(crate) fn records(&self) -> bool {
        self.tape.is_some() && self.block.is_none()
    }

    /// Tape of a run that records.
    pub(super) fn gradients(&mut self) -> Option<&mut Gradients<'m>> {
        self.tape.as_mut().map(|tape| &mut tape.gradients)
    }

    /// The matrix in `slot`, to be read by a backward pass.
    pub(super) fn version(&self, slot: Slot) -> Version {
        self.current[slot.0]
    }

    /// A matrix of this shape for the new content of `slot`. Until [`put`](Self::put), the slot has its old content if the
    /// run records, and none otherwise.
    pub(super) fn take(&mut self, slot: Slot, shape: [usize; 2]) -> Written {
        let version = self.current[slot.0];
        let version = if self.records() || self.keeps(version) { self.next() } else { version };
        self.written(Some(slot), version, shape)
    }

    /// True if a block that will be computed again must not change the matrix.
    fn keeps(&self, version: Version) -> bool {
        self.block.is_some_and(|first| version.0 < first)
    }

    /// The matrix in `slot`, to be changed in place: for changes that no backward pass minds.
    pub(super) fn take_in_place(&mut self, slot: Slot) -> Written {
        let version = self.current[slot.0];
        if self.keeps(version) {
            let mut copy = self.take(slot, self.matrix(slot).shape());
            copy.matrix.values_mut().copy_from_slice(self.matrix(slot).values());
            return copy;
        }
        let matrix = core::mem::take(&mut self.matrices[version.0]);
        Written { slot: Some(slot), version, matrix }
    }

    /// A matrix of this shape that only the backward pass reads, if there is one.
    pub(super) fn keep(&mut self, shape: [usize; 2]) -> Option<Written> {
        self.records().then(|| {
            let version = self.next();
            self.written(None, version, shape)
        })
    }

    fn next(&mut self) -> Version {
        if self.used == self.matrices.len() {
            self.matrices.push(Matrix::default());
        }
        self.used += 1;
        Version(self.used - 1)
    }

    fn written(&mut self, slot: Option<Slot>, version: Version, shape: [usize; 2]) -> Written {
        let mut matrix = core::mem::take(&mut self.matrices[version.0]);
        match self.tape.as_mut().filter(|_| self.recomputes && matrix.capacity() == 0) {
            Some(tape) => matrix = tape.gradients.matrix(shape),
            None => matrix.reshape(shape),
        }
        Written { slot, version, matrix }
    }

    /// Puts a written matrix in its slot.
    pub(super) fn put(&mut self, written: Written) -> Version {
        let Written { slot, version, matrix } = written;
        self.matrices[version.0] = matrix;
        if let Some(slot) = slot {
            self.current[slot.0] = version;
        }
        version
    }

    /// Moves the content of `from` to `to`; `from` has no content afterwards.
    pub fn rename(&mut self, from: Slot, to: Slot) {
        self.current.swap(from.0, to.0);
    }

    /// Random bits of the next place.
    pub(crate) fn bits(&mut self) -> RandomBits {
        let StepRandom { seed, step, first_site, .. } = self.random;
        self.sites += 1;
        RandomBits { seed, step, site: first_site.wrapping_add(self.sites) }
    }

    /// Mask of the next dropout of probability `p`; `None` if nothing is dropped.
    pub(super) fn dropout(&mut self, probability: f32) -> Option<DropoutMask> {
        if !(self.tape.is_some() && self.random.dropout && probability > 0.0) {
            return None;
        }
        Some(DropoutMask { probability, random: self.bits(), first_row: 0 })
    }

    /// Notes a call on the tape, if the run records.
    pub(super) fn record(&mut self, call: impl FnOnce() -> Call<'m>) {
        if let Some(tape) = self.tape.as_mut().filter(|_| self.block.is_none()) {
            tape.record(call());
        }
    }
}

impl<'m> Values<'m> {
    fn of(arena: &'m Arena) -> Self {
        Self { f32: arena.values(), bf16: arena.rounded() }
    }
}

//! Checks of every kernel on every backend against its definition. `tilewright verify`, the tests and the
//! fuzzers run them.
//!
//! A [`Check`] draws the arguments of one kernel: extents that straddle lanes, tiles and blocks, strides,
//! misalignment, special values. It runs the kernel on a backend and holds the result to an error bound derived from
//! [`Backend::REFERENCE`] and the arguments. [`CHECKS`] lists all checks. Cases have consecutive seeds, so that
//! `--seed S --cases 1` repeats the failed case.

#![forbid(unsafe_code)]

pub mod activate;
pub mod activate_backward;
pub mod attention;
pub mod bound;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod embedding_backward;
pub mod finite_difference;
pub mod gemm;
pub mod kv_cache;
pub mod linear;
pub mod linear_cross_entropy;
pub mod math;
pub mod norm;
pub mod norm_backward;
pub mod optimizer;
pub mod rope;
pub mod rows;
pub mod softmax;
pub mod softmax_backward;
mod stored;
pub mod tensor;

pub use bound::Worst;

use core::fmt;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use std::cell::Cell;
use tilewright_kernels::{Backend, Error};

/// A property of one kernel, checked on random arguments.
pub trait Check: 'static {
    /// Name of the kernel for `--kernel`.
    const KERNEL: &'static str;

    /// The arguments of one case. They hold seeds rather than data, because a failed case prints them.
    type Params: Clone + fmt::Debug + 'static;

    /// The strategy that draws arguments. The reference takes about a millisecond for a case.
    fn strategy() -> BoxedStrategy<Self::Params>;

    /// Runs the kernel on `backend` and compares the result with the definition.
    ///
    /// # Errors
    /// The first deviation from the definition or from the contract.
    fn run(params: &Self::Params, backend: Backend) -> Result<Worst, Failure>;
}

/// The description of a wrong result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// Makes a failure with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self(format!("refused: {e}"))
    }
}

/// All checks; a kernel comes after the kernels that it depends on.
pub static CHECKS: &[Entry] = &[
    Entry::of::<math::Math>(),
    Entry::of::<gemm::Gemm>(),
    Entry::of::<gemm::GemmBackward>(),
    Entry::of::<linear::ColumnSums>(),
    Entry::of::<linear::LinearBackward>(),
    Entry::of::<attention::Attention>(),
    Entry::of::<attention::AttentionRows>(),
    Entry::of::<attention::AttentionBackward>(),
    Entry::of::<kv_cache::CachedAttention>(),
    Entry::of::<norm::LayerNorm>(),
    Entry::of::<norm::RmsNorm>(),
    Entry::of::<norm::L2Normalize>(),
    Entry::of::<norm_backward::LayerNormBackward>(),
    Entry::of::<norm_backward::RmsNormBackward>(),
    Entry::of::<norm_backward::L2NormalizeBackward>(),
    Entry::of::<softmax::Softmax>(),
    Entry::of::<softmax_backward::SoftmaxBackward>(),
    Entry::of::<cross_entropy::CrossEntropy>(),
    Entry::of::<cross_entropy::CrossEntropyBackward>(),
    Entry::of::<linear_cross_entropy::LinearCrossEntropy>(),
    Entry::of::<cross_entropy::BceWithLogits>(),
    Entry::of::<cross_entropy::BceWithLogitsBackward>(),
    Entry::of::<optimizer::GlobalNorm>(),
    Entry::of::<optimizer::Adam>(),
    Entry::of::<optimizer::Lamb>(),
    Entry::of::<optimizer::Adafactor>(),
    Entry::of::<optimizer::Sgd>(),
    Entry::of::<activate::Activate>(),
    Entry::of::<activate::Gated>(),
    Entry::of::<activate_backward::ActivateBackward>(),
    Entry::of::<activate_backward::GatedBackward>(),
    Entry::of::<dropout::Dropout>(),
    Entry::of::<rope::Rope>(),
    Entry::of::<embedding::Embedding>(),
    Entry::of::<embedding_backward::EmbeddingBackward>(),
    Entry::of::<embedding::Pool>(),
    Entry::of::<embedding_backward::PoolBackward>(),
];

/// A row of [`CHECKS`].
#[derive(Debug)]
pub struct Entry {
    /// Name of the kernel for `--kernel`.
    pub kernel: &'static str,
    case: fn(Backend, u64, &[u8]) -> Result<Worst, Found>,
}

impl Entry {
    /// Makes the row of a check.
    pub const fn of<C: Check>() -> Self {
        Self { kernel: C::KERNEL, case: case::<C> }
    }

    /// Runs the case of one seed.
    ///
    /// # Errors
    /// The counterexample, with the smallest failing arguments that shrinking finds.
    pub fn case(&self, backend: Backend, seed: u64) -> Result<Worst, Counterexample> {
        let kernel = self.kernel;
        (self.case)(backend, seed, &[]).map_err(|Found { why, params }| Counterexample {
            kernel,
            backend,
            seed,
            params,
            why,
        })
    }

    /// Runs the case that `bytes` select, so that a fuzzer can reach every case. The first eight bytes are a seed. Each
    /// later byte is one step from the arguments of that seed towards simpler arguments.
    ///
    /// # Errors
    /// The failure, with the arguments of this case.
    pub fn case_of_bytes(&self, backend: Backend, bytes: &[u8]) -> Result<Worst, Failure> {
        let (seed, steps) = bytes.split_at(bytes.len().min(8));
        let mut key = [0; 8];
        key[..seed.len()].copy_from_slice(seed);
        let seed = u64::from_le_bytes(key);
        (self.case)(backend, seed, steps).map_err(|Found { why, params }| {
            Failure(format!("{} on {}: {why}\n  with {params}", self.kernel, backend.name()))
        })
    }

    /// Runs the cases of the seeds `seed`, `seed + 1`, .. and calls `progress` after each case.
    ///
    /// # Errors
    /// The counterexample of the first case that fails.
    pub fn run(
        &self,
        backend: Backend,
        seed: u64,
        cases: u64,
        mut progress: impl FnMut(),
    ) -> Result<Worst, Counterexample> {
        let mut worst = Worst::default();
        for i in 0..cases {
            worst = worst.max(self.case(backend, seed.wrapping_add(i))?);
            progress();
        }
        Ok(worst)
    }
}

/// The checks of the kernel `name`, or all checks.
pub fn checks(kernel: Option<&str>) -> impl Iterator<Item = &'static Entry> {
    CHECKS.iter().filter(move |entry| kernel.is_none_or(|kernel| entry.kernel == kernel))
}

/// A failed case.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The kernel, as `--kernel` names it.
    pub kernel: &'static str,
    /// The failing backend.
    pub backend: Backend,
    /// Seed of the case.
    pub seed: u64,
    /// Arguments after shrinking.
    pub params: String,
    /// The description of the wrong result.
    pub why: String,
}

impl Counterexample {
    /// The command that repeats this case.
    pub fn command(&self) -> String {
        format!(
            "tilewright verify --kernel {} --isa {} --seed {} --cases 1",
            self.kernel,
            self.backend.name(),
            self.seed
        )
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, backend, seed, params, why } = self;
        writeln!(f, "{kernel} on {}, seed {seed}: {why}", backend.name())?;
        writeln!(f, "  with {params}")?;
        write!(f, "  again: {}", self.command())
    }
}

/// Failing arguments, and their failure.
struct Found {
    why: String,
    params: String,
}

/// Draws the arguments of `seed`, simplifies them by `steps`, runs the kernel, and shrinks failing arguments. A panic
/// counts as a failure.
fn case<C: Check>(backend: Backend, seed: u64, steps: &[u8]) -> Result<Worst, Found> {
    // proptest takes a seed of 32 bytes.
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &key);
    // This limit suffices to shrink every extent and layout; each step runs a case.
    let config = Config { failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);

    let found = |why: String, params: String| Found { why, params };
    let mut tree = C::strategy()
        .new_tree(&mut runner)
        .map_err(|reason| found(format!("no arguments could be drawn: {reason}"), String::new()))?;
    for step in steps {
        // `simplify` simplifies one argument; an odd byte takes half of the step back.
        if !tree.simplify() {
            break;
        }
        if step % 2 == 1 {
            tree.complicate();
        }
    }
    let worst = Cell::new(Worst::default());
    let result = runner.run_one(tree, |params| {
        worst.set(C::run(&params, backend).map_err(|failure| TestCaseError::fail(failure.0))?);
        Ok(())
    });
    match result {
        Ok(_) => Ok(worst.get()),
        Err(TestError::Fail(reason, params)) => Err(found(reason.to_string(), format!("{params:?}"))),
        Err(TestError::Abort(reason)) => Err(found(reason.to_string(), String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that is wrong from 10 elements on and panics from 100 elements on.
    struct Wrong;

    impl Check for Wrong {
        const KERNEL: &'static str = "wrong";
        type Params = usize;

        fn strategy() -> BoxedStrategy<usize> {
            (0..200usize).boxed()
        }

        fn run(&n: &usize, _: Backend) -> Result<Worst, Failure> {
            assert!(n < 100, "too long");
            if n < 10 { Ok(Worst { share: 0.5, ulp: None }) } else { Err(Failure::new("off by one")) }
        }
    }

    #[test]
    fn failures_shrink_and_name_their_case() {
        let entry = Entry::of::<Wrong>();
        let mut done = 0;
        let failure = entry.run(Backend::PORTABLE, 7, 100, || done += 1).unwrap_err();
        assert_eq!(failure.seed, 7 + done);
        assert!(["10", "100"].contains(&failure.params.as_str()), "{failure}");
        let again = entry.case(Backend::PORTABLE, failure.seed).unwrap_err();
        assert_eq!(again.to_string(), failure.to_string());
        let command = format!("--kernel wrong --isa portable --seed {} --cases 1", failure.seed);
        assert!(failure.to_string().contains(&command), "{failure}");
    }

    #[test]
    fn bytes_choose_a_case() {
        let entry = Entry::of::<Wrong>();
        let seed = (0..).find(|&seed| entry.case(Backend::PORTABLE, seed).is_err()).unwrap();
        let mut bytes = u64::to_le_bytes(seed).to_vec();
        let failure = entry.case_of_bytes(Backend::PORTABLE, &bytes).unwrap_err();
        assert!(failure.to_string().starts_with("wrong on portable: "), "{failure}");
        bytes.extend([0; 64]);
        assert!(entry.case_of_bytes(Backend::PORTABLE, &bytes).is_ok(), "all the way down to 0");
    }
}

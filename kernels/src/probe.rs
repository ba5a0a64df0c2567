//! Peaks of a core: rates of multiply-adds and read bandwidths, the limits of measurements.
//!
//! [`Peak`] multiplies and adds in registers; [`Read`] loads. Both are assembly, so that no compiler changes them, except
//! on the portable backend.
//!
//! | name | instruction | needs |
//! |---|---|---|
//! | `f32 avx512` | `vfmadd231ps` | AVX-512 F |
//! | `f32 avx2` | `vfmadd231ps` | AVX2, FMA |
//! | `f16 avx512fp16` | `vfmadd231ph` | AVX512-FP16 |
//! | `bf16 amx` | `tdpbf16ps` | AMX-BF16, and Linux's permission |
//! | `bf16 avx512bf16` | `vdpbf16ps` | AVX512-BF16 |
//! | `int8 amx` | `tdpbssd` | AMX-INT8, and Linux's permission |
//! | `int8 avx512vnni` | `vpdpbusd` | AVX512-VNNI |
//! | `int8 avxvnni` | `vpdpbusd` | AVX-VNNI |
//! | `f32 neon` | `fmla` | NEON |
//! | `f16 fp16` | `fmla` | FP16 |
//! | `bf16 bfmmla`, `bf16 bfdot` | as named | BF16 |
//! | `int8 i8mm` | `smmla` | I8MM |
//! | `int8 dotprod` | `sdot` | DotProd |
//! | `f32 portable` | chosen by the compiler | nothing |
//!
//! Sums of bf16 are f32, of int8 i32, and of f16 f16, the only sum of its instruction.

use crate::backend::{Backend, Kernel};
use crate::isa::Isa;
use crate::isa::probe::{Detected, NAMES};
use core::hint::black_box;
use std::sync::OnceLock;

/// Peak rate of a data type on an instruction set: multiplies and adds in registers, in independent chains.
///
/// A value exists only if the CPU and the operating system support the instructions.
///
/// ```
/// use tilewright_kernels::probe::Peak;
/// for probe in Peak::available() {
///     let started = std::time::Instant::now();
///     let operations = probe.run(1000);
///     let rate = operations as f64 / started.elapsed().as_nanos() as f64;
///     println!("{}: {rate:.0} GFLOP/s", probe.name());
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Peak(Detected);

impl Peak {
    /// Names of all probes of this architecture, available or not. Within a data type, the one that is likely to be
    /// fastest comes first.
    pub const NAMES: &[&str] = NAMES;

    /// Returns the probes that this CPU can run, in the order of [`NAMES`](Self::NAMES).
    ///
    /// They are detected once per process. Detection requests Linux's permission to use AMX for this process.
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Peak>> = OnceLock::new();
        FOUND.get_or_init(|| Detected::all().map(Peak).collect())
    }

    /// Returns the available probe of this name.
    ///
    /// ```
    /// use tilewright_kernels::probe::Peak;
    /// assert!(Peak::named("f32 portable").is_some());
    /// assert!(Peak::named("f32 abacus").is_none());
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        Self::available().iter().copied().find(|probe| probe.name() == name)
    }

    /// Data type and instruction set, such as `"f32 avx512"`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Data type: `"f32"`, `"f16"`, `"bf16"` or `"int8"`.
    pub fn dtype(self) -> &'static str {
        self.name().split_once(' ').map_or(self.name(), |(dtype, _)| dtype)
    }

    /// Runs `steps` steps of every chain; returns the number of operations, two for each multiply-add. A step takes 6 to
    /// 24 cycles, with AMX 64.
    pub fn run(self, steps: usize) -> u64 {
        self.0.run(steps)
    }
}

/// Peak of f32 on the instruction set with which a backend computes f32: AVX-512 for `amx`, and the portable backend's
/// for the reference, which is compiled for the same CPUs.
///
/// ```
/// use tilewright_kernels::{Backend, probe::Peak};
/// assert_eq!(Peak::from(Backend::PORTABLE).name(), "f32 portable");
/// ```
impl From<Backend> for Peak {
    fn from(backend: Backend) -> Self {
        let set = match backend.name() {
            "reference" => "portable",
            "amx" => "avx512",
            name => name.trim_end_matches("-plain"),
        };
        Self::named(&format!("f32 {set}")).expect("every backend has a probe")
    }
}

/// Reads a slice from end to end, `passes` times: measures the bandwidth of the cache or memory that holds it.
///
/// The output is the number of bytes read. Backends with an assembly loop read by their widest loads, in four streams at
/// once, one from each quarter of the slice. They read whole KiB from the first cache line on; the rest of the slice is
/// neither read nor counted.
///
/// ```
/// use tilewright_kernels::{Backend, probe::Read};
/// let bytes = Backend::best().run(Read { data: &[1.0; 4096], passes: 10 });
/// assert!((150_000..=163_840).contains(&bytes));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// Data to read.
    pub data: &'a [f32],
    /// Number of times to read it.
    pub passes: usize,
}

impl Kernel for Read<'_> {
    type Output = u64;

    crate::backend::compile_here!();

    fn reference(self) -> u64 {
        for _ in 0..self.passes {
            black_box(black_box(self.data).iter().map(|&x| f64::from(x)).sum::<f64>());
        }
        (self.passes * size_of_val(self.data)) as u64
    }

    fn eval<I: Isa>(self, isa: I) -> u64 {
        isa.read(self.data, self.passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn peaks_count_their_operations() {
        let has = |name: &str| Peak::named(name).is_some();
        for name in Peak::NAMES.iter().filter(|name| !has(name)) {
            // Not `eprintln`: the test harness hides its output while tests pass.
            let _ = writeln!(std::io::stderr(), "SKIPPED peak {name}: not on this CPU");
        }
        let required = std::env::var("TILEWRIGHT_REQUIRE_PEAKS").unwrap_or_default();
        for name in required.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            assert!(has(name), "TILEWRIGHT_REQUIRE_PEAKS asks for {name}, which this CPU cannot run");
        }
        for probe in Peak::available() {
            let step = probe.run(1);
            assert!(step > 0 && step % 2 == 0, "{probe:?}");
            for steps in [0, 1, 2, 1000] {
                assert_eq!(probe.run(steps), step * steps as u64, "{probe:?}");
            }
        }
    }

    #[test]
    fn names_are_a_dtype_and_an_instruction_set() {
        for (i, name) in Peak::NAMES.iter().enumerate() {
            let (dtype, set) = name.split_once(' ').expect("two words");
            assert!(["f32", "f16", "bf16", "int8"].contains(&dtype) && !set.contains(' '), "{name}");
            assert!(!Peak::NAMES[..i].contains(name), "{name} twice");
        }
        let names: Vec<_> = Peak::available().iter().map(|probe| probe.name()).collect();
        assert!(names.is_sorted_by_key(|name| Peak::NAMES.iter().position(|n| n == name)), "{names:?}");
    }

    #[test]
    fn every_backend_has_a_peak() {
        for &backend in Backend::available() {
            let probe = Peak::from(backend);
            assert_eq!(probe.dtype(), "f32");
            let set = backend.name().trim_end_matches("-plain");
            let others = backend == Backend::REFERENCE || backend.name() == "amx";
            assert!(others || probe.name().ends_with(set), "{probe:?}");
        }
    }

    #[test]
    fn reads_count_their_bytes() {
        let data = vec![1.0; 5000];
        for &backend in Backend::available() {
            for (start, len) in [(0, 0), (1, 1), (3, 255), (0, 272), (0, 5000), (5, 1040), (9, 4991)] {
                let data = &data[start..start + len];
                let bytes = backend.run(Read { data, passes: 1 });
                // At most the rest of a cache line at the front and of a KiB at the end is left out.
                let most = size_of_val(data) as u64;
                assert!(bytes <= most && bytes + 1024 + 60 > most, "{backend:?} {start} {len}: {bytes}");
                assert_eq!(backend.run(Read { data, passes: 3 }), 3 * bytes);
            }
        }
    }
}

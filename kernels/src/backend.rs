//! The table of backends, and the only dispatch to an instruction set.

use crate::error::Error;
use crate::isa::{Isa, Microkernel, portable::Portable};
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use crate::isa::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::isa::{amx, avx2::Avx2, avx512::Avx512};

/// An operation: a struct of named arguments, with its definition and its vectorised form.
///
/// Run it with [`Backend::run`].
pub trait Kernel: Sized {
    /// Result of a run, usually `Result<(), Error>`.
    type Output;

    /// The definition: plain loops and sums in f64, never optimised. It decides the edge cases: empty
    /// dimensions, masked rows, NaN.
    fn reference(self) -> Self::Output;

    /// The vectorised form, written once for all instruction sets.
    ///
    /// [`Backend::run`] calls it outside of [`Isa::run`]. It checks the arguments, splits the work among
    /// threads, and enters the instruction set in every task.
    fn eval<I: Isa>(self, isa: I) -> Self::Output;

    /// Runs this kernel on `backend`, as [`Backend::run`] does.
    ///
    /// rustc compiles a generic function in the crate that names its types: a generic path to `eval` would
    /// compile every kernel, for every instruction set, again in each crate that runs it. So all
    /// kernels of this crate override this method, and none of the overrides is generic when it reaches
    /// `eval`:
    ///
    /// - A kernel without type parameters, such as [`Gemm`](crate::gemm::Gemm), repeats the default body.
    /// - A kernel over an [`Element`](crate::Element) calls a function of the element. This crate has one
    ///   function for each pair of element and kernel (`compiled.rs`). Generic callers link to it.
    ///
    /// A kernel of another crate keeps the default body, and is compiled there.
    fn run_on(self, backend: Backend) -> Self::Output {
        backend.dispatch(self)
    }
}

/// Defines [`Kernel::run_on`] in an `impl Kernel`, as a function that is compiled in this crate.
macro_rules! compile_here {
    // For a kernel without type parameters.
    () => {
        fn run_on(self, backend: $crate::Backend) -> Self::Output {
            backend.dispatch(self)
        }
    };
    // For a kernel over elements of type `$element`, whose function in `compiled.rs` is `$name`.
    ($element:ident::$name:ident) => {
        fn run_on(self, backend: $crate::Backend) -> Self::Output {
            $element::$name(self, backend)
        }
    };
}
pub(crate) use compile_here;

/// Defines the enum of backends, their names and the dispatch from the rows of the table, best first.
macro_rules! backends {
    ($($(#[$attr:meta])* $name:literal $variant:ident($isa:ty) = $detect:expr),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Token { Reference, $($(#[$attr])* $variant($isa)),* }

        /// All backends that this CPU can run, best first; the reference is last.
        fn detect() -> Vec<Backend> {
            let mut found = Vec::new();
            $($(#[$attr])* found.extend($detect.map(|isa: $isa| Backend(Token::$variant(isa))));)*
            found.push(Backend::REFERENCE);
            found
        }

        impl Backend {
            /// Names of all backends of this architecture, best first, available on this CPU or not.
            pub const NAMES: &[&str] = &[$($(#[$attr])* $name,)* "reference"];

            /// Name of this backend, one of [`NAMES`](Self::NAMES): `"avx512"`, for example.
            pub fn name(self) -> &'static str {
                match self.0 {
                    Token::Reference => "reference",
                    $($(#[$attr])* Token::$variant(_) => $name,)*
                }
            }

            /// Rows and columns (MR, NR) of the f32 register tile; (0, 0) for the reference, which has none.
            pub fn f32_tile(self) -> (usize, usize) {
                match self.0 {
                    Token::Reference => (0, 0),
                    $($(#[$attr])* Token::$variant(_) => (<$isa as Isa>::MR, <$isa as Isa>::NR),)*
                }
            }

            /// Instruction of the bf16 microkernel; `None` if bf16 is widened to f32.
            pub fn bf16_instruction(self) -> Option<&'static str> {
                match self.0 {
                    Token::Reference => None,
                    $($(#[$attr])* Token::$variant(isa) => isa.bf16().map(Microkernel::<$isa>::instruction),)*
                }
            }

            /// Instruction of the int8 microkernel; `None` if int8 is widened to i16.
            pub fn int8_instruction(self) -> Option<&'static str> {
                match self.0 {
                    Token::Reference => None,
                    $($(#[$attr])* Token::$variant(isa) => isa.int8().map(Microkernel::<$isa>::instruction),)*
                }
            }

            /// Selects the instruction set: the only `match` between a call and its loops.
            #[inline(always)]
            pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
                match self.0 {
                    Token::Reference => kernel.reference(),
                    $($(#[$attr])* Token::$variant(isa) => kernel.eval(isa),)*
                }
            }
        }
    };
}

backends! {
    #[cfg(target_arch = "x86_64")]
    "amx" Amx(Avx512) = Avx512::amx(),
    #[cfg(target_arch = "x86_64")]
    "avx512" Avx512(Avx512) = Avx512::detect(),
    #[cfg(target_arch = "x86_64")]
    "avx512-plain" Avx512Plain(Avx512) = Avx512::plain(),
    #[cfg(target_arch = "x86_64")]
    "avx2" Avx2(Avx2) = Avx2::detect(),
    #[cfg(target_arch = "x86_64")]
    "avx2-plain" Avx2Plain(Avx2) = Avx2::plain(),
    #[cfg(target_arch = "aarch64")]
    "neon" Neon(Neon) = Neon::detect(),
    #[cfg(target_arch = "aarch64")]
    "neon-plain" NeonPlain(Neon) = Neon::plain(),
    "portable" Portable(Portable) = Portable::detect(),
}

/// An instruction set that this CPU supports, or the definition of all kernels.
///
/// A backend whose name ends in `-plain` leaves out the extensions that only some CPUs with its instruction
/// set have: VNNI and BF16 of AVX-512, AVX-VNNI of AVX2, BF16, I8MM and DotProd of NEON. Tests and
/// benchmarks use it to stand for those other CPUs. It is available where the CPU has such an extension.
///
/// ```
/// use tilewright_kernels::Backend;
/// let best = Backend::best();
/// assert!(Backend::available().contains(&best));
/// assert!(Backend::named("avx1024").is_err());
/// // A plain backend uses no instruction for bf16 or int8.
/// for backend in Backend::available().iter().filter(|backend| backend.is_plain()) {
///     assert_eq!((backend.bf16_instruction(), backend.int8_instruction()), (None, None));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(Token);

impl Backend {
    /// Runs `kernel` on this backend.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run_on(self)
    }

    /// Definitions of all kernels: slow, and the oracle of every test.
    pub const REFERENCE: Self = Self(Token::Reference);

    /// Backend on vectors of the crate `wide`, which runs on every CPU.
    pub const PORTABLE: Self = Self(Token::Portable(Portable));

    /// Returns the backends that this CPU can run, best first; detected once per process.
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Backend>> = OnceLock::new();
        FOUND.get_or_init(detect)
    }

    /// True if this backend leaves out extensions of its instruction set.
    pub fn is_plain(self) -> bool {
        self.name().ends_with("-plain")
    }

    /// True if the CPU has the instructions of the backend `name`, but the operating system refuses them.
    ///
    /// Only `amx` can be refused: Linux grants AMX to processes that ask, unless it was built or configured
    /// not to.
    pub fn is_refused(name: &str) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            name == "amx" && amx::support() == amx::AmxSupport::Refused
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = name;
            false
        }
    }

    /// Returns the fastest available backend.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Returns the backend `name`, if it is available.
    ///
    /// # Errors
    /// [`Error::Backend`] lists the available backends.
    pub fn named(name: &str) -> Result<Self, Error> {
        let found = Self::available().iter().find(|b| b.name() == name);
        found.copied().ok_or_else(|| Error::Backend {
            asked: name.to_owned(),
            available: Self::available().iter().map(|b| b.name()).collect(),
        })
    }

    /// Returns the backend that the environment variable `TILEWRIGHT_ISA` names, or the best if it is not set.
    ///
    /// # Errors
    /// [`Error::Backend`] if the variable names a backend that is not available.
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var("TILEWRIGHT_ISA") {
            Ok(name) => Self::named(&name),
            Err(std::env::VarError::NotPresent) => Ok(Self::best()),
            Err(std::env::VarError::NotUnicode(name)) => Self::named(&name.to_string_lossy()),
        }
    }
}

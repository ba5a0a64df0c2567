//! The one table of backends, and the only dispatch.

use crate::error::Error;
use crate::isa::{Isa, Multiply, portable::Portable};
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use crate::isa::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::isa::{amx, avx2::Avx2, avx512::Avx512};

/// An operation: a struct of named arguments with its definition and its fast form.
///
/// Run it with [`Backend::run`].
pub trait Kernel: Sized {
    /// What a run returns, usually `Result<(), Error>`.
    type Output;

    /// The definition: plain loops, sums in f64, never optimised. It decides what the edges mean.
    fn reference(self) -> Self::Output;

    /// The same on vectors, once for all instruction sets. Called outside of [`Isa::run`]: it
    /// checks the arguments, splits the work and enters the instruction set in every task.
    fn eval<I: Isa>(self, isa: I) -> Self::Output;

    /// Runs this kernel on `backend`, as [`Backend::run`] does.
    ///
    /// This crate's kernels repeat the default body, which makes it a function
    /// of this crate: they are compiled for each instruction set here, and not again in every crate
    /// that runs them.
    fn run_on(self, backend: Backend) -> Self::Output {
        backend.dispatch(self)
    }
}

/// In an `impl Kernel`: [`Kernel::run_on`], compiled in this crate; see [`crate::compiled`].
macro_rules! compile_here {
    () => {
        fn run_on(self, backend: $crate::Backend) -> Self::Output {
            backend.dispatch(self)
        }
    };
    // Of a kernel over elements of type `$element`: by its function of `Compiled`.
    ($element:ident::$name:ident) => {
        fn run_on(self, backend: $crate::Backend) -> Self::Output {
            $element::$name(self, backend)
        }
    };
}
pub(crate) use compile_here;

/// Makes the enum, its names and its dispatch from the table's rows, best first.
macro_rules! backends {
    ($($(#[$attr:meta])* $name:literal $variant:ident($isa:ty) = $detect:expr),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Token { Reference, $($(#[$attr])* $variant($isa)),* }

        /// Every backend that this CPU can run, best first; the reference is last.
        fn detect() -> Vec<Backend> {
            let mut found = Vec::new();
            $($(#[$attr])* found.extend($detect.map(|isa: $isa| Backend(Token::$variant(isa))));)*
            found.push(Backend::REFERENCE);
            found
        }

        impl Backend {
            /// The names of all backends of this architecture, best first, available or not.
            pub const NAMES: &[&str] = &[$($(#[$attr])* $name,)* "reference"];

            /// `"avx512"`: one of [`NAMES`](Self::NAMES).
            pub fn name(self) -> &'static str {
                match self.0 {
                    Token::Reference => "reference",
                    $($(#[$attr])* Token::$variant(_) => $name,)*
                }
            }

            /// Rows and columns of the f32 register tile; (0, 0) for the reference, which has none.
            pub fn f32_tile(self) -> (usize, usize) {
                match self.0 {
                    Token::Reference => (0, 0),
                    $($(#[$attr])* Token::$variant(_) => (<$isa as Isa>::MR, <$isa as Isa>::NR),)*
                }
            }

            /// The instruction that multiplies pairs of bf16; none where they are widened to f32.
            pub fn bf16_instruction(self) -> Option<&'static str> {
                match self.0 {
                    Token::Reference => None,
                    $($(#[$attr])* Token::$variant(isa) => isa.bf16().map(Multiply::<$isa>::instruction),)*
                }
            }

            /// The instruction that multiplies quads of int8; none where they are widened to i16.
            pub fn int8_instruction(self) -> Option<&'static str> {
                match self.0 {
                    Token::Reference => None,
                    $($(#[$attr])* Token::$variant(isa) => isa.int8().map(Multiply::<$isa>::instruction),)*
                }
            }

            /// The one `match` between a call and its instruction set.
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

/// A way of computing that this CPU supports.
///
/// A name that ends in `-plain` is the same without the extensions that not every CPU with that
/// instruction set has (of AVX-512: VNNI, BF16; of AVX2: AVX-VNNI; of NEON: BF16, I8MM, DotProd): there
/// to test and measure what other CPUs run. It is available where there is something to leave out.
///
/// ```
/// use tilewright_kernels::Backend;
/// let best = Backend::best();
/// assert!(Backend::available().contains(&best));
/// assert!(Backend::named("avx1024").is_err());
/// // The instructions for bf16 and int8 that a backend uses, if it has them.
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

    /// The definitions themselves: the oracle of every test, and slow.
    pub const REFERENCE: Self = Self(Token::Reference);

    /// Vectors of `wide`: runs everywhere.
    pub const PORTABLE: Self = Self(Token::Portable(Portable));

    /// All that this CPU can run, best first; detected once.
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Backend>> = OnceLock::new();
        FOUND.get_or_init(detect)
    }

    /// Whether extensions of its instruction set are left out.
    pub fn is_plain(self) -> bool {
        self.name().ends_with("-plain")
    }

    /// Whether this CPU has what the backend of this name uses, but the operating system does not let the
    /// process use it. Linux gives the permission for AMX to processes that ask, unless it was built or
    /// configured not to.
    pub fn is_refused(name: &str) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            name == "amx" && amx::found() == amx::Found::Refused
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = name;
            false
        }
    }

    /// The fastest available backend.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// The available backend of this name.
    ///
    /// # Errors
    /// [`Error::Backend`], listing what is available.
    pub fn named(name: &str) -> Result<Self, Error> {
        let found = Self::available().iter().find(|b| b.name() == name);
        found.copied().ok_or_else(|| Error::Backend {
            asked: name.to_owned(),
            available: Self::available().iter().map(|b| b.name()).collect(),
        })
    }

    /// The backend that the environment variable `TILEWRIGHT_ISA` names, or else the best.
    ///
    /// # Errors
    /// [`Error::Backend`] if the variable names one that cannot be had.
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var("TILEWRIGHT_ISA") {
            Ok(name) => Self::named(&name),
            Err(std::env::VarError::NotPresent) => Ok(Self::best()),
            Err(std::env::VarError::NotUnicode(name)) => Self::named(&name.to_string_lossy()),
        }
    }
}

//! Intel's MKL, through its single dynamic library `libmkl_rt`: products in f32, bf16, f16 and int8, with weights
//! packed beforehand or in every run.
//!
//! Versions before 2020 lack the packed forms of bf16, and some later versions lack those of f16. `prepare` returns
//! `None` for a missing form.

mod half;
mod int8;
mod single;

use crate::operand::LinearLayer;
use crate::symbols::{Symbols, of_process, open_for_others, reason};
use crate::{Dtype, Error, Library, PeerCall, PeerOperation};
use ::half::{bf16, f16};
use std::ffi::{c_char, c_int, c_uint};
use std::path::Path;

/// MKL's integers: 32 bits in the interface that [`load`] selects.
type Int = c_int;

/// `CblasPacked`, passed in place of a transposition.
const PACKED: Int = 151;
/// `CblasBMatrix`: selects B as the packed operand.
const B_MATRIX: c_uint = 162;

/// Function that returns the bytes of a packed B: `cblas_*_pack_get_size(identifier, m, n, k)`.
type PackedSize = unsafe extern "C" fn(c_uint, Int, Int, Int) -> usize;

struct Mkl {
    version: String,
    threads: MklThreads,
    single: single::SgemmFunctions,
    bf16: Option<half::HalfGemmFunctions>,
    f16: Option<half::HalfGemmFunctions>,
    int8: Option<int8::Int8GemmFunctions>,
}

/// Functions that set the number of MKL's threads.
#[derive(Clone, Copy)]
struct MklThreads {
    set: unsafe extern "C" fn(c_int),
    max: unsafe extern "C" fn() -> c_int,
    set_dynamic: unsafe extern "C" fn(c_int),
    /// OpenMP's setter, if MKL's threads are OpenMP's. bf16 and f16 products obey only this setter.
    set_openmp: Option<unsafe extern "C" fn(c_int)>,
}

impl MklThreads {
    /// Sets the number of threads. Returns true if MKL accepts it.
    fn set(self, threads: c_int) -> bool {
        // SAFETY: the setters of threads accept any positive number, and `set_dynamic` accepts 0 for false.
        unsafe {
            (self.set)(threads);
            if let Some(set_openmp) = self.set_openmp {
                set_openmp(threads);
            }
            if (self.max)() != threads {
                // By default, MKL uses at most one thread for each core.
                (self.set_dynamic)(0);
            }
            (self.max)() == threads
        }
    }
}

/// Opens the library.
pub(crate) fn load(path: &Path) -> Result<Box<dyn Library>, Error> {
    let symbols = Symbols::open("mkl", path)?;
    // SAFETY: the types are the signatures of these functions in `mkl_service.h`.
    let (mut threads, version) = unsafe {
        let threads = MklThreads {
            set: symbols.required("MKL_Set_Num_Threads")?,
            max: symbols.required("MKL_Get_Max_Threads")?,
            set_dynamic: symbols.required("MKL_Set_Dynamic")?,
            set_openmp: None,
        };
        let version: unsafe extern "C" fn(*mut c_char, c_int) = symbols.required("mkl_get_version_string")?;
        (threads, version)
    };
    // SAFETY: `choose_layers` selects 32-bit integers before any of these functions is called.
    let single = unsafe { single::SgemmFunctions::new(&symbols) }?;
    choose_layers(&symbols)?;
    let product =
        LinearLayer { m: 1, k: 1, n: 1, x: &[1.0], weight: &[1.0], dtype: Dtype::F32, packed: false };
    // The first product loads MKL's threads and its kernels for this CPU.
    single.prepare(threads, 1, product).run();
    // SAFETY: the signature is `void omp_set_num_threads(int)`.
    threads.set_openmp = unsafe { of_process("omp_set_num_threads") };
    // SAFETY: MKL counts in [`Int`]: `choose_layers` selected 32-bit integers above.
    let (bf16, f16, int8) = unsafe {
        (
            half::HalfGemmFunctions::new(&symbols, "bf16bf16f32", |x| bf16::from_f32(x).to_bits()),
            half::HalfGemmFunctions::new(&symbols, "f16f16f32", |x| f16::from_f32(x).to_bits()),
            int8::Int8GemmFunctions::new(&symbols),
        )
    };
    let mut text = [0_u8; 200];
    // SAFETY: `text` is writable for its length.
    unsafe { version(text.as_mut_ptr().cast(), text.len() as c_int) };
    let text = String::from_utf8_lossy(&text);
    let version = [text.trim_matches(['\0', ' ']).to_owned(), kernels()].join("");
    Ok(Box::new(Mkl { version, threads, single, bf16, f16, int8 }))
}

/// Sets MKL's integers to 32 bits, because an environment variable may select 64 bits, and loads the OpenMP runtime of
/// MKL's threads. MKL loads its threading layer at the first call, and ends the process if functions of OpenMP are
/// missing.
fn choose_layers(symbols: &Symbols) -> Result<(), Error> {
    /// `MKL_INTERFACE_LP64`. Bit 1 would select GNU's convention for complex results, which this crate does not use.
    const LP64: c_int = 0;
    const GNU: c_int = 2;
    // SAFETY: the signature is `int MKL_Set_Interface_Layer(int)`.
    let set_interface: unsafe extern "C" fn(c_int) -> c_int =
        unsafe { symbols.required("MKL_Set_Interface_Layer") }?;
    // SAFETY: `MKL_Set_Interface_Layer` accepts the constant `MKL_INTERFACE_LP64`.
    let interface = unsafe { set_interface(LP64) };
    if interface & !GNU != LP64 {
        return Err(symbols.error("is in use already, with 64-bit integers"));
    }
    // The variable selects threads other than Intel's, unless it is unset or names Intel's.
    let chosen = std::env::var("MKL_THREADING_LAYER").is_ok_and(|layer| !layer.eq_ignore_ascii_case("intel"));
    if chosen || !cfg!(target_os = "linux") {
        return Ok(());
    }
    const OPENMP: &str = "libiomp5.so";
    let directory = symbols.path().canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
    let beside = directory.is_some_and(|directory| open_for_others(&directory.join(OPENMP)).is_ok());
    if !beside && let Err(e) = open_for_others(Path::new(OPENMP)) {
        return Err(symbols.error(format_args!(
            "needs {OPENMP} (Intel's OpenMP) beside it or where the loader looks: {}",
            reason(&e)
        )));
    }
    Ok(())
}

/// Name of the kernel library that MKL loaded, from the memory map of the process; empty if not found.
fn kernels() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = |isa: &&str| maps.contains(&format!("/libmkl_{isa}.so"));
    let isa = ["avx10", "avx512", "avx2", "mc3", "def"].into_iter().find(loaded);
    isa.map(|isa| format!(", kernels of libmkl_{isa}")).unwrap_or_default()
}

impl Library for Mkl {
    fn name(&self) -> &'static str {
        "mkl"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare<'a>(
        &'a self,
        operation: PeerOperation<'a>,
        threads: usize,
    ) -> Result<Option<Box<dyn PeerCall + 'a>>, Error> {
        let Some(layer) = LinearLayer::new(operation)? else { return Ok(None) };
        let Ok(count @ 1..) = c_int::try_from(threads) else { return Ok(None) };
        // Packing must run with the number of threads of the product.
        if !self.threads.set(count) {
            return Ok(None);
        }
        let half = |functions: &Option<half::HalfGemmFunctions>| {
            functions.as_ref().and_then(|functions| functions.prepare(self.threads, count, layer))
        };
        match layer.dtype {
            Dtype::F32 => Ok(Some(self.single.prepare(self.threads, count, layer))),
            Dtype::Bf16 => Ok(half(&self.bf16)),
            Dtype::F16 => Ok(half(&self.f16)),
            Dtype::Int8 => match &self.int8 {
                Some(functions) => functions.prepare(self.threads, count, layer),
                None => Ok(None),
            },
            Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q4_1 => Ok(None),
        }
    }
}

//! OpenBLAS: products in f32, and in bf16 and f16 if the build has them. It packs weights in every run.
//!
//! Builds differ in their symbols (`scipy_cblas_sgemm`, `cblas_sgemm64_`) and in their integers, which
//! `openblas_get_config` reports.

use crate::cblas::{CblasGemm, Integer, linear};
use crate::operand::{LinearLayer, bf16_bits, f16_bits};
use crate::symbols::Symbols;
use crate::{Dtype, Error, Library, PeerCall, PeerOperation};
use std::ffi::{CStr, c_char, c_int};
use std::path::Path;

/// Prefixes and suffixes that builds add to every name.
const AFFIXES: [(&str, &str); 6] =
    [("", ""), ("scipy_", ""), ("scipy_", "64_"), ("", "64_"), ("", "_64"), ("scipy_", "_64")];

struct OpenBlas<I> {
    version: String,
    /// Threading of the build: 0 sequential, 1 own threads, 2 OpenMP.
    parallel: c_int,
    set_num_threads: unsafe extern "C" fn(c_int),
    get_num_threads: unsafe extern "C" fn() -> c_int,
    sgemm: CblasGemm<I, f32>,
    bf16: Option<CblasGemm<I, u16>>,
    f16: Option<CblasGemm<I, u16>>,
}

/// Opens the library.
pub(crate) fn load(path: &Path) -> Result<Box<dyn Library>, Error> {
    let symbols = Symbols::open("openblas", path)?;
    let found = AFFIXES.iter().find_map(|&(prefix, suffix)| {
        // SAFETY: the signature is `char *openblas_get_config(void)`.
        let get_config: Option<unsafe extern "C" fn() -> *const c_char> =
            unsafe { symbols.optional(&format!("{prefix}openblas_get_config{suffix}")) };
        get_config.map(|get_config| (prefix, suffix, get_config))
    });
    let Some((prefix, suffix, get_config)) = found else {
        return Err(symbols
            .error("has no function openblas_get_config, scipy_openblas_get_config or either of 64 bits"));
    };
    // SAFETY: `openblas_get_config` takes no arguments and returns a NUL-terminated string of the library, which
    // stays open.
    let config = unsafe { CStr::from_ptr(get_config()) }.to_string_lossy().trim().to_owned();
    // SAFETY: `config` names the integers that the library counts in.
    unsafe {
        if config.contains("USE64BITINT") {
            Ok(Box::new(OpenBlas::<i64>::new(&symbols, prefix, suffix, config)?))
        } else {
            Ok(Box::new(OpenBlas::<i32>::new(&symbols, prefix, suffix, config)?))
        }
    }
}

impl<I: Integer> OpenBlas<I> {
    /// # Safety
    /// - The library counts in `I`.
    unsafe fn new(symbols: &Symbols, prefix: &str, suffix: &str, version: String) -> Result<Self, Error> {
        let name = |name: &str| format!("{prefix}{name}{suffix}");
        // SAFETY: the types are the signatures of these functions in `cblas.h`, with integers `I` (precondition).
        unsafe {
            let get_parallel: unsafe extern "C" fn() -> c_int =
                symbols.required(&name("openblas_get_parallel"))?;
            Ok(Self {
                version,
                parallel: get_parallel(),
                set_num_threads: symbols.required(&name("openblas_set_num_threads"))?,
                get_num_threads: symbols.required(&name("openblas_get_num_threads"))?,
                sgemm: symbols.required(&name("cblas_sgemm"))?,
                bf16: symbols.optional(&name("cblas_sbgemm")),
                f16: symbols.optional(&name("cblas_shgemm")),
            })
        }
    }
}

impl<I: Integer> Library for OpenBlas<I> {
    fn name(&self) -> &'static str {
        "openblas"
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
        if self.parallel == 0 && count != 1 {
            return Ok(None);
        }
        let set_num_threads = self.set_num_threads;
        // Every run sets the number: it belongs to the process, or with OpenMP to the calling thread.
        // SAFETY: `openblas_set_num_threads` accepts any positive number, and `count` is at least 1.
        let set_threads = move || unsafe { set_num_threads(count) };
        set_threads();
        // SAFETY: `openblas_get_num_threads` takes no arguments.
        if unsafe { (self.get_num_threads)() } != count {
            return Ok(None); // more threads than the build supports
        }
        // SAFETY: `functions` holds pointers to functions of `cblas.h`.
        Ok(unsafe {
            match layer.dtype {
                Dtype::F32 => Some(linear(self.sgemm, set_threads, layer, layer.x, layer.weight)),
                Dtype::Bf16 => self.bf16.map(|gemm| {
                    let [x, weight] = layer.convert(bf16_bits);
                    linear(gemm, set_threads, layer, x, weight)
                }),
                Dtype::F16 => self.f16.map(|gemm| {
                    let [x, weight] = layer.convert(f16_bits);
                    linear(gemm, set_threads, layer, x, weight)
                }),
                Dtype::Int8 | Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q4_1 => None,
            }
        })
    }
}

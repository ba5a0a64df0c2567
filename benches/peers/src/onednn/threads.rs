//! The number of threads of oneDNN. Each runtime that oneDNN can be built for sets it in its own way.

use crate::Error;
use crate::symbols::Symbols;
use std::ffi::{c_int, c_uint};
use std::sync::Mutex;

/// The threading runtime of the library: `dnnl_version_t::cpu_runtime`.
#[derive(Clone, Copy)]
pub(super) enum Runtime {
    /// One thread.
    Sequential,
    /// OpenMP, with `omp_set_num_threads`.
    OpenMp(unsafe extern "C" fn(c_int)),
    /// TBB.
    Tbb(Tbb),
    /// A pool that the user provides. Without one, oneDNN computes on the calling thread.
    Pool,
    /// SYCL, whose CPU device computes on TBB's threads.
    Sycl(Tbb),
}

impl Runtime {
    pub fn new(runtime: c_uint, symbols: &Symbols) -> Result<Self, Error> {
        // SAFETY: the signature is `void omp_set_num_threads(int)`.
        let openmp = || unsafe { symbols.required("omp_set_num_threads") };
        match runtime {
            1 => Ok(Self::Sequential),
            2 => Ok(Self::OpenMp(openmp()?)),
            4 => Ok(Self::Tbb(Tbb::new(symbols)?)),
            8 => Ok(Self::Pool),
            512 => Ok(Self::Sycl(Tbb::new(symbols)?)),
            other => Err(symbols.error(format_args!("was built with the unknown runtime {other}"))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::OpenMp(_) => "OpenMP",
            Self::Tbb(_) => "TBB",
            Self::Pool => "thread pool",
            Self::Sycl(_) => "SYCL",
        }
    }
}

/// A number of threads that the runtime supports.
#[derive(Clone, Copy)]
pub(super) struct OneDnnThreads {
    runtime: Runtime,
    count: c_int,
}

impl OneDnnThreads {
    /// Returns `None` if the runtime cannot compute on `threads` threads.
    pub fn new(runtime: &Runtime, count: usize) -> Option<Self> {
        let Ok(count @ 1..) = c_int::try_from(count) else { return None };
        let possible = match runtime {
            Runtime::Sequential | Runtime::Pool => count == 1,
            Runtime::OpenMp(_) => true,
            Runtime::Tbb(_) | Runtime::Sycl(_) => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                usize::try_from(count).is_ok_and(|count| count <= cores)
            }
        };
        possible.then_some(Self { runtime: *runtime, count })
    }

    /// Sets the number of threads for later calls on this thread.
    pub fn set(self) {
        match self.runtime {
            // SAFETY: `omp_set_num_threads` accepts any positive number, and `new` checked that `count` is one.
            Runtime::OpenMp(set_num_threads) => unsafe { set_num_threads(self.count) },
            Runtime::Tbb(tbb) | Runtime::Sycl(tbb) => tbb.limit(self.count as usize),
            Runtime::Sequential | Runtime::Pool => (),
        }
    }
}

/// Two functions of TBB's binary interface that set its limit of threads, `tbb::global_control`. All versions of
/// `libtbb.so.12` keep this interface.
#[derive(Clone, Copy)]
pub(super) struct Tbb {
    create: unsafe extern "C" fn(*mut GlobalControl),
    destroy: unsafe extern "C" fn(*mut GlobalControl),
}

/// `tbb::detail::d1::global_control`.
#[repr(C)]
struct GlobalControl {
    value: usize,
    reserved: isize,
    /// 0: `max_allowed_parallelism`.
    parameter: c_int,
}

/// The value and the control in force for the whole process. TBB takes the minimum of all controls, so at most one
/// may exist.
static LIMIT: Mutex<Option<(usize, Box<GlobalControl>)>> = Mutex::new(None);

impl Tbb {
    fn new(symbols: &Symbols) -> Result<Self, Error> {
        // SAFETY: these are `tbb::detail::r1::create(d1::global_control&)` and `destroy`.
        unsafe {
            Ok(Self {
                create: symbols.required("_ZN3tbb6detail2r16createERNS0_2d114global_controlE")?,
                destroy: symbols.required("_ZN3tbb6detail2r17destroyERNS0_2d114global_controlE")?,
            })
        }
    }

    fn limit(self, threads: usize) {
        let mut limit = LIMIT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if limit.as_ref().is_some_and(|(value, _)| *value == threads) {
            return;
        }
        if let Some((_, mut old)) = limit.take() {
            // SAFETY: `create` made `old`, and `take` leaves no second owner to destroy it.
            unsafe { (self.destroy)(&mut *old) };
        }
        let mut new = Box::new(GlobalControl { value: threads, reserved: 0, parameter: 0 });
        // SAFETY: the box keeps the control at one address until `destroy`, as `LIMIT` holds it.
        unsafe { (self.create)(&mut *new) };
        *limit = Some((threads, new));
    }
}

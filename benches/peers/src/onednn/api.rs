//! The functions of oneDNN's C interface, version 3, that the benchmarks call.

use crate::Error;
use crate::symbols::Symbols;
use std::ffi::{c_char, c_int, c_uint, c_void};

/// Handle of an object of the library. Each function determines the class of the objects that it takes.
pub(super) type Handle = *mut c_void;

/// `dnnl_status_t`.
pub(super) type Status = c_int;

pub(super) const SUCCESS: Status = 0;
pub(super) const UNIMPLEMENTED: Status = 3;

/// The name of a status.
pub(super) fn status(status: Status) -> String {
    match status {
        1 => "out of memory".to_owned(),
        2 => "invalid arguments".to_owned(),
        UNIMPLEMENTED => "not implemented".to_owned(),
        5 => "runtime error".to_owned(),
        other => format!("status {other}"),
    }
}

/// `dnnl_version_t`.
#[repr(C)]
pub(super) struct Version {
    pub major: c_int,
    pub minor: c_int,
    pub patch: c_int,
    pub hash: *const c_char,
    pub cpu_runtime: c_uint,
    pub gpu_runtime: c_uint,
}

/// `dnnl_exec_arg_t`.
#[repr(C)]
pub(super) struct Argument {
    pub index: c_int,
    pub memory: Handle,
}

/// `DNNL_ARG_*`.
pub(super) mod arg {
    use std::ffi::c_int;
    pub const SRC: c_int = 1;
    pub const DST: c_int = 17;
    pub const WEIGHTS: c_int = 33;
    pub const SCALE: c_int = 51;
    pub const SHIFT: c_int = 52;
}

/// Members of the library's enumerations.
pub(super) mod enums {
    use std::ffi::{c_int, c_uint};
    pub const CPU: c_int = 1;
    pub const IN_ORDER: c_uint = 1;
    pub const FORWARD_INFERENCE: c_int = 96;
    pub const ELTWISE_GELU_TANH: c_int = 0x2b;
    pub const ELTWISE_GELU_ERF: c_int = 0x31;
    pub const SOFTMAX_ACCURATE: c_int = 0x30000;
    pub const USE_SCALE: c_uint = 2;
    pub const USE_SHIFT: c_uint = 4;
    pub const QUERY_WEIGHTS_MD: c_int = 131;
}

/// `dnnl_data_type_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum DataType {
    F16 = 1,
    Bf16 = 2,
    F32 = 3,
    S32 = 4,
    S8 = 5,
    U8 = 6,
}

/// `dnnl_format_tag_t`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Tag {
    /// The format that the primitive prefers.
    Any = 1,
    /// A vector.
    A = 2,
    /// Row-major.
    Ab = 3,
    /// Column-major.
    Ba = 14,
}

/// `DNNL_MEMORY_ALLOCATE`.
pub(super) fn allocate() -> *mut c_void {
    std::ptr::without_provenance_mut(usize::MAX)
}

/// The instruction set of a `dnnl_cpu_isa_t`.
pub(super) fn isa(isa: c_int) -> String {
    let name = match isa {
        0x1 => "sse4.1",
        0x3 => "avx",
        0x7 => "avx2",
        0xf => "avx2 + vnni",
        0x1f => "avx2 + vnni 2",
        0x27 => "avx512",
        0x67 => "avx512 + vnni",
        0xe7 => "avx512 + bf16",
        0x1ef => "avx512 + fp16",
        0xfef => "amx",
        0x1fef => "amx + fp16",
        other => return format!("isa {other:#x}"),
    };
    name.to_owned()
}

/// Defines a structure of functions, and its constructor from the library.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions.
        pub(super) struct Api {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Api {
            pub fn new(symbols: &Symbols) -> Result<Self, Error> {
                // SAFETY: the types below are the signatures in `dnnl.h`, version 3.
                unsafe { Ok(Self { $($name: symbols.required(stringify!($name))?,)* }) }
            }
        }
    };
}

functions! {
    dnnl_get_effective_cpu_isa() -> c_int;
    dnnl_engine_create(*mut Handle, c_int, usize) -> Status;
    dnnl_stream_create(*mut Handle, Handle, c_uint) -> Status;
    dnnl_stream_wait(Handle) -> Status;
    dnnl_stream_destroy(Handle) -> Status;
    // Result, rank, dimensions, type, format.
    dnnl_memory_desc_create_with_tag(*mut Handle, c_int, *const i64, DataType, Tag) -> Status;
    dnnl_memory_desc_clone(*mut Handle, Handle) -> Status;
    dnnl_memory_desc_get_size(Handle) -> usize;
    dnnl_memory_desc_destroy(Handle) -> Status;
    // Result, descriptor, engine, data.
    dnnl_memory_create(*mut Handle, Handle, Handle, *mut c_void) -> Status;
    dnnl_memory_map_data(Handle, *mut *mut c_void) -> Status;
    dnnl_memory_unmap_data(Handle, *mut c_void) -> Status;
    dnnl_memory_destroy(Handle) -> Status;
    // Description, query, index. The result belongs to the description.
    dnnl_primitive_desc_query_md(Handle, c_int, c_int) -> Handle;
    dnnl_primitive_desc_destroy(Handle) -> Status;
    dnnl_primitive_create(*mut Handle, Handle) -> Status;
    dnnl_primitive_execute(Handle, Handle, c_int, *const Argument) -> Status;
    dnnl_primitive_destroy(Handle) -> Status;
    // Source and its engine, destination and its engine, attributes.
    dnnl_reorder_primitive_desc_create(*mut Handle, Handle, Handle, Handle, Handle, Handle) -> Status;
    // Engine, source, weights, bias, destination, attributes.
    dnnl_matmul_primitive_desc_create(*mut Handle, Handle, Handle, Handle, Handle, Handle, Handle) -> Status;
    // Engine, kind of propagation, source, destination, statistics, epsilon, flags, attributes.
    dnnl_layer_normalization_forward_primitive_desc_create(
        *mut Handle, Handle, c_int, Handle, Handle, Handle, f32, c_uint, Handle
    ) -> Status;
    // Engine, kind of propagation, algorithm, source, destination, axis, attributes.
    dnnl_softmax_forward_primitive_desc_create(
        *mut Handle, Handle, c_int, c_int, Handle, Handle, c_int, Handle
    ) -> Status;
    // Engine, kind of propagation, algorithm, source, destination, alpha, beta, attributes.
    dnnl_eltwise_forward_primitive_desc_create(
        *mut Handle, Handle, c_int, c_int, Handle, Handle, f32, f32, Handle
    ) -> Status;
}

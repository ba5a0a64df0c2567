//! oneDNN by version 3 of its C interface: products in f32, bf16, f16 and int8, softmax, layer normalisation, GELU.
//!
//! Packing reorders weights into the format that the product requests. Unpacked weights stay \[n, k\], which is the
//! format `ba` of a k x n matrix.

mod api;
mod memory;
mod threads;

use crate::operand::{LinearLayer, bf16_bits, f16_bits};
use crate::symbols::Symbols;
use crate::{Dtype, Error, Library, PeerCall, PeerOperation};
use api::{Api, DataType, Handle, Status, Tag, arg, enums};
use memory::{Descriptor, Memory, Owned};
use std::ffi::c_int;
use std::path::Path;
use std::ptr::null_mut;
use threads::{OneDnnThreads, Runtime};

/// The library and its CPU engine. Both live until the process ends, as [`Symbols`] do.
struct OneDnn {
    context: &'static Context,
    version: String,
}

struct Context {
    api: Api,
    engine: Handle,
    runtime: Runtime,
}

// SAFETY: oneDNN's engines may be used from any thread, and from several at a time.
unsafe impl Send for Context {}
// SAFETY: oneDNN's engines may be used from several threads at a time.
unsafe impl Sync for Context {}

/// Opens the library.
pub(crate) fn load(path: &Path) -> Result<Box<dyn Library>, Error> {
    let symbols = Symbols::open("onednn", path)?;
    // SAFETY: `dnnl_version` has this signature in every version of the library.
    let version: unsafe extern "C" fn() -> *const api::Version = unsafe { symbols.required("dnnl_version") }?;
    // SAFETY: `dnnl_version` returns a pointer to a constant of the library, which is never closed.
    let version = unsafe { &*version() };
    let (major, minor, patch) = (version.major, version.minor, version.patch);
    if major != 3 {
        let wanted = "but the C interface of version 3 is needed";
        return Err(symbols.error(format_args!("is version {major}.{minor}.{patch}, {wanted}")));
    }
    let api = Api::new(&symbols)?;
    let runtime = Runtime::new(version.cpu_runtime, &symbols)?;
    let mut engine = null_mut();
    // SAFETY: `engine` is a local variable that `dnnl_engine_create` writes.
    let status = unsafe { (api.dnnl_engine_create)(&mut engine, enums::CPU, 0) };
    if status != api::SUCCESS {
        let why = match runtime {
            Runtime::Sycl(_) => "its SYCL runtime found no CPU; see OCL_ICD_FILENAMES",
            _ => "dnnl_engine_create failed",
        };
        return Err(symbols.error(format_args!("{why}: {}", api::status(status))));
    }
    // SAFETY: `dnnl_get_effective_cpu_isa` takes no arguments.
    let isa = api::isa(unsafe { (api.dnnl_get_effective_cpu_isa)() });
    let version = format!("{major}.{minor}.{patch}, {isa}, {}", runtime.name());
    Ok(Box::new(OneDnn { context: Box::leak(Box::new(Context { api, engine, runtime })), version }))
}

impl Library for OneDnn {
    fn name(&self) -> &'static str {
        "onednn"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare<'a>(
        &'a self,
        operation: PeerOperation<'a>,
        threads: usize,
    ) -> Result<Option<Box<dyn PeerCall + 'a>>, Error> {
        operation.check()?;
        let Some(threads) = OneDnnThreads::new(&self.context.runtime, threads) else { return Ok(None) };
        // A primitive is created for the current number of threads.
        threads.set();
        let prepared = match operation {
            PeerOperation::Linear { .. } => match LinearLayer::new(operation)? {
                Some(layer) if matches!(layer.dtype, Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q4_1) => {
                    return Ok(None);
                }
                Some(layer) => linear(self.context, threads, layer),
                None => return Ok(None),
            },
            PeerOperation::LayerNorm { shape, x, weight, bias, eps } => {
                layer_norm(self.context, threads, shape, [x, weight, bias], eps)
            }
            PeerOperation::Softmax { shape, x } => softmax(self.context, threads, shape, x),
            PeerOperation::Gelu { shape, x, tanh } => gelu(self.context, threads, shape, x, tanh),
        };
        match prepared {
            Ok(call) => Ok(Some(Box::new(call))),
            Err(OneDnnFailure::Status(_, api::UNIMPLEMENTED)) => Ok(None),
            Err(failure) => Err(Error(failure.to_string())),
        }
    }
}

/// Reason why an operation cannot be prepared.
enum OneDnnFailure {
    /// A failed function and its status.
    Status(&'static str, Status),
    Other(Error),
}

impl From<Error> for OneDnnFailure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl std::fmt::Display for OneDnnFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(function, status) => write!(f, "{function} failed: {}", api::status(*status)),
            Self::Other(error) => error.fmt(f),
        }
    }
}

/// Converts a status to success, or to an error that names the function.
fn checked(function: &'static str, status: Status) -> Result<(), OneDnnFailure> {
    if status == api::SUCCESS { Ok(()) } else { Err(OneDnnFailure::Status(function, status)) }
}

/// A primitive with its arguments.
struct Primitive {
    context: &'static Context,
    threads: OneDnnThreads,
    primitive: Owned,
    stream: Owned,
    arguments: Vec<api::Argument>,
    /// Owners of the memory that `arguments` point to.
    _inputs: Vec<Memory>,
    output: Memory,
}

// SAFETY: oneDNN's objects are not bound to the thread that made them, and one thread at a time uses these: a run
// borrows the primitive mutably.
unsafe impl Send for Primitive {}

impl Primitive {
    /// A primitive of `description`, with its inputs and its output under the numbers of their arguments.
    fn new(
        context: &'static Context,
        threads: OneDnnThreads,
        description: &Owned,
        inputs: Vec<(c_int, Memory)>,
        output: Memory,
    ) -> Result<Self, OneDnnFailure> {
        let api = &context.api;
        let primitive = Owned::new(api.dnnl_primitive_destroy, "dnnl_primitive_create", |to| {
            // SAFETY: `description` owns a valid description, and `Owned::new` passes a pointer to a handle.
            unsafe { (api.dnnl_primitive_create)(to, description.raw()) }
        })?;
        let stream = Owned::new(api.dnnl_stream_destroy, "dnnl_stream_create", |to| {
            // SAFETY: the engine is valid until the process ends, and `Owned::new` passes a pointer to a handle.
            unsafe { (api.dnnl_stream_create)(to, context.engine, enums::IN_ORDER) }
        })?;
        let argument = |index, memory: &Memory| api::Argument { index, memory: memory.raw() };
        let mut arguments: Vec<_> = inputs.iter().map(|(index, memory)| argument(*index, memory)).collect();
        arguments.push(argument(arg::DST, &output));
        let inputs = inputs.into_iter().map(|(_, memory)| memory).collect();
        Ok(Self { context, threads, primitive, stream, arguments, _inputs: inputs, output })
    }

    fn execute(&mut self) -> Result<(), OneDnnFailure> {
        self.threads.set();
        let api = &self.context.api;
        let (primitive, stream, arguments) = (self.primitive.raw(), self.stream.raw(), &self.arguments);
        // SAFETY: `self` owns the primitive, the stream and the memory of the arguments, which has the formats of the
        // primitive's description.
        unsafe {
            let executed =
                (api.dnnl_primitive_execute)(primitive, stream, arguments.len() as c_int, arguments.as_ptr());
            checked("dnnl_primitive_execute", executed)?;
            checked("dnnl_stream_wait", (api.dnnl_stream_wait)(stream))
        }
    }
}

impl PeerCall for Primitive {
    /// # Panics
    /// If oneDNN fails.
    fn run(&mut self) {
        self.execute().unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// # Panics
    /// If oneDNN fails.
    fn output(&self) -> Vec<f32> {
        self.output.read().unwrap_or_else(|failure| panic!("{failure}"))
    }
}

/// Prepares y = x Wᵀ.
fn linear(
    context: &'static Context,
    threads: OneDnnThreads,
    layer: LinearLayer<'_>,
) -> Result<Primitive, OneDnnFailure> {
    let LinearLayer { m, k, n, packed, .. } = layer;
    let types = match layer.dtype {
        Dtype::F32 => [DataType::F32, DataType::F32, DataType::F32],
        Dtype::Bf16 => [DataType::Bf16, DataType::Bf16, DataType::F32],
        Dtype::F16 => [DataType::F16, DataType::F16, DataType::F32],
        Dtype::Int8 | Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q4_1 => [DataType::U8, DataType::S8, DataType::S32],
    };
    let api = &context.api;
    let x = Descriptor::new(api, &[m, k], types[0], Tag::Ab)?;
    let plain = Descriptor::new(api, &[k, n], types[1], Tag::Ba)?;
    let any = Descriptor::new(api, &[k, n], types[1], Tag::Any)?;
    let y = Descriptor::new(api, &[m, n], types[2], Tag::Ab)?;
    let asked = if packed { &any } else { &plain };
    let description =
        Owned::new(api.dnnl_primitive_desc_destroy, "dnnl_matmul_primitive_desc_create", |to| {
            // SAFETY: the descriptors outlive this call; null stands for no bias and no attributes.
            unsafe {
                (api.dnnl_matmul_primitive_desc_create)(
                    to,
                    context.engine,
                    x.raw(),
                    asked.raw(),
                    null_mut(),
                    y.raw(),
                    null_mut(),
                )
            }
        })?;
    let x = Memory::new(context, &x)?;
    let mut weight = Memory::new(context, &plain)?;
    match layer.dtype {
        Dtype::F32 => (x.write(layer.x)?, weight.write(layer.weight)?),
        Dtype::Bf16 | Dtype::F16 => {
            let bits = if layer.dtype == Dtype::F16 { f16_bits } else { bf16_bits };
            let [from_x, from_weight] = layer.convert(bits);
            (x.write(&from_x)?, weight.write(&from_weight)?)
        }
        Dtype::Int8 | Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q4_1 => {
            let (from_x, from_weight) = layer.int8()?;
            (x.write(&from_x)?, weight.write(&from_weight)?)
        }
    };
    if packed {
        let asked = Descriptor::of_weights(api, &description, types[1])?;
        weight = reorder(context, threads, weight, &plain, &asked)?;
    }
    let inputs = vec![(arg::SRC, x), (arg::WEIGHTS, weight)];
    Primitive::new(context, threads, &description, inputs, Memory::new(context, &y)?)
}

/// Reorders `memory` from the layout `from` to the layout `to`.
fn reorder(
    context: &'static Context,
    threads: OneDnnThreads,
    memory: Memory,
    from: &Descriptor,
    to: &Descriptor,
) -> Result<Memory, OneDnnFailure> {
    let api = &context.api;
    let description =
        Owned::new(api.dnnl_primitive_desc_destroy, "dnnl_reorder_primitive_desc_create", |pd| {
            let (engine, from, to) = (context.engine, from.raw(), to.raw());
            // SAFETY: the descriptors outlive this call; null stands for no attributes.
            unsafe { (api.dnnl_reorder_primitive_desc_create)(pd, from, engine, to, engine, null_mut()) }
        })?;
    let output = Memory::new(context, to)?;
    let mut primitive = Primitive::new(context, threads, &description, vec![(arg::SRC, memory)], output)?;
    primitive.execute()?;
    Ok(primitive.output)
}

fn layer_norm(
    context: &'static Context,
    threads: OneDnnThreads,
    [rows, columns]: [usize; 2],
    [x, weight, bias]: [&[f32]; 3],
    eps: f32,
) -> Result<Primitive, OneDnnFailure> {
    let api = &context.api;
    let matrix = Descriptor::new(api, &[rows, columns], DataType::F32, Tag::Ab)?;
    let row = Descriptor::new(api, &[columns], DataType::F32, Tag::A)?;
    let function = "dnnl_layer_normalization_forward_primitive_desc_create";
    let description = Owned::new(api.dnnl_primitive_desc_destroy, function, |to| {
        // SAFETY: the descriptors outlive this call; null stands for the default descriptor of statistics and for no
        // attributes.
        unsafe {
            (api.dnnl_layer_normalization_forward_primitive_desc_create)(
                to,
                context.engine,
                enums::FORWARD_INFERENCE,
                matrix.raw(),
                matrix.raw(),
                null_mut(),
                eps,
                enums::USE_SCALE | enums::USE_SHIFT,
                null_mut(),
            )
        }
    })?;
    let input = |descriptor, values: &[f32]| -> Result<Memory, OneDnnFailure> {
        let memory = Memory::new(context, descriptor)?;
        memory.write(values)?;
        Ok(memory)
    };
    let inputs = vec![
        (arg::SRC, input(&matrix, x)?),
        (arg::SCALE, input(&row, weight)?),
        (arg::SHIFT, input(&row, bias)?),
    ];
    Primitive::new(context, threads, &description, inputs, Memory::new(context, &matrix)?)
}

fn softmax(
    context: &'static Context,
    threads: OneDnnThreads,
    shape: [usize; 2],
    x: &[f32],
) -> Result<Primitive, OneDnnFailure> {
    let api = &context.api;
    let matrix = Descriptor::new(api, &shape, DataType::F32, Tag::Ab)?;
    elementwise(context, threads, &matrix, x, "dnnl_softmax_forward_primitive_desc_create", |to| {
        // SAFETY: the descriptors outlive this call; null stands for no attributes.
        unsafe {
            (api.dnnl_softmax_forward_primitive_desc_create)(
                to,
                context.engine,
                enums::FORWARD_INFERENCE,
                enums::SOFTMAX_ACCURATE,
                matrix.raw(),
                matrix.raw(),
                1, // along columns
                null_mut(),
            )
        }
    })
}

fn gelu(
    context: &'static Context,
    threads: OneDnnThreads,
    shape: [usize; 2],
    x: &[f32],
    tanh: bool,
) -> Result<Primitive, OneDnnFailure> {
    let api = &context.api;
    let matrix = Descriptor::new(api, &shape, DataType::F32, Tag::Ab)?;
    let algorithm = if tanh { enums::ELTWISE_GELU_TANH } else { enums::ELTWISE_GELU_ERF };
    elementwise(context, threads, &matrix, x, "dnnl_eltwise_forward_primitive_desc_create", |to| {
        // SAFETY: the descriptors outlive this call; null stands for no attributes.
        unsafe {
            (api.dnnl_eltwise_forward_primitive_desc_create)(
                to,
                context.engine,
                enums::FORWARD_INFERENCE,
                algorithm,
                matrix.raw(),
                matrix.raw(),
                0.0,
                0.0,
                null_mut(),
            )
        }
    })
}

/// A primitive with one input and an output of the same descriptor.
fn elementwise(
    context: &'static Context,
    threads: OneDnnThreads,
    matrix: &Descriptor,
    x: &[f32],
    function: &'static str,
    describe: impl FnOnce(*mut Handle) -> Status,
) -> Result<Primitive, OneDnnFailure> {
    let description = Owned::new(context.api.dnnl_primitive_desc_destroy, function, describe)?;
    let [input, output] = [Memory::new(context, matrix)?, Memory::new(context, matrix)?];
    input.write(x)?;
    Primitive::new(context, threads, &description, vec![(arg::SRC, input)], output)
}

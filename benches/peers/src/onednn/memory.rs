//! Owners of oneDNN's objects, which free them.

use super::api::{Api, DataType, Handle, Status, Tag, allocate, enums};
use super::{Context, OneDnnFailure, checked};
use crate::Error;
use std::ffi::c_void;
use std::ptr::null_mut;

/// An object of oneDNN, with the function that frees it.
pub(super) struct Owned {
    raw: Handle,
    destroy: unsafe extern "C" fn(Handle) -> Status,
}

impl Owned {
    /// Owns the object that `create` makes. `create` calls `function`, which errors name.
    pub fn new(
        destroy: unsafe extern "C" fn(Handle) -> Status,
        function: &'static str,
        create: impl FnOnce(*mut Handle) -> Status,
    ) -> Result<Self, OneDnnFailure> {
        let mut raw = null_mut();
        checked(function, create(&mut raw))?;
        Ok(Self { raw, destroy })
    }

    /// Handle of the object, valid while `self` lives.
    pub fn raw(&self) -> Handle {
        self.raw
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: `create` of the class that `destroy` frees made the object, and only this `drop` frees it. A failure
        // leaks the object.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// Shape, type and format of a tensor.
pub(super) struct Descriptor {
    owned: Owned,
    dtype: DataType,
}

impl Descriptor {
    pub fn new(api: &Api, shape: &[usize], dtype: DataType, tag: Tag) -> Result<Self, OneDnnFailure> {
        let dims: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        let owned = Owned::new(api.dnnl_memory_desc_destroy, "dnnl_memory_desc_create_with_tag", |to| {
            let rank = dims.len() as i32;
            // SAFETY: `dims` holds `rank` dimensions, and each caller passes a tag of that rank.
            unsafe { (api.dnnl_memory_desc_create_with_tag)(to, rank, dims.as_ptr(), dtype, tag) }
        })?;
        Ok(Self { owned, dtype })
    }

    /// The format that the product of `description` requests for its weights.
    pub fn of_weights(api: &Api, description: &Owned, dtype: DataType) -> Result<Self, OneDnnFailure> {
        let what = enums::QUERY_WEIGHTS_MD;
        // SAFETY: `description` owns a valid description.
        let asked = unsafe { (api.dnnl_primitive_desc_query_md)(description.raw(), what, 0) };
        if asked.is_null() {
            return Err(Error("dnnl_primitive_desc_query_md returned nothing".to_owned()).into());
        }
        let owned = Owned::new(api.dnnl_memory_desc_destroy, "dnnl_memory_desc_clone", |to| {
            // SAFETY: `asked` is not null and belongs to `description`, which outlives this call.
            unsafe { (api.dnnl_memory_desc_clone)(to, asked) }
        })?;
        Ok(Self { owned, dtype })
    }

    pub fn raw(&self) -> Handle {
        self.owned.raw()
    }
}

/// The numbers of a tensor in memory that oneDNN allocates, because a SYCL runtime accepts no other memory.
pub(super) struct Memory {
    context: &'static Context,
    memory: Owned,
    dtype: DataType,
    bytes: usize,
}

impl Memory {
    pub fn new(context: &'static Context, descriptor: &Descriptor) -> Result<Self, OneDnnFailure> {
        let api = &context.api;
        let memory = Owned::new(api.dnnl_memory_destroy, "dnnl_memory_create", |to| {
            // SAFETY: `descriptor` outlives this call, and the engine is valid until the process ends.
            unsafe { (api.dnnl_memory_create)(to, descriptor.raw(), context.engine, allocate()) }
        })?;
        // SAFETY: `descriptor` outlives this call.
        let bytes = unsafe { (api.dnnl_memory_desc_get_size)(descriptor.raw()) };
        let memory = Self { context, memory, dtype: descriptor.dtype, bytes };
        // Writing maps every page. An unwritten page may be mapped on its first use, or be a shared page of zeros.
        memory.map(|data| {
            // SAFETY: `map` passes a pointer to `bytes` writable bytes.
            unsafe { data.cast::<u8>().write_bytes(0, bytes) };
        })?;
        Ok(memory)
    }

    pub fn raw(&self) -> Handle {
        self.memory.raw()
    }

    /// Calls `f` with a pointer to all `bytes` bytes of the numbers, readable and writable.
    fn map<R>(&self, f: impl FnOnce(*mut c_void) -> R) -> Result<R, OneDnnFailure> {
        let api = &self.context.api;
        let mut data = null_mut();
        // SAFETY: `self` owns the memory, and no execution uses it: `execute` waits for the end of each.
        let mapped = unsafe { (api.dnnl_memory_map_data)(self.raw(), &mut data) };
        checked("dnnl_memory_map_data", mapped)?;
        if data.is_null() {
            return Err(Error("dnnl_memory_map_data returned nothing".to_owned()).into());
        }
        let result = f(data);
        // SAFETY: `dnnl_memory_map_data` returned `data` for this memory, and nothing uses it after `f`.
        let unmapped = unsafe { (api.dnnl_memory_unmap_data)(self.raw(), data) };
        checked("dnnl_memory_unmap_data", unmapped)?;
        Ok(result)
    }

    /// Sets all numbers.
    ///
    /// # Panics
    /// If the size of `values` differs from the size of the memory.
    pub fn write<T: Copy>(&self, values: &[T]) -> Result<(), OneDnnFailure> {
        assert_eq!(size_of_val(values), self.bytes, "values fill the tensor");
        self.map(|data| {
            // SAFETY: `values` has `bytes` bytes (asserted above), and so has the memory of oneDNN (`map`), which
            // does not overlap it.
            unsafe { values.as_ptr().cast::<u8>().copy_to_nonoverlapping(data.cast(), self.bytes) };
        })
    }

    /// Reads the numbers of a dense f32 or s32 tensor, as f32.
    pub fn read(&self) -> Result<Vec<f32>, OneDnnFailure> {
        let whole = self.dtype == DataType::S32;
        let number = |bytes: &[u8; 4]| {
            if whole { i32::from_ne_bytes(*bytes) as f32 } else { f32::from_ne_bytes(*bytes) }
        };
        self.map(|data| {
            // SAFETY: `map` passes a pointer to `bytes` initialised bytes.
            let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), self.bytes) };
            data.as_chunks().0.iter().map(number).collect()
        })
    }
}

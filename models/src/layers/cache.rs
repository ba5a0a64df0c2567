//! Keys and values of one sequence in one layer (plain rows).

use tilewright_kernels::{Attention, Backend, DistanceBias, Error, Precision, Start, View, ViewMut, Window};

/// Keys and values of one sequence in one layer.
#[derive(Clone, Debug)]
pub struct KvCache {
    precision: Precision,
    kv_heads: usize,
    dims: [usize; 2],
    capacity: usize,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl KvCache {
    /// Room for `capacity` tokens.
    pub fn new(_: Backend, precision: Precision, kv_heads: usize, dims: [usize; 2], capacity: usize) -> Self {
        Self { precision, kv_heads, dims, capacity, k: Vec::new(), v: Vec::new() }
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.k.len() / (self.kv_heads * self.dims[0])
    }

    /// The most tokens.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        4 * self.capacity * self.kv_heads * (self.dims[0] + self.dims[1])
    }

    /// Appends tokens.
    pub fn append(&mut self, k: View<'_, 3>, v: View<'_, 3>) -> Result<(), Error> {
        for token in 0..k.shape()[1] {
            for head in 0..self.kv_heads {
                self.k.extend_from_slice(k.row([head, token, 0]));
                self.v.extend_from_slice(v.row([head, token, 0]));
            }
        }
        Ok(())
    }

    /// Forgets tokens.
    pub fn truncate(&mut self, len: usize) {
        self.k.truncate(len * self.kv_heads * self.dims[0]);
        self.v.truncate(len * self.kv_heads * self.dims[1]);
    }

    /// Copies.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), Error> {
        self.clone_from(other);
        Ok(())
    }
}

/// Attention of packed query sequences, each to its cache.
#[derive(Debug)]
pub struct CachedAttention<'a> {
    pub q: View<'a, 4>,
    pub caches: &'a [&'a KvCache],
    pub starts: &'a [usize],
    pub scale: f32,
    pub distance: Option<DistanceBias<'a>>,
    pub start: Start,
    pub window: Window,
    pub out: ViewMut<'a, 4>,
}

impl CachedAttention<'_> {
    pub fn run(self, backend: Backend) -> Result<(), Error> {
        let mut rest = self.out;
        for (s, ends) in self.starts.windows(2).enumerate() {
            let n = ends[1] - ends[0];
            let (out, after) = rest.split_at(2, n);
            rest = after;
            let c = self.caches[s];
            let view = |x, d| View::with_strides(x, [1, c.kv_heads, c.len(), d], [0, d, c.kv_heads * d, 1]);
            let q = self.q.slice(2, ends[0]..ends[1]);
            backend.run(Attention {
                scale: self.scale,
                precision: c.precision,
                distance: self.distance,
                start: self.start,
                window: self.window,
                ..Attention::new(q, view(&c.k, c.dims[0])?, view(&c.v, c.dims[1])?, out)
            })?;
        }
        Ok(())
    }
}

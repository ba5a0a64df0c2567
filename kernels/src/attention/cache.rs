//! KV cache: keys and values that stay packed from call to call, so that decoding packs only new tokens.

use super::blocks::BLOCK_KEYS;
use super::panels::{FormatQuery, PanelFormat, append, append_len};
use super::precision::Precision;
use super::prefetch_span::PrefetchSpan;
use super::variant::with_variant;
use crate::backend::{Backend, Kernel};
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, LINE};
use crate::parallel;
use crate::rows::expect_unit_rows;
use crate::scratch;
use crate::view::{AnyView, View, ViewMut};
use core::fmt;
use core::ops::Range;
use half::bf16;

/// Elements below which one thread appends: a second thread would start too late to help.
const PARALLEL_ELEMENTS: usize = 1 << 16;

/// Keys and values of one sequence in one layer, in the panels that attention multiplies.
///
/// A cache is laid out for one backend. [`CachedAttention`](super::CachedAttention) attends to it, and has an example.
///
/// Memory: kv_heads * (dk + dv) elements for each token of the capacity. An element takes 2 bytes if the precision is
/// bf16 and the CPU multiplies pairs of bf16, else 4. The capacity is rounded up to a multiple of at most 32 tokens (of
/// 256 beyond 256), dv to whole panels, and dk of pairs to a multiple of 32. The system provides pages when they are
/// first written.
///
/// ```
/// use tilewright_kernels::{Backend, KvCache, Precision, View};
/// let mut cache = KvCache::new(Backend::best(), Precision::Bf16, 2, [8, 4], 100);
/// let (k, v) = ([0.5; 2 * 3 * 8], [0.25; 2 * 3 * 4]);
/// cache.append(View::new(&k, [2, 3, 8])?, View::new(&v, [2, 3, 4])?)?;
/// assert_eq!((cache.len(), cache.capacity()), (3, 100));
/// // Two of the tokens were drafts that the model does not confirm.
/// cache.truncate(1);
/// assert_eq!(cache.len(), 1);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
pub struct KvCache {
    backend: Backend,
    format: PanelFormat,
    kv_heads: usize,
    dk: usize,
    dv: usize,
    len: usize,
    capacity: usize,
    /// Keys that the value panels of one block have room for.
    block_keys: usize,
    /// K-groups \[kv_heads, head_len\], from the first aligned cache line on.
    memory: Vec<f32>,
}

/// The panels of a block of keys of one head.
#[derive(Clone, Copy)]
pub(super) struct CachedPanels<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    /// K-groups from one panel of values to the next.
    pub panel_len: usize,
    /// Keys of the block that the cache holds.
    pub len: usize,
}

impl KvCache {
    /// Allocates room for `capacity` tokens of `kv_heads` heads, with keys of `dk` and values of `dv` elements.
    /// [`Precision::Stored`] means f32.
    ///
    /// # Panics
    /// If the cache would exceed `isize::MAX` bytes. The process aborts if the allocation fails.
    pub fn new(
        backend: Backend,
        precision: Precision,
        kv_heads: usize,
        [dk, dv]: [usize; 2],
        capacity: usize,
    ) -> Self {
        let format = backend.run(FormatQuery { bf16: precision == Precision::Bf16, dk });
        let whole =
            capacity.max(1).checked_next_multiple_of(format.nr.max(format.group)).unwrap_or(BLOCK_KEYS);
        let mut cache = Self {
            backend,
            format,
            kv_heads,
            dk,
            dv,
            len: 0,
            capacity,
            block_keys: whole.min(BLOCK_KEYS),
            memory: vec![],
        };
        // A saturated length still panics: it exceeds the bytes of any vector.
        let len = kv_heads.saturating_mul(cache.head_len()).saturating_add(LINE / size_of::<f32>());
        cache.memory = vec![0.0; len];
        cache
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens that the cache can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of memory for all tokens of the capacity.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.memory[..])
    }

    /// \[kv_heads, dk, dv\].
    pub fn shape(&self) -> [usize; 3] {
        [self.kv_heads, self.dk, self.dv]
    }

    /// Appends tokens: k \[kv_heads, tokens, dk\], v \[kv_heads, tokens, dv\], with unit last stride. A cache of bf16
    /// rounds each element to nearest, ties to even.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Invalid`] if k and v do not fit the cache or each other, or exceed its capacity;
    /// nothing is appended then.
    pub fn append<T: Element>(&mut self, k: View<'_, 3, T>, v: View<'_, 3, T>) -> Result<(), Error> {
        let tokens = k.shape()[1];
        expect_shape("KvCache.k", &k.shape(), &[self.kv_heads, tokens, self.dk])?;
        expect_shape("KvCache.v", &v.shape(), &[self.kv_heads, tokens, self.dv])?;
        expect_unit_rows("KvCache.k", k.has_unit_rows(), k.strides())?;
        expect_unit_rows("KvCache.v", v.has_unit_rows(), v.strides())?;
        self.expect_room(self.len, tokens)?;
        self.backend.run(Append { cache: self, k: k.into(), v: v.into() });
        self.len += tokens;
        Ok(())
    }

    /// Keeps the first `len` tokens; does nothing if the cache holds no more than `len`.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        // Attention multiplies whole groups of values, so the dropped rest of the last group becomes zeros.
        let begun = len..self.len.min(len.next_multiple_of(self.format.group));
        self.len = len;
        for (head, key) in (0..self.kv_heads).flat_map(|head| begun.clone().map(move |key| (head, key))) {
            for d in 0..self.dv {
                let (at, half) = self.value_at(head, key, d);
                let format = self.format;
                let k_group = &mut self.floats_mut()[at];
                *k_group = format.without(*k_group, half);
            }
        }
    }

    /// Replaces the tokens with those of `other`; the capacity stays.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Invalid`] if `other` has another shape or layout, or more tokens than the
    /// capacity; nothing changes then.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), Error> {
        const WHAT: &str = "KvCache.other";
        expect_shape(WHAT, &other.shape(), &self.shape())?;
        self.check_format(WHAT, other.format, other.backend.name())?;
        self.expect_room(0, other.len)?;
        self.len = other.len;
        let PanelFormat { nr, elements, key_k_groups, group, .. } = self.format;
        let keys = other.len.next_multiple_of(nr) * key_k_groups;
        let panels = self.dv.div_ceil(nr);
        for head in 0..self.kv_heads {
            let [mut to, mut from] = [self.head_at(head), other.head_at(head)];
            self.floats_mut()[to..][..keys].copy_from_slice(&other.floats()[from..][..keys]);
            to += self.keys_len();
            from += other.keys_len();
            for first in (0..other.len).step_by(BLOCK_KEYS) {
                let n = (other.len - first).min(BLOCK_KEYS).next_multiple_of(group) / elements * nr;
                for _ in 0..panels {
                    self.floats_mut()[to..][..n].copy_from_slice(&other.floats()[from..][..n]);
                    to += self.panel_len();
                    from += other.panel_len();
                }
            }
        }
        Ok(())
    }

    /// Returns an error if `tokens` tokens behind the first `len` exceed the capacity.
    fn expect_room(&self, len: usize, tokens: usize) -> Result<(), Error> {
        let capacity = self.capacity;
        if tokens <= capacity - len {
            return Ok(());
        }
        let why = format!("expected room for {tokens} tokens behind {len}, found a capacity of {capacity}");
        Err(Error::Invalid { what: "KvCache.append", why })
    }

    /// Returns an error if `format`, the layout of `backend`, is not that of this cache.
    pub(super) fn check_format(
        &self,
        what: &'static str,
        format: PanelFormat,
        backend: &str,
    ) -> Result<(), Error> {
        if self.format == format {
            return Ok(());
        }
        let precision = |format: PanelFormat| if format.bf16 { "bf16" } else { "f32" };
        let why = format!(
            "expected a cache laid out as {} of {backend}, found one of {} of {}",
            precision(format),
            precision(self.format),
            self.backend.name()
        );
        Err(Error::Invalid { what, why })
    }

    /// True if elements are rounded to bf16.
    pub(super) fn is_bf16(&self) -> bool {
        self.format.bf16
    }

    /// The memory from its first aligned cache line on, whose place differs between copies.
    fn floats(&self) -> &[f32] {
        &self.memory[self.memory.as_ptr().align_offset(LINE)..]
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        let skip = self.memory.as_ptr().align_offset(LINE);
        &mut self.memory[skip..]
    }

    /// K-groups from one panel of values to the next.
    fn panel_len(&self) -> usize {
        self.block_keys / self.format.elements * self.format.nr
    }

    /// K-groups of all value panels of a block.
    fn block_len(&self) -> usize {
        self.panel_len().saturating_mul(self.dv.div_ceil(self.format.nr))
    }

    /// K-groups of all key panels of a head.
    fn keys_len(&self) -> usize {
        let blocks = self.capacity.div_ceil(self.block_keys);
        blocks.saturating_mul(self.block_keys).saturating_mul(self.format.key_k_groups)
    }

    /// K-groups of a head: key panels, then the value panels of each block.
    fn head_len(&self) -> usize {
        let blocks = self.capacity.div_ceil(self.block_keys);
        self.keys_len().saturating_add(blocks.saturating_mul(self.block_len()))
    }

    /// Index of the first k-group of a head.
    fn head_at(&self, head: usize) -> usize {
        head * self.head_len()
    }

    /// K-group of element `d` of a key, and the element's index in that k-group.
    fn key_at(&self, head: usize, key: usize, d: usize) -> (usize, usize) {
        let (at, half) = self.format.key(key, d);
        (self.head_at(head) + at, half)
    }

    /// K-group of element `d` of a value, and the element's index in that k-group.
    fn value_at(&self, head: usize, key: usize, d: usize) -> (usize, usize) {
        let (at, half) = self.format.value(key % BLOCK_KEYS, d, self.panel_len());
        (self.head_at(head) + self.keys_len() + key / BLOCK_KEYS * self.block_len() + at, half)
    }

    /// Element `d` of a key.
    pub(super) fn key(&self, [head, key, d]: [usize; 3]) -> f32 {
        let (at, half) = self.key_at(head, key, d);
        self.format.get(self.floats()[at], half)
    }

    /// Element `d` of the value of a key.
    pub(super) fn value(&self, [head, key, d]: [usize; 3]) -> f32 {
        let (at, half) = self.value_at(head, key, d);
        self.format.get(self.floats()[at], half)
    }

    /// The panels of a block, which must hold a key.
    #[inline(always)]
    pub(super) fn block(&self, head: usize, block: usize) -> CachedPanels<'_> {
        let k_groups = &self.floats()[self.head_at(head)..];
        let (keys, values) = k_groups.split_at(self.keys_len());
        let key_len = self.block_keys * self.format.key_k_groups;
        CachedPanels {
            keys: &keys[block * key_len..][..key_len],
            values: &values[block * self.block_len()..][..self.block_len()],
            panel_len: self.panel_len(),
            len: (self.len - block * BLOCK_KEYS).min(BLOCK_KEYS),
        }
    }

    /// Memory of the keys `keys` of a block, and of their values; empty behind the last token.
    #[inline(always)]
    pub(super) fn span(&self, head: usize, block: usize, keys: Range<usize>) -> [PrefetchSpan; 2] {
        if block * BLOCK_KEYS >= self.len {
            return [PrefetchSpan::NOTHING; 2];
        }
        let CachedPanels { keys: of_keys, values, panel_len, len } = self.block(head, block);
        let PanelFormat { nr, elements, key_k_groups, .. } = self.format;
        // Key panels follow each other without gaps, so rows of `key_k_groups` floats cover the same memory.
        let rows = len.next_multiple_of(nr);
        let panels = self.dv.div_ceil(nr);
        let k_groups = keys.start / elements..keys.end.div_ceil(elements);
        [
            PrefetchSpan::new(of_keys, [1, rows, key_k_groups], [0, key_k_groups]).part(0..1, keys),
            PrefetchSpan::new(values, [panels, len.div_ceil(elements), nr], [panel_len, nr])
                .part(0..panels, k_groups),
        ]
    }
}

impl Clone for KvCache {
    fn clone(&self) -> Self {
        let precision = if self.is_bf16() { Precision::Bf16 } else { Precision::F32 };
        let mut copy = Self::new(self.backend, precision, self.kv_heads, [self.dk, self.dv], self.capacity);
        copy.copy_from(self).expect("of the same shape");
        copy
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kv_heads, dk, dv, len, capacity, .. } = self;
        f.debug_struct("KvCache")
            .field("backend", &self.backend.name())
            .field("bf16", &self.is_bf16())
            .field("kv_heads", kv_heads)
            .field("dk", dk)
            .field("dv", dv)
            .field("len", len)
            .field("capacity", capacity)
            .finish_non_exhaustive()
    }
}

/// Writes checked tokens behind the last one, within the capacity.
struct Append<'a> {
    cache: &'a mut KvCache,
    k: AnyView<'a, 3>,
    v: AnyView<'a, 3>,
}

impl Kernel for Append<'_> {
    type Output = ();

    crate::backend::compile_here!();

    fn reference(self) {
        let Self { cache, k, v } = self;
        let is_bf16 = cache.is_bf16();
        let rounded = |x: f32| if is_bf16 { bf16::from_f32(x).to_f32() } else { x };
        let [kv_heads, tokens, _] = k.shape();
        for (head, token) in (0..kv_heads).flat_map(|head| (0..tokens).map(move |token| (head, token))) {
            let key = cache.len + token;
            for d in 0..cache.dk {
                let x = rounded(k.get([head, token, d]));
                let at = cache.key_at(head, key, d).0;
                cache.floats_mut()[at] = x;
            }
            for d in 0..cache.dv {
                let x = rounded(v.get([head, token, d]));
                let at = cache.value_at(head, key, d).0;
                cache.floats_mut()[at] = x;
            }
        }
    }

    fn eval<I: Isa>(self, isa: I) {
        let Self { cache, k, v } = self;
        let [kv_heads, tokens, dk] = k.shape();
        let elements = kv_heads * tokens * (dk + cache.dv);
        // Without elements there is nothing to write, and the cache may have no memory to cut into heads.
        if elements == 0 {
            return;
        }
        let (format, len, block_keys) = (cache.format, cache.len, cache.block_keys);
        let (keys_len, head_len) = (cache.keys_len(), cache.head_len());
        let grain = if elements < PARALLEL_ELEMENTS { kv_heads } else { 1 };
        let heads =
            ViewMut::new(cache.floats_mut(), [kv_heads, head_len]).expect("allocated for these heads");
        with_variant!(isa, format.bf16, variant => {
            parallel::for_each_block(heads, grain, &|first, heads| {
                scratch::with(append_len::<I>(&format), |memory| {
                    isa.run(
                        #[inline(always)]
                        || {
                            for (head, k_groups) in heads.into_rows().enumerate() {
                                let (keys, values) = k_groups.split_at_mut(keys_len);
                                let kv = [k.at(first + head), v.at(first + head)];
                                append(isa, variant, kv, len, (keys, values, block_keys), memory);
                            }
                        },
                    );
                });
            });
        });
    }
}

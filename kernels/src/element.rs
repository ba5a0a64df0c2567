//! Element types of views: f32, bf16 and f16. Kernels compute in f32.

use crate::isa::{Isa, MAX_LANES, Vector, bf16_bits};
use crate::view::{AnyView, AnyViewMut, View, ViewMut};
use core::fmt::Debug;
use half::{bf16, f16};

mod sealed {
    use super::{AnyView, AnyViewMut, View, ViewMut};
    use crate::compiled::Compiled;
    use crate::row_slices::RowSlices;

    /// Methods of an [`Element`](super::Element) for this crate alone. No other crate can implement the trait:
    /// kernels reinterpret the bits of its types.
    pub trait SealedElement: Sized + Compiled {
        /// True for f32.
        const IS_F32: bool = false;

        /// True for bf16.
        const IS_BF16: bool = false;

        /// Wraps a view: its element type becomes a value.
        fn any<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D>;

        /// Wraps a mutable view.
        fn any_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D>;

        /// Returns the row as a row of f32, or as an error if its type is another.
        #[inline(always)]
        fn f32_row(row: RowSlices<'_, Self>) -> Result<RowSlices<'_>, RowSlices<'_, Self>> {
            Err(row)
        }

        /// Returns the slice if its type is f32.
        #[inline(always)]
        fn f32s(_: &[Self]) -> Option<&[f32]> {
            None
        }

        /// Returns the mutable slice if its type is f32.
        #[inline(always)]
        fn f32s_mut(_: &mut [Self]) -> Option<&mut [f32]> {
            None
        }

        /// Returns `floats.len()` elements of unspecified values, for a loop that reads a row whose result it
        /// drops.
        fn stand_in(floats: &[f32]) -> &[Self];
    }

    impl SealedElement for f32 {
        const IS_F32: bool = true;

        fn any<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D> {
            AnyView::F32(view)
        }

        fn any_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D> {
            AnyViewMut::F32(view)
        }

        #[inline(always)]
        fn f32_row(row: RowSlices<'_>) -> Result<RowSlices<'_>, RowSlices<'_>> {
            Ok(row)
        }

        #[inline(always)]
        fn f32s(x: &[f32]) -> Option<&[f32]> {
            Some(x)
        }

        #[inline(always)]
        fn f32s_mut(x: &mut [f32]) -> Option<&mut [f32]> {
            Some(x)
        }

        #[inline(always)]
        fn stand_in(floats: &[f32]) -> &[f32] {
            floats
        }
    }

    impl SealedElement for half::bf16 {
        const IS_BF16: bool = true;

        fn any<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D> {
            AnyView::Bf16(view)
        }

        fn any_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D> {
            AnyViewMut::Bf16(view)
        }

        #[inline(always)]
        fn stand_in(floats: &[f32]) -> &[Self] {
            // SAFETY: `floats` is valid for reads of len * 4 bytes, aligned to 4; len bf16 take len * 2, aligned
            // to 2. All bits are valid as bf16. The result borrows `floats`.
            unsafe { core::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
        }
    }

    impl SealedElement for half::f16 {
        fn any<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D> {
            AnyView::F16(view)
        }

        fn any_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D> {
            AnyViewMut::F16(view)
        }

        #[inline(always)]
        fn stand_in(floats: &[f32]) -> &[Self] {
            // SAFETY: `floats` is valid for reads of len * 4 bytes, aligned to 4; len f16 take len * 2, aligned
            // to 2. All bits are valid as f16. The result borrows `floats`.
            unsafe { core::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
        }
    }
}

/// Element type of a view: f32, [`bf16`](crate::half::bf16) or [`f16`](crate::half::f16).
///
/// Conversion to f32 is exact. Conversion from f32 rounds to nearest, ties to even; it keeps denormals, turns
/// numbers out of range into infinities, and keeps NaN.
///
/// ```
/// use tilewright_kernels::Element;
/// use tilewright_kernels::half::bf16;
/// assert_eq!(bf16::from_f32(1.003).to_f32(), 1.0); // 8 bits of significand
/// assert_eq!(<f32 as Element>::NAME, "f32");
/// ```
pub trait Element:
    sealed::SealedElement + Copy + Debug + Default + PartialEq + Send + Sync + 'static
{
    /// Name of the type: `"f32"`, `"bf16"` or `"f16"`.
    const NAME: &'static str;

    /// The value in f32, exactly.
    fn to_f32(self) -> f32;

    /// The element nearest to `x`, ties to even.
    fn from_f32(x: f32) -> Self;

    /// Loads `LANES` elements from `p`, which may be unaligned, as f32 lanes.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` elements.
    unsafe fn load<I: Isa>(isa: I, p: *const Self) -> I::V;

    /// Rounds each lane to the nearest element, and stores `LANES` elements to `p`, which may be unaligned.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` elements.
    unsafe fn store<I: Isa>(isa: I, v: I::V, p: *mut Self);

    /// Loads `2 LANES` elements from `p`, which may be unaligned, in an unspecified order that
    /// [`store_pair`](Self::store_pair) reverses.
    ///
    /// # Safety
    /// `p` is valid for reads of `2 LANES` elements.
    #[inline(always)]
    unsafe fn load_pair<I: Isa>(isa: I, p: *const Self) -> [I::V; 2] {
        // SAFETY: `p` is valid for reads of 2 LANES elements (precondition of `load_pair`), so both halves are.
        unsafe { [Self::load(isa, p), Self::load(isa, p.add(I::V::LANES))] }
    }

    /// Rounds each lane to the nearest element, and stores `2 LANES` elements to `p`, which may be unaligned.
    ///
    /// NaN in the lanes must result from arithmetic on elements: other NaN may become infinities.
    ///
    /// # Safety
    /// `p` is valid for writes of `2 LANES` elements.
    #[inline(always)]
    unsafe fn store_pair<I: Isa>(isa: I, [a, b]: [I::V; 2], p: *mut Self) {
        // SAFETY: `p` is valid for writes of 2 LANES elements (precondition of `store_pair`), so both halves are.
        unsafe {
            Self::store(isa, a, p);
            Self::store(isa, b, p.add(I::V::LANES));
        }
    }

    /// Loads the first `min(src.len(), LANES)` elements of `src`; the other lanes are `fill`.
    #[inline(always)]
    fn load_partial<I: Isa>(isa: I, src: &[Self], fill: f32) -> I::V {
        let mut lanes = [fill; MAX_LANES];
        for (to, from) in lanes[..I::V::LANES].iter_mut().zip(src) {
            *to = from.to_f32();
        }
        I::V::load(isa, &lanes)
    }

    /// Rounds and stores the first `min(dst.len(), LANES)` lanes.
    #[inline(always)]
    fn store_partial<I: Isa>(isa: I, v: I::V, dst: &mut [Self]) {
        let mut lanes = [Self::default(); MAX_LANES];
        // SAFETY: `lanes` holds MAX_LANES elements, at least the LANES that `store` writes.
        unsafe { Self::store(isa, v, lanes.as_mut_ptr()) };
        for (to, from) in dst.iter_mut().zip(&lanes[..I::V::LANES]) {
            *to = *from;
        }
    }
}

impl Element for f32 {
    const NAME: &'static str = "f32";

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const Self) -> I::V {
        // SAFETY: `p` is valid for reads of LANES elements (precondition of `load`).
        unsafe { I::V::load_ptr(isa, p) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(_: I, v: I::V, p: *mut Self) {
        // SAFETY: `p` is valid for writes of LANES elements (precondition of `store`).
        unsafe { v.store_ptr(p) }
    }

    #[inline(always)]
    fn load_partial<I: Isa>(isa: I, src: &[Self], fill: f32) -> I::V {
        I::V::load_partial(isa, src, fill)
    }

    #[inline(always)]
    fn store_partial<I: Isa>(_: I, v: I::V, dst: &mut [Self]) {
        v.store_partial(dst);
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";

    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const Self) -> I::V {
        // SAFETY: `p` is valid for reads of LANES elements (precondition of `load`).
        unsafe { I::V::load_bf16(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(isa: I, v: I::V, p: *mut Self) {
        // SAFETY: `p` is valid for writes of LANES elements (precondition of `store`).
        unsafe { v.store_bf16(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_pair<I: Isa>(isa: I, p: *const Self) -> [I::V; 2] {
        // SAFETY: `p` is valid for reads of 2 LANES elements (precondition of `load_pair`).
        unsafe { I::V::load_bf16_pair(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_pair<I: Isa>(isa: I, pair: [I::V; 2], p: *mut Self) {
        // SAFETY: `p` is valid for writes of 2 LANES elements (precondition of `store_pair`).
        unsafe { I::V::store_bf16_pair(pair, isa, p.cast()) }
    }
}

impl Element for f16 {
    const NAME: &'static str = "f16";

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, p: *const Self) -> I::V {
        // SAFETY: `p` is valid for reads of LANES elements (precondition of `load`).
        unsafe { I::V::load_f16(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(_: I, v: I::V, p: *mut Self) {
        // SAFETY: `p` is valid for writes of LANES elements (precondition of `store`).
        unsafe { v.store_f16(p.cast()) }
    }
}

/// Loads the first `LANES` elements of `src`; lanes past its end are 0.
#[inline(always)]
pub(crate) fn first_lanes<I: Isa, T: Element>(isa: I, src: &[T]) -> I::V {
    if src.len() < I::V::LANES {
        return T::load_partial(isa, src, 0.0);
    }
    // SAFETY: `src` holds at least LANES elements (checked above).
    unsafe { T::load(isa, src.as_ptr()) }
}

/// Rounds and stores the first `min(dst.len(), LANES)` lanes to the front of `dst`.
#[inline(always)]
pub(crate) fn store_first_lanes<I: Isa, T: Element>(isa: I, v: I::V, dst: &mut [T]) {
    if dst.len() < I::V::LANES {
        return T::store_partial(isa, v, dst);
    }
    // SAFETY: `dst` holds at least LANES elements (checked above).
    unsafe { T::store(isa, v, dst.as_mut_ptr()) }
}

/// Rounds the first `LANES` elements of `src` to bf16; lanes past its end are 0. The bits of each bf16 stand in
/// the lower half of its lane.
#[inline(always)]
pub(crate) fn first_bf16_bits<I: Isa, T: Element>(isa: I, src: &[T]) -> I::V {
    let v = first_lanes(isa, src);
    if T::IS_BF16 { v.shr_bits::<16>() } else { bf16_bits(isa, v) }
}

/// The elements in f64, exactly.
pub(crate) fn to_f64<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Rounds each number to f32, and then to the type of `out`.
pub(crate) fn from_f64<T: Element>(x: &[f64], out: &mut [T]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = T::from_f32(x as f32);
    }
}

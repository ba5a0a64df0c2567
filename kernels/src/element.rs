//! The types that numbers are stored in: f32, bf16 and f16. Arithmetic is in f32.

use crate::isa::{Isa, MAX_LANES, Vector, bf16_bits};
use crate::view::{AnyView, AnyViewMut, View, ViewMut};
use core::fmt::Debug;
use half::{bf16, f16};

mod sealed {
    use super::{AnyView, AnyViewMut, View, ViewMut};
    use crate::compiled::Compiled;
    use crate::row::Row;

    /// Implemented only in this crate: kernels reinterpret the bits of a type that has it. The methods that
    /// erase it let a kernel be compiled once for all types, and not once for each.
    pub trait Sealed: Sized + Compiled {
        /// Whether the type is bf16.
        const IS_BF16: bool = false;

        /// The view, as one of any type.
        fn erase<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D>;

        /// The same for writing.
        fn erase_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D>;

        /// This row as one of f32, or back if it is of another type.
        #[inline(always)]
        fn f32_row(row: Row<'_, Self>) -> Result<Row<'_>, Row<'_, Self>> {
            Err(row)
        }

        /// This slice as one of f32, if it is.
        #[inline(always)]
        fn f32s(_: &[Self]) -> Option<&[f32]> {
            None
        }

        /// This slice as one of f32, if it is.
        #[inline(always)]
        fn f32s_mut(_: &mut [Self]) -> Option<&mut [f32]> {
            None
        }

        /// As many elements as there are floats, of any values: they stand in for a row where a loop
        /// wants one and nothing comes of it.
        fn stand_in(floats: &[f32]) -> &[Self];
    }

    impl Sealed for f32 {
        fn erase<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D> {
            AnyView::F32(view)
        }

        fn erase_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D> {
            AnyViewMut::F32(view)
        }

        #[inline(always)]
        fn f32_row(row: Row<'_>) -> Result<Row<'_>, Row<'_>> {
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

    impl Sealed for half::bf16 {
        const IS_BF16: bool = true;

        fn erase<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D> {
            AnyView::Bf16(view)
        }

        fn erase_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D> {
            AnyViewMut::Bf16(view)
        }

        #[inline(always)]
        fn stand_in(floats: &[f32]) -> &[Self] {
            // SAFETY: any bits are a bf16, which is smaller than an f32 and aligned to less.
            unsafe { core::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
        }
    }

    impl Sealed for half::f16 {
        fn erase<const D: usize>(view: View<'_, D, Self>) -> AnyView<'_, D> {
            AnyView::F16(view)
        }

        fn erase_mut<const D: usize>(view: ViewMut<'_, D, Self>) -> AnyViewMut<'_, D> {
            AnyViewMut::F16(view)
        }

        #[inline(always)]
        fn stand_in(floats: &[f32]) -> &[Self] {
            // SAFETY: any bits are an f16, which is smaller than an f32 and aligned to less.
            unsafe { core::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
        }
    }
}

/// A type that numbers are stored in. Every one of its values is an f32; the way back rounds to the
/// nearest, ties to even, keeps denormals and makes infinities of what is too large. NaN stay NaN.
///
/// ```
/// use tilewright_kernels::Element;
/// use half::bf16;
/// assert_eq!(bf16::from_f32(1.003).to_f32(), 1.0); // 8 bits of significand
/// assert_eq!(<f32 as Element>::NAME, "f32");
/// ```
pub trait Element: sealed::Sealed + Copy + Debug + Default + PartialEq + Send + Sync + 'static {
    /// `"f32"`, `"bf16"` or `"f16"`.
    const NAME: &'static str;

    /// Its value.
    fn to_f32(self) -> f32;

    /// The nearest to `x`.
    fn from_f32(x: f32) -> Self;

    /// The values of the `LANES` elements at `p`, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` elements.
    unsafe fn load<I: Isa>(isa: I, p: *const Self) -> I::V;

    /// Stores the nearest to each lane at `p`, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` elements.
    unsafe fn store<I: Isa>(isa: I, v: I::V, p: *mut Self);

    /// The values of the `2 LANES` elements at `p`, of any alignment, in the order of
    /// [`store_pair`](Self::store_pair).
    ///
    /// # Safety
    /// `p` is valid for reads of `2 LANES` elements.
    #[inline(always)]
    unsafe fn load_pair<I: Isa>(isa: I, p: *const Self) -> [I::V; 2] {
        // SAFETY: the caller's.
        unsafe { [Self::load(isa, p), Self::load(isa, p.add(I::V::LANES))] }
    }

    /// Stores the nearest to each lane at `p`, of any alignment. NaN must be from arithmetic on elements.
    ///
    /// # Safety
    /// `p` is valid for writes of `2 LANES` elements.
    #[inline(always)]
    unsafe fn store_pair<I: Isa>(isa: I, [a, b]: [I::V; 2], p: *mut Self) {
        // SAFETY: the caller's.
        unsafe {
            Self::store(isa, a, p);
            Self::store(isa, b, p.add(I::V::LANES));
        }
    }

    /// The values of the first `min(src.len(), LANES)` elements of `src`; other lanes are `fill`.
    #[inline(always)]
    fn load_partial<I: Isa>(isa: I, src: &[Self], fill: f32) -> I::V {
        let mut lanes = [fill; MAX_LANES];
        for (to, from) in lanes[..I::V::LANES].iter_mut().zip(src) {
            *to = from.to_f32();
        }
        I::V::load(isa, &lanes)
    }

    /// Stores the nearest to each of the first `min(dst.len(), LANES)` lanes.
    #[inline(always)]
    fn store_partial<I: Isa>(isa: I, v: I::V, dst: &mut [Self]) {
        let mut lanes = [Self::default(); MAX_LANES];
        // SAFETY: no instruction set has more lanes.
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
        // SAFETY: the caller's.
        unsafe { I::V::load_ptr(isa, p) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(_: I, v: I::V, p: *mut Self) {
        // SAFETY: the caller's.
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
        // SAFETY: the caller's.
        unsafe { I::V::load_bf16(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(isa: I, v: I::V, p: *mut Self) {
        // SAFETY: the caller's.
        unsafe { v.store_bf16(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_pair<I: Isa>(isa: I, p: *const Self) -> [I::V; 2] {
        // SAFETY: the caller's.
        unsafe { I::V::load_bf16_pair(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_pair<I: Isa>(isa: I, pair: [I::V; 2], p: *mut Self) {
        // SAFETY: the caller's.
        unsafe { I::V::store_bf16_pair(pair, isa, p.cast()) }
    }
}

/// The values of the first `LANES` elements of `src`; zeros behind its last.
#[inline(always)]
pub(crate) fn first_lanes<I: Isa, T: Element>(isa: I, src: &[T]) -> I::V {
    if src.len() < I::V::LANES {
        return T::load_partial(isa, src, 0.0);
    }
    // SAFETY: the length was checked.
    unsafe { T::load(isa, src.as_ptr()) }
}

/// Stores the nearest to each lane to the front of `dst`, as far as that reaches.
#[inline(always)]
pub(crate) fn store_first_lanes<I: Isa, T: Element>(isa: I, v: I::V, dst: &mut [T]) {
    if dst.len() < I::V::LANES {
        return T::store_partial(isa, v, dst);
    }
    // SAFETY: the length was checked.
    unsafe { T::store(isa, v, dst.as_mut_ptr()) }
}

/// The bits of the nearest bf16 to each of the first `LANES` elements of `src`, each in the lower half of
/// its lane; zeros behind the last.
#[inline(always)]
pub(crate) fn first_bf16_bits<I: Isa, T: Element>(isa: I, src: &[T]) -> I::V {
    let v = first_lanes(isa, src);
    if T::IS_BF16 { v.shr_bits::<16>() } else { bf16_bits(isa, v) }
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
        // SAFETY: the caller's.
        unsafe { I::V::load_f16(isa, p.cast()) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(_: I, v: I::V, p: *mut Self) {
        // SAFETY: the caller's.
        unsafe { v.store_f16(p.cast()) }
    }
}

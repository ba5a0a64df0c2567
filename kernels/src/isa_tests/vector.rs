//! The contract of [`Vector`], operation by operation.

use super::{mul_add, noise};
use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::{Backend, Kernel};
use half::{bf16, f16};

/// Every kind of float: zeros, denormals, ties, the ends of the i32 and f32 ranges, infinities, NaN.
const SPECIAL: [f32; 32] = [
    0.0,
    -0.0,
    f32::from_bits(1),
    -f32::from_bits(0x007f_ffff),
    f32::MIN_POSITIVE,
    -1.5e-30,
    0.25,
    -0.5,
    0.500_000_06,
    1.0,
    -1.0,
    1.5,
    -1.5,
    2.5,
    -3.5,
    7.123_456,
    -100.0,
    12_345.678,
    8_388_607.5,
    -8_388_608.0,
    16_777_217.0,
    1e9,
    2_147_483_500.0,
    -2_147_483_600.0,
    3e9,
    -1e20,
    1e38,
    f32::MAX,
    -f32::MAX,
    f32::INFINITY,
    -f32::INFINITY,
    f32::NAN,
];

/// All pairs of numbers of [`SPECIAL`] and noise, as pairs of slices of `lanes` numbers.
fn pairs(lanes: usize) -> impl Iterator<Item = (Vec<f32>, Vec<f32>)> {
    let firsts: Vec<f32> = SPECIAL.into_iter().chain((0..32).map(noise)).collect();
    (0..firsts.len()).flat_map(move |shift| {
        let seconds: Vec<f32> = (0..firsts.len()).map(|i| firsts[(i + shift) % firsts.len()]).collect();
        let vectors = firsts.chunks_exact(lanes).zip(seconds.chunks_exact(lanes));
        vectors.map(|(a, b)| (a.to_vec(), b.to_vec())).collect::<Vec<_>>()
    })
}

/// Returns the lanes of `v`.
fn lanes<I: Isa>(v: I::V) -> Vec<f32> {
    let mut out = vec![0.0; I::V::LANES];
    v.store(&mut out);
    out
}

/// Asserts that `got` equals `want` bit by bit; if `any_nan`, any two NaN are equal.
#[track_caller]
fn assert_lanes<I: Isa>(got: I::V, want: impl Iterator<Item = f32>, any_nan: bool, case: &str) {
    let (got, want) = (lanes::<I>(got), want.collect::<Vec<_>>());
    assert_eq!(got.len(), want.len());
    let same = |g: f32, w: f32| g.to_bits() == w.to_bits() || any_nan && g.is_nan() && w.is_nan();
    let all = got.iter().zip(&want).all(|(&g, &w)| same(g, w));
    assert!(all, "{} {case}: got {got:?}, expected {want:?}", I::NAME);
}

/// Compares an expression over vectors with an expression over their lanes, for all [`pairs`].
macro_rules! compare {
    ($I:ident, $isa:ident, $any_nan:literal, |$a:ident, $b:ident| $vector:expr, $scalar:expr) => {
        for (x, y) in pairs($I::V::LANES) {
            let got = {
                let ($a, $b) = ($I::V::load($isa, &x), $I::V::load($isa, &y));
                $vector
            };
            let want = x.iter().zip(&y).map(|(&$a, &$b)| $scalar);
            assert_lanes::<$I>(got, want, $any_nan, &format!("{} of {x:?}, {y:?}", stringify!($vector)));
        }
    };
}

/// Applies `f` to the bits of `a` and `b`; returns the float of the resulting bits.
fn bits(a: f32, b: f32, f: impl Fn(u32, u32) -> u32) -> f32 {
    f32::from_bits(f(a.to_bits(), b.to_bits()))
}

on_every_backend! {
    fn arithmetic<I>(isa) {
        compare!(I, isa, true, |a, b| a + b, a + b);
        compare!(I, isa, true, |a, b| a - b, a - b);
        compare!(I, isa, true, |a, b| a * b, a * b);
        compare!(I, isa, true, |a, b| a / b, a / b);
        compare!(I, isa, true, |a, b| a.mul_add(b, a), mul_add::<I>(a, b, a));
        compare!(I, isa, true, |a, b| b.mul_add(b, a), mul_add::<I>(b, b, a));
        compare!(I, isa, true, |a, _b| a.sqrt(), a.sqrt());
        compare!(I, isa, true, |a, _b| a.round(), a.round_ties_even());
        compare!(I, isa, false, |a, _b| -a, bits(a, a, |a, _| a ^ 0x8000_0000));
        compare!(I, isa, false, |a, _b| a.abs(), bits(a, a, |a, _| a & 0x7fff_ffff));
    }

    fn a_fused_product_rounds_once<I>(isa) {
        // (1 + e)^2 - (1 + 2e) = e^2, which a rounded product loses.
        let x = 1.0 + f32::EPSILON;
        let c = -(1.0 + 2.0 * f32::EPSILON);
        let got = I::V::splat(isa, x).mul_add(I::V::splat(isa, x), I::V::splat(isa, c));
        let want = if I::V::FUSED { f32::EPSILON * f32::EPSILON } else { 0.0 };
        assert_eq!(lanes::<I>(got), vec![want; I::V::LANES], "{}", I::NAME);
    }

    fn comparisons_and_choices<I>(isa) {
        let (yes, no) = (I::V::splat(isa, 1.0), I::V::splat(isa, -0.0));
        let choice = |c: bool| if c { 1.0 } else { -0.0 };
        compare!(I, isa, false, |a, b| yes.select(a.lt(b), no), choice(a < b));
        compare!(I, isa, false, |a, b| yes.select(a.le(b), no), choice(a <= b));
        compare!(I, isa, false, |a, b| yes.select(a.eq(b), no), choice(a == b));
        compare!(I, isa, false, |a, b| a.select(a.lt(b), b), if a < b { a } else { b });
        compare!(I, isa, false, |a, b| a.min(b), if a < b { a } else { b });
        compare!(I, isa, false, |a, b| a.max(b), if a > b { a } else { b });
        for lane in 0..I::V::LANES {
            let mut x = vec![0.0; I::V::LANES];
            assert!(!I::V::any(I::V::load(isa, &x).lt(no)), "{}", I::NAME);
            x[lane] = -1.0;
            assert!(I::V::any(I::V::load(isa, &x).lt(no)), "{} lane {lane}", I::NAME);
        }
    }

    fn bit_operations<I>(isa) {
        let (yes, no) = (I::V::splat(isa, 1.0), I::V::splat(isa, -0.0));
        let choice = |c: bool| if c { 1.0 } else { -0.0 };
        compare!(I, isa, false, |a, b| a.and_bits(b), bits(a, b, |a, b| a & b));
        compare!(I, isa, false, |a, b| a.or_bits(b), bits(a, b, |a, b| a | b));
        compare!(I, isa, false, |a, b| a.xor_bits(b), bits(a, b, |a, b| a ^ b));
        compare!(I, isa, false, |a, b| a.add_bits(b), bits(a, b, u32::wrapping_add));
        compare!(I, isa, false, |a, b| a.sub_bits(b), bits(a, b, u32::wrapping_sub));
        compare!(I, isa, false, |a, b| a.mul_bits(b), bits(a, b, u32::wrapping_mul));
        compare!(I, isa, false, |a, b| yes.select(a.lt_bits(b), no), choice(a.to_bits() < b.to_bits()));
        for (a, b) in pairs(I::V::LANES) {
            let product = I::V::load(isa, &a).mul_even_bits(I::V::load(isa, &b));
            let want = (0..a.len()).map(|i| {
                let product = u64::from(a[i & !1].to_bits()) * u64::from(b[i & !1].to_bits());
                f32::from_bits((product >> (32 * (i % 2))) as u32)
            });
            assert_lanes::<I>(product, want, false, "mul_even_bits");
        }
        compare!(I, isa, false, |a, _b| a.shl_bits::<1>(), bits(a, a, |a, _| a << 1));
        compare!(I, isa, false, |a, _b| a.shl_bits::<23>(), bits(a, a, |a, _| a << 23));
        compare!(I, isa, false, |a, _b| a.shr_bits::<1>(), bits(a, a, |a, _| a >> 1));
        compare!(I, isa, false, |a, _b| a.shr_bits::<23>(), bits(a, a, |a, _| a >> 23));
        compare!(I, isa, false, |a, b| b.select(a.eq(a), I::V::splat_bits(isa, 0x1234_5678)),
            if a.is_nan() { f32::from_bits(0x1234_5678) } else { b });
    }

    fn conversions<I>(isa) {
        compare!(I, isa, false, |a, _b| a.int_to_float(), a.to_bits().cast_signed() as f32);
        // Lanes out of range are unspecified: set them to zero.
        let bound = I::V::splat(isa, 2_147_483_600.0);
        let zero = I::V::splat(isa, 0.0);
        compare!(I, isa, false, |a, _b| a.select(a.abs().lt(bound), zero).float_to_int(), {
            let inside = if a.abs() < 2_147_483_600.0 { a } else { 0.0 };
            f32::from_bits((inside.round_ties_even() as i32).cast_unsigned())
        });
    }

    fn narrow_numbers<I>(isa) {
        let lanes = I::V::LANES;
        let mut halves = vec![0u16; lanes];
        let mut bytes = vec![0u8; lanes];
        for (x, _) in pairs(lanes) {
            let v = I::V::load(isa, &x);
            // SAFETY: `halves` and `bytes` hold `lanes` numbers.
            unsafe {
                v.store_u16(halves.as_mut_ptr());
                v.store_u8(bytes.as_mut_ptr());
            }
            let low = |x: &f32| x.to_bits() as u16;
            assert_eq!(halves, x.iter().map(low).collect::<Vec<_>>(), "{} store_u16", I::NAME);
            let lowest = |x: &f32| x.to_bits() as u8;
            assert_eq!(bytes, x.iter().map(lowest).collect::<Vec<_>>(), "{} store_u8", I::NAME);
            // SAFETY: `halves` and `bytes` hold `lanes` numbers.
            let (wide, signed) = unsafe {
                (I::V::load_u16(isa, halves.as_ptr()), I::V::load_i8(isa, bytes.as_ptr().cast()))
            };
            let expected = halves.iter().map(|&h| f32::from_bits(u32::from(h)));
            assert_lanes::<I>(wide, expected, false, "load_u16");
            let expected = bytes.iter().map(|&b| f32::from_bits(i32::from(b.cast_signed()).cast_unsigned()));
            assert_lanes::<I>(signed, expected, false, "load_i8");
        }
        compare!(I, isa, false, |a, b| a.dot_i16(b, a), bits(a, b, |a, b| {
            let halves = |x: u32| [x as i16, (x >> 16) as i16].map(i32::from);
            let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
            a.wrapping_add((a0 * b0).wrapping_add(a1.wrapping_mul(b1)).cast_unsigned())
        }));
    }

    // All f16 and bf16, and floats between each and the next one, ties among them.
    fn halves<I>(isa) {
        fn check<I: Isa, T: Element>(isa: I, from_bits: impl Fn(u16) -> T, to_bits: impl Fn(T) -> u16) {
            for first in (0..=u16::MAX).step_by(I::V::LANES) {
                let all: Vec<T> = (0..I::V::LANES as u16).map(|i| from_bits(first + i)).collect();
                let wide = T::load_partial::<I>(isa, &all, 0.0);
                assert_lanes::<I>(wide, all.iter().map(|x| x.to_f32()), true, T::NAME);
                // SAFETY: `all` holds `LANES` elements.
                let loaded = unsafe { T::load(isa, all.as_ptr()) };
                assert_lanes::<I>(loaded, all.iter().map(|x| x.to_f32()), true, T::NAME);
                for nudge in [0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xf000] {
                    let x = wide.add_bits(I::V::splat_bits(isa, nudge));
                    let mut narrow = all.clone();
                    T::store_partial::<I>(isa, x, &mut narrow);
                    for (x, narrow) in lanes::<I>(x).into_iter().zip(narrow) {
                        let expected = T::from_f32(x);
                        let nan = x.is_nan() && narrow.to_f32().is_nan();
                        let same = to_bits(narrow) == to_bits(expected);
                        let found = narrow.to_f32();
                        assert!(nan || same, "{} {}: {x:e} became {found:e}", I::NAME, T::NAME);
                    }
                }
            }
        }
        check::<I, f16>(isa, f16::from_bits, f16::to_bits);
        check::<I, bf16>(isa, bf16::from_bits, bf16::to_bits);
    }

    // All bf16, two vectors at a time, and floats near each number.
    fn pairs_of_halves<I>(isa) {
        let pair = 2 * I::V::LANES;
        for first in (0..=u16::MAX).step_by(pair) {
            let all: Vec<bf16> = (0..pair as u16).map(|i| bf16::from_bits(first + i)).collect();
            for nudge in [0, 1, 0x0fff, 0x7fff, 0x8000, 0x8001, 0xf000, 0xffff] {
                let bits = I::V::splat_bits(isa, nudge);
                let mut stored = all.clone();
                // SAFETY: `all` and `stored` hold `2 LANES` elements.
                unsafe {
                    let vectors = bf16::load_pair::<I>(isa, all.as_ptr());
                    let vectors = vectors.map(|v| v.or_bits(bits).select(v.eq(v), v));
                    bf16::store_pair::<I>(isa, vectors, stored.as_mut_ptr());
                }
                for (&x, stored) in all.iter().zip(stored) {
                    let near = f32::from_bits(x.to_f32().to_bits() | nudge);
                    if x.is_nan() {
                        assert!(stored.is_nan(), "{}: {x:e}", I::NAME);
                    } else if near.is_finite() || nudge == 0 {
                        assert_eq!(stored, bf16::from_f32(near), "{}: {near:e}", I::NAME);
                    }
                }
            }
        }
    }

    fn residues_and_bounded_magnitudes<I>(isa) {
        for i in -3000..3000i32 {
            let x = i as f32 * 0.0625 + 0.01 * noise(i.unsigned_abs() as usize);
            let v = I::V::splat(isa, x);
            let all = |x| core::iter::repeat_n(x, I::V::LANES);
            assert_lanes::<I>(v.residue::<0>(isa), all(x - x.round_ties_even()), false, "residue of 1");
            let quarters = (4.0 * x).round_ties_even() / 4.0;
            assert_lanes::<I>(v.residue::<2>(isa), all(x - quarters), false, "residue of 1/4");
            let most = I::V::splat(isa, 7.75);
            assert_lanes::<I>(v.abs_up_to(most), all(x.abs().min(7.75)), false, "abs_up_to");
            let nan = I::V::splat(isa, f32::NAN);
            assert_lanes::<I>(nan.abs_up_to(most), all(7.75), false, "abs_up_to of NaN");
        }
    }

    fn scaling_by_powers_of_two<I>(isa) {
        // From 1 up, each product rounds once. Below 1, products with n >= 0 are exact until they overflow.
        let values = [1.0, -1.999_999_9, 1.5, 1.000_000_1, 3.0e10, f32::MAX, 0.0, -0.0, f32::INFINITY, f32::NAN];
        let small = [f32::from_bits(1), -f32::from_bits(0x007f_fff1), f32::MIN_POSITIVE, -0.3];
        for n in -252..=252 {
            for &x in values.iter().chain(small.iter().filter(|_| n >= 0)) {
                let got = I::V::splat(isa, x).scale_by_pow2(isa, I::V::splat(isa, n as f32));
                let want = (f64::from(x) * 2f64.powi(n)) as f32;
                let want = core::iter::repeat_n(want, I::V::LANES);
                assert_lanes::<I>(got, want, true, &format!("{x:e} * 2^{n}"));
            }
        }
    }

    fn lanes_exchanged_and_reduced<I>(isa) {
        for start in 0..50 {
            let x: Vec<f32> = (0..I::V::LANES).map(|i| (noise(start + i) * 64.0).round()).collect();
            let v = I::V::load(isa, &x);
            let swapped = (0..x.len()).map(|i| x[i ^ 1]);
            assert_lanes::<I>(v.swap_pairs(), swapped, false, "swap_pairs");
            assert_eq!(v.sum(), x.iter().sum::<f32>(), "{} sum of {x:?}", I::NAME);
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(v.maximum(), largest, "{} maximum of {x:?}", I::NAME);
        }
    }

    fn whole_and_partial_loads_and_stores<I>(isa) {
        let lanes = I::V::LANES;
        let data: Vec<f32> = (0..3 * lanes).map(noise).collect();
        for start in 0..lanes {
            let at = &data[start..];
            assert_lanes::<I>(I::V::load(isa, at), at[..lanes].iter().copied(), false, "load");
            for n in 0..=lanes + 1 {
                let read = I::V::load_partial(isa, &at[..n], 7.0);
                let want = (0..lanes).map(|i| if i < n { at[i] } else { 7.0 });
                assert_lanes::<I>(read, want, false, &format!("load_partial of {n}"));

                let mut out = vec![9.0; 3 * lanes];
                read.store_partial(&mut out[start..start + n]);
                for (i, &x) in out.iter().enumerate() {
                    let stored = (start..start + n.min(lanes)).contains(&i);
                    let want = if stored { at[i - start] } else { 9.0 };
                    assert_eq!(x, want, "{} store_partial of {n} at {start}, element {i}", I::NAME);
                }
            }
        }
    }

    fn exp_down_is_exp<I>(isa) {
        // Every 257th argument from -0 to -inf, with denormal results among them.
        let arguments = (0x8000_0000..=0xff80_0000).step_by(257).map(f32::from_bits);
        let of_zero_and_below = arguments.chain([0.0, f32::NEG_INFINITY, f32::NAN, -f32::NAN]);
        let all: Vec<f32> = of_zero_and_below.collect();
        for x in all.chunks(I::V::LANES) {
            let v = I::V::load_partial(isa, x, 0.0);
            let (mut expected, mut found) = ([0.0f32; 16], [0.0f32; 16]);
            crate::math::exp(isa, v).store(&mut expected);
            crate::math::exp_down(isa, v).store(&mut found);
            for (i, x) in x.iter().enumerate() {
                let same = expected[i].to_bits() == found[i].to_bits();
                assert!(same || expected[i].is_nan() && found[i].is_nan(), "{} exp_down({x:e})", I::NAME);
            }
        }
    }
}

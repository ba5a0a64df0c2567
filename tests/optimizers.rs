//! Optimizer steps, norms of gradients, and their sum over micro-batches.

use tilewright_kernels::optimizer::{
    Adafactor, AdafactorOptions, Adam, AdamOptions, Add, GlobalNorm, GradientTree, Lamb, SecondMoment, Sgd,
    SgdOptions, Trainable, WeightDecay, clip_factor,
};
use tilewright_kernels::random::Random;
use tilewright_kernels::{Backend, Error};
use tilewright_suite::backends;
use tilewright_verify::bound::identical;

/// One test per kernel, so that each is named and they run side by side.
macro_rules! conforms {
    ($($kernel:ident)*) => {$(
        #[test]
        fn $kernel() {
            tilewright_suite::conforms(stringify!($kernel));
        }
    )*};
}
conforms!(adam lamb adafactor sgd global_norm);

/// Asks every backend, and the definition, for an error that starts like this, and for parameters that were not
/// touched.
fn refused(expected: &str, run: impl Fn(Backend, &mut [f32; 4]) -> Result<(), Error>) {
    for &backend in Backend::available() {
        let mut p = [7.0; 4];
        let error = run(backend, &mut p).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{}: {error}, not {expected}", backend.name());
        assert_eq!(p, [7.0; 4], "{expected}: refused, and yet written");
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let g = [1.0; 4];
    let options = AdamOptions::adamw(0.1, 1);
    refused("Trainable.gradients: expected shape [4], found [3]", |backend, p| {
        let of = Trainable::new(p, &g[..3]);
        backend.run(Adam { of, m: &mut [0.0; 4], v: &mut [0.0; 4], options })
    });
    refused("Trainable.bf16: expected shape [4], found [0]", |backend, p| {
        let of = Trainable { bf16: Some(&mut []), ..Trainable::new(p, &g) };
        backend.run(Sgd { of, momentum: None, options: SgdOptions::new(0.1) })
    });
    refused("Adam.v: expected shape [4], found [2]", |backend, p| {
        backend.run(Adam { of: Trainable::new(p, &g), m: &mut [0.0; 4], v: &mut [0.0; 2], options })
    });
    refused("Lamb.m: expected shape [4], found [2]", |backend, p| {
        backend.run(Lamb { of: Trainable::new(p, &g), m: &mut [0.0; 2], v: &mut [0.0; 4], options })
    });
    refused("Lamb.options: expected a decoupled weight decay, found L2(0.5)", |backend, p| {
        let options = AdamOptions { weight_decay: WeightDecay::L2(0.5), ..options };
        backend.run(Lamb { of: Trainable::new(p, &g), m: &mut [0.0; 4], v: &mut [0.0; 4], options })
    });
    refused("Sgd.momentum: expected shape [4], found [5]", |backend, p| {
        let (of, options) = (Trainable::new(p, &g), SgdOptions::new(0.1));
        backend.run(Sgd { of, momentum: Some(&mut [0.0; 5]), options })
    });
    refused("Trainable.parameters: expected shape [6], found [4]", |backend, p| {
        let second_moment = SecondMoment::Factored { rows: &mut [0.0; 2], columns: &mut [0.0; 3] };
        let (of, options) = (Trainable::new(p, &g), AdafactorOptions::new(1));
        backend.run(Adafactor { of, second_moment, options })
    });
    refused("Add.x: expected shape [4], found [3]", |backend, sum| backend.run(Add { x: &g[..3], sum }));
    let mut tree = GradientTree::new(4, 2);
    let mut push = |part, g: &[f32]| tree.push(Backend::best(), part, g).unwrap_err().to_string();
    assert_eq!(push(0, &g[..3]), "GradientTree.gradients: expected shape [4], found [3]");
    assert_eq!(push(2, &g), "GradientTree.part: part 2 is outside of a tree of 2 parts");
    tree.push(Backend::best(), 1, &g).unwrap();
    let again = tree.push(Backend::best(), 1, &g).unwrap_err().to_string();
    assert_eq!(again, "GradientTree.part: part 1 was pushed before");
}

/// `n` numbers near 1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal()).collect()
}

/// Runs one step on parameters and two states.
type RunStep<'a> = &'a dyn Fn(Trainable<'_>, &mut [f32], &mut [f32], u64);

/// Parameters and states of three steps of each optimizer, and the norm, have equal bits in pools of 1 to 4 threads.
#[test]
fn steps_do_not_depend_on_threads() {
    let [rows, columns] = [401, 517];
    let n = rows * columns;
    let (start, g) = (numbers(n, 1), numbers(n, 2));
    for backend in backends() {
        let steps = || {
            let mut all = Vec::new();
            let norm = backend.run(GlobalNorm { x: &g });
            let scale = clip_factor(norm, 1.0);
            all.extend([norm as f32, scale]);
            let mut each = |run: RunStep<'_>| {
                let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
                for step in 1..4 {
                    let of = Trainable { gradient_scale: scale, ..Trainable::new(&mut p, &g) };
                    run(of, &mut m, &mut v, step);
                }
                all.extend([p, m, v].concat());
            };
            each(&|of, m, v, step| {
                backend.run(Adam { of, m, v, options: AdamOptions::adamw(0.1, step) }).unwrap();
            });
            each(&|of, m, v, step| {
                backend.run(Lamb { of, m, v, options: AdamOptions::adamw(0.1, step) }).unwrap();
            });
            each(&|of, m, _, _| {
                let options = SgdOptions { momentum: 0.9, ..SgdOptions::new(0.1) };
                backend.run(Sgd { of, momentum: Some(m), options }).unwrap();
            });
            each(&|of, m, v, step| {
                let second_moment =
                    SecondMoment::Factored { rows: &mut m[..rows], columns: &mut v[..columns] };
                backend.run(Adafactor { of, second_moment, options: AdafactorOptions::new(step) }).unwrap();
            });
            each(&|of, _, v, step| {
                let options = AdafactorOptions::new(step);
                backend.run(Adafactor { of, second_moment: SecondMoment::Full(v), options }).unwrap();
            });
            all
        };
        let in_pool = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(steps)
        };
        let one = in_pool(1);
        for threads in 2..=4 {
            identical(&in_pool(threads), &one)
                .unwrap_or_else(|e| panic!("{} on {threads} threads: {e}", backend.name()));
        }
    }
}

/// The bits of a sum of micro-batches depend on their numbers alone, and are those of the binary tree.
#[test]
fn micro_batches_may_arrive_in_any_order() {
    fn defined(parts: &[Vec<f32>]) -> Vec<f32> {
        if parts.len() < 2 {
            return parts[0].clone();
        }
        let half = parts.len().next_power_of_two() / 2;
        let (low, high) = parts.split_at(half);
        defined(low).iter().zip(defined(high)).map(|(a, b)| a + b).collect()
    }
    let len = 5000;
    let random = &mut Random::new(3);
    for count in [1, 2, 3, 5, 8, 13] {
        let parts: Vec<Vec<f32>> = (0..count).map(|i| numbers(len, i)).collect();
        let expected = defined(&parts);
        let mut tree = GradientTree::new(len, parts.len());
        for round in 0..6 {
            let mut order: Vec<usize> = (0..parts.len()).collect();
            if round > 0 {
                (1..order.len()).for_each(|i| order.swap(i, random.below(i + 1)));
            }
            for &part in &order {
                assert_eq!(tree.sum(), None);
                tree.push(Backend::best(), part, &parts[part]).unwrap();
            }
            identical(tree.sum().unwrap(), &expected).unwrap_or_else(|e| panic!("{order:?}: {e}"));
            tree.clear();
        }
    }
}

/// PyTorch 2.15: three steps of `AdamW(lr=0.1, weight_decay=0.1)` and `Adam(lr=0.1, weight_decay=0.1)` from (1, -2) with
/// gradients (0.5, -0.25), in f64.
#[test]
fn adam_is_that_of_pytorch() {
    let run = |weight_decay: WeightDecay| {
        let (mut p, mut m, mut v) = ([1.0, -2.0], [0.0; 2], [0.0; 2]);
        for step in 1..4 {
            let options = AdamOptions { weight_decay, ..AdamOptions::adamw(0.1, step) };
            let of = Trainable::new(&mut p, &[0.5, -0.25]);
            Backend::best().run(Adam { of, m: &mut m, v: &mut v, options }).unwrap();
        }
        p
    };
    for (decay, expected) in [
        (WeightDecay::Decoupled(0.1), [0.6732890059402006, -1.6435880118804]),
        (WeightDecay::L2(0.1), [0.7001745748141189, -1.7002398410165762]),
    ] {
        for (found, expected) in run(decay).iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 4e-7, "{decay:?}: {found} instead of {expected}");
        }
    }
}

/// transformers 4.57: three steps of `Adafactor(weight_decay=0.1)`, otherwise its defaults, on a matrix and a vector, in
/// f64.
#[test]
fn adafactor_is_that_of_transformers() {
    let matrix = [
        -0.9666842602529061,
        -0.5088887471736319,
        -0.027709196658811875,
        0.5125392748042726,
        0.9557326773609833,
        1.5185751487860273,
    ];
    let vector = [-0.9787792534081472, -0.5183270084202366, -0.019291587810775262];
    for expected in [&matrix[..], &vector] {
        let n = expected.len();
        let mut p: Vec<f32> = (0..n).map(|i| i as f32 * 0.5 - 1.0).collect();
        let (mut rows, mut columns, mut v) = ([0.0; 2], [0.0; 3], [0.0; 3]);
        for step in 1..4 {
            let g: Vec<f32> = (0..n).map(|i| ((i * 7 % 5) as f32 - 1.5) * step as f32).collect();
            let second_moment = match n {
                3 => SecondMoment::Full(&mut v),
                _ => SecondMoment::Factored { rows: &mut rows, columns: &mut columns },
            };
            let options = AdafactorOptions { weight_decay: 0.1, ..AdafactorOptions::new(step) };
            let of = Trainable::new(&mut p, &g);
            Backend::best().run(Adafactor { of, second_moment, options }).unwrap();
        }
        for (found, expected) in p.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 4e-7, "{found} instead of {expected}");
        }
    }
}

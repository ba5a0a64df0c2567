//! Experiment.
use std::time::Duration;
use tilewright_kernels::gemm::{Gemm, Rhs};
use tilewright_kernels::{Backend, View, ViewMut};
fn cpu() -> Duration {
    let s = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(s.split(' ').next().unwrap().parse().unwrap())
}
fn main() {
    let backend = Backend::best();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().unwrap();
    pool.install(|| {
        for [m, k, n] in [
            [1024, 96, 3072],
            [1024, 128, 3072],
            [1024, 192, 3072],
            [1024, 256, 3072],
            [1024, 320, 3072],
            [1024, 384, 3072],
            [126, 192, 3072],
            [126, 256, 3072],
            [126, 320, 3072],
            [126, 384, 3072],
        ] {
            let layers = 12;
            let new = |len: usize| vec![0.5f32; len];
            let w: Vec<_> = (0..layers).map(|_| new(n * k)).collect();
            let mut dw: Vec<_> = (0..layers).map(|_| new(n * k)).collect();
            let x: Vec<_> = (0..layers).map(|_| new(m * k)).collect();
            let mut dx = new(m * k);
            let mut y: Vec<_> = (0..layers).map(|_| new(m * n)).collect();
            let mut best = [Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..3 {
                let mut t = [Duration::ZERO; 4];
                for l in 0..layers {
                    let s = cpu();
                    let wt = View::<2>::new(&w[l], [n, k]).unwrap().transpose();
                    backend
                        .run(Gemm::new(
                            View::<2>::new(&x[l], [m, k]).unwrap(),
                            Rhs::Matrix(wt.into()),
                            ViewMut::<2>::new(&mut y[l], [m, n]).unwrap(),
                        ))
                        .unwrap();
                    t[0] += cpu() - s;
                }
                for l in (0..layers).rev() {
                    let s = cpu();
                    let dy = View::<2>::new(&y[l], [m, n]).unwrap();
                    backend
                        .run(Gemm {
                            beta: 1.0,
                            ..Gemm::new(
                                dy.transpose(),
                                Rhs::Matrix(View::<2>::new(&x[l], [m, k]).unwrap().into()),
                                ViewMut::<2>::new(&mut dw[l], [n, k]).unwrap(),
                            )
                        })
                        .unwrap();
                    t[1] += cpu() - s;
                    let s = cpu();
                    let w = View::<2>::new(&w[l], [n, k]).unwrap();
                    backend
                        .run(Gemm::new(
                            dy,
                            Rhs::Matrix(w.into()),
                            ViewMut::<2>::new(&mut dx, [m, k]).unwrap(),
                        ))
                        .unwrap();
                    t[2] += cpu() - s;
                    // hot: again
                    let s = cpu();
                    backend
                        .run(Gemm::new(
                            dy,
                            Rhs::Matrix(w.into()),
                            ViewMut::<2>::new(&mut dx, [m, k]).unwrap(),
                        ))
                        .unwrap();
                    t[3] += cpu() - s;
                }
                for i in 0..4 {
                    best[i].push(layers as f64 * 2e-9 * (m * n * k) as f64 / t[i].as_secs_f64());
                }
                // peak: small product in L1
                let (a, b) = (vec![1.0f32; 96 * 256], vec![1.0f32; 256 * 96]);
                let mut c = vec![0.0f32; 96 * 96];
                let packed =
                    tilewright_kernels::gemm::PackedB::new(backend, View::<2>::new(&b, [256, 96]).unwrap());
                let packed = packed;
                let s = cpu();
                for _ in 0..2000 {
                    backend
                        .run(Gemm::new(
                            View::<2>::new(&a, [96, 256]).unwrap(),
                            Rhs::Packed(&packed),
                            ViewMut::<2>::new(&mut c, [96, 96]).unwrap(),
                        ))
                        .unwrap();
                }
                best[4].push(2000.0 * 2e-9 * (96 * 96 * 256) as f64 / (cpu() - s).as_secs_f64());
            }
            let mut peak = Vec::new();
            for _ in 0..3 {
                let s = cpu();
                let ops = tilewright_kernels::probe::Peak::from(backend).run(30_000_000);
                peak.push(1e-9 * ops as f64 / (cpu() - s).as_secs_f64());
                let wt = View::<2>::new(&w[0], [n, k]).unwrap().transpose();
                let packed = tilewright_kernels::gemm::PackedB::new(backend, wt);
                let s = cpu();
                for l in 0..layers {
                    backend
                        .run(Gemm::new(
                            View::<2>::new(&x[l], [m, k]).unwrap(),
                            Rhs::Packed(&packed),
                            ViewMut::<2>::new(&mut y[l], [m, n]).unwrap(),
                        ))
                        .unwrap();
                }
                peak.push(layers as f64 * 2e-9 * (m * n * k) as f64 / (cpu() - s).as_secs_f64());
            }
            println!("peak, packed: {peak:.1?}");
            println!(
                "{m}x{k}x{n}: forward {:.1?} dW {:.1?} dX {:.1?} dX again {:.1?} small packed {:.1?} GF/s",
                best[0], best[1], best[2], best[3], best[4]
            );
        }
    });
}

//! A linear layer, y = gelu(x W^T + bias): the weight is packed once, then serves any number of rows.

use tilewright_kernels::gemm::{Epilogue, Gemm, PackedB, Rhs};
use tilewright_kernels::{Activation, Backend, Error, View, ViewMut};

fn linear(backend: Backend, rows: usize) -> Result<Vec<f32>, Error> {
    let (k, n) = (64, 48);
    let x: Vec<f32> = (0..rows * k).map(|i| (i % 7) as f32 - 3.0).collect();
    let w: Vec<f32> = (0..n * k).map(|i| (i % 5) as f32 * 0.01).collect();
    let (bias, mut y) = (vec![0.5; n], vec![0.0; rows * n]);
    let weight = PackedB::new(backend, View::new(&w, [n, k])?.transpose());
    backend.run(Gemm {
        alpha: 1.0,
        a: View::new(&x, [rows, k])?.into(),
        b: Rhs::Packed(&weight),
        beta: 0.0,
        c: ViewMut::new(&mut y, [rows, n])?.into(),
        epilogue: Epilogue {
            column_bias: Some(&bias),
            activation: Some(Activation::GeluErf),
            ..Epilogue::default()
        },
    })?;
    Ok(y)
}

fn main() -> Result<(), Error> {
    for backend in Backend::available() {
        for rows in [1, 17] {
            let (found, expected) = (linear(*backend, rows)?, linear(Backend::REFERENCE, rows)?);
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{:12} {rows:2} rows: largest difference to the reference {worst:.1e}", backend.name());
            assert!(worst < 1e-4);
        }
    }
    Ok(())
}

//! Row kernels in bf16: LayerNorm, softmax with a mask, and an activation, in place.

use half::bf16;
use tilewright_kernels::{
    Activate, Activation, Backend, ColumnMask, Error, LayerNorm, Rows, Softmax, ViewMut,
};

fn run(backend: Backend) -> Result<Vec<bf16>, Error> {
    let shape = [2, 96];
    let mut x: Vec<bf16> = (0..2 * 96).map(|i| bf16::from_f32((i as f32 * 0.21).sin() * 3.0)).collect();
    let rows = Rows::InPlace(ViewMut::new(&mut x, shape)?);
    backend.run(LayerNorm::new(rows, 1e-5))?;
    let rows = Rows::InPlace(ViewMut::new(&mut x, shape)?);
    backend.run(Activate { rows, activation: Activation::Silu })?;
    let rows = Rows::InPlace(ViewMut::new(&mut x, shape)?);
    backend.run(Softmax { mask: ColumnMask::Lengths(&[96, 40]), ..Softmax::new(rows) })?;
    Ok(x)
}

fn main() -> Result<(), Error> {
    let expected = run(Backend::REFERENCE)?;
    for backend in Backend::available() {
        let found = run(*backend)?;
        let worst =
            found.iter().zip(&expected).map(|(a, b)| (a.to_f32() - b.to_f32()).abs()).fold(0.0, f32::max);
        println!("{:12} largest difference to the reference {worst:.1e}", backend.name());
        assert!(worst < 1e-2);
        assert!(found[96 + 40..].iter().all(|&x| x == bf16::ZERO), "masked columns are zero");
    }
    Ok(())
}

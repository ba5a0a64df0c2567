//! Selection of a backend: list the available ones, force one by name, and compare it with the reference.

use tilewright_kernels::{Backend, Error, LayerNorm, Rows, View, ViewMut};

fn layer_norm(backend: Backend) -> Result<Vec<f32>, Error> {
    let shape = [3, 100];
    let x: Vec<f32> = (0..300).map(|i| (i as f32 * 0.7).sin() + 10.0).collect();
    let mut y = vec![0.0; x.len()];
    let rows = Rows::Into(View::new(&x, shape)?, ViewMut::new(&mut y, shape)?);
    backend.run(LayerNorm::new(rows, 1e-5))?;
    Ok(y)
}

fn main() -> Result<(), Error> {
    // `TILEWRIGHT_ISA=avx2 cargo run --example backend` forces a backend; an unavailable name is an error.
    let chosen = Backend::from_env()?;
    let names: Vec<_> = Backend::available().iter().map(|backend| backend.name()).collect();
    println!("available: {}; chosen: {}", names.join(", "), chosen.name());

    // `portable` is available on every CPU.
    let forced = Backend::named("portable")?;
    assert_eq!(forced, Backend::PORTABLE);
    match Backend::named("avx1024") {
        Err(error @ Error::Backend { .. }) => println!("{error}"),
        other => panic!("expected an error, found {other:?}"),
    }

    let expected = layer_norm(Backend::REFERENCE)?;
    for backend in [chosen, forced] {
        let found = layer_norm(backend)?;
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{:12} largest difference to the reference {worst:.1e}", backend.name());
        assert!(worst < 1e-4);
    }
    Ok(())
}

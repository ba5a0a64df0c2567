//! From token ids to sentence embeddings: embedding, RoPE, pooling and L2 normalisation of two packed sequences.

use tilewright_kernels::{
    Backend, Embedding, Error, L2Normalize, Lookup, Pool, Rope, RopeLayout, RopeTable, Rows, View, ViewMut,
};

/// Sequences of three tokens and one token; a row of four columns for each of five entries.
const OFFSETS: [usize; 3] = [0, 3, 4];
const IDS: [u32; 4] = [4, 0, 2, 1];
const POSITIONS: [u32; 4] = [0, 1, 2, 0];
const VOCABULARY: usize = 5;
const DIM: usize = 4;

fn embed(backend: Backend) -> Result<Vec<f32>, Error> {
    let tokens = IDS.len();
    let table: Vec<f32> = (0..VOCABULARY * DIM).map(|i| i as f32).collect();
    let lookup = Lookup { table: View::new(&table, [VOCABULARY, DIM])?, ids: &IDS };
    let mut x = vec![0.0; tokens * DIM];
    backend.run(Embedding::new(&[lookup], ViewMut::new(&mut x, [tokens, DIM])?))?;
    assert_eq!(x[..DIM], [16.0, 17.0, 18.0, 19.0], "row 4 of the table");

    // One head of four columns. Position 0 is not rotated.
    let rope = RopeTable::new(RopeLayout::HalfSplit, 8, DIM, 10_000.0);
    let rows = Rows::InPlace(ViewMut::new(&mut x, [tokens, DIM])?);
    backend.run(Rope::new(rows, DIM, &POSITIONS, &rope))?;
    assert_eq!(x[..DIM], [16.0, 17.0, 18.0, 19.0], "position 0");
    // At position 1 the pair (0, 2) of entry 0 turns by one radian: a cos - b sin, b cos + a sin.
    let (sin, cos) = 1f32.sin_cos();
    assert!((x[DIM] - (0.0 * cos - 2.0 * sin)).abs() < 1e-5);
    assert!((x[DIM + 2] - (2.0 * cos + 0.0 * sin)).abs() < 1e-5);

    let mut y = vec![0.0; 2 * DIM];
    let out = ViewMut::new(&mut y, [2, DIM])?;
    let x = View::new(&x, [tokens, DIM])?;
    backend.run(Pool::new(x, &OFFSETS, out))?;
    assert_eq!(y[DIM..], [4.0, 5.0, 6.0, 7.0], "the mean of one row is the row");
    backend.run(L2Normalize::new(Rows::InPlace(ViewMut::new(&mut y, [2, DIM])?), 1e-12))?;
    Ok(y)
}

fn main() -> Result<(), Error> {
    let expected = embed(Backend::REFERENCE)?;
    for backend in Backend::available() {
        let found = embed(*backend)?;
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{:12} largest difference to the reference {worst:.1e}", backend.name());
        assert!(worst < 1e-5);
        let norm: f32 = found[..DIM].iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5, "normalised rows have length 1");
    }
    Ok(())
}

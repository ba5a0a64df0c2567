//! BERT: the states of a text, with the weights in a directory or random ones.
//!
//! `cargo run --release --example bert -- [DIR]`

use tilewright::{
    Arithmetic, Batch, Error, architectures::Architecture, bert, checkpoint::weights::Weights,
    heads::HeadKind,
};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    let on = Arithmetic::f32(Backend::best());
    let mut model = match std::env::args_os().nth(1) {
        Some(dir) => Architecture::of(dir.as_ref())?.load(dir.as_ref(), on)?,
        None => Box::new(bert::open(bert::Config::default(), Weights::random(0), on, HeadKind::Bare)?),
    };
    let mut batch = Batch::default();
    batch.push(&[101, 7592, 2088, 102], &[0; 4])?; // [CLS] hello world [SEP]
    for output in model.forward(&batch)? {
        println!("{}: rows of {}, {:?} ..", output.name, output.width, &output.values[..3]);
    }
    Ok(())
}

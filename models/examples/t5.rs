//! T5: greedy decoding after a source, with the weights in a directory or random ones.
//!
//! `cargo run --release --example t5 -- [DIR]`

use tilewright::causal_lm::{CausalLm, Want};
use tilewright::t5::{Config, T5, T5Class};
use tilewright::{Arithmetic, Batch, Error, checkpoint::config::Fields, checkpoint::weights::Weights};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    let (on, class) = (Arithmetic::f32(Backend::best()), T5Class::ConditionalGeneration);
    let mut model = match std::env::args_os().nth(1).map(std::path::PathBuf::from) {
        Some(dir) => T5::open(Config::read(&Fields::open(&dir)?)?, &Weights::open(&dir)?, on, class)?,
        None => T5::random(Config::default(), 0, on, class)?,
    };
    let mut source = Batch::default();
    source.push(&[8774, 6, 149, 33, 25, 58, 1], &[0; 7])?; // "Hello, how are you?"
    let mut cache = model.encode(&source, 20)?.remove(0);
    let (mut id, mut logits) = (0, Vec::new()); // T5 starts with its padding token.
    while id != 1 && cache.len() < cache.capacity() {
        let mut token = Batch::default();
        token.push(&[id], &[0])?;
        model.extend(&token, &mut [&mut cache], Want::Last, &mut logits)?;
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        id = best.expect("the vocabulary is not empty") as u32;
        print!("{id} ");
    }
    println!();
    Ok(())
}

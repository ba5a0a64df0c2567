//! BART: greedy decoding after a source, with the weights in a directory or random ones.
//!
//! `cargo run --release --example bart -- [DIR]`

use tilewright::causal_lm::Want;
use tilewright::{Arithmetic, Batch, Error, architectures::Architecture, bart, model::Model};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    let on = Arithmetic::f32(Backend::best());
    let mut model: Box<dyn Model> = match std::env::args_os().nth(1) {
        Some(dir) => Architecture::of(dir.as_ref())?.load(dir.as_ref(), on)?,
        None => {
            let config = bart::Config { encoder_layers: 2, decoder_layers: 2, ..bart::Config::default() };
            Box::new(bart::Bart::random(config, 0, on, bart::BartClass::ConditionalGeneration)?)
        }
    };
    let Some(model) = model.causal_lm() else {
        println!("the model has no head for words");
        return Ok(());
    };
    let mut source = Batch::default();
    source.push(&[0, 12, 7, 2], &[0; 4])?;
    let mut cache = model.encode(&source, 20)?.remove(0);
    let (mut token, mut logits) = (2, Vec::new()); // BART starts with its end token.
    for _ in 0..20 {
        let mut next = Batch::default();
        next.push(&[token], &[0])?;
        model.extend(&next, &mut [&mut cache], Want::Last, &mut logits)?;
        token = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0) as u32;
        print!("{token} ");
    }
    println!();
    Ok(())
}

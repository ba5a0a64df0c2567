//! ELECTRA: finds replaced tokens, with a discriminator of random weights.

use tilewright::{
    Arithmetic, Batch, Error, checkpoint::weights::Weights, electra, heads::HeadKind, model::Model as _,
};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    let on = Arithmetic::f32(Backend::best());
    let mut model = electra::open(electra::Config::default(), Weights::random(0), on, HeadKind::PreTraining)?;
    let mut batch = Batch::default();
    batch.push(&[101, 1996, 4937, 2938, 102], &[0; 5])?; // [CLS] the cat sat [SEP]
    let logits = &model.forward(&batch)?[0];
    for (id, logit) in batch.ids().iter().zip(&logits.values) {
        println!("{id:5}: {}", if *logit > 0.0 { "replaced" } else { "original" });
    }
    Ok(())
}

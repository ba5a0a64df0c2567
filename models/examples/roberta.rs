//! RoBERTa with random weights: scores of all words for each token.

use tilewright::{
    Arithmetic, Batch, Error, checkpoint::weights::Weights, heads::HeadKind, model::Model as _, roberta,
};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    let on = Arithmetic::f32(Backend::best());
    let mut config = roberta::Config::default();
    config.bert.num_hidden_layers = 2;
    let mut model = roberta::open(config, Weights::random(0), on, HeadKind::MaskedLm)?;
    let mut batch = Batch::default();
    batch.push(&[0, 31414, 50264, 2], &[0; 4])?; // <s> Hello <mask> </s>
    let logits = &model.forward(&batch)?[0];
    let at_mask = &logits.values[2 * logits.width..][..logits.width];
    let best = (0..logits.width).max_by(|&a, &b| at_mask[a].total_cmp(&at_mask[b]));
    println!("best word for <mask>: {best:?} of {}", logits.width);
    Ok(())
}

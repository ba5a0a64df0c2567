//! GPT-2 with random weights: continues two texts at once, each with its own cache.

use tilewright::causal_lm::{CausalLm, Want};
use tilewright::gpt2::{Config, Gpt2};
use tilewright::{Arithmetic, Batch, Error};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    let config = Config { n_layer: 2, n_embd: 96, n_head: 4, vocab_size: 500, ..Config::default() };
    let mut gpt2 = Gpt2::random(config, 0, Arithmetic::f32(Backend::best()))?;
    let mut texts = [vec![17, 3, 90, 41], vec![200]];
    let (mut a, mut b, mut logits) = (gpt2.cache(32), gpt2.cache(32), Vec::new());
    let mut seen = [0, 0];
    for _ in 0..8 {
        let mut new = Batch::default();
        for (text, seen) in texts.iter().zip(seen) {
            new.push(&text[seen..], &vec![0; text.len() - seen])?;
        }
        seen = [texts[0].len(), texts[1].len()];
        gpt2.extend(&new, &mut [&mut a, &mut b], Want::Last, &mut logits)?;
        for (text, logits) in texts.iter_mut().zip(logits.chunks(gpt2.vocab_size())) {
            text.push((0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0) as u32);
        }
    }
    println!("{texts:?}");
    Ok(())
}

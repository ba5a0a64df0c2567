//! LLaMA: continues a text with its most probable tokens, with the weights in a directory:
//! `cargo run --release -p tilewright --example llama -- DIR "Once upon a time"`.

use std::path::Path;
use tilewright::architectures::Architecture;
use tilewright::causal_lm::Want;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::{Arithmetic, Batch};
use tilewright_kernels::Backend;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, text] = &arguments[..] else { return Err("expected DIR TEXT".into()) };
    let (dir, tokenizer) = (Path::new(dir), Tokenizer::open(Path::new(dir))?);
    let mut model = Architecture::of(dir)?.load(dir, Arithmetic::f32(Backend::best()))?;
    let llama = model.causal_lm().ok_or("the checkpoint has no head")?;

    let mut next = tokenizer.encode(&[text])?;
    let (mut ids, mut logits) = (next.ids().to_vec(), Vec::new());
    let mut cache = llama.cache(ids.len() + 32);
    while cache.len() < cache.capacity() {
        llama.extend(&next, &mut [&mut cache], Want::Last, &mut logits)?;
        ids.push((0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0) as u32);
        next = Batch::default();
        next.push(&ids[ids.len() - 1..], &[0])?;
    }
    println!("{}", tokenizer.decode(&ids)?);
    Ok(())
}

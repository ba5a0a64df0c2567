//! Causal attention over a whole text, and token by token with a KV cache: both give equal bits.

use tilewright_kernels::{
    Attention, Backend, CachedAttention, Error, KvCache, Precision, View, ViewMut, Window,
};

fn main() -> Result<(), Error> {
    let (backend, heads, tokens, dim) = (Backend::best(), 2, 5, 8);
    let x: Vec<f32> = (0..heads * tokens * dim).map(|i| (i as f32 * 0.37).sin()).collect();
    let view = || View::new(&x, [1, heads, tokens, dim]);

    let mut whole = vec![0.0; x.len()];
    let out = ViewMut::new(&mut whole, [1, heads, tokens, dim])?;
    backend.run(Attention { window: Window::CAUSAL, ..Attention::new(view()?, view()?, view()?, out) })?;

    let mut cache = KvCache::new(backend, Precision::F32, heads, [dim, dim], tokens);
    for token in 0..tokens {
        let step = view()?.at(0).slice(1, token..token + 1);
        cache.append(step, step)?;
        let mut row = vec![0.0; heads * dim];
        let (caches, starts) = ([&cache], [0, 1]);
        let out = ViewMut::new(&mut row, [1, heads, 1, dim])?;
        let attention = CachedAttention::new(step.into(), &caches, &starts, out);
        backend.run(CachedAttention { window: Window::CAUSAL, ..attention })?;
        for head in 0..heads {
            let at = (head * tokens + token) * dim;
            assert_eq!(row[head * dim..][..dim], whole[at..at + dim]);
        }
    }
    println!("{}: {tokens} tokens with a cache have the bits of one call", backend.name());
    Ok(())
}

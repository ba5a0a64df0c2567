//! ALBERT: parameter counts beside BERT's, with the sizes of ALBERT-base and random weights.

use tilewright::{
    Arithmetic, Error, albert, bert, checkpoint::weights::Weights, heads::HeadKind, model::Model as _,
};
use tilewright_kernels::Backend;

fn main() -> Result<(), Error> {
    let on = Arithmetic::f32(Backend::best());
    let base = bert::Config { vocab_size: 30000, ..bert::Config::default() };
    let bert = bert::open(base.clone(), Weights::random(0), on, HeadKind::Bare)?;
    let config = albert::Config { bert: base, ..albert::Config::default() };
    let albert = albert::open(config, Weights::random(0), on, HeadKind::Bare)?;
    for (name, parts) in [("BERT", bert.parts()), ("ALBERT", albert.parts())] {
        println!("{name}");
        for part in parts {
            println!("  {:24} {:8.2} M", part.name, part.count() as f64 / 1e6);
        }
    }
    Ok(())
}

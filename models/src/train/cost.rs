//! Operations of a training step, for its share of the machine's peak.
//!
//! ```text
//! linear layers    6 k n         for each row: Y = X W^T, dX = dY W, dW = dY^T X, two operations a multiply-add
//! attention       12 width       for each pair of a query and a key that it sees: Q K^T, P V, and their four gradients
//! ```
//!
//! The rows of a layer are the tokens of the encoder or of the decoder; of a head, the tokens with a label, if labels are
//! of tokens. Left out: norms, activations, embeddings, softmax, recomputation in the backward pass, losses, the
//! optimizer, and heads that see a row for each sequence. Keys and values of cross-attention count as if they were of
//! the decoder's tokens.

use super::micro_batch::MicroBatch;
use crate::batch::Batch;
use crate::labels::count;
use crate::layers::{LinearTensor, ModelLinear};
use crate::model::Model;

/// Pairs of a query and a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairs {
    /// All of a sequence.
    Own,
    /// Each token and those before it.
    Causal,
    /// Tokens of the decoder and tokens of the encoder.
    Cross,
}

/// Operations of a step on these micro-batches: the module's head says which are counted.
pub fn operations(model: &dyn Model, micro_batches: &[MicroBatch]) -> f64 {
    let layers = model.linear_layers();
    let of_part = |part: &MicroBatch| layers.iter().map(|layer| of_layer(layer, part)).sum::<f64>();
    micro_batches.iter().map(of_part).sum()
}

fn of_layer(layer: &ModelLinear<'_>, of: &MicroBatch) -> f64 {
    let decoder = of.decoder.as_ref().unwrap_or(&of.batch);
    let rows = match layer.part {
        "head" if of.labels.labels.len() == decoder.tokens() => count(&of.labels.labels),
        "head" | "decoder" => decoder.tokens() as f64,
        _ => of.batch.tokens() as f64,
    };
    let linear = 6.0 * rows * layer.linear.multiply_adds() as f64;
    let attention = queries(layer).map_or(0.0, |(width, which)| {
        let sequences = if layer.part == "decoder" { decoder } else { &of.batch };
        12.0 * width as f64 * pairs(which, sequences, &of.batch)
    });
    layer.times as f64 * (linear + attention)
}

/// Width of the queries that a layer computes, and the keys that they see.
fn queries(layer: &ModelLinear<'_>) -> Option<(usize, Pairs)> {
    let of_tensor = |tensor: &LinearTensor| {
        let (name, width) = (tensor.name.as_str(), tensor.outputs.len());
        let cross = ["encoder_attn.", "EncDecAttention."].iter().any(|attention| name.contains(attention));
        let ends = |end: &str| name.ends_with(end);
        match layer.part {
            _ if ends("attn.c_attn.weight") => Some((width / 3, Pairs::Causal)),
            _ if !["query.weight", "q_proj.weight", "Attention.q.weight"].into_iter().any(ends) => None,
            _ if cross => Some((width, Pairs::Cross)),
            "decoder" => Some((width, Pairs::Causal)),
            // LLaMA's; the encoders of BERT's kind name theirs query.
            "layers" if ends("q_proj.weight") => Some((width, Pairs::Causal)),
            _ => Some((width, Pairs::Own)),
        }
    };
    layer.linear.tensors().iter().find_map(of_tensor)
}

/// Number of pairs in all sequences.
fn pairs(which: Pairs, queries: &Batch, encoder: &Batch) -> f64 {
    let lengths = |batch: &Batch| -> Vec<f64> {
        batch.starts().windows(2).map(|ends| (ends[1] - ends[0]) as f64).collect()
    };
    let of = lengths(queries);
    match which {
        Pairs::Own => of.iter().map(|n| n * n).sum(),
        Pairs::Causal => of.iter().map(|n| n * (n + 1.0) / 2.0).sum(),
        Pairs::Cross => of.iter().zip(lengths(encoder)).map(|(n, m)| n * m).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::Architecture;
    use crate::arithmetic::Arithmetic;
    use crate::checkpoint::config::Fields;
    use crate::checkpoint::initial::Initialization;
    use crate::checkpoint::weights::Weights;
    use crate::labels::Labels;
    use tilewright_kernels::Backend;

    #[test]
    fn operations_are_those_of_the_layers_that_rows_pass() {
        let (h, wide, words) = (32.0, 64.0, 50.0);
        let bert = r#"{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "vocab_size": 50, "max_position_embeddings": 16, "architectures": ["BertForMaskedLM"], "model_type": "bert"}"#;
        let gpt2 = r#"{"n_embd": 32, "n_inner": 64, "n_layer": 3, "n_head": 4, "n_positions": 16, "vocab_size": 50,
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}"#;
        let mut batch = Batch::default();
        batch.push_ids(&[1; 5]).unwrap();
        batch.push_ids(&[1; 3]).unwrap();
        let labels = Labels { labels: vec![-100, 1, -100, -100, 2, 3, -100, -100], ..Labels::default() };
        let of = MicroBatch { batch, decoder: None, labels };
        let layers = 3.0 * 8.0 * (4.0 * h * h + 2.0 * h * wide);
        for (json, family, head, pairs) in [
            (bert, "bert", 3.0 * (h * h + h * words), 25.0 + 9.0),
            (gpt2, "gpt2", 3.0 * h * words, 15.0 + 6.0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), json).unwrap();
            let fields = Fields::open(folder.path()).unwrap();
            let weights = Weights::initial(Initialization::new(family, &fields, 1).unwrap()).trainable();
            let open = Architecture::of(folder.path()).unwrap();
            let model = open.open(folder.path(), weights, Arithmetic::f32(Backend::PORTABLE)).unwrap();
            let expected = 6.0 * (layers + head) + 12.0 * 3.0 * h * pairs;
            assert_eq!(operations(&*model, std::slice::from_ref(&of)), expected, "{family}");
        }
    }
}

//! Initial parameters, as transformers draws them.
//!
//! ```text
//! biases                 0
//! weights of norms       1
//! other tensors          normal, mean 0; the deviation is initializer_range or init_std, 0.02 by default
//! GPT-2's c_proj         that, divided by sqrt(2 layers)
//! T5                     deviations of its own, by the width that a layer reads
//! rows of padding        0
//! ```
//!
//! A value is a function of the seed, the tensor's name and the element's index. So a model has the same bits on every
//! machine, and a tensor keeps its values if others come or go.

use crate::checkpoint::config::Fields;
use crate::error::Error;
use tilewright_kernels::philox4x32_10;

/// Distribution of a model's initial parameters.
///
/// ```
/// # use std::path::Path;
/// use tilewright::checkpoint::{config::Fields, initial::Initialization, weights::Weights};
/// let fields = Fields::from_bytes(Path::new("config.json"), br#"{"initializer_range": 0.1}"#)?;
/// let weights = Weights::initial(Initialization::new("bert", &fields, 7)?);
/// assert_eq!(weights.get("bert.embeddings.LayerNorm.weight", &[3])?, [1.0; 3]);
/// assert_eq!(weights.get("bert.pooler.dense.bias", &[2])?, [0.0; 2]);
/// let drawn = weights.get("bert.pooler.dense.weight", &[100, 100])?;
/// let square = drawn.iter().map(|w| w * w).sum::<f32>() / 1e4;
/// assert!((square.sqrt() - 0.1).abs() < 0.01);
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Initialization {
    /// Seed of the values.
    pub seed: u64,
    /// Deviation of tensors without another one.
    deviation: f64,
    /// Value of the weights of norms.
    norm: f64,
    /// Deviations of tensors whose names end so.
    deviations: Vec<(&'static str, f64)>,
    /// Tensors whose names end so, and their row of zeros.
    padding: Vec<(&'static str, usize)>,
    /// True if a head for words is the word table.
    tied: bool,
}

impl Initialization {
    /// Distribution for the config of a family, as `model_type` names it.
    ///
    /// # Errors
    /// [`Error::File`], naming the field, if one has another type or no positive value.
    pub fn new(model_type: &str, fields: &Fields, seed: u64) -> Result<Self, Error> {
        let positive = |name: &str, default: f64| {
            let value = fields.get(name, default)?;
            match value > 0.0 && f64::is_finite(value) {
                true => Ok(value),
                false => Err(fields.error(format!("{name}: expected a positive number, found {value}"))),
            }
        };
        let range = if matches!(model_type, "bart" | "marian") { "init_std" } else { "initializer_range" };
        let deviation = positive(range, 0.02)?;
        let mut of = Self {
            seed,
            deviation,
            norm: 1.0,
            deviations: Vec::new(),
            padding: Vec::new(),
            tied: fields.get("tie_word_embeddings", model_type != "llama")?,
        };
        let pad = |default: Option<usize>| fields.get("pad_token_id", default);
        match model_type {
            "gpt2" => {
                let layers = positive("n_layer", 12.0)?;
                of.deviations.push(("c_proj.weight", deviation / (2.0 * layers).sqrt()));
            }
            "t5" => {
                let factor = positive("initializer_factor", 1.0)?;
                let [d, kv, ff, heads] =
                    [("d_model", 512.0), ("d_kv", 64.0), ("d_ff", 2048.0), ("num_heads", 8.0)]
                        .map(|(name, default)| positive(name, default));
                let (d, kv, ff, heads) = (d?, kv?, ff?, heads?);
                of.norm = factor;
                of.deviation = factor;
                let by = |width: f64| factor / width.sqrt();
                of.deviations.extend([
                    ("Attention.q.weight", by(d * kv)),
                    ("Attention.k.weight", by(d)),
                    ("Attention.v.weight", by(d)),
                    ("Attention.o.weight", by(heads * kv)),
                    ("relative_attention_bias.weight", by(d)),
                    ("DenseReluDense.wi.weight", by(d)),
                    ("DenseReluDense.wi_0.weight", by(d)),
                    ("DenseReluDense.wi_1.weight", by(d)),
                    ("DenseReluDense.wo.weight", by(ff)),
                ]);
            }
            "bart" | "marian" => {
                let row = pad(Some(if model_type == "bart" { 1 } else { 58100 }))?;
                let tables = ["shared.weight", "embed_tokens.weight"];
                of.padding.extend(tables.into_iter().filter_map(|table| Some((table, row?))));
            }
            "llama" => of.padding.extend(pad(None).ok().flatten().map(|row| ("embed_tokens.weight", row))),
            _ => {
                let row = pad(Some(if model_type == "roberta" { 1 } else { 0 }))?;
                of.padding.extend(row.map(|row| ("word_embeddings.weight", row)));
                if model_type == "roberta" {
                    of.padding.extend(row.map(|row| ("position_embeddings.weight", row)));
                }
            }
        }
        Ok(of)
    }

    /// True unless the tensor is a head that the word table replaces.
    pub(super) fn has(&self, name: &str) -> bool {
        !(self.tied && name.ends_with("lm_head.weight"))
    }

    /// Values of the tensor `name`, row-major.
    pub fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let count: usize = shape.iter().product();
        if name.ends_with("bias") {
            return vec![0.0; count];
        }
        if shape.len() == 1 {
            return vec![self.norm as f32; count];
        }
        let own = self.deviations.iter().find(|(end, _)| name.ends_with(end));
        let mut values = normals(self.seed, name, count, own.map_or(self.deviation, |(_, own)| *own));
        let width = count / shape[0].max(1);
        for (_, row) in self.padding.iter().filter(|(end, row)| name.ends_with(end) && *row < shape[0]) {
            values[row * width..(row + 1) * width].fill(0.0);
        }
        values
    }
}

/// Normal values by Box and Muller's transform of uniform ones.
fn normals(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    // FNV-1a: the hash must not change with a library's release.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let key = [seed as u32, (seed >> 32) as u32];
    let pair = |i: usize| {
        let counter = [i as u32, (i as u64 >> 32) as u32, hash as u32, (hash >> 32) as u32];
        let [a, b, c, d] = philox4x32_10(counter, key).map(f64::from);
        // Uniform in (0, 1] and [0, 1), with 53 bits and more.
        let (u, v) = (
            (a * 4_294_967_296.0 + b + 1.0) / 18_446_744_073_709_551_616.0,
            (c + d / 4_294_967_296.0) / 4_294_967_296.0,
        );
        let (radius, angle) = ((-2.0 * libm::log(u)).sqrt(), core::f64::consts::TAU * v);
        [radius * libm::cos(angle), radius * libm::sin(angle)].map(|x| (deviation * x) as f32)
    };
    let mut values: Vec<f32> = (0..count.div_ceil(2)).flat_map(pair).collect();
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(model_type: &str, json: &str) -> Initialization {
        let fields = Fields::from_bytes("config.json".as_ref(), json.as_bytes()).unwrap();
        Initialization::new(model_type, &fields, 5).unwrap()
    }

    fn moments(values: &[f32]) -> [f64; 2] {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let square = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        [mean, square.sqrt()]
    }

    #[test]
    fn deviations_are_those_of_transformers() {
        let (bert, gpt2) = (of("bert", "{}"), of("gpt2", r#"{"n_layer": 8}"#));
        let t5 = of("t5", r#"{"d_model": 64, "d_kv": 4, "d_ff": 100, "num_heads": 9}"#);
        for (by, name, expected) in [
            (&bert, "bert.encoder.layer.0.output.dense.weight", 0.02),
            (&gpt2, "transformer.h.0.attn.c_attn.weight", 0.02),
            (&gpt2, "transformer.h.0.mlp.c_proj.weight", 0.005),
            (&t5, "shared.weight", 1.0),
            (&t5, "encoder.block.0.layer.0.SelfAttention.q.weight", 1.0 / 16.0),
            (&t5, "decoder.block.0.layer.1.EncDecAttention.v.weight", 1.0 / 8.0),
            (&t5, "encoder.block.0.layer.0.SelfAttention.o.weight", 1.0 / 6.0),
            (&t5, "encoder.block.0.layer.1.DenseReluDense.wo.weight", 0.1),
        ] {
            let [mean, deviation] = moments(&by.values(name, &[300, 200]));
            // Five standard errors of 60000 values.
            assert!(mean.abs() < 0.021 * expected, "{name}: {mean}");
            assert!((deviation / expected - 1.0).abs() < 0.015, "{name}: {deviation}");
        }
    }

    #[test]
    fn biases_norms_and_padding_are_constant() {
        let bert = of("bert", r#"{"pad_token_id": 2}"#);
        assert_eq!(bert.values("bert.pooler.dense.bias", &[3]), [0.0; 3]);
        assert_eq!(bert.values("bert.embeddings.LayerNorm.weight", &[3]), [1.0; 3]);
        let words = bert.values("bert.embeddings.word_embeddings.weight", &[4, 3]);
        assert_eq!(words[6..9], [0.0; 3]);
        assert!(words.iter().filter(|&&w| w == 0.0).count() == 3);
        assert_eq!(of("bart", "{}").values("final_logits_bias", &[1, 5]), [0.0; 5]);
    }

    #[test]
    fn values_depend_on_seed_name_and_index_alone() {
        let bert = of("bert", "{}");
        let (long, short) = (bert.values("a.weight", &[5, 5]), bert.values("a.weight", &[3, 5]));
        assert_eq!(long[..15], short);
        assert_ne!(long, bert.values("b.weight", &[5, 5]));
        assert_ne!(long, Initialization { seed: 6, ..bert }.values("a.weight", &[5, 5]));
        let bits: Vec<u32> = long.iter().take(3).map(|v| v.to_bits()).collect();
        assert_eq!(bits, [3_153_357_456, 1_028_435_306, 991_668_880], "the same on every machine");
    }
}

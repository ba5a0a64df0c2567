//! Models of every architecture, built from random config.json files and random weights: every model is refused or
//! runs.
//!
//! Sizes are small, and the weights have the shapes that the sizes require.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tilewright::Arithmetic;
use tilewright::architectures::ARCHITECTURES;
use tilewright::checkpoint::weights::Weights;
use tilewright_fuzz::{directory, use_model};
use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;

/// Fields that hold sizes, each with the modulus that maps a byte to a size.
type Sizes = &'static [(&'static str, u8)];

/// The size fields of each family, which is a list of model types.
const SIZES: [(&[&str], Sizes); 5] = [
    (
        &["bert", "roberta", "albert", "electra"],
        &[
            ("vocab_size", 40),
            ("hidden_size", 33),
            ("num_hidden_layers", 4),
            ("num_attention_heads", 5),
            ("intermediate_size", 40),
            ("max_position_embeddings", 20),
            ("type_vocab_size", 3),
            ("embedding_size", 33),
            ("num_hidden_groups", 4),
            ("inner_group_num", 3),
        ],
    ),
    (
        &["gpt2"],
        &[
            ("vocab_size", 40),
            ("n_positions", 20),
            ("n_embd", 33),
            ("n_layer", 4),
            ("n_head", 5),
            ("n_inner", 40),
        ],
    ),
    (
        &["llama"],
        &[
            ("vocab_size", 40),
            ("hidden_size", 33),
            ("intermediate_size", 40),
            ("num_hidden_layers", 4),
            ("num_attention_heads", 7),
            ("num_key_value_heads", 4),
            ("max_position_embeddings", 20),
        ],
    ),
    (
        &["t5"],
        &[
            ("vocab_size", 40),
            ("d_model", 33),
            ("d_kv", 20),
            ("d_ff", 40),
            ("num_layers", 4),
            ("num_decoder_layers", 4),
            ("num_heads", 5),
            ("relative_attention_num_buckets", 34),
            ("relative_attention_max_distance", 129),
        ],
    ),
    (
        &["bart", "marian"],
        &[
            ("vocab_size", 40),
            ("decoder_vocab_size", 40),
            ("max_position_embeddings", 20),
            ("d_model", 33),
            ("encoder_layers", 4),
            ("encoder_attention_heads", 5),
            ("encoder_ffn_dim", 40),
            ("decoder_layers", 4),
            ("decoder_attention_heads", 5),
            ("decoder_ffn_dim", 40),
        ],
    ),
];

/// Other fields, each with possible values.
const OTHERS: [(&str, &[&str]); 31] = [
    ("head_dim", &["null", "0", "1", "2", "6", "10"]),
    ("num_labels", &["0", "1", "3"]),
    ("id2label", &["{}", r#"{"0": "a", "7": "b"}"#]),
    ("pad_token_id", &["0", "1", "5", "19", "4294967295"]),
    ("eos_token_id", &["0", "2", "4294967295"]),
    ("decoder_start_token_id", &["0", "2", "39", "4294967295"]),
    ("hidden_act", &["\"relu\"", "\"silu\"", "\"gelu_new\"", "\"mish\"", "0"]),
    ("activation_function", &["\"relu\"", "\"swish\"", "\"tanh\""]),
    ("feed_forward_proj", &["\"relu\"", "\"gated-gelu\"", "\"gated-\"", "\"\""]),
    ("dense_act_fn", &["\"silu\""]),
    ("summary_activation", &["\"\"", "\"relu\""]),
    ("is_gated_act", &["true", "false"]),
    ("tie_word_embeddings", &["true", "false"]),
    ("scale_decoder_outputs", &["true", "false"]),
    ("scale_embedding", &["true", "false"]),
    ("share_encoder_decoder_embeddings", &["true", "false"]),
    ("attention_bias", &["true", "false"]),
    ("scale_attn_weights", &["true", "false"]),
    ("scale_attn_by_inverse_layer_idx", &["true", "false"]),
    ("layer_norm_eps", &["0", "-1", "1e-12", "1e300"]),
    ("layer_norm_epsilon", &["0", "1e-6", "1e300"]),
    ("rms_norm_eps", &["0", "1e-6", "1e300"]),
    ("rope_theta", &["0", "1e-300", "1", "5e5", "1e300"]),
    ("rope_parameters", &["{}", r#"{"rope_type": "default", "rope_theta": 3}"#, r#"{"rope_type": "yarn"}"#]),
    (
        "rope_scaling",
        &["{}", r#"{"type": "linear", "factor": 1e300}"#, r#"{"type": "linear", "factor": 0}"#, LLAMA_3],
    ),
    ("position_embedding_type", &["\"absolute\"", "\"relative_key\""]),
    ("is_decoder", &["true", "false"]),
    ("add_cross_attention", &["true", "false"]),
    ("normalize_before", &["true", "false"]),
    ("static_position_embeddings", &["true", "false"]),
    ("n_inner", &["null"]),
];

const LLAMA_3: &str = r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
    "original_max_position_embeddings": 8}"#;

#[derive(Arbitrary, Debug)]
struct Case {
    architecture: u8,
    dtype: u8,
    sizes: [u8; 10],
    others: Vec<(u8, u8)>,
    ids: [u8; 4],
}

fuzz_target!(|case: Case| {
    let architecture = ARCHITECTURES[usize::from(case.architecture) % ARCHITECTURES.len()];
    let (_, sizes) =
        SIZES.iter().find(|row| row.0.contains(&architecture.model_type)).expect("all are there");
    let sizes =
        sizes.iter().zip(case.sizes).map(|((name, most), byte)| format!("\"{name}\": {}", byte % most));
    let others = case.others.iter().map(|&(field, value)| {
        let (name, values) = OTHERS[usize::from(field) % OTHERS.len()];
        format!("\"{name}\": {}", values[usize::from(value) % values.len()])
    });
    let config = sizes.chain(others).collect::<Vec<_>>().join(", ");
    std::fs::write(directory().join("config.json"), format!("{{{config}}}")).expect("written");
    let dtype = Format::ALL[usize::from(case.dtype) % Format::ALL.len()];
    let on = Arithmetic::new(Backend::PORTABLE, dtype);
    if let Ok(mut model) = architecture.open(directory(), Weights::random(0), on) {
        use_model(&mut *model, &case.ids.map(|id| u32::from(id) % 48));
    }
});

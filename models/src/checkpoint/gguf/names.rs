//! Tensor names: from GGUF to Hugging Face.

/// Pairs of name parts (GGUF, Hugging Face) of a family.
struct FamilyNames {
    /// `general.architecture`.
    architecture: &'static str,
    /// Tensors outside of layers.
    outside: &'static [(&'static str, &'static str)],
    /// Hugging Face's name before the number of a layer.
    layers: &'static str,
    /// Tensors of a layer.
    layer: &'static [(&'static str, &'static str)],
}

const FAMILIES: [FamilyNames; 2] = [
    FamilyNames {
        architecture: "llama",
        outside: &[
            ("token_embd", "model.embed_tokens"),
            ("output_norm", "model.norm"),
            ("output", "lm_head"),
        ],
        layers: "model.layers.",
        layer: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ],
    },
    FamilyNames {
        architecture: "bert",
        outside: &[
            ("token_embd", "bert.embeddings.word_embeddings"),
            ("position_embd", "bert.embeddings.position_embeddings"),
            ("token_types", "bert.embeddings.token_type_embeddings"),
            ("token_embd_norm", "bert.embeddings.LayerNorm"),
        ],
        layers: "bert.encoder.layer.",
        layer: &[
            ("attn_q", "attention.self.query"),
            ("attn_k", "attention.self.key"),
            ("attn_v", "attention.self.value"),
            ("attn_output", "attention.output.dense"),
            ("attn_output_norm", "attention.output.LayerNorm"),
            ("ffn_up", "intermediate.dense"),
            ("ffn_down", "output.dense"),
            ("layer_output_norm", "output.LayerNorm"),
        ],
    },
];

/// Hugging Face's name of the tensor `name`, if it has one.
pub(super) fn hugging_face(architecture: &str, name: &str) -> Option<String> {
    let family = FAMILIES.iter().find(|family| family.architecture == architecture)?;
    let (stem, kind) = name.rsplit_once('.')?;
    let find = |table: &[(&str, &'static str)], stem| table.iter().find(|row| row.0 == stem).map(|row| row.1);
    match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((n, part)) => Some(format!("{}{n}.{}.{kind}", family.layers, find(family.layer, part)?)),
        None => Some(format!("{}.{kind}", find(family.outside, stem)?)),
    }
}

/// Metadata key of the number of heads, if llama.cpp interleaves the rows of the tensor `name`. llama.cpp rotates
/// neighbouring values, Hugging Face values half a head apart.
pub(super) fn interleaved(architecture: &str, name: &str) -> Option<&'static str> {
    let part = name.strip_prefix("blk.")?.split('.').nth(1)?;
    match (architecture, part) {
        ("llama", "attn_q") => Some("attention.head_count"),
        ("llama", "attn_k") => Some("attention.head_count_kv"),
        _ => None,
    }
}

/// Rows in Hugging Face's order: for each head, first the rows at even indices, then the rows at odd indices.
pub(crate) fn in_halves<T: Copy>(stored: &[T], rows: usize, heads: usize) -> Vec<T> {
    let (width, half) = (stored.len() / rows.max(1), rows / heads / 2);
    let row = |r: usize| {
        let (head, within) = (r / (2 * half), r % (2 * half));
        let from = head * 2 * half + within % half * 2 + within / half;
        &stored[from * width..][..width]
    };
    (0..rows).flat_map(row).copied().collect()
}

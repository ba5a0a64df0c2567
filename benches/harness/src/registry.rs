//! The list of all cases, which `tilewright bench`, `tilewright report` and `cargo bench` share.

use super::case::{AttentionShape, Case, Operation, ROW_KERNELS, TrainingStep};
use super::models::{MODELS, TRAIN_CASES, Task};
use std::path::Path;
use tilewright::Error;
use tilewright_peers::Dtype;

/// (m, k, n) of linear layers; `tilewright report` shows the first nine.
const LINEAR: &[[usize; 3]] = &[
    // BERT-base at 128 and 512 tokens, squares, MiniLM at 32 tokens, one token.
    [128, 768, 768],
    [128, 768, 3072],
    [512, 768, 3072],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [32, 384, 1536],
    [64, 64, 64],
    [1, 768, 3072],
    [1, 4096, 4096],
    // BERT-base: fused query, key and value; the product from 3072 back to 768; short and long sequences.
    [128, 768, 2304],
    [128, 3072, 768],
    [512, 3072, 768],
    [16, 768, 768],
    [16, 768, 3072],
    [16, 3072, 768],
    [2048, 768, 3072],
    // BERT-large.
    [128, 1024, 1024],
    [128, 1024, 4096],
    [512, 4096, 1024],
    // T5-small: encoder, decoder step, vocabulary.
    [64, 512, 512],
    [64, 512, 2048],
    [1, 512, 2048],
    [1, 512, 32128],
    // GPT-2: decoder step, vocabulary.
    [1, 768, 2304],
    [1, 3072, 768],
    [1, 768, 50257],
    // LLaMA-like: prompt and step of SmolLM2-135M, step of a 7B model, steps of 2 to 8 sequences.
    [512, 576, 1536],
    [512, 1536, 576],
    [1, 576, 1536],
    [1, 1536, 576],
    [1, 4096, 11008],
    [2, 768, 3072],
    [4, 768, 3072],
    [8, 768, 3072],
    [4, 4096, 4096],
    // Square, skinny and tiny shapes.
    [128, 128, 128],
    [256, 256, 256],
    [512, 512, 512],
    [4096, 64, 64],
    [64, 4096, 64],
    [4096, 32, 1024],
    [8, 8, 8],
    [16, 16, 16],
    [33, 65, 129],
];

/// (m, k, n) of linear layers whose backward pass is measured: BERT-base's wide layer at 512 tokens, a square one at 1024.
const LINEAR_BACKWARD: &[[usize; 3]] = &[[512, 768, 3072], [1024, 768, 768]];

/// Number of linear layers in a report.
const REPORT_LINEAR: usize = 9;
/// Number of attention shapes in a report.
const REPORT_ATTENTION: usize = 5;

/// Attention of BERT-base, one sequence of 128 tokens.
const BERT_BASE: AttentionShape = AttentionShape {
    batch: 1,
    heads: 12,
    kv_heads: 12,
    queries: 128,
    keys: 128,
    dim: 64,
    causal: false,
    cached: false,
    backward: false,
    dropout: false,
};

/// Self-attention over `length` tokens.
const fn square(length: usize, shape: AttentionShape) -> AttentionShape {
    AttentionShape { queries: length, keys: length, ..shape }
}

/// Attention shapes; `tilewright report` shows the first five.
const ATTENTION: &[AttentionShape] = &[
    BERT_BASE,
    square(512, BERT_BASE),
    square(2048, BERT_BASE),
    square(2048, AttentionShape { causal: true, ..BERT_BASE }),
    AttentionShape { batch: 8, ..BERT_BASE },
    square(16, BERT_BASE),
    square(32, AttentionShape { batch: 32, dim: 32, ..BERT_BASE }),
    // T5-small's cross-attention to 64 source tokens, GPT-2's step over 1024 keys.
    AttentionShape { heads: 8, kv_heads: 8, queries: 1, keys: 64, ..BERT_BASE },
    AttentionShape { queries: 1, keys: 1024, causal: true, ..BERT_BASE },
    // Prompt and step of SmolLM2-135M, then of an 8B model.
    AttentionShape { heads: 9, kv_heads: 3, queries: 512, keys: 512, causal: true, ..BERT_BASE },
    AttentionShape { heads: 9, kv_heads: 3, queries: 1, keys: 512, causal: true, ..BERT_BASE },
    AttentionShape { heads: 32, kv_heads: 8, queries: 512, keys: 512, dim: 128, causal: true, ..BERT_BASE },
    AttentionShape { heads: 32, kv_heads: 8, queries: 1, keys: 2048, dim: 128, causal: true, ..BERT_BASE },
];

/// The first of them with gradients, one long head, and a training batch with dropout.
const ATTENTION_BACKWARD: &[AttentionShape] = &[
    ATTENTION[0],
    ATTENTION[1],
    ATTENTION[2],
    ATTENTION[3],
    ATTENTION[4],
    square(4096, AttentionShape { heads: 1, kv_heads: 1, ..BERT_BASE }),
    AttentionShape { dropout: true, ..ATTENTION[4] },
];

/// Activations of BERT-base for 128 tokens, which fit in L2, and for 4096 tokens, which do not; wide rows.
const ROWS: &[[usize; 2]] = &[[128, 768], [4096, 768], [128, 4096]];

/// Logits of a BERT-base with 15% of its tokens masked, and of a GPT-2; BERT-base's words; all parameters of BERT-base.
const TRAINING: [TrainingStep; 4] = [
    TrainingStep::LinearCrossEntropy { tokens: 1024, labelled: 15, vocabulary: 30522 },
    TrainingStep::LinearCrossEntropy { tokens: 1024, labelled: 100, vocabulary: 50257 },
    TrainingStep::EmbeddingBackward { tokens: 4096, entries: 30522 },
    TrainingStep::AdamW { parameters: 110_000_000 },
];

/// Number of row shapes in a report.
const REPORT_ROWS: usize = 2;
/// Row kernels in a report.
const REPORT_ROW_KERNELS: [&str; 5] = ["layernorm", "rmsnorm", "softmax", "gelu-erf", "gelu-tanh"];

/// Linear layers of these shapes, each with packed and with unpacked weights.
pub fn linear(shapes: &[[usize; 3]], dtype: Dtype) -> Vec<Case> {
    let both = |&shape: &[usize; 3]| [true, false].map(|packed| Operation::Linear { shape, packed });
    shapes.iter().flat_map(both).map(|operation| Case { dtype, operation }).collect()
}

/// All cases of a type: linear layers and models; for f32, bf16 and f16, also attention and row kernels.
pub fn cases(dtype: Dtype) -> Vec<Case> {
    let mut all = linear(LINEAR, dtype);
    let of_type = |operation| Case { dtype, operation };
    if matches!(dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
        all.extend(LINEAR_BACKWARD.iter().map(|&shape| of_type(Operation::LinearBackward { shape })));
        all.extend(ATTENTION.iter().copied().map(Operation::Attention).map(of_type));
        let backward = ATTENTION_BACKWARD.iter().filter(|_| dtype != Dtype::F16);
        let backward = backward.map(|&shape| AttentionShape { backward: true, ..shape });
        all.extend(backward.map(Operation::Attention).map(of_type));
        // Caches hold f32 or bf16.
        let cached = ATTENTION.iter().filter(|shape| shape.is_decoder() && dtype != Dtype::F16);
        let cached = cached.map(|&shape| AttentionShape { cached: true, ..shape });
        all.extend(cached.map(Operation::Attention).map(of_type));
        all.extend(rows(ROWS).map(of_type));
    }
    let training = TRAINING.into_iter().filter(|step| step.has(dtype));
    all.extend(training.map(Operation::Training).map(of_type));
    all.extend(models(None).map(of_type));
    if matches!(dtype, Dtype::F32 | Dtype::Bf16) {
        all.extend((0..TRAIN_CASES.len()).map(Operation::Train).map(of_type));
    }
    all
}

/// The cases of a type in `tilewright report`, in the order of [`cases`].
pub fn report(dtype: Dtype) -> Vec<Case> {
    let rows = rows(&ROWS[..REPORT_ROWS])
        .filter(|row| REPORT_ROW_KERNELS.contains(&Case { dtype, operation: *row }.kernel()));
    let bert = MODELS[0].tasks.iter().map(|&task| Operation::Model { model: 0, task });
    let mut all = linear(&LINEAR[..REPORT_LINEAR], dtype);
    if matches!(dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
        let attention = ATTENTION[..REPORT_ATTENTION].iter().copied().map(Operation::Attention);
        all.extend(attention.map(|operation| Case { dtype, operation }));
        all.extend(rows.map(|operation| Case { dtype, operation }));
    }
    all.extend(bert.map(|operation| Case { dtype, operation }));
    all
}

fn rows(shapes: &[[usize; 2]]) -> impl Iterator<Item = Operation> {
    shapes.iter().flat_map(|&shape| ROW_KERNELS.iter().map(move |kernel| Operation::Rows { kernel, shape }))
}

/// All models, each at its own tasks or, if given, at `task`.
pub fn models(task: Option<Task>) -> impl Iterator<Item = Operation> {
    MODELS.iter().enumerate().flat_map(move |(model, case)| {
        let tasks = task.map_or(case.tasks.to_vec(), |task| vec![task]);
        tasks.into_iter().map(move |task| Operation::Model { model, task })
    })
}

/// Common names of kernels, and their names in cases; `_` counts as `-`.
const ALIASES: &[(&str, &str)] = &[
    ("gemm", "linear"),
    ("matmul", "linear"),
    ("dense", "linear"),
    ("gemm-backward", "linear-backward"),
    ("sdpa", "attention"),
    ("flash", "attention"),
    ("flash-attention", "attention"),
    ("mha", "attention"),
    ("sdpa-backward", "attention-backward"),
    ("ln", "layernorm"),
    ("layer-norm", "layernorm"),
    ("rms-norm", "rmsnorm"),
    ("l2-normalize", "l2norm"),
    ("logsoftmax", "log-softmax"),
    ("log-softmax", "log-softmax"),
    ("swish", "silu"),
    ("pooling", "mean-pool"),
    ("ce", "cross-entropy"),
    ("adam", "adamw"),
];

/// The filter with a leading alias replaced by the kernel's name: `gemm/bf16` becomes `linear/bf16`.
///
/// ```
/// use tilewright_bench::registry::resolve;
/// assert_eq!(resolve("matmul"), "linear");
/// assert_eq!(resolve("layer_norm/f32/128"), "layernorm/f32/128");
/// assert_eq!(resolve("gelu"), "gelu");
/// ```
pub fn resolve(filter: &str) -> String {
    let (head, rest) = filter.split_at(filter.find('/').unwrap_or(filter.len()));
    let spelled = head.to_lowercase().replace('_', "-");
    let name = ALIASES.iter().find(|(alias, _)| *alias == spelled).map_or(head, |(_, name)| name);
    format!("{name}{rest}")
}

/// Names that filters may begin with: kernels, models, aliases.
pub fn names() -> impl Iterator<Item = &'static str> {
    let kernels = ["linear", "linear-backward", "attention", "attention-backward"].into_iter();
    let kernels = kernels.chain(ROW_KERNELS.iter().map(|kernel| kernel.name));
    let kernels = kernels.chain(TRAINING.iter().map(|step| step.kernel()));
    let models = MODELS.iter().map(|model| model.name).chain(TRAIN_CASES.iter().map(|case| case.name));
    kernels.chain(models).chain(ALIASES.iter().map(|(alias, _)| *alias))
}

/// Upper bound of the numbers in all three matrices of a product: 8 GiB of f32.
const MOST_NUMBERS: u64 = 2 << 30;

/// Reads shapes of products in benchdnn's notation: `MxK:KxN`, one per line; `#` begins a comment.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] names the first line that is not a shape, whose matrices do not fit each other, or
/// whose matrices would exceed 8 GiB.
pub fn read_shapes(path: &Path) -> Result<Vec<[usize; 3]>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let mut shapes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let shape = line.split('#').next().unwrap_or_default().trim();
        if shape.is_empty() {
            continue;
        }
        let wrong = |why: String| Error::File {
            path: path.to_owned(),
            why: format!("line {}: {shape:?} {why}", number + 1),
        };
        shapes.push(parse_shape(shape).map_err(wrong)?);
    }
    if shapes.is_empty() {
        return Err(Error::File {
            path: path.to_owned(),
            why: "holds no shapes (MxK:KxN, one per line)".into(),
        });
    }
    Ok(shapes)
}

/// m, k, n of `MxK:KxN`.
fn parse_shape(text: &str) -> Result<[usize; 3], String> {
    let matrix = |text: &str| {
        let (rows, columns) = text.split_once('x')?;
        Some([rows.trim().parse::<u32>().ok()?, columns.trim().parse::<u32>().ok()?])
    };
    let Some(([m, k], [k2, n])) = text.split_once(':').and_then(|(a, b)| Some((matrix(a)?, matrix(b)?)))
    else {
        return Err("is not MxK:KxN".into());
    };
    if k != k2 {
        return Err(format!("does not fit: {k} columns against {k2} rows"));
    }
    if [m, k, n].contains(&0) {
        return Err("is empty".into());
    }
    let [wide_m, wide_k, wide_n] = [m, k, n].map(u64::from);
    let numbers = [[wide_m, wide_k], [wide_k, wide_n], [wide_m, wide_n]]
        .iter()
        .try_fold(0u64, |sum, [a, b]| sum.checked_add(a.checked_mul(*b)?));
    if numbers.is_none_or(|numbers| numbers > MOST_NUMBERS) {
        return Err("is too large: more than 8 GiB".into());
    }
    Ok([m, k, n].map(|extent| extent as usize))
}

#[cfg(test)]
mod tests {
    use super::super::case::DTYPES;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let all = DTYPES.map(cases).concat();
        let names: Vec<_> = all.iter().map(Case::name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for dtype in DTYPES {
            assert!(report(dtype).iter().all(|case| names.contains(&case.name())));
        }
    }

    #[test]
    fn shapes_are_read_as_benchdnn_writes_them() {
        assert_eq!(parse_shape("2x3:3x4"), Ok([2, 3, 4]));
        assert_eq!(parse_shape("128 x 768 : 768 x 3072"), Ok([128, 768, 3072]));
        for (text, why) in [
            ("2x3", "MxK:KxN"),
            ("2x3:4x5", "does not fit"),
            ("0x3:3x5", "empty"),
            ("-1x3:3x5", "MxK:KxN"),
            ("100000x100000:100000x1", "too large"),
            ("4294967295x4294967295:4294967295x4294967295", "too large"),
            ("99999999999x1:1x1", "MxK:KxN"),
        ] {
            let error = parse_shape(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

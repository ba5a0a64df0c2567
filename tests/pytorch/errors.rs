//! Errors of kernels and their gradients against f64, beside PyTorch's on the same inputs, as a Markdown table.
//!
//! `errors.py` writes the inputs and PyTorch's results, and says how to run both. A ratio above 1 means that PyTorch's
//! error is smaller.
#![forbid(unsafe_code)]

mod cases;

use cases::{Case, run};
use half::bf16;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use tilewright_kernels::Backend;

/// Largest error, and root of the mean square error, of `found`.
fn errors(found: &[f64], exact: &[f64]) -> [f64; 2] {
    assert_eq!(found.len(), exact.len(), "elements");
    let errors = found.iter().zip(exact).map(|(found, exact)| (found - exact).abs());
    let most = errors.clone().fold(0.0, f64::max);
    [most, (errors.map(|e| e * e).sum::<f64>() / exact.len() as f64).sqrt()]
}

/// Error of ours by PyTorch's.
fn ratio(ours: f64, theirs: f64) -> f64 {
    if ours == theirs { 1.0 } else { ours / theirs }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: pytorch_errors FILE (errors.py writes it)")?;
    let bytes = std::fs::read(&path).map_err(|e| format!("{path}: {e}"))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format!("{path}: {e}"))?;
    let mut cases: BTreeMap<(String, String), Case> = BTreeMap::new();
    for (name, tensor) in file.tensors() {
        let [case, dtype, kind, of] = name.split('|').collect::<Vec<_>>()[..] else {
            return Err(format!("{path}: expected case|type|kind|tensor, found {name:?}").into());
        };
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
            Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            other => return Err(format!("{path}: {name}: unexpected type {other:?}").into()),
        };
        let case = cases.entry((case.to_owned(), dtype.to_owned())).or_default();
        case.entry(kind.to_owned()).or_default().insert(of.to_owned(), (tensor.shape().to_vec(), values));
    }
    let backend = Backend::from_env()?;
    println!("Backend {}; ratios are ours / PyTorch's.\n", backend.name());
    println!("| case | type | result | largest error | PyTorch's | ratio | RMS error | PyTorch's | ratio |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for ((name, dtype), case) in &cases {
        let results = match &dtype[..] {
            "bfloat16" => run::<bf16>(name, case, backend)?,
            _ => run::<f32>(name, case, backend)?,
        };
        for (result, found) in results {
            let (_, exact) = &case["exact"][result];
            let (_, theirs) = &case["torch"][result];
            let ([most, rms], [their_most, their_rms]) = (errors(&found, exact), errors(theirs, exact));
            println!(
                "| {name} | {dtype} | {result} | {most:.2e} | {their_most:.2e} | {:.2} | {rms:.2e} | {their_rms:.2e} \
                 | {:.2} |",
                ratio(most, their_most),
                ratio(rms, their_rms),
            );
        }
    }
    Ok(())
}

//! `tilewright gradients`: loss and gradients of a checkpoint for a file of tensors, for parity with other frameworks.

use super::Common;
use super::checkpoint::{self, Checkpoint};
use super::training_type::TrainingType;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use tilewright::Arithmetic;
use tilewright::architectures::Architecture;
use tilewright::exchange::{TrainingInputs, write_gradients};
use tilewright_kernels::gemm::Format;

/// Computes loss and gradients of a checkpoint, for comparison with other frameworks
///
/// IN.safetensors holds the inputs of `tilewright forward`, and the labels of the class that `architectures` in
/// config.json names, under Hugging Face's names: labels, next_sentence_label, sentence_order_label, start_positions,
/// end_positions. They are int64, and -100 is no label; labels of a regression are float32. An encoder-decoder without
/// decoder_input_ids reads its labels, shifted by one token.
///
/// OUT.safetensors receives loss, of shape [], and the gradient of every parameter under its name and in its shape:
/// float32. A tensor with several uses is there once, under the name in the checkpoint. Nothing is dropped.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright gradients --model bert-base-uncased --inputs in.safetensors --out out.safetensors
  tilewright gradients --model bert-base-uncased --inputs in.safetensors --out out.safetensors --dtype bf16
  tilewright gradients --model gpt2 --inputs in.safetensors --out out.safetensors --json")]
pub struct Gradients {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// File with the inputs and labels
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,

    /// File to write loss and gradients to
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,

    #[command(flatten)]
    dtype: TrainingType,

    #[command(flatten)]
    common: Common,
}

impl Gradients {
    pub fn run(self) -> Result<()> {
        let session = self.dtype.start(&self.common)?;
        let dir = self.checkpoint.locate()?;
        let architecture = Architecture::of(&dir)?;
        let weights = checkpoint::weights(&dir, Format::F32)?.trainable();
        let model = architecture.open(&dir, weights.clone(), Arithmetic::f32(session.backend))?;
        let arena = self.dtype.of(weights.into_arena());
        let inputs = TrainingInputs::open(&self.inputs, &*model)?;
        let mut gradients = vec![0.0; arena.values().len()];
        let start = Instant::now();
        let loss = inputs.gradients(&*model, &arena, &mut gradients)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        write_gradients(&self.out, &loss, &arena, &gradients)?;

        let norm = gradients.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        let parts: serde_json::Map<_, _> =
            loss.parts.iter().map(|(name, sum)| ((*name).to_owned(), json!(sum.mean()))).collect();
        if session.json {
            return session.print_json(json!({
                "architecture": architecture.class,
                "milliseconds": milliseconds,
                "loss": loss.total,
                "parts": parts,
                "gradient_norm": norm,
                "parameters": arena.tensors().len(),
            }));
        }
        session.say(&format!(
            "{}: loss {:.6}, norm of the gradients of {} tensors {norm:.6}, {milliseconds:.1} ms",
            architecture.class,
            loss.total,
            arena.tensors().len(),
        ))?;
        for (name, sum) in &loss.parts {
            session.say(&format!("{name:24} {:.6}, {} terms", sum.mean(), sum.weight))?;
        }
        Ok(())
    }
}

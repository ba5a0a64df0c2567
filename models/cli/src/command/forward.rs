//! `tilewright forward`: outputs of a checkpoint for a file of tensors, for parity with other frameworks.

use super::Common;
use super::checkpoint::{Checkpoint, LayerPrecision};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use tilewright::architectures::Architecture;
use tilewright::exchange::ModelInputs;

/// Runs a checkpoint on tensors, for comparison with other frameworks
///
/// IN.safetensors holds input_ids and, if needed, attention_mask, token_type_ids, decoder_input_ids and
/// decoder_attention_mask. They are int64 and have the shape [rows, columns]; for multiple choice, the first three
/// have the shape [rows, choices, columns].
///
/// OUT.safetensors receives the outputs of the class that `architectures` in config.json names: float32, under
/// Hugging Face's names (last_hidden_state, encoder_last_hidden_state, pooler_output, logits, start_logits,
/// end_logits, prediction_logits, seq_relationship_logits, sop_logits), zero at padding.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright forward --model all-minilm-l6-v2 --inputs in.safetensors --out out.safetensors
  tilewright forward --model all-minilm-l6-v2 --inputs in.safetensors --out out.safetensors --dtype bf16")]
pub struct Forward {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// File with the inputs
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,

    /// File to write the outputs to
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,

    #[command(flatten)]
    precision: LayerPrecision,

    #[command(flatten)]
    common: Common,
}

impl Forward {
    pub fn run(self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let inputs = ModelInputs::open(&self.inputs)?;
        let dir = self.checkpoint.locate()?;
        let architecture = Architecture::of(&dir)?;
        let mut model = self.precision.load(architecture, &dir, &session)?;
        let start = Instant::now();
        let outputs = inputs.run(&mut *model)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        inputs.write(&self.out, &outputs)?;

        if session.json {
            let outputs: serde_json::Map<_, _> =
                outputs.iter().map(|o| (o.name.to_owned(), json!(inputs.padded_shape(o)))).collect();
            return session.print_json(json!({
                "architecture": architecture.class,
                "milliseconds": milliseconds,
                "outputs": outputs,
            }));
        }
        session.say(&format!(
            "{}: {} tokens in {milliseconds:.1} ms",
            architecture.class,
            inputs.tokens.batch.tokens()
        ))?;
        for output in &outputs {
            session.say(&format!("{:24} {:?}", output.name, inputs.padded_shape(output)))?;
        }
        Ok(())
    }
}

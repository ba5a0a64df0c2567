//! `tilewright embed`.

use super::Common;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Runs a model
#[derive(Debug, Args)]
pub struct Embed {
    /// Directory with config.json, tokenizer.json and model.safetensors
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    #[command(flatten)]
    common: Common,
}

impl Embed {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        anyhow::bail!("{}: no model runs on {} yet", self.model.display(), session.backend.name())
    }
}

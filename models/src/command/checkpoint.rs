//! What subcommands that run a checkpoint share: `--dtype`, and loading behind a progress bar.

use super::{Common, Session, verify::style};
use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::path::Path;
use std::time::{Duration, Instant};
use tilewright::model::{Architecture, Model};
use tilewright::weights::Weights;
use tilewright::{Arithmetic, Error};
use tilewright_kernels::gemm::Format;

/// `--dtype`; flatten it into a subcommand's arguments.
#[derive(Debug, clap::Args)]
pub struct Dtype {
    /// Type of the linear layers: f32, or one that weights are rounded to while they are loaded. Inputs of
    /// bf16, f16 and int8 are rounded to it as well; all else is f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = format())]
    pub dtype: Format,
}

impl Dtype {
    /// Starts a subcommand in this type.
    pub fn start(&self, common: &Common) -> Result<Session> {
        common.start_in(Some(self.dtype.name()))
    }

    /// Loads the checkpoint in `dir`.
    pub fn load(&self, as_a: Architecture, dir: &Path, session: &Session) -> Result<Box<dyn Model>, Error> {
        as_a.open(dir, weights(dir, self.dtype)?, session.arithmetic(self.dtype))
    }
}

/// Parses the name of a format.
pub fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).map(|name| {
        Format::ALL.into_iter().find(|format| format.name() == name).expect("one of the possible values")
    })
}

/// Loading that takes less is not worth a progress bar.
const PATIENCE: Duration = Duration::from_millis(500);

impl Session {
    /// The backend in effect with this type.
    pub fn arithmetic(&self, dtype: Format) -> Arithmetic {
        Arithmetic { backend: self.backend, dtype }
    }
}

/// Opens the weights in `dir`. Their conversion to `dtype` shows a progress bar where it takes long.
pub fn weights(dir: &Path, dtype: Format) -> Result<Weights, Error> {
    let start = Instant::now();
    let bar = ProgressBar::hidden().with_style(style());
    bar.set_message(format!("loading {} as {}", dir.display(), dtype.name()));
    Ok(Weights::open(dir)?.watched(move |done, all| {
        if bar.is_hidden() && start.elapsed() > PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_length(all);
        bar.set_position(done);
    }))
}

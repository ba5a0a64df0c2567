//! Option `--dtype` of subcommands that train.

use super::{Common, MainThread, Session};
use anyhow::Result;
use clap::{Args, ValueEnum};
use tilewright::checkpoint::arena::Arena;
use tilewright_kernels::gemm::Format;

/// Option `--dtype`, which a subcommand flattens into its arguments.
#[derive(Clone, Copy, Debug, Args)]
pub struct TrainingType {
    /// Type that linear layers multiply. Sums, gradients, optimizer states and saved parameters are f32 in both
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Multiplied::F32)]
    dtype: Multiplied,
}

/// Types of products in training.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Multiplied {
    F32,
    Bf16,
}

impl TrainingType {
    /// Starts a subcommand that computes in this type.
    pub fn start(self, common: &Common) -> Result<Session> {
        let format = match self.dtype {
            Multiplied::F32 => Format::F32,
            Multiplied::Bf16 => Format::Bf16,
        };
        common.start_in(MainThread::Computes, Some(format.name()))
    }

    /// The parameters for products of this type.
    pub fn of(self, arena: Arena) -> Arena {
        match self.dtype {
            Multiplied::F32 => arena,
            Multiplied::Bf16 => arena.with_bf16(),
        }
    }
}

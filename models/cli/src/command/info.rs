//! `tilewright info`: architecture, parameters and cost of a checkpoint, without running it.

use super::checkpoint::{self, Checkpoint};
use super::{Common, style::TABLE};
use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use serde_json::json;
use tilewright::architectures::Architecture;
use tilewright::bytes_per_weight;
use tilewright::layers::ModelLinear;
use tilewright_kernels::gemm::Format;

/// Shows a checkpoint's architecture, its parameters and the cost of a token
///
/// A weight that is used in several places (ALBERT's repeated layers, a head tied to the word table) counts once
/// among the parameters. A token costs two operations for each weight of a linear layer, each time it passes the
/// layer. The cost leaves out attention, which depends on the length of the text. In types other than f32,
/// embeddings and norms stay f32, and a tied word table is kept in f32 and in the type.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright info --model albert-base-v2
  tilewright info --model SmolLM2-135M-Instruct.Q4_1.gguf --json | jq .parameters")]
pub struct Info {
    #[command(flatten)]
    checkpoint: Checkpoint,

    #[command(flatten)]
    common: Common,
}

/// Operations that a token costs in `products`.
fn operations<'a>(layers: impl IntoIterator<Item = &'a ModelLinear<'a>>) -> usize {
    layers.into_iter().map(|l| 2 * l.times * l.linear.multiply_adds()).sum()
}

impl Info {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        let dir = self.checkpoint.locate()?;
        let architecture = Architecture::of(&dir)?;
        let mut model = checkpoint::open(architecture, &dir, session.arithmetic(Format::F32))?;
        let cache = model.causal_lm().map(|generator| generator.cache(1).bytes());
        let parts: Vec<_> = model.parts().iter().map(|part| (part.name, part.count())).collect();
        let layers = model.linear_layers();
        let total: usize = parts.iter().map(|(_, n)| n).sum();
        let own: usize = layers.iter().filter(|l| !l.tied).map(|l| l.linear.multiply_adds()).sum();
        // Bytes of [all weights in memory, the weights that one token reads].
        let bytes = |dtype: Format| {
            let of = |n: usize| (n as f64 * bytes_per_weight(dtype)) as usize;
            let packed: usize = layers.iter().map(|l| of(l.linear.multiply_adds())).sum();
            let read: usize = layers.iter().map(|l| of(l.times * l.linear.multiply_adds())).sum();
            [packed + 4 * (total - own), read]
        };
        let of_part = |name: &str| operations(layers.iter().filter(|l| l.part == name));

        if session.json {
            let parts: Vec<_> = parts
                .iter()
                .map(|(name, n)| json!({ "part": name, "parameters": n, "operations_per_token": of_part(name) }))
                .collect();
            let dtypes: serde_json::Map<_, _> = Format::ALL
                .map(|dtype| {
                    let [memory, per_token] = bytes(dtype);
                    (dtype.name().to_owned(), json!({ "memory": memory, "bytes_per_token": per_token }))
                })
                .into_iter()
                .collect();
            return session.print_json(json!({
                "architecture": architecture.class,
                "model_type": architecture.model_type,
                "max_length": model.max_length(),
                "parameters": total,
                "parts": parts,
                "operations_per_token": operations(&layers),
                "dtypes": dtypes,
                "cache_bytes_per_token": cache,
            }));
        }
        session.say(&format!(
            "{}, {} parameters, texts of up to {} tokens\n",
            architecture.class,
            count(total),
            model.max_length()
        ))?;
        let mut table = Table::new();
        table.load_style(TABLE).set_header(["part", "parameters", "", "operations per token"]);
        for (name, n) in &parts {
            let share = format!("{:.1}%", 100.0 * *n as f64 / total.max(1) as f64);
            table.add_row([name.to_string(), count(*n), share, count(of_part(name))]);
        }
        table.add_row(["all".to_owned(), count(total), String::new(), count(operations(&layers))]);
        session.say(&right(table))?;

        let mut table = Table::new();
        table.load_style(TABLE).set_header(["dtype", "memory of weights", "read for a token"]);
        for dtype in Format::ALL {
            let [memory, read] = bytes(dtype);
            table.add_row([dtype.name().to_owned(), mebibytes(memory), mebibytes(read)]);
        }
        session.say(&format!("\n{}", right(table)))?;
        if let Some(cache) = cache {
            session.say(&format!("\nkeys and values of a token in f32: {:.1} KiB", cache as f64 / 1024.0))?;
        }
        Ok(())
    }
}

/// Aligns all columns but the first to the right.
fn right(mut table: Table) -> String {
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}

/// `23.04 M`.
fn count(n: usize) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n}"),
    }
}

fn mebibytes(n: usize) -> String {
    format!("{:.1} MiB", n as f64 / f64::from(1 << 20))
}

//! `tilewright isa`.

use super::{Common, verify::TABLE};
use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use serde_json::json;
use tilewright::cpu::Cpu;
use tilewright_kernels::Backend;

/// Show what this CPU is, the backends it can run, and which one is in effect
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tilewright isa
  tilewright isa --json
  TILEWRIGHT_ISA=avx2 tilewright isa")]
pub struct Isa {
    #[command(flatten)]
    common: Common,
}

impl Isa {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        let cpu = Cpu::detect();
        let in_effect = session.backend;
        let why = self.common.why();
        if session.json {
            let backends: Vec<_> = Backend::NAMES
                .iter()
                .map(|&name| {
                    let tile =
                        Backend::named(name).ok().map(Backend::f32_tile).filter(|&tile| tile != (0, 0));
                    json!({ "name": name, "available": Backend::named(name).is_ok(), "f32_tile": tile })
                })
                .collect();
            let all = json!({
                "cpu": cpu,
                "backends": backends,
                "in_effect": { "name": in_effect.name(), "why": why },
            });
            return session.print_json(all);
        }
        session.say(&format!("features   {}", cpu.features.join(" ")))?;
        session.say(&format!("caches     {}", caches(&cpu)))?;
        session.say(&format!("cores      {}, threads in use {}", cpu.cores, session.threads))?;
        session.say(&format!("in effect  {}: {why}\n", in_effect.name()))?;
        session.say(&backends().to_string())
    }
}

/// `L1 48 KiB, L2 2 MiB, L3 64 MiB (reported: 260 MiB)`.
pub fn caches(cpu: &Cpu) -> String {
    let size = |bytes: usize| match bytes {
        0 => "unknown".to_owned(),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    };
    let level = |(i, cache): (usize, &tilewright::cpu::Cache)| {
        let reported = if cache.reported == cache.clamped {
            String::new()
        } else {
            format!(" (reported: {})", size(cache.reported))
        };
        format!("L{} {}{reported}", i + 1, size(cache.clamped))
    };
    cpu.caches.iter().enumerate().map(level).collect::<Vec<_>>().join(", ")
}

/// A row for each backend of this architecture.
fn backends() -> Table {
    let mut table = Table::new();
    table.load_style(TABLE).set_header(["backend", "here", "f32 tile"]);
    for name in Backend::NAMES {
        let (here, tile) = match Backend::named(name).map(Backend::f32_tile) {
            Ok((0, 0)) => ("yes", "none: the definitions".to_owned()),
            Ok((rows, columns)) => ("yes", format!("{rows}x{columns}")),
            Err(_) => ("not on this CPU", String::new()),
        };
        table.add_row([(*name).to_owned(), here.to_owned(), tile]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

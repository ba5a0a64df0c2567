//! `tilewright isa`: the CPU and its backends.

use super::{Common, style::TABLE};
use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use serde_json::json;
use tilewright_bench::cpu::Cpu;
use tilewright_kernels::Backend;

/// Shows this CPU, the backends that it can run, and the backend in effect
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
                    let found = Backend::named(name).ok();
                    json!({
                        "name": name,
                        "available": found.is_some(),
                        "refused": Backend::is_refused(name),
                        "f32_tile": found.map(Backend::f32_tile).filter(|&tile| tile != (0, 0)),
                        "bf16": found.and_then(Backend::bf16_instruction),
                        "int8": found.and_then(Backend::int8_instruction),
                    })
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
    let level = |(i, cache): (usize, &tilewright_bench::cpu::CacheSize)| {
        let reported = if cache.reported == cache.clamped {
            String::new()
        } else {
            format!(" (reported: {})", size(cache.reported))
        };
        format!("L{} {}{reported}", i + 1, size(cache.clamped))
    };
    cpu.caches.iter().enumerate().map(level).collect::<Vec<_>>().join(", ")
}

/// Table of the backends of this architecture.
fn backends() -> Table {
    let mut table = Table::new();
    table.load_style(TABLE).set_header(["backend", "here", "f32 tile", "bf16", "int8"]);
    for &name in Backend::NAMES {
        let row = match Backend::named(name) {
            Ok(found) if found == Backend::REFERENCE => {
                [name, "yes", "none: the definitions", "", ""].map(str::to_owned)
            }
            Ok(found) => {
                let (rows, columns) = found.f32_tile();
                let by = |instruction: Option<&'static str>| instruction.unwrap_or("widened").to_owned();
                let (bf16, int8) = (by(found.bf16_instruction()), by(found.int8_instruction()));
                [name.to_owned(), "yes".to_owned(), format!("{rows}x{columns}"), bf16, int8]
            }
            Err(_) if Backend::is_refused(name) => {
                [name, "refused by the operating system", "", "", ""].map(str::to_owned)
            }
            Err(_) => [name, "not on this CPU", "", "", ""].map(str::to_owned),
        };
        table.add_row(row);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

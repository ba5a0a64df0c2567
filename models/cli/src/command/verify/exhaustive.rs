//! `tilewright verify --exhaustive`: all 2^32 arguments of each function of one f32.

use super::super::style::{self, TABLE};
use crate::command::Session;
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table};
use indicatif::ProgressBar;
use serde_json::json;
use tilewright_kernels::{Backend, Function};
use tilewright_verify::math::{Claim, Extreme, arguments, walk};

/// Walks all arguments of every function on `backends`, and prints the worst errors.
///
/// # Errors
/// If an error exceeds its claim.
pub fn run(session: &Session, backends: &[Backend]) -> Result<()> {
    let all = arguments(1);
    let bar = ProgressBar::new(all * Function::ALL.len() as u64).with_style(style::progress());
    let mut rows = Vec::new();
    for function in Function::ALL {
        bar.set_message(name(function));
        let worst = walk(function, backends, 1, |done| bar.inc(done));
        rows.extend(backends.iter().zip(worst).map(|(&backend, worst)| (function, backend, worst)));
    }
    bar.finish_and_clear();
    if session.json {
        let results: Vec<_> = rows.iter().map(json).collect();
        session.print_json(json!({ "arguments": all, "results": results }))?;
    } else {
        session.say(&format!("{all} arguments of each function on each backend: worst error in ULP\n"))?;
        session.say(&table(&rows, backends).to_string())?;
    }
    match rows.iter().filter(|row| !holds(row)).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} promises do not hold", rows.len()),
    }
}

type FunctionResult = (Function, Backend, Extreme);

fn holds((function, _, worst): &FunctionResult) -> bool {
    worst.ulp <= Claim::of(*function).ulp
}

/// `exp`, `gelu erf`, ..
fn name(function: Function) -> String {
    let debug = match function {
        Function::Activation(activation) => format!("{activation:?}"),
        Function::Derivative(activation) => format!("{activation:?}Derivative"),
        function => format!("{function:?}"),
    };
    let mut words = String::new();
    for c in debug.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

fn table(rows: &[FunctionResult], backends: &[Backend]) -> Table {
    let mut table = Table::new();
    let names = backends.iter().map(|b| b.name());
    table.load_style(TABLE).set_header(["function", "promised"].into_iter().chain(names));
    for function in rows.chunks(backends.len()) {
        let claim = Claim::of(function[0].0);
        let results = function.iter().map(|row| {
            let failed = if holds(row) { "" } else { "FAILED " };
            format!("{failed}{:.3} at {:e}", row.2.ulp, row.2.x)
        });
        table.add_row([name(function[0].0), promise(claim)].into_iter().chain(results));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// `2 + 7.5e-9 up to 88`.
fn promise(claim: Claim) -> String {
    let absolute = if claim.absolute == 0.0 { String::new() } else { format!(" + {:.1e}", claim.absolute) };
    let up_to = if claim.up_to.is_finite() { format!(" up to {}", claim.up_to) } else { String::new() };
    format!("{}{absolute}{up_to}", claim.ulp)
}

fn json(row: &FunctionResult) -> serde_json::Value {
    let (function, backend, worst) = row;
    let claim = Claim::of(*function);
    json!({
        "function": name(*function),
        "isa": backend.name(),
        "passed": holds(row),
        "worst_ulp": worst.ulp,
        "at": worst.x,
        "promised_ulp": claim.ulp,
        "promised_absolute": claim.absolute,
    })
}

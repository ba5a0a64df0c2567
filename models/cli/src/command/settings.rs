//! `--settings FILE`: options of a subcommand in a TOML file.
//!
//! ```text
//! steps = 2000          -> --steps=2000
//! schedule = "cosine"   -> --schedule=cosine
//! no-dropout = true     -> --no-dropout
//! ```
//!
//! The file's options come before those of the command line, and the last occurrence of an option counts. clap checks
//! the values of both.

use anyhow::{Context as _, Result, bail};
use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory};
use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Option `--settings`, which a subcommand flattens into its arguments. The subcommand sets `args_override_self`.
#[derive(Debug, clap::Args)]
pub struct SettingsFile {
    /// TOML file with options of this subcommand under their long names, such as `steps = 2000`; an option of the
    /// command line replaces that of the file, and relative paths start from the current directory
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// Inserts the options of `--settings` after the name of the subcommand.
pub fn insert<C: CommandFactory>(mut arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let mut command = C::command();
    command.build();
    let name = arguments.get(1).and_then(|name| name.to_str());
    let Some(subcommand) = name.and_then(|name| command.find_subcommand(name)) else { return Ok(arguments) };
    let takes_file = subcommand.get_arguments().any(|argument| argument.get_long() == Some(LONG));
    let Some(path) = file(&arguments).filter(|_| takes_file) else { return Ok(arguments) };
    let of_file = read(subcommand, &path).with_context(|| path.display().to_string())?;
    arguments.splice(2..2, of_file);
    Ok(arguments)
}

const LONG: &str = "settings";

/// The last file that `--settings` names.
fn file(arguments: &[OsString]) -> Option<PathBuf> {
    let options = arguments.iter().take_while(|argument| *argument != "--");
    let named = options.enumerate().filter_map(|(i, argument)| match argument.to_str()? {
        "--settings" => arguments.get(i + 1).map(PathBuf::from),
        argument => argument.strip_prefix("--settings=").map(PathBuf::from),
    });
    named.last()
}

/// Arguments for the entries of the file `path`.
fn read(subcommand: &Command, path: &Path) -> Result<Vec<OsString>> {
    let text = std::fs::read_to_string(path).context("--settings")?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
        anyhow::anyhow!("line {line}: {}", e.message())
    })?;
    let arguments = table.iter().map(|(key, value)| argument(subcommand, key, value));
    Ok(arguments.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// The argument of an entry; `None` for a flag that is false.
fn argument(subcommand: &Command, key: &str, value: &Value) -> Result<Option<OsString>> {
    let options = subcommand.get_arguments().filter_map(|of| Some((of.get_long()?, of)));
    let options: Vec<_> = options.filter(|(name, _)| ![LONG, "help", "version"].contains(name)).collect();
    let Some((_, option)) = options.iter().find(|(name, _)| *name == key) else {
        let near = options.iter().map(|(name, _)| (strsim::jaro(key, name), *name));
        let near = near.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
        let near = near.map_or(String::new(), |(_, name)| format!("; a similar one is {name}"));
        bail!("{key}: expected an option of {}{near}", subcommand.get_name());
    };
    let text = match (kind(option), value) {
        (Kind::Flag, Value::Boolean(true)) => return Ok(Some(format!("--{key}").into())),
        (Kind::Flag, Value::Boolean(false)) => return Ok(None),
        (Kind::Number, Value::Integer(number)) => number.to_string(),
        (Kind::Number, Value::Float(number)) => number.to_string(),
        (Kind::Text, Value::String(text)) => text.clone(),
        (kind, found) => {
            let expected = match kind {
                Kind::Flag => "true or false",
                Kind::Number => "a number",
                Kind::Text => "a string",
            };
            let shown = match found {
                Value::String(text) => format!(" {text:?}"),
                Value::Integer(number) => format!(" {number}"),
                Value::Float(number) => format!(" {number}"),
                Value::Boolean(is_on) => format!(" {is_on}"),
                _ => String::new(),
            };
            bail!("{key}: expected {expected}, found {}{shown}", found.type_str());
        }
    };
    let argument: OsString = format!("--{key}={text}").into();
    // clap parses each value before it looks for options that are missing.
    let alone = [subcommand.get_name().into(), argument.clone()];
    match subcommand.clone().try_get_matches_from(alone) {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) => {
            let message = e.to_string();
            let line = message.lines().next().unwrap_or_default();
            bail!("{key}: {}", line.strip_prefix("error: ").unwrap_or(line));
        }
        _ => Ok(Some(argument)),
    }
}

/// TOML type of an option's value.
enum Kind {
    Flag,
    Number,
    Text,
}

fn kind(option: &Arg) -> Kind {
    let numbers = [
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<f64>(),
    ];
    let of_value = option.get_value_parser().type_id();
    match option.get_action().takes_values() {
        false => Kind::Flag,
        true if numbers.iter().any(|number| of_value == *number) => Kind::Number,
        true => Kind::Text,
    }
}

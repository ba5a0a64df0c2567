//! The `tilewright` command: verifies, measures and runs the kernels and the models.
#![forbid(unsafe_code)]

mod command;

fn main() -> std::process::ExitCode {
    command::main()
}

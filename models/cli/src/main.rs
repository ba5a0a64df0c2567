//! The `tilewright` command: verifies, measures and runs the kernels and the models.
#![forbid(unsafe_code)]

mod command;

/// Counts allocated bytes for `bench --memory`. Kernels allocate nothing in a steady state.
#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

fn main() -> std::process::ExitCode {
    command::main()
}

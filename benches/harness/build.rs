//! Passes the revision and the compiler to the crate, which records them with every measurement.

use std::path::Path;
use std::process::Command;

/// First line that a program prints, if the program runs and succeeds.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let rustc = first_line(&rustc, &["--version"]).unwrap_or_else(|| "unknown".into());
    // In a project that vendors this crate, git would report the revision of that project.
    let ours = first_line("git", &["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let revision =
        ours.then(|| first_line("git", &["describe", "--always", "--dirty", "--abbrev=12"])).flatten();
    println!("cargo::rustc-env=TILEWRIGHT_RUSTC={rustc}");
    println!("cargo::rustc-env=TILEWRIGHT_REVISION={}", revision.unwrap_or_else(|| "unknown".into()));
    println!("cargo::rerun-if-changed=src");
    for outside in [
        Some("../../kernels/src".to_owned()),
        Some("../../models/src".to_owned()),
        first_line("git", &["rev-parse", "--git-path", "logs/HEAD"]),
    ] {
        // Cargo would run this script in every build if a named file were missing.
        if let Some(path) = outside.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

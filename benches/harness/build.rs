//! Tells the command what it was built from and with: the fingerprint of its measurements.

use std::path::Path;
use std::process::Command;

/// The first line that a program prints, if it can be run and succeeds.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let rustc = first_line(&rustc, &["--version"]).unwrap_or_else(|| "unknown".into());
    // Not the revision of a project that has this one among its vendored dependencies.
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
        // A missing file would make every build run this again.
        if let Some(path) = outside.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

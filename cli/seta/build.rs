//! Tells the binary from which commit it was built (`seta version`).
//!
//! `SETA_COMMIT` wins, for builds from an archive; without it and without a repository the commit is "unknown".

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SETA_COMMIT");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let head = repository.join(".git/HEAD");
    if let Ok(content) = std::fs::read_to_string(&head) {
        println!("cargo::rerun-if-changed={}", head.display());
        if let Some(reference) = content.trim().strip_prefix("ref: ") {
            println!(
                "cargo::rerun-if-changed={}",
                repository.join(".git").join(reference).display()
            );
        }
    }
    let commit = std::env::var("SETA_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(|| {
            let output = Command::new("git")
                .args(["rev-parse", "--short=8", "HEAD"])
                .current_dir(&repository)
                .output()
                .ok()?;
            output
                .status
                .success()
                .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        });
    println!(
        "cargo::rustc-env=SETA_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
}

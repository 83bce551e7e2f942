//! What every end-to-end test starts with.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use seta_e2e::Lab;

/// A lab of that name, or nothing where the machine cannot run one; then it says why.
///
/// # Errors
/// When the binary is not built: `cargo xtask test` builds it first.
pub(crate) fn lab(cluster: &str) -> Result<Option<Lab>> {
    let root = std::process::Command::new("id")
        .arg("-u")
        .output()
        .context("id")?
        .stdout
        == b"0\n";
    if !root {
        eprintln!("SKIP: end-to-end tests make network namespaces and load BPF programs, and need root");
        return Ok(None);
    }
    Lab::new(cluster, &binary()).map(Some)
}

/// `SETA_BIN`, else what cargo built next to this test.
fn binary() -> PathBuf {
    std::env::var_os("SETA_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/seta"),
        PathBuf::from,
    )
}

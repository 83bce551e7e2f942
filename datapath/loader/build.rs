//! Builds the kernel programs (package `seta-ebpf`) and hands their object to this crate as `SETA_EBPF_OBJECT`.
//!
//! The object needs a compiler that has the source of `core`, as there is no prebuilt `core` for BPF. The work is in
//! `build/toolchain.rs` (which compiler) and `build/object.rs` (how it is called).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[path = "build/object.rs"]
mod object;
#[path = "build/toolchain.rs"]
mod toolchain;

/// Whatever the object is made of: a change there runs this script again.
const SOURCES: &[&str] = &["abi", "packet", "stages", "ebpf"];

fn main() -> ExitCode {
    match run() {
        Ok(object) => {
            println!("cargo::rustc-env=SETA_EBPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={}", message.replace('\n', " | "));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<PathBuf, String> {
    let loader = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let datapath = loader
        .parent()
        .ok_or("the loader crate has no parent directory")?;
    for source in SOURCES {
        let directory = datapath.join(source);
        println!(
            "cargo::rerun-if-changed={}",
            directory.join("Cargo.toml").display()
        );
        println!("cargo::rerun-if-changed={}", directory.join("src").display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    for name in ["PATH", "CARGO_HOME", "RUSTUP_HOME", "SETA_EBPF_RUSTC"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let toolchain = toolchain::find()?;
    object::build(&object::Order {
        toolchain: &toolchain,
        binary: "seta-ebpf",
        manifest: &datapath.join("ebpf/Cargo.toml"),
        target_dir: &target_dir(&out_dir),
        out_dir: &out_dir,
    })
}

/// One directory beside the outer build's profile directories, so that debug, release and lint runs share one compiled
/// `core`, and never the outer build's own: cargo holds a lock on that one while this script runs.
fn target_dir(out_dir: &Path) -> PathBuf {
    // <target>/<profile>/build/<package>/out
    out_dir
        .ancestors()
        .nth(4)
        .map_or_else(|| out_dir.join("ebpf"), |target| target.join("ebpf"))
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| format!("{name}: {error}; this script is run by cargo"))
}

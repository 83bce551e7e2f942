//! Builds the redirect-only programs the way the loader builds the real ones.

use std::{path::PathBuf, process::ExitCode};

#[path = "../datapath/loader/build/object.rs"]
mod object;
#[path = "../datapath/loader/build/toolchain.rs"]
mod toolchain;

fn main() -> ExitCode {
    match run() {
        Ok(object) => {
            println!("cargo::rustc-env=SETA_BENCH_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={}", message.replace('\n', " | "));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<PathBuf, String> {
    println!("cargo::rerun-if-changed=ebpf/src");
    println!("cargo::rerun-if-changed=../datapath/loader/build");
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .ok_or(format!("{name} is not set"))
    };
    let (manifest_dir, out_dir) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?);
    // <target>/<profile>/build/<package>/out
    let target_dir = out_dir
        .ancestors()
        .nth(4)
        .map_or_else(|| out_dir.join("ebpf"), |target| target.join("ebpf-bench"));
    object::build(&object::Order {
        toolchain: &toolchain::find()?,
        binary: "seta-bench-ebpf",
        manifest: &manifest_dir.join("ebpf/Cargo.toml"),
        target_dir: &target_dir,
        out_dir: &out_dir,
    })
}

//! Finds a compiler with the source of `core` and the BPF linker.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Major version of the LLVM that `bpf-linker` is built with (`make setup`). It reads bitcode of its own and of older
/// versions, not of newer ones.
const LINKER_LLVM: u32 = 22;

/// What is needed to compile for BPF.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The compiler; its sysroot holds the source of `core`.
    pub(crate) rustc: PathBuf,
    /// Matching or newer cargo.
    pub(crate) cargo: PathBuf,
    /// `bpf-linker`.
    pub(crate) linker: PathBuf,
}

/// The compiler named by `SETA_EBPF_RUSTC`, else the first of: rustup toolchains (stable before the others), Debian's
/// `rustc-web`, that has `core`'s source and an LLVM that the linker understands.
pub(crate) fn find() -> Result<Toolchain, String> {
    let linker = find_linker()?;
    let mut rejected = Vec::new();
    for rustc in candidates() {
        match judge(&rustc) {
            Ok(()) => {
                return Ok(Toolchain {
                    cargo: cargo_for(&rustc),
                    rustc,
                    linker,
                });
            }
            Err(reason) => rejected.push(format!("{}: {reason}", rustc.display())),
        }
    }
    let tried = if rejected.is_empty() {
        "no compiler found".to_owned()
    } else {
        rejected.join("; ")
    };
    Err(format!(
        "no compiler that can build the eBPF programs: `make setup` installs one (or `rustup component add rust-src`). Tried: {tried}"
    ))
}

fn candidates() -> Vec<PathBuf> {
    if let Some(rustc) = std::env::var_os("SETA_EBPF_RUSTC") {
        return vec![rustc.into()];
    }
    let mut found = Vec::new();
    if let Some(home) = home_dir("RUSTUP_HOME", ".rustup")
        && let Ok(entries) = std::fs::read_dir(home.join("toolchains"))
    {
        found.extend(
            entries
                .flatten()
                .map(|entry| entry.path().join("bin/rustc"))
                .filter(|path| path.is_file()),
        );
        found.sort_by_key(|path| (!path.to_string_lossy().contains("/stable"), path.clone()));
    }
    let system = PathBuf::from("/usr/bin/rustc");
    if system.is_file() {
        found.push(system);
    }
    found
}

/// Why a compiler will not do, in words for the error.
fn judge(rustc: &Path) -> Result<(), String> {
    let sysroot = output(rustc, &["--print", "sysroot"])?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !core.is_file() {
        return Err("has no source of core (rust-src)".to_owned());
    }
    let version = output(rustc, &["-vV"])?;
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|text| text.split('.').next())
        .and_then(|major| major.parse::<u32>().ok());
    match llvm {
        Some(major) if major <= LINKER_LLVM => Ok(()),
        Some(major) => Err(format!(
            "uses LLVM {major}, newer than the linker's {LINKER_LLVM}"
        )),
        None => Err("does not tell its LLVM version".to_owned()),
    }
}

fn output(rustc: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(rustc)
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run: {error}"))?;
    if !output.status.success() {
        return Err(format!("{} fails with {}", arguments.join(" "), output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("prints no UTF-8: {error}"))
}

/// A rustup toolchain brings its own cargo; otherwise the cargo that runs this script is used.
fn cargo_for(rustc: &Path) -> PathBuf {
    let sibling = rustc.with_file_name("cargo");
    let outer = || std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    if sibling.is_file() && rustc != Path::new("/usr/bin/rustc") {
        sibling
    } else {
        outer()
    }
}

fn find_linker() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_bin = home_dir("CARGO_HOME", ".cargo").map(|home| home.join("bin"));
    std::env::split_paths(&path)
        .chain(cargo_bin)
        .map(|directory| directory.join("bpf-linker"))
        .find(|file| file.is_file())
        .ok_or_else(|| "bpf-linker is not installed: `make setup` installs it".to_owned())
}

fn home_dir(variable: &str, default: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(default)))
}

//! Calls cargo for the BPF target.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolchain::Toolchain;

/// What to build and where.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// Compiler and linker.
    pub(crate) toolchain: &'a Toolchain,
    /// Name of the package's binary, which is the object.
    pub(crate) binary: &'a str,
    /// Manifest of the package with the kernel programs.
    pub(crate) manifest: &'a Path,
    /// Target directory of the inner build.
    pub(crate) target_dir: &'a Path,
    /// Where the finished object is put.
    pub(crate) out_dir: &'a Path,
}

const TARGET: &str = "bpfel-unknown-none";

/// The workspace's release profile is made for user space; these are the settings BPF needs: no unwinding, no overflow
/// checks (each is a panic that the verifier rejects), debug information for BTF.
const PROFILE: &[&str] = &[
    "profile.release.panic=\"abort\"",
    "profile.release.opt-level=3",
    "profile.release.codegen-units=1",
    "profile.release.debug=2",
    "profile.release.strip=\"none\"",
    "profile.release.overflow-checks=false",
    "profile.release.debug-assertions=false",
];

/// Builds the object; the answer is its path below `out_dir`.
pub(crate) fn build(order: &Order<'_>) -> Result<PathBuf, String> {
    if std::env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() == Ok("big") {
        return Err("big-endian machines are not supported".to_owned());
    }
    let toolchain = order.toolchain;
    let mut command = Command::new(&toolchain.cargo);
    command
        .args([
            "build",
            "--release",
            "--bin",
            order.binary,
            "--target",
            TARGET,
            "-Z",
            "build-std=core",
            "--manifest-path",
        ])
        .arg(order.manifest)
        .arg("--target-dir")
        .arg(order.target_dir);
    for setting in PROFILE {
        command.args(["--config", setting]);
    }
    // What the outer cargo says to build scripts is not meant for the inner one.
    for (name, _) in std::env::vars_os() {
        if is_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    let output = command
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain))
        .output()
        .map_err(|error| format!("cannot run {}: {error}", toolchain.cargo.display()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        // The whole goes to cargo's own log of this script; the error shows the part that tells.
        eprintln!("{errors}");
        let first = errors.find("error").unwrap_or(0);
        return Err(format!(
            "cannot build {} with {}: {}",
            order.binary,
            toolchain.rustc.display(),
            &errors[first..]
        ));
    }
    let built = order.target_dir.join(TARGET).join("release").join(order.binary);
    let object = order.out_dir.join(format!("{}.o", order.binary));
    std::fs::copy(&built, &object).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(object)
}

fn flags(toolchain: &Toolchain) -> OsString {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut linker = OsString::from("-Clinker=");
    linker.push(&toolchain.linker);
    let flags: [OsString; 6] = [
        format!("--cfg=bpf_target_arch=\"{arch}\"").into(),
        // By flag, not by profile: `memcpy` and others of core need function information too.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // The linker's own default leaves every zeroing of memory to a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
        "-Ctarget-cpu=v3".into(),
        linker,
    ];
    flags.join(&OsString::from("\x1f"))
}

fn is_outer_cargo(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    let kept = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_TERM_",
    ];
    (name.starts_with("CARGO") && !kept.iter().any(|prefix| name.starts_with(prefix)))
        || [
            "RUSTC",
            "RUSTDOC",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "TARGET",
            "HOST",
            "OUT_DIR",
            "PROFILE",
            "OPT_LEVEL",
            "DEBUG",
            "LD_LIBRARY_PATH",
        ]
        .contains(&name.as_ref())
}

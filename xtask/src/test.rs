//! `cargo xtask test` and `cargo xtask lint`: what CI runs, in the order that finds mistakes cheapest.

use std::process::Command;

use anyhow::Result;

use crate::{
    layers,
    run::{self, root},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the end-to-end tests, which bring labs up.
    #[arg(long)]
    no_e2e: bool,
}

pub(crate) fn lint() -> Result<()> {
    run::cargo(&["fmt", "--all", "--check"])?;
    layers::run()?;
    // The eBPF crates only compile for BPF; the loader's build script does that, with warnings shown.
    run::cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--exclude",
        "seta-ebpf",
        "--exclude",
        "seta-bench-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
}

pub(crate) fn run(args: &Args) -> Result<()> {
    lint()?;
    run::cargo(&["build", "--locked", "--package", "seta"])?;
    run::cargo(&[
        "nextest",
        "run",
        "--locked",
        "--workspace",
        "--exclude",
        "seta-ebpf",
        "--exclude",
        "seta-bench-ebpf",
        "--exclude",
        "seta-e2e",
        "--no-fail-fast",
    ])?;
    if args.no_e2e {
        return Ok(());
    }
    // Labs share two cores: one at a time, each with its output at the end.
    run::run(
        Command::new("cargo")
            .args([
                "nextest",
                "run",
                "--locked",
                "--package",
                "seta-e2e",
                "--test-threads=1",
                "--no-fail-fast",
            ])
            .env("SETA_BIN", run::seta("debug"))
            .current_dir(root()),
    )
}

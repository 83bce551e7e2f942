//! `cargo xtask dist`: the binary that goes into an image: static, stripped.

use std::process::Command;

use anyhow::Result;

use crate::run::{self, output, root};

fn host_target() -> Result<String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.unwrap_or("x86_64-unknown-linux-gnu").to_owned())
}

pub(crate) fn run() -> Result<()> {
    let target = host_target()?;
    // With an explicit target, proc macros and build scripts keep the host's own flags: they cannot be static.
    run::run(
        Command::new("cargo")
            .args(["build", "--release", "--package", "seta", "--target", &target])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(root()),
    )?;
    println!(
        "{}",
        root().join("target").join(target).join("release/seta").display()
    );
    Ok(())
}

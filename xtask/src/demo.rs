//! `cargo xtask demo`: the README's walk, every command printed before it runs, its output as it comes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use seta_e2e::{
    Lab,
    walk::{GOODBYE, STEPS, Step},
};

use crate::run;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the lab up at the end, to look around in it.
    #[arg(long, env = "KEEP")]
    keep: bool,
    /// Do not build, use target/release/seta as it is.
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.no_build {
        run::cargo(&["build", "--release", "--package", "seta"])?;
    }
    let mut lab = Lab::new("kind", &run::seta("release"))?;
    for step in STEPS {
        show(&lab, step)?;
    }
    if args.keep {
        lab.keep();
        println!(
            "\nThe lab is still up. `seta` is {}.",
            run::seta("release").display()
        );
        println!("Use `seta lab kubeconfig` for kubectl, and `seta lab down` when you are done.");
        return Ok(());
    }
    for step in GOODBYE {
        show(&lab, step)?;
    }
    println!("\nThat was the whole walk, and every step showed what it should.");
    Ok(())
}

fn show(lab: &Lab, step: &Step) -> Result<()> {
    println!("\n\x1b[1m# {}\x1b[0m", step.why);
    println!("\x1b[36m$ {}\x1b[0m", step.script);
    let started = Instant::now();
    let mut child = lab
        .command(&format!("{{ {}\n}} 2>&1", step.script))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start bash")?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("the step's output is not text")?;
            println!("{line}");
            text.push_str(&line);
            text.push('\n');
        }
    }
    std::io::stdout().flush().context("standard output")?;
    let status = child.wait().context("waiting for the step")?;
    println!("\x1b[2m({:.1} s)\x1b[0m", started.elapsed().as_secs_f64());
    if !status.success() {
        bail!("this step failed ({status}): {}", step.script);
    }
    match step.expect.iter().find(|expected| !text.contains(**expected)) {
        Some(expected) => bail!("this step ran, but did not print `{expected}`"),
        None => Ok(()),
    }
}

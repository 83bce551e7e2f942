//! The project's own tasks: `cargo xtask --help`.

mod demo;
mod dist;
mod fuzz;
mod layers;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Tasks of the Seta workspace", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the build, the tests and the lab need on Debian, and say what was chosen. Safe to repeat.
    Setup(setup::Args),
    /// Check who imports whom against the table in `layers.rs`.
    Layers,
    /// Format, clippy, layers.
    Lint,
    /// Everything that CI runs.
    Test(test::Args),
    /// Build, then walk through what a first user does, printing every step.
    Demo(demo::Args),
    /// Build the static release binary.
    Dist,
    /// Run the fuzz targets under libFuzzer; exit code 1 on a finding.
    Fuzz(fuzz::Args),
    /// Measure, and print the performance table.
    Bench(BenchArgs),
}

#[derive(clap::Args)]
struct BenchArgs {
    /// Passed on to the bench program, see `cargo xtask bench -- --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Layers => layers::run(),
        Task::Lint => test::lint(),
        Task::Test(args) => test::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Dist => dist::run(),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench(&args.rest),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(rest: &[String]) -> anyhow::Result<()> {
    run::cargo(&["build", "--release", "--package", "seta"])?;
    let mut args = vec!["run", "--release", "--package", "seta-bench", "--"];
    args.extend(rest.iter().map(String::as_str));
    run::cargo(&args)
}

//! The kubelet alone, for its tests and for development; users have `seta lab kubelet`.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "seta-lab-kubelet", about = "The kubelet of Seta's lab, alone")]
struct Cli {
    #[command(flatten)]
    args: lab_kubelet::Args,
}

fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    // The shim is started as `<binary> lab kubelet …`, whoever the binary is.
    let words = std::env::args_os().enumerate();
    let words = words.filter(|(at, word)| !((*at == 1 && word == "lab") || (*at == 2 && word == "kubelet")));
    lab_kubelet::run(Cli::parse_from(words.map(|(_, word)| word)).args)
}

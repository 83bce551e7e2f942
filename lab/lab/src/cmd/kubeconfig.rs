//! `seta lab kubeconfig`

use std::fs;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::Kubeconfig;
use crate::kubeconfig;
use crate::state::Paths;

pub(crate) fn run(args: &Kubeconfig) -> anyhow::Result<ExitCode> {
    let paths = Paths::of(&args.cluster.name);
    paths.require_spec()?;
    match &args.merge_into {
        Some(path) => kubeconfig::merge(path, &paths.kubeconfig())?,
        None => {
            let text = fs::read_to_string(paths.kubeconfig())
                .with_context(|| format!("cannot read {}; is the cluster up?", paths.kubeconfig().display()))?;
            print!("{text}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

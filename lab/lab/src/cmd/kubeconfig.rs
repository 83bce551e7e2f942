//! `seta lab kubeconfig`

use std::fs;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::Cluster;
use crate::state::Paths;

pub(crate) fn run(args: &Cluster) -> anyhow::Result<ExitCode> {
    let paths = Paths::of(&args.name);
    paths.require_spec()?;
    let path = paths.kubeconfig();
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; is the cluster up?", path.display()))?;
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

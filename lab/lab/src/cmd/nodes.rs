//! `seta lab nodes` and `seta lab node-ip`

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{Cluster, NodeIp};
use crate::state::Paths;
use crate::topology;

pub(crate) fn list(args: &Cluster) -> anyhow::Result<ExitCode> {
    for node in Paths::of(&args.name).require_spec()?.nodes {
        super::print(&format!("{}\n", node.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn address(args: &NodeIp) -> anyhow::Result<ExitCode> {
    let spec = Paths::of(&args.cluster.name).require_spec()?;
    let address = topology::host_address(&spec, &args.node)
        .with_context(|| format!("there is no node {:?}", args.node))?;
    super::print(&format!("{address}\n"))?;
    Ok(ExitCode::SUCCESS)
}

//! `seta lab exec NODE -- CMD…`

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::bail;

use crate::cgroup::{self, Cgroups};
use crate::cli::Exec;
use crate::node;
use crate::state::Paths;
use crate::topology;

/// What a shell answers for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Becomes the command, so terminal, signals and exit code are the command's own.
pub(crate) fn run(args: &Exec) -> anyhow::Result<ExitCode> {
    super::require_root()?;
    let paths = Paths::of(&args.cluster.name);
    let spec = paths.require_spec()?;
    let Some((program, arguments)) = args.command.split_first() else {
        bail!("no command was given")
    };
    if spec.node(&args.node).is_some() {
        // In the node's control group, as with `docker exec`: BPF programs that hang there see it, and `down` ends it.
        cgroup::join(&Cgroups::of(paths.cluster())?.exec(&args.node), 0)?;
    } else if topology::host_address(&spec, &args.node).is_none() {
        let names: Vec<&str> = spec.nodes.iter().map(|node| node.name.as_str()).collect();
        bail!(
            "there is no node {:?}; there are {}, router and outside",
            args.node,
            names.join(", ")
        );
    }
    node::enter(&paths, &args.node)?;
    let error = Command::new(program).args(arguments).exec();
    eprintln!("seta lab exec: cannot run {}: {error}", program.to_string_lossy());
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }))
}

//! `seta lab down`

use std::process::ExitCode;

use crate::cli::Down;
use crate::state::Paths;
use crate::teardown;

pub(crate) fn run(args: &Down) -> anyhow::Result<ExitCode> {
    super::require_root()?;
    let paths = Paths::of(&args.cluster.name);
    let _lock = paths.lock(|| Ok(()))?;
    let was_there = teardown::has_leftovers(&paths);
    teardown::remove_cluster(&paths)?;
    if was_there {
        eprintln!("Cluster {:?} is gone.", paths.cluster());
    } else {
        eprintln!("There is no cluster {:?}.", paths.cluster());
    }
    Ok(ExitCode::SUCCESS)
}

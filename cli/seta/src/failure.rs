//! How a command ends: exit codes, and the errors that choose one.

use std::process::ExitCode;

use thiserror::Error;

/// The command line or a value in it is wrong; nothing was changed. As clap's own.
pub(crate) const USAGE: u8 = 2;
/// There is no way to the cluster; nothing was changed.
pub(crate) const UNREACHABLE: u8 = 3;

/// What was asked for is not there. Also what `cilium-dbg get` ends with for other nodes' `seta`.
pub(crate) const NOT_FOUND: u8 = 4;

/// What the help of every command says about the exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  it failed, or the state that was asked for has errors
  2  wrong usage: unknown command, flag, value or key (nothing was changed)
  3  the cluster cannot be reached (nothing was changed)
  4  what was asked for does not exist";

/// An error that chooses the exit code; every other error ends with 1.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// Ends with [`USAGE`].
    #[error("{0}")]
    Usage(String),
    /// Ends with [`UNREACHABLE`].
    #[error("{0}")]
    Unreachable(String),
    /// Ends with [`NOT_FOUND`].
    #[error("{0}")]
    NotFound(String),
}

/// The exit code of an error, from the first [`Failure`] in its chain.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let code = error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<Failure>() {
            Some(Failure::Usage(_)) => Some(USAGE),
            Some(Failure::Unreachable(_)) => Some(UNREACHABLE),
            Some(Failure::NotFound(_)) => Some(NOT_FOUND),
            None => None,
        });
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

//! The CNI plugin: the JSON of the CNI specification on one side, one request to the agent's socket on the other.
//!
//! No logic lives here: what a request means is decided by the agent. The one exception is DEL while the agent is
//! down, which leaves a file that the agent catches up on ([`queue`]), as a pod must be deletable at any time.
//! Imports `api` only.
#![forbid(unsafe_code)]

mod log;
pub mod queue;
pub mod spec;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use api::cni::{AddRequest, AddResponse, CheckRequest, GcRequest, code};
use api::{Client, ClientError, path};
use serde_json::Value;

use spec::{Command, Environment, Error, Request};

/// A request that takes longer is given up; the runtime tries again.
const DEADLINE: Duration = Duration::from_secs(30);
/// STATUS is asked often, and an agent that does not answer this fast cannot serve ADD well.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of a network configuration, its previous result and valid attachments included.
const MAX_STDIN: u64 = 8 << 20;

/// Does what the environment and standard input ask for, and answers on standard output.
#[must_use]
pub fn run() -> ExitCode {
    let outcome = input().and_then(|input| answer(&Environment::from_process(), &input, &socket()));
    let (text, exit) = match outcome {
        Ok(Some(result)) => (result.to_string(), ExitCode::SUCCESS),
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => (error.to_json().to_string(), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// All of standard input.
fn input() -> Result<Vec<u8>, Error> {
    let mut input = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(MAX_STDIN + 1)
        .read_to_end(&mut input);
    match read {
        Ok(length) if length as u64 > MAX_STDIN => Err(Error::new(
            code::BAD_CONFIG,
            format!("the network configuration is longer than {MAX_STDIN} bytes"),
        )),
        Ok(_) => Ok(input),
        Err(error) => Err(Error::new(
            code::IO,
            format!("reading the network configuration from standard input: {error}"),
        )),
    }
}

/// Where the agent listens: `CILIUM_SOCK`, as Cilium's own clients have it, else the usual place.
fn socket() -> PathBuf {
    std::env::var_os("CILIUM_SOCK").map_or_else(|| PathBuf::from(api::SOCKET), PathBuf::from)
}

/// One request from parsing to the answer; `None` where the specification wants no output.
pub fn answer(environment: &Environment, input: &[u8], socket: &Path) -> Result<Option<Value>, Error> {
    let request = spec::parse(environment, input)?;
    if request.command == Command::Version {
        return Ok(Some(spec::versions(&request)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(code::IO, format!("starting the plugin: {error}")).version(&request))?;
    let deadline = if request.command == Command::Status {
        STATUS_DEADLINE
    } else {
        DEADLINE
    };
    let client = Client::new(socket, deadline);
    let began = Instant::now();
    let outcome = runtime
        .block_on(ask(&request, &client))
        .map_err(|error| error.version(&request));
    log::note(&request, &outcome, began.elapsed());
    outcome
}

async fn ask(request: &Request, client: &Client) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => {
            let body = AddRequest {
                attachment: request.attachment.clone(),
                netns: request.netns.clone(),
                args: request.args.clone(),
                mtu: request.config.mtu,
            };
            let made: AddResponse = client
                .put(path::CNI_ADD, &body)
                .await
                .map_err(|error| refused(&error))?;
            Ok(Some(spec::result(request, &made)))
        }
        Command::Del => delete(request, client).await.map(|()| None),
        Command::Check => {
            let body = CheckRequest {
                attachment: request.attachment.clone(),
                netns: request.netns.clone(),
                addresses: request.config.previous_addresses(),
            };
            client
                .put::<_, Value>(path::CNI_CHECK, &body)
                .await
                .map_err(|error| refused(&error))?;
            Ok(None)
        }
        Command::Gc => {
            let body = GcRequest {
                // There is a list, or the request would have been refused.
                valid: request.config.valid_attachments.clone().unwrap_or_default(),
            };
            client
                .put::<_, Value>(path::CNI_GC, &body)
                .await
                .map_err(|error| refused(&error))?;
            Ok(None)
        }
        Command::Status => {
            client
                .get::<Value>(path::CNI_STATUS)
                .await
                .map_err(|error| match &error {
                    ClientError::Refused { error, .. } if error.cni_code != 0 => {
                        Error::new(error.cni_code, error.error.clone())
                    }
                    // Pods that exist keep their connectivity without the agent, so it is never LIMITED.
                    _ => Error::new(code::NOT_AVAILABLE, "the agent is not available").details(&error),
                })?;
            Ok(None)
        }
        Command::Version => Ok(Some(spec::versions(request))),
    }
}

/// DEL succeeds when the agent is away: what is to be done is written down for it.
async fn delete(request: &Request, client: &Client) -> Result<(), Error> {
    let Err(error) = client.put::<_, Value>(path::CNI_DEL, &request.attachment).await else {
        return Ok(());
    };
    if matches!(error, ClientError::Refused { .. }) {
        return Err(refused(&error));
    }
    let directory = queue::beside(client.socket());
    queue::push(&directory, &request.attachment).map_err(|reason| {
        Error::new(
            code::TRY_AGAIN,
            format!("the agent is away and the delete cannot be queued: {reason}"),
        )
        .details(&error)
    })
}

/// What an unsuccessful request means for the runtime.
fn refused(error: &ClientError) -> Error {
    match error {
        ClientError::Refused { error, .. } => {
            let code = if error.cni_code == 0 {
                code::TRY_AGAIN
            } else {
                error.cni_code
            };
            Error::new(code, error.error.clone())
        }
        ClientError::Connect { .. } | ClientError::Deadline(_) => {
            Error::new(code::TRY_AGAIN, "the agent is not available, try again later").details(error)
        }
        _ => Error::new(code::TRY_AGAIN, "talking to the agent failed, try again later").details(error),
    }
}

#[cfg(test)]
mod tests;

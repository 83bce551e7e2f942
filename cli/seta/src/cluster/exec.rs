//! Runs a command in a container, as `kubectl exec` does.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;

/// Most bytes of output that are read of one command: a full table of connections as JSON stays below it.
const MAX_OUTPUT: u64 = 512 << 20;

/// Why a command gave no output.
#[derive(Debug, Error)]
pub(crate) enum ExecError {
    /// The API server or the kubelet did not run it.
    #[error("the command could not be run: {}", super::told(.0))]
    Start(Box<kube::Error>),
    /// The connection broke.
    #[error("its output could not be read: {0}")]
    Output(#[source] std::io::Error),
    /// It ran and failed.
    #[error("{0}")]
    Failed(String),
    /// The connection ended before the command did.
    #[error("the connection ended before the command did: {0}")]
    Broken(String),
    /// It printed more than is read.
    #[error("it printed more than {} MiB", MAX_OUTPUT >> 20)]
    TooLong,
    /// It did not end in time.
    #[error("it did not end within {} seconds", .0.as_secs())]
    Late(Duration),
}

/// Runs a command and returns its standard output.
pub(crate) async fn output(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
    deadline: Duration,
) -> Result<String, ExecError> {
    let work = async {
        let parameters = AttachParams::default()
            .container(container)
            .stdout(true)
            .stderr(true);
        let mut process = pods
            .exec(pod, command.to_vec(), &parameters)
            .await
            .map_err(|error| ExecError::Start(Box::new(error)))?;
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let status = process.take_status();
        let (mut output, mut errors) = (String::new(), String::new());
        let (read_output, read_errors) = tokio::join!(
            async {
                match stdout {
                    Some(stdout) => stdout.take(MAX_OUTPUT).read_to_string(&mut output).await,
                    None => Ok(0),
                }
            },
            async {
                match stderr {
                    Some(stderr) => stderr.take(MAX_OUTPUT).read_to_string(&mut errors).await,
                    None => Ok(0),
                }
            }
        );
        read_output.and(read_errors).map_err(ExecError::Output)?;
        if output.len() as u64 >= MAX_OUTPUT {
            return Err(ExecError::TooLong);
        }
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        match status {
            // Without a status the output may be a part of it, or nothing at all.
            None => Err(ExecError::Broken(match process.join().await {
                Ok(()) => "no exit status was sent".to_owned(),
                Err(error) => super::root(&error),
            })),
            Some(status) if status.status.as_deref() == Some("Failure") => {
                let errors = errors.trim();
                let message = status.message.unwrap_or_default();
                let errors = errors.strip_prefix("Error: ").unwrap_or(errors);
                Err(ExecError::Failed(if errors.is_empty() {
                    message
                } else {
                    errors.to_owned()
                }))
            }
            Some(_) => Ok(output),
        }
    };
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or(Err(ExecError::Late(deadline)))
}

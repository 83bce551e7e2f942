//! Runs a command in a container, as `kubectl exec` does.

use std::io::{self, Write};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::AttachParams;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes of a command's errors that are kept.
const MAX_ERRORS: u64 = 64 << 10;
/// Most bytes of output that are kept in memory.
const MAX_OUTPUT: u64 = 64 << 20;

/// Why a command gave no output.
#[derive(Debug, Error)]
pub(crate) enum ExecError {
    /// The API server or the kubelet did not run it.
    #[error("the command could not be run: {}", super::told(.0))]
    Start(Box<kube::Error>),
    /// The connection broke.
    #[error("its output could not be read: {0}")]
    Output(#[source] io::Error),
    /// Where it was copied to takes no more.
    #[error("its output could not be kept: {0}")]
    Keep(#[source] io::Error),
    /// It ran and failed.
    #[error("{text}")]
    Failed {
        /// What it said, or what was said about it.
        text: String,
        /// Its exit code, where that is known.
        code: Option<u8>,
    },
    /// The connection ended before the command did.
    #[error("the connection ended before the command did: {0}")]
    Broken(String),
    /// It printed more than is kept.
    #[error("it printed more than {} MiB", MAX_OUTPUT >> 20)]
    TooLong,
    /// It did not end, or go on, in time.
    #[error("nothing was heard for {} seconds", .0.as_secs())]
    Late(Duration),
}

/// Runs a command and returns its standard output. All of it takes no longer than `deadline`.
pub(crate) async fn output(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
    deadline: Duration,
) -> Result<String, ExecError> {
    let mut bytes = Vec::new();
    let mut limited = Limited(&mut bytes);
    let work = copy(pods, pod, container, command, deadline, &mut limited);
    match tokio::time::timeout(deadline, work).await {
        Err(_) => Err(ExecError::Late(deadline)),
        Ok(Err(ExecError::Keep(_))) => Err(ExecError::TooLong),
        Ok(result) => result.and_then(|()| {
            String::from_utf8(bytes)
                .map_err(|error| ExecError::Output(io::Error::new(io::ErrorKind::InvalidData, error)))
        }),
    }
}

struct Limited<'a>(&'a mut Vec<u8>);

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > MAX_OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a command and copies its standard output as it comes. `silence`: how long nothing may be heard.
pub(crate) async fn copy(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
    silence: Duration,
    to: &mut impl Write,
) -> Result<(), ExecError> {
    let parameters = AttachParams::default()
        .container(container)
        .stdout(true)
        .stderr(true);
    let late = |_| ExecError::Late(silence);
    let mut process = tokio::time::timeout(silence, pods.exec(pod, command.to_vec(), &parameters))
        .await
        .map_err(late)?
        .map_err(|error| ExecError::Start(Box::new(error)))?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let errors = copy_streams(stdout, stderr, silence, to).await?;
    let status = match status {
        Some(status) => tokio::time::timeout(silence, status).await.map_err(late)?,
        None => None,
    };
    match status {
        // Without a status the output may be a part of it, or nothing at all.
        None => {
            let ended = tokio::time::timeout(silence, process.join())
                .await
                .map_err(late)?;
            Err(ExecError::Broken(match ended {
                Ok(()) => "no exit status was sent".to_owned(),
                Err(error) => super::root(&error),
            }))
        }
        Some(status) if status.status.as_deref() == Some("Failure") => {
            Err(failed(status, &String::from_utf8_lossy(&errors)))
        }
        Some(_) => Ok(()),
    }
}

/// Copies the output and returns the errors, both to their ends. Errors may be silent as long as the output is not.
async fn copy_streams(
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    silence: Duration,
    to: &mut impl Write,
) -> Result<Vec<u8>, ExecError> {
    let output = copy_stream(stdout, silence, to);
    let errors = async {
        let mut errors = Vec::new();
        if let Some(mut stderr) = stderr {
            (&mut stderr).take(MAX_ERRORS).read_to_end(&mut errors).await?;
            // Whoever is not read from cannot go on.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok(errors)
    };
    tokio::pin!(output, errors);
    let errors = tokio::select! {
        copied = &mut output => {
            copied?;
            tokio::time::timeout(silence, errors)
                .await
                .map_err(|_| ExecError::Late(silence))?
        }
        errors = &mut errors => {
            output.await?;
            errors
        }
    };
    errors.map_err(ExecError::Output)
}

async fn copy_stream(
    from: Option<impl AsyncRead + Unpin>,
    silence: Duration,
    to: &mut impl Write,
) -> Result<(), ExecError> {
    let Some(mut from) = from else { return Ok(()) };
    let mut part = vec![0; 64 << 10];
    loop {
        let read = tokio::time::timeout(silence, from.read(&mut part))
            .await
            .map_err(|_| ExecError::Late(silence))?
            .map_err(ExecError::Output)?;
        if read == 0 {
            return to.flush().map_err(ExecError::Keep);
        }
        to.write_all(part.get(..read).unwrap_or_default())
            .map_err(ExecError::Keep)?;
    }
}

/// Its own words say more than those about it.
fn failed(status: Status, errors: &str) -> ExecError {
    let errors = errors.trim();
    let errors = errors.strip_prefix("Error: ").unwrap_or(errors);
    let causes = status
        .details
        .and_then(|details| details.causes)
        .unwrap_or_default();
    let code = causes
        .into_iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    ExecError::Failed {
        text: if errors.is_empty() {
            status.message.unwrap_or_default()
        } else {
            errors.to_owned()
        },
        code: code.and_then(|cause| cause.message?.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn a_failed_command_says_why_and_with_which_code() {
        let status = |value| serde_json::from_value::<Status>(value).unwrap();
        let told = json!({"message": "command terminated with exit code 4", "details": {"causes": [
            {"reason": "ExitCode", "message": "4"}
        ]}});
        let ExecError::Failed { text, code } = failed(status(told.clone()), "Error: no endpoint\n") else {
            panic!("it failed")
        };
        assert_eq!((text.as_str(), code), ("no endpoint", Some(4)));
        let ExecError::Failed { text, code } = failed(status(json!({"message": "no such container"})), "")
        else {
            panic!("it failed")
        };
        assert_eq!((text.as_str(), code), ("no such container", None));
    }

    #[tokio::test]
    async fn silence_ends_the_copy_and_what_came_before_it_is_kept() {
        let (from, mut sender) = tokio::io::duplex(8);
        sender.write_all(b"abcd").await.unwrap();
        let mut copied = Vec::new();
        let result = copy_stream(Some(from), Duration::from_millis(20), &mut copied).await;
        assert!(matches!(result, Err(ExecError::Late(_))), "{result:?}");
        assert_eq!(copied, b"abcd");
    }

    #[tokio::test]
    async fn a_connection_that_hangs_on_one_stream_or_both_ends_in_time() {
        let silence = Duration::from_millis(20);
        for stdout_ends in [true, false] {
            let (stdout, stdout_sender) = tokio::io::duplex(8);
            let (stderr, _stderr_sender) = tokio::io::duplex(8);
            let _open = (!stdout_ends).then_some(stdout_sender);
            let result = copy_streams(Some(stdout), Some(stderr), silence, &mut Vec::new()).await;
            assert!(matches!(result, Err(ExecError::Late(_))), "{result:?}");
        }
    }

    #[tokio::test]
    async fn long_errors_are_cut_and_do_not_hold_up_the_output() {
        let (stdout, mut stdout_sender) = tokio::io::duplex(8);
        let (stderr, mut stderr_sender) = tokio::io::duplex(8);
        let sending = tokio::spawn(async move {
            let errors = vec![b'e'; usize::try_from(MAX_ERRORS).unwrap() * 2];
            stderr_sender.write_all(&errors).await.unwrap();
            stdout_sender.write_all(b"output").await.unwrap();
        });
        let mut copied = Vec::new();
        let errors = copy_streams(Some(stdout), Some(stderr), Duration::from_secs(30), &mut copied)
            .await
            .unwrap();
        sending.await.unwrap();
        assert_eq!(
            (copied.as_slice(), errors.len() as u64),
            (&b"output"[..], MAX_ERRORS)
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut bytes = vec![0; usize::try_from(MAX_OUTPUT).unwrap() - 1];
        assert!(Limited(&mut bytes).write_all(b"a").is_ok());
        assert!(Limited(&mut bytes).write_all(b"b").is_err());
    }
}

//! Running commands in containers: for clients (exec), for probes and hooks, and being present at a container (attach).

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use lab_streams::{Outcome, RemoteCommand};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixListener,
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    crun, oci,
    pod::termination,
    shim,
    terminal::{self, Terminal},
};

/// How long nothing may come after the command is gone before its output is over: something it started may hold its
/// streams. The time that a slow client takes does not count.
const DRAIN: Duration = Duration::from_secs(1);
/// How much output of a probe or hook is kept.
const MAX_CAPTURE: usize = 10 << 10;
/// How long the runtime may take to hand over a terminal.
const TERMINAL_WITHIN: Duration = Duration::from_secs(30);

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("container not found")]
    NoContainer(#[source] io::Error),
    #[error("cannot start crun")]
    Spawn(#[from] io::Error),
    #[error("{0}")]
    Runtime(String),
    #[error("command timed out")]
    Timeout,
}

/// A command about to be run: the runtime's call and its files, which are removed in the end.
struct Prepared {
    command: Command,
    process: PathBuf,
    log: PathBuf,
    pid: PathBuf,
    console: PathBuf,
}

impl Prepared {
    fn new(context: &Context, id: &str, command: &[String], terminal: bool) -> Result<Self, ExecError> {
        let dir = context.paths.container(id);
        let config = std::fs::read(dir.join("config.json")).map_err(ExecError::NoContainer)?;
        let config: Value = serde_json::from_slice(&config).map_err(io::Error::from)?;
        let Some(process) = oci::exec_process(&config, command, terminal) else {
            return Err(ExecError::NoContainer(io::ErrorKind::InvalidData.into()));
        };
        // Short, because the path of a socket must not exceed 108 bytes.
        let name = uuid::Uuid::new_v4().simple().to_string();
        let stem = format!("x{}", name.get(..8).unwrap_or_default());
        let file = |suffix: &str| dir.join(format!("{stem}.{suffix}"));
        let (process_file, log, pid, console) = (file("json"), file("log"), file("pid"), file("sock"));
        std::fs::write(&process_file, process.to_string())?;
        let inner = crun::command(&context.paths.runtime(), &log);
        let order: Option<shim::Order> = std::fs::read(dir.join("shim.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let mut command = match order.and_then(|order| order.cgroup) {
            // The runtime does not know the container's cgroup, so it is entered before.
            Some(cgroup) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", "echo $$ > \"$0\"; exec \"$@\""])
                    .arg(cgroup.join("cgroup.procs"));
                command.arg(inner.get_program()).args(inner.get_args());
                command
            }
            None => Command::from(inner),
        };
        command
            .arg("exec")
            .arg("--process")
            .arg(&process_file)
            .arg("--pid-file")
            .arg(&pid);
        if terminal {
            command.arg("--console-socket").arg(&console);
        }
        command.arg(id).kill_on_drop(true);
        Ok(Self {
            command,
            process: process_file,
            log,
            pid,
            console,
        })
    }

    /// What the end of the runtime says about the command.
    fn outcome(&self, status: ExitStatus) -> Outcome {
        use std::os::unix::process::ExitStatusExt;
        if let Some(error) = crun::last_error(&self.log) {
            return Outcome::Failed(format!(
                "error executing command in container: failed to exec in container: {error}"
            ));
        }
        match status.code().or(status.signal().map(|signal| 128 + signal)) {
            Some(0) => Outcome::Success,
            Some(code) => Outcome::Exit(code),
            None => Outcome::Failed("the command ended in an unknown way".to_owned()),
        }
    }

    /// Kills the command itself; the runtime's call is only its messenger.
    fn kill(&self) {
        let pid = std::fs::read_to_string(&self.pid)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for file in [&self.process, &self.log, &self.pid, &self.console] {
            let _ = crate::files::remove(file);
        }
    }
}

/// Runs a command without a client; returns its exit code and output.
pub(crate) async fn capture(
    context: &Context,
    id: &str,
    command: &[String],
    within: Duration,
) -> Result<(i32, String), ExecError> {
    let mut prepared = Prepared::new(context, id, command, false)?;
    prepared
        .command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = prepared.command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let output = async { tokio::join!(keep(stdout), keep(stderr)) };
        tokio::join!(child.wait(), timeout(within, output))
    };
    let Ok((status, output)) = timeout(within, work).await else {
        prepared.kill();
        let _ = timeout(DRAIN, child.wait()).await;
        return Err(ExecError::Timeout);
    };
    let (out, err) = output.unwrap_or_default();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out),
        String::from_utf8_lossy(&err)
    );
    match prepared.outcome(status?) {
        Outcome::Success => Ok((0, text)),
        Outcome::Exit(code) => Ok((code, text)),
        Outcome::Failed(why) => Err(ExecError::Runtime(why)),
    }
}

/// The beginning of an output. The rest is read and dropped, so that the command does not stand still at a full pipe.
async fn keep(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut text = Vec::new();
    if let Some(mut source) = source {
        let _ = (&mut source)
            .take(MAX_CAPTURE as u64)
            .read_to_end(&mut text)
            .await;
        let _ = tokio::io::copy(&mut source, &mut tokio::io::sink()).await;
    }
    text
}

/// Runs a command for a client until one of both is done.
pub(crate) async fn run(
    context: &Context,
    id: &str,
    command: &[String],
    tty: bool,
    mut client: RemoteCommand,
) {
    let outcome = match Prepared::new(context, id, command, tty) {
        Ok(prepared) if tty => with_terminal(prepared, &mut client).await,
        Ok(prepared) => with_pipes(prepared, &mut client).await,
        Err(error) => Err(error),
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(error.to_string()));
    client.finish(&outcome).await;
}

async fn with_pipes(mut prepared: Prepared, client: &mut RemoteCommand) -> Result<Outcome, ExecError> {
    let stdin = if client.stdin.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = prepared
        .command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (to_child, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (from_client, to_client, errors) = (client.stdin.take(), client.stdout.take(), client.stderr.take());
    let input = tokio::spawn(async move {
        if let (Some(mut from), Some(mut to)) = (from_client, to_child) {
            // Ends with the client's input; dropping the pipe tells the command.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let gone = CancellationToken::new();
    let ended = async {
        let wait = async {
            let status = child.wait().await;
            gone.cancel();
            status
        };
        tokio::join!(wait, pass(out, to_client, &gone), pass(err, errors, &gone)).0
    };
    let status = tokio::select! {
        status = ended => Some(status?),
        () = client.hung_up() => None,
    };
    input.abort();
    match status {
        Some(status) => Ok(prepared.outcome(status)),
        None => {
            prepared.kill();
            // The runtime's call must see the end of its child, or nobody takes its exit code.
            let _ = timeout(DRAIN, child.wait()).await;
            Ok(Outcome::Exit(137))
        }
    }
}

/// Output to the client; without a client's stream it is read and dropped, so that the command does not stand still.
/// Ends with the output, or when nothing has come for a while after the command was `gone`.
async fn pass(
    from: Option<impl AsyncRead + Unpin>,
    mut to: Option<impl AsyncWrite + Unpin>,
    gone: &CancellationToken,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let quiet = async {
            gone.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = quiet => return,
        };
        let Ok(read @ 1..) = read else { return };
        if let Some(client) = &mut to
            && client
                .write_all(buffer.get(..read).unwrap_or_default())
                .await
                .is_err()
        {
            to = None;
        }
    }
}

async fn with_terminal(mut prepared: Prepared, client: &mut RemoteCommand) -> Result<Outcome, ExecError> {
    let listener = UnixListener::bind(&prepared.console)?;
    let mut child = prepared
        .command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let connection = tokio::select! {
        connection = timeout(TERMINAL_WITHIN, listener.accept()) => connection.map_err(|_| ExecError::Timeout)??.0,
        status = child.wait() => return Ok(prepared.outcome(status?)),
    };
    let connection = connection.into_std()?;
    connection.set_nonblocking(false)?;
    let fd = tokio::task::spawn_blocking(move || terminal::receive_from(&connection)).await;
    let terminal = Terminal::new(fd.map_err(io::Error::from)??)?;
    let status = serve_terminal(&terminal, &mut child, client).await;
    drop(terminal);
    match status {
        Some(status) => Ok(prepared.outcome(status?)),
        None => {
            prepared.kill();
            // The runtime's call must see the end of its child, or nobody takes its exit code.
            let _ = timeout(DRAIN, child.wait()).await;
            Ok(Outcome::Exit(137))
        }
    }
}

async fn serve_terminal(
    terminal: &Terminal,
    child: &mut Child,
    client: &mut RemoteCommand,
) -> Option<io::Result<ExitStatus>> {
    let (stdin, stdout, resize) = (client.stdin.take(), client.stdout.take(), client.resize.take());
    let input = async {
        let mut buffer = vec![0; 4096];
        if let Some(mut stdin) = stdin {
            while let Ok(read @ 1..) = stdin.read(&mut buffer).await {
                if terminal
                    .write_all(buffer.get(..read).unwrap_or_default())
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if let Some(mut resize) = resize {
            while let Some(size) = resize.recv().await {
                terminal.resize(size);
            }
        }
        std::future::pending::<()>().await;
    };
    let output = async {
        let mut stdout = stdout;
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = terminal.read(&mut buffer).await {
            if let Some(stdout) = &mut stdout {
                let _ = stdout.write_all(buffer.get(..read).unwrap_or_default()).await;
            }
        }
    };
    let ended = async {
        tokio::pin!(output);
        tokio::select! {
            status = child.wait() => {
                let _ = timeout(DRAIN, output).await;
                status
            }
            () = &mut output => child.wait().await,
        }
    };
    tokio::select! {
        status = ended => Some(status),
        () = input => None,
        () = sizes => None,
        () = client.hung_up() => None,
    }
}

/// Connects a client with a container's own streams. Output is what the container writes from now on.
pub(crate) async fn attach(
    context: &Context,
    id: &str,
    log: &Path,
    stdin_once: bool,
    mut client: RemoteCommand,
) {
    let dir = context.paths.container(id);
    let (stdin, resize) = (client.stdin.take(), client.resize.take());
    let (stdout, stderr) = (client.stdout.take(), client.stderr.take());
    let input = tokio::spawn(feed(dir.clone(), stdin, stdin_once));
    let resize_dir = dir.clone();
    let sizes = tokio::spawn(async move {
        let Some(mut resize) = resize else { return };
        while let Some(size) = resize.recv().await {
            let _ = shim::control(&resize_dir, &format!("resize {} {}", size.width, size.height));
        }
    });
    let ended = async move { termination::ended(&dir).await };
    tokio::select! {
        () = crate::log_reader::follow_streams(log, stdout, stderr, ended) => {}
        () = client.hung_up() => {}
    }
    input.abort();
    sizes.abort();
    client.finish(&Outcome::Success).await;
}

/// A client's input to the container's pipe.
async fn feed(dir: PathBuf, stdin: Option<tokio::io::DuplexStream>, once: bool) {
    let Some(mut stdin) = stdin else { return };
    let opened = tokio::net::unix::pipe::OpenOptions::new().open_sender(dir.join("stdin"));
    if let Ok(mut pipe) = opened {
        let _ = tokio::io::copy(&mut stdin, &mut pipe).await;
        drop(pipe);
        if once {
            let _ = shim::control(&dir, "close-stdin");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_client_gets_everything_although_the_command_is_gone() {
        let gone = CancellationToken::new();
        gone.cancel();
        let all = vec![b'x'; 100_000];
        let (to, mut client) = tokio::io::duplex(1000);
        let slow = async {
            tokio::time::sleep(DRAIN + Duration::from_millis(200)).await;
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.expect("a pipe can be read");
            got.len()
        };
        let ((), got) = tokio::join!(pass(Some(all.as_slice()), Some(to), &gone), slow);
        assert_eq!(got, all.len());
    }

    #[tokio::test]
    async fn a_stream_that_something_holds_open_ends_soon_after_the_command() {
        let gone = CancellationToken::new();
        let (mut held, from) = tokio::io::duplex(1000);
        let (to, mut client) = tokio::io::duplex(1000);
        held.write_all(b"said").await.expect("there is room");
        gone.cancel();
        timeout(DRAIN * 5, pass(Some(from), Some(to), &gone))
            .await
            .expect("it ends although nobody closed the stream");
        let mut got = String::new();
        client.read_to_string(&mut got).await.expect("it is text");
        assert_eq!(got, "said");
    }
}

//! The process beside every container: it keeps the container's streams, writes its log and sees its end, so that the kubelet
//! may come and go. Plain threads and blocking calls, a few megabytes.
//!
//! A container's directory holds `shim.json` (what to do), `shim.sock` (connections stay open as long as the shim lives),
//! `control` (a pipe of commands: `resize W H`, `close-stdin`), `stdin` (a pipe, if the container has one) and in the end
//! `exit.json`. The shim says `started <pid>` or the reason of a failure on its standard output, then nothing more.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::OpenOptionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    fcntl::OFlag,
    sys::{
        prctl,
        stat::Mode,
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, mkfifo},
};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};

use crate::logs::{LogFile, Stream};

/// How long output may still come after the container's first process is gone.
const DRAIN: Duration = Duration::from_secs(2);

/// What a shim is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Container id, for crun.
    pub(crate) id: String,
    /// crun's own state directory.
    pub(crate) runtime_root: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    /// The container's cgroup, if the node has a cgroup v2 hierarchy.
    pub(crate) cgroup: Option<PathBuf>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// 128 + n after signal n, as a shell says it.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) finished_at: jiff::Timestamp,
}

/// Runs the shim of the container in `dir`.
pub(crate) fn run(dir: &Path) -> anyhow::Result<ExitCode> {
    let order: Order = serde_json::from_slice(&std::fs::read(dir.join("shim.json"))?)?;
    prctl::set_child_subreaper(true).context("cannot become a subreaper")?;
    let connections = UnixListener::bind(dir.join("shim.sock")).context("cannot bind the shim's socket")?;
    std::thread::spawn(move || hold(&connections));
    let started = start(dir, &order);
    let (pid, streams) = match started {
        Ok(started) => started,
        Err(error) => {
            println!("{error:#}");
            return Ok(ExitCode::FAILURE);
        }
    };
    println!("started {pid}");
    let drained = streams.serve(dir)?;
    let (code, signal) = wait(pid)?;
    let deadline = Instant::now() + DRAIN;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if drained.recv_timeout(left).is_err() {
            break;
        }
    }
    let exit = Exit {
        code,
        signal,
        finished_at: jiff::Timestamp::now(),
    };
    crate::files::write_atomically(
        &dir.join(crate::pod::termination::EXIT),
        &serde_json::to_vec(&exit)?,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps connections open: their end tells the other side that the shim is gone.
fn hold(listener: &UnixListener) {
    let mut open: Vec<UnixStream> = Vec::new();
    for connection in listener.incoming().flatten() {
        open.retain(|connection| {
            let hung_up =
                connection.set_nonblocking(true).is_ok() && matches!((&*connection).read(&mut [0]), Ok(0));
            !hung_up
        });
        open.push(connection);
    }
}

/// The shim's ends of the container's streams.
struct Streams {
    outputs: Vec<(Stream, OwnedFd)>,
    terminal: Option<OwnedFd>,
    /// Keeps the container's input open while nobody is attached.
    stdin: Option<File>,
    log: Arc<Mutex<LogFile>>,
}

fn start(dir: &Path, order: &Order) -> anyhow::Result<(Pid, Streams)> {
    let log = Arc::new(Mutex::new(
        LogFile::open(&order.log).context("cannot open the log")?,
    ));
    let fifo = |name: &str| -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        mkfifo(&path, Mode::from_bits_truncate(0o600)).with_context(|| format!("cannot make {name}"))?;
        Ok(path)
    };
    fifo("control")?;
    let error_log = dir.join("crun.log");
    let crun = || crate::crun::command(&order.runtime_root, &error_log);
    let mut create = crun();
    create
        .args(["create", "--bundle"])
        .arg(dir)
        .arg("--pid-file")
        .arg(dir.join("pid"));
    let mut stdin = None;
    if order.stdin {
        let path = fifo("stdin")?;
        // Opening for both does not wait for the other side.
        let both = OpenOptions::new().read(true).write(true).open(&path)?;
        if !order.terminal {
            create.stdin(Stdio::from(OpenOptions::new().read(true).open(&path)?));
        }
        // The reader for a terminal is opened in `serve`.
        stdin = Some(OpenOptions::new().write(true).open(&path)?);
        if order.terminal {
            stdin = Some(both);
        }
    }
    let mut outputs = Vec::new();
    let mut terminal = None;
    create.arg("--no-new-keyring");
    if order.terminal {
        let path = dir.join("console.sock");
        let listener = UnixListener::bind(&path)?;
        create.arg("--console-socket").arg(&path).arg(&order.id);
        create.stdout(Stdio::null()).stderr(Stdio::null());
        let receive = std::thread::spawn(move || crate::terminal::receive(&listener));
        let status = create.status()?;
        if !status.success() {
            bail!("failed to create container: {}", crun_error(&error_log));
        }
        let fd = receive
            .join()
            .map_err(|_| anyhow::anyhow!("console thread failed"))??;
        outputs.push((Stream::Stdout, fd.try_clone()?));
        terminal = Some(fd);
    } else {
        let (out_read, out_write) = io::pipe()?;
        let (err_read, err_write) = io::pipe()?;
        create
            .arg(&order.id)
            .stdout(Stdio::from(out_write))
            .stderr(Stdio::from(err_write));
        let status = create.status()?;
        drop(create); // and with it our copies of the writing ends
        if !status.success() {
            bail!("failed to create container: {}", crun_error(&error_log));
        }
        outputs.push((Stream::Stdout, out_read.into()));
        outputs.push((Stream::Stderr, err_read.into()));
    }
    let pid = std::fs::read_to_string(dir.join("pid"))?
        .trim()
        .parse()
        .context("crun wrote no pid")?;
    if let Some(cgroup) = &order.cgroup {
        // Before the program starts, so that nothing of it ever runs elsewhere.
        let _ = std::fs::write(cgroup.join("cgroup.procs"), format!("{pid}"));
    }
    let status = crun()
        .arg("start")
        .arg(&order.id)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        let why = crun_error(&error_log);
        let _ = crun().args(["delete", "--force", &order.id]).status();
        bail!("failed to start container: {why}");
    }
    Ok((
        Pid::from_raw(pid),
        Streams {
            outputs,
            terminal,
            stdin,
            log,
        },
    ))
}

fn crun_error(log: &Path) -> String {
    crate::crun::last_error(log).unwrap_or_else(|| "crun failed without a message".to_owned())
}

impl Streams {
    /// Starts the threads. The receiver disconnects once all output has ended.
    fn serve(self, dir: &Path) -> anyhow::Result<mpsc::Receiver<()>> {
        let (done, drained) = mpsc::channel::<()>();
        for (stream, fd) in self.outputs {
            let (log, done) = (self.log.clone(), done.clone());
            let immediate = self.terminal.is_some();
            std::thread::spawn(move || {
                pump(stream, File::from(fd), &log, immediate);
                drop(done);
            });
        }
        if let (Some(terminal), Some(stdin)) = (&self.terminal, &self.stdin) {
            let mut terminal = File::from(terminal.try_clone()?);
            let mut stdin = stdin.try_clone()?;
            std::thread::spawn(move || io::copy(&mut stdin, &mut terminal));
        }
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_CLOEXEC.bits())
            .open(dir.join("control"))?;
        let (terminal, mut stdin) = (self.terminal, self.stdin);
        std::thread::spawn(move || {
            for line in BufReader::new(control).lines().map_while(Result::ok) {
                let words = line.split_whitespace().collect::<Vec<_>>();
                match (words.as_slice(), &terminal) {
                    (["resize", width, height], Some(terminal)) => {
                        if let (Ok(ws_col), Ok(ws_row)) = (width.parse(), height.parse()) {
                            let size = Winsize {
                                ws_row,
                                ws_col,
                                ws_xpixel: 0,
                                ws_ypixel: 0,
                            };
                            let _ = tcsetwinsize(terminal, size);
                        }
                    }
                    (["close-stdin"], None) => stdin = None,
                    // End of input on a terminal is a character: ^D.
                    (["close-stdin"], Some(terminal)) => {
                        let _ = rustix::io::write(terminal, b"\x04");
                    }
                    _ => {}
                }
            }
            drop(stdin);
        });
        Ok(drained)
    }
}

/// Output to log. A line may come in pieces; a terminal's pieces are passed on at once, because people wait for prompts.
fn pump(stream: Stream, source: File, log: &Mutex<LogFile>, immediate: bool) {
    let mut source = BufReader::with_capacity(16 << 10, source);
    let mut pending = Vec::new();
    loop {
        let chunk = match source.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal whose other side is closed says EIO.
            Err(_) => break,
        };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            pending.extend_from_slice(piece);
            let complete = pending.last() == Some(&b'\n');
            if complete || immediate || pending.len() >= 16 << 10 {
                // A full disk must not stop the container.
                let _ = log.write(stream, &pending);
                pending.clear();
            }
        }
        drop(log);
        let used = chunk.len();
        source.consume(used);
    }
    if !pending.is_empty() {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = log.write(stream, &pending);
    }
}

/// Reaps whatever ends, until it is the container's first process.
fn wait(pid: Pid) -> anyhow::Result<(i32, Option<i32>)> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(ended, code)) if ended == pid => return Ok((code, None)),
            Ok(WaitStatus::Signaled(ended, signal, _)) if ended == pid => {
                return Ok((128 + signal as i32, Some(signal as i32)));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the container"),
        }
    }
}

/// Sends a line to a shim's control pipe, without waiting for a shim that is gone.
pub(crate) fn control(dir: &Path, line: &str) -> io::Result<()> {
    let mut pipe = OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(dir.join("control"))?;
    pipe.write_all(format!("{line}\n").as_bytes())
}

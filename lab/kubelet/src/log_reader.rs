//! Reading container logs from disk, once or as they grow.

use std::{
    io::{self, SeekFrom},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use rustix::fs::inotify;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt, unix::AsyncFd},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::logs::{self, Options, Printer, Stream};

/// How often a followed log is looked at when the kernel does not tell of changes (too many watches on this machine), and the
/// longest it is not looked at when it does.
const LOOK: Duration = Duration::from_millis(500);
/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// News of the files in a log's directory, from the kernel: what is appended, and rotation.
struct Changes(Option<AsyncFd<OwnedFd>>);

impl Changes {
    fn of(log: &Path, wanted: bool) -> Self {
        let watch = || -> io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
            let dir = log.parent().unwrap_or(log);
            let what =
                inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&fd, dir, what)?;
            // SAFETY: the descriptor is owned by the `AsyncFd`, which is never asked to give it away: it stays open and the same
            // until both are dropped.
            Ok(unsafe { AsyncFd::register(fd) }?)
        };
        Self(wanted.then(watch).and_then(Result::ok))
    }

    /// Waits for the next change; may return without one.
    async fn next(&self) {
        let Some(fd) = &self.0 else {
            return sleep(LOOK).await;
        };
        let Ok(Ok(mut ready)) = timeout(LOOK, fd.readable()).await else {
            return;
        };
        // Only that something happened counts.
        let mut events = [0; 4096];
        while rustix::io::read(fd.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
        ready.clear_ready();
    }
}

/// A log file that is read while it grows and is rotated.
struct Growing {
    path: PathBuf,
    file: Option<File>,
    inode: u64,
    pending: Vec<u8>,
}

impl Growing {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            inode: 0,
            pending: Vec::new(),
        }
    }

    async fn open(&mut self, from_end: bool) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let mut file = File::open(&self.path).await?;
        self.inode = file.metadata().await?.ino();
        if from_end {
            file.seek(SeekFrom::End(0)).await?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Complete lines that are there now; empty when there is nothing new.
    async fn lines(&mut self) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::MetadataExt;
        if self.file.is_none() && self.open(false).await.is_err() {
            return Ok(Vec::new());
        }
        let Some(file) = &mut self.file else {
            return Ok(Vec::new());
        };
        self.pending.reserve(CHUNK);
        let read = file.read_buf(&mut self.pending).await?;
        if read == 0 {
            // Read to its end: if another file has its name by now, go on with that.
            let now = tokio::fs::metadata(&self.path)
                .await
                .map(|metadata| metadata.ino());
            if now.is_ok_and(|inode| inode != self.inode) {
                self.file = None;
            }
            return Ok(Vec::new());
        }
        let end = self
            .pending
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        Ok(self.pending.drain(..end).collect())
    }
}

/// Sends what the options ask for; with `follow`, until `ended` and all is read, or nobody listens.
pub(crate) async fn send(
    path: PathBuf,
    options: Options,
    ended: impl Future<Output = ()>,
    out: mpsc::Sender<Bytes>,
) {
    let follow = options.follow;
    let mut content = tokio::fs::read(logs::rotated(&path)).await.unwrap_or_default();
    let changes = Changes::of(&path, follow);
    let mut growing = Growing::new(&path);
    while let Ok(lines) = growing.lines().await {
        if lines.is_empty() {
            break;
        }
        content.extend_from_slice(&lines);
    }
    let start = options.tail.map_or(0, |count| logs::tail_start(&content, count));
    let mut printer = Printer::new(options);
    let first = print(&mut printer, content.get(start..).unwrap_or_default());
    drop(content);
    if !first.is_empty() && out.send(first.into()).await.is_err() {
        return;
    }
    if !follow {
        return;
    }
    tokio::pin!(ended);
    let mut is_over = false;
    while !printer.is_done() {
        let Ok(lines) = growing.lines().await else { return };
        if !lines.is_empty() {
            let text = print(&mut printer, &lines);
            if !text.is_empty() && out.send(text.into()).await.is_err() {
                return;
            }
            continue;
        }
        if is_over {
            return;
        }
        tokio::select! {
            () = &mut ended => is_over = true,
            () = changes.next() => {}
            () = out.closed() => return,
        }
    }
}

fn print(printer: &mut Printer, content: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in content.split(|byte| *byte == b'\n').filter_map(logs::parse) {
        printer.print(&line, &mut text);
    }
    text
}

/// Writes what comes from now on to two streams, until `ended` and all is read.
pub(crate) async fn follow_streams(
    path: &Path,
    mut stdout: Option<impl AsyncWrite + Unpin>,
    mut stderr: Option<impl AsyncWrite + Unpin>,
    ended: impl Future<Output = ()>,
) {
    let changes = Changes::of(path, true);
    let mut growing = Growing::new(path);
    if growing.open(true).await.is_err() {
        return;
    }
    tokio::pin!(ended);
    let mut is_over = false;
    loop {
        let Ok(lines) = growing.lines().await else { return };
        for line in lines.split(|byte| *byte == b'\n').filter_map(logs::parse) {
            let mut text = line.text.to_vec();
            if line.full {
                text.push(b'\n');
            }
            match line.stream {
                Stream::Stdout => {
                    if let Some(stdout) = &mut stdout {
                        let _ = stdout.write_all(&text).await;
                    }
                }
                Stream::Stderr => {
                    if let Some(stderr) = &mut stderr {
                        let _ = stderr.write_all(&text).await;
                    }
                }
            }
        }
        if !lines.is_empty() {
            continue;
        }
        if is_over {
            return;
        }
        tokio::select! {
            () = &mut ended => is_over = true,
            () = changes.next() => {}
        }
    }
}

//! Reading container logs from disk, once or as they grow.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::sleep,
};

use crate::logs::{self, Options, Printer, Stream};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How much is read at once.
const CHUNK: usize = 64 << 10;

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
            () = sleep(LOOK) => {}
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
            () = sleep(LOOK) => {}
        }
    }
}

//! Network namespaces: opened by path, entered only by threads that exist for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// A network namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The file that stands for the namespace could not be opened.
    #[error("cannot open network namespace {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread for it could not be started.
    #[error("cannot start a thread for a network namespace")]
    Thread(#[source] io::Error),
    /// It could not be entered: not a network namespace, or no permission.
    #[error("cannot enter network namespace {path}")]
    Enter {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The work inside panicked.
    #[error("work in network namespace {path} did not end")]
    Panicked {
        /// The file.
        path: PathBuf,
    },
}

/// An open network namespace. It exists at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace behind a file such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`NetnsError::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref().to_owned();
        match File::open(&path) {
            Ok(file) => Ok(Self {
                fd: file.into(),
                path,
            }),
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetnsError::Open`].
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The file it was opened by; only for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it without blocking the runtime.
    ///
    /// The thread ends with the work, so that no thread of a pool is ever found in the wrong namespace.
    ///
    /// # Errors
    /// [`NetnsError`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetnsError> {
        let (sender, receiver) = oneshot::channel();
        self.spawn(move |entered| {
            // The receiver is gone when the caller has given up.
            let _ = sender.send(entered.map(|()| work()));
        })?;
        match receiver.await {
            Ok(result) => result,
            Err(_) => Err(NetnsError::Panicked {
                path: self.path.clone(),
            }),
        }
    }

    /// The same for callers outside a runtime; blocks until the work is done.
    ///
    /// # Errors
    /// [`NetnsError`].
    pub fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetnsError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.spawn(move |entered| {
            let _ = sender.send(entered.map(|()| work()));
        })?;
        receiver.recv().unwrap_or_else(|_| {
            Err(NetnsError::Panicked {
                path: self.path.clone(),
            })
        })
    }

    fn spawn(&self, work: impl FnOnce(Result<(), NetnsError>) + Send + 'static) -> Result<(), NetnsError> {
        let fd = self.fd.try_clone().map_err(NetnsError::Thread)?;
        let path = self.path.clone();
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let entered = setns(&fd, CloneFlags::CLONE_NEWNET);
                work(entered.map_err(|errno| NetnsError::Enter {
                    path,
                    source: errno.into(),
                }));
            })
            .map(drop)
            .map_err(NetnsError::Thread)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

//! A lab of its own and a shell in which `seta` and `kubectl` talk to it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; -1 when killed by a signal.
    pub code: i32,
    /// Standard output and standard error, in that order.
    pub text: String,
}

/// A cluster with a kubeconfig of its own, taken down when dropped.
#[derive(Debug)]
pub struct Lab {
    cluster: String,
    seta: PathBuf,
    // Held for its life: the kubeconfig is in there.
    directory: tempfile::TempDir,
    keep: bool,
}

impl Lab {
    /// A lab that is not up yet. `seta` is the binary to test.
    ///
    /// # Errors
    /// When the binary or the machine's temporary directory is missing.
    pub fn new(cluster: &str, seta: &Path) -> Result<Self> {
        let seta = seta
            .canonicalize()
            .with_context(|| format!("{} is not built", seta.display()))?;
        let directory = tempfile::tempdir().context("no temporary directory")?;
        Ok(Self {
            cluster: cluster.to_owned(),
            seta,
            directory,
            keep: false,
        })
    }

    /// The name of the cluster; nodes are `<cluster>-control-plane` and so on.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Leave the lab up when this value goes.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// A shell command with `seta` on the PATH and a kubeconfig of this lab. In the text, the cluster name `kind` of the
    /// demo stands for this lab's.
    #[must_use]
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.seta.parent().unwrap_or(Path::new("/"));
        command
            .args(["-o", "pipefail", "-c", &self.localised(script)])
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display()))
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            // kubectl's discovery cache must not survive from one lab to the next.
            .env("KUBECACHEDIR", self.directory.path().join("cache"))
            .env("SETA_LAB_NAME", &self.cluster)
            .stdin(Stdio::null());
        command
    }

    /// The script as it runs in this lab.
    #[must_use]
    pub fn localised(&self, script: &str) -> String {
        script.replace("kind-", &format!("{}-", self.cluster))
    }

    /// Run a script to its end.
    ///
    /// # Errors
    /// When the shell cannot be started, or the script is still running after two minutes (it is then killed).
    pub fn run(&self, script: &str) -> Result<Output> {
        let output = self
            .command(&format!(
                "timeout --kill-after=5 120 bash -o pipefail -c {}",
                quote(script)
            ))
            .output()
            .context("cannot start bash")?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let code = output.status.code().unwrap_or(-1);
        if code == 124 {
            bail!("still running after two minutes: {script}\n{text}");
        }
        Ok(Output { code, text })
    }

    /// Run a script that must succeed; what it printed.
    ///
    /// # Errors
    /// When it exits with anything but 0; the error has its output.
    pub fn ok(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        if output.code != 0 {
            bail!(
                "`{script}` ended with exit code {}:\n{}",
                output.code,
                output.text
            );
        }
        Ok(output.text)
    }

    /// Run a script until its output satisfies the condition.
    ///
    /// # Errors
    /// When the deadline passes; the error has the last output.
    pub fn until(
        &self,
        deadline: Duration,
        script: &str,
        condition: impl Fn(&Output) -> bool,
    ) -> Result<Output> {
        let end = Instant::now() + deadline;
        loop {
            let output = self.run(script)?;
            if condition(&output) {
                return Ok(output);
            }
            if Instant::now() >= end {
                bail!(
                    "after {deadline:?}, `{script}` still ends with {} and prints:\n{}",
                    output.code,
                    output.text
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Start a script in the background.
    ///
    /// # Errors
    /// When the shell cannot be started.
    pub fn spawn(&self, script: &str) -> Result<Child> {
        self.command(script)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start bash")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = self.ok("seta lab down") {
            eprintln!("the lab {} could not be taken down: {error:#}", self.cluster);
        }
    }
}

fn quote(script: &str) -> String {
    format!("'{}'", script.replace('\'', "'\\''"))
}

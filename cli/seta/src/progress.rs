//! What people see while they wait: one line per step, led by a sign, as the cilium CLI has it. It goes to standard
//! error, so that output for programs stays clean.

use std::io::{self, BufWriter, IsTerminal as _, Write};

/// Writes the output of a command. A reader that has seen enough, such as `head`, is no error.
pub(crate) fn output(text: &str) -> anyhow::Result<()> {
    written(|out| Ok(out.write_all(text.as_bytes())?))
}

/// Lets `write` write the output of a command, whatever its length. A reader that has seen enough ends it, and is no
/// error.
pub(crate) fn written(write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    match write(&mut out).and_then(|()| Ok(out.flush()?)) {
        Err(error) if is_closed(&error) => Ok(()),
        result => result,
    }
}

/// Whether an error of writing means that nobody reads any more.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let own = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>();
        own.or(json.and_then(serde_json::Error::io_error_kind)) == Some(io::ErrorKind::BrokenPipe)
    })
}

/// A step is told.
pub(crate) fn step(sign: &str, text: impl std::fmt::Display) {
    eprintln!("{sign} {text}");
}

/// A line that says what is waited for. On a terminal it is replaced by the next one; elsewhere a line is only
/// printed when it differs from the one before.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    last: String,
}

impl Waiting {
    /// Says what is waited for now.
    pub(crate) fn say(&mut self, text: &str) {
        let mut out = std::io::stderr().lock();
        // Nothing can be done about a terminal that went away.
        let _ = if out.is_terminal() {
            write!(out, "\r\x1b[K⌛ {text}").and_then(|()| out.flush())
        } else if self.last == text {
            Ok(())
        } else {
            writeln!(out, "⌛ {text}")
        };
        text.clone_into(&mut self.last);
    }

    /// Clears the line.
    pub(crate) fn done(&mut self) {
        let mut out = std::io::stderr().lock();
        if out.is_terminal() && !self.last.is_empty() {
            // Nothing can be done about a terminal that went away.
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
        self.last.clear();
    }
}

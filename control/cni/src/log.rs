//! The plugin's log: a line per request, in the file that the network configuration names (`log-file`, from the key
//! `cni-log-file`). Kubelets show errors only, and not for long.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::spec::{Error, Request};

/// A file of this size becomes `<file>.1`, in place of the last one: the log takes twice this at most, bytes.
const LARGEST: u64 = 1 << 20;

/// Notes a request and its outcome. A log that cannot be written must not fail a pod, so nothing is answered.
pub(crate) fn note<T>(request: &Request, outcome: &Result<T, Error>, took: Duration) {
    if !request.config.log_file.is_empty() {
        let _ = append(Path::new(&request.config.log_file), &line(request, outcome, took));
    }
}

/// One line; whatever people wrote is quoted, so that it stays one.
fn line<T>(request: &Request, outcome: &Result<T, Error>, took: Duration) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = match outcome {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("code={} {:?} {:?}", error.code, error.message, error.details),
    };
    format!(
        "{}.{:03} {} container={} ifname={} took={took:?} {text}\n",
        since.as_secs(),
        since.subsec_millis(),
        request.command.name(),
        request.attachment.container_id,
        request.attachment.ifname,
    )
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() >= LARGEST) {
        let mut last = path.as_os_str().to_owned();
        last.push(".1");
        fs::rename(path, last)?;
    }
    // One write at the end of the file, so that plugins that run at the same time do not mix their lines.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cni.log");
        append(&path, "one\n").expect("written");
        append(&path, "two\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("a log"), "one\ntwo\n");
        fs::write(&path, vec![b'x'; 1 << 20]).expect("written");
        append(&path, "three\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("a log"), "three\n");
        assert!(directory.path().join("cni.log.1").exists());
    }

    #[test]
    fn a_line_stays_a_line() {
        let request = crate::spec::parse(
            &crate::spec::Environment {
                command: "VERSION".into(),
                ..Default::default()
            },
            b"",
        )
        .expect("a request");
        let error: Result<(), Error> = Err(Error::new(7, "two\nlines"));
        assert_eq!(line(&request, &error, Duration::ZERO).lines().count(), 1);
    }
}

//! Files that outlive the agent: written beside and renamed. They are not flushed to the disk, as all that they tell of
//! (pods, links, addresses) does not outlive the machine either, and a reader never takes half a file for a whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Replaces `path` with `content` so that a reader, or the next agent, sees the old or the new whole.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path
        .parent()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // A name of its own, so that two writers do not take each other's file away.
    let partial = directory.join(format!(
        ".{}.{:016x}",
        name.to_string_lossy(),
        rand::random::<u64>()
    ));
    let written = replace(&partial, content, path);
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn replace(partial: &Path, content: &[u8], path: &Path) -> io::Result<()> {
    fs::write(partial, content)?;
    fs::rename(partial, path)
}

/// Moves an unreadable file out of the way, to `<path>.corrupt-<unix time>`, and says where it went.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".corrupt-{}", jiff::Timestamp::now().as_second()));
    let aside = PathBuf::from(name);
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// The content, or nothing when there is no file.
pub(crate) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

//! Deletes that the agent must catch up on: one small file each, named after the attachment, so that asking twice
//! leaves one file. The agent replays them when it starts and now and then.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api::cni::Attachment;

/// The queue of the agent that listens on `socket`.
#[must_use]
pub fn beside(socket: &Path) -> PathBuf {
    let name = Path::new(api::DELETE_QUEUE).file_name().unwrap_or_default();
    socket.parent().map_or_else(
        || PathBuf::from(api::DELETE_QUEUE),
        |directory| directory.join(name),
    )
}

/// Writes a delete down; an error when the queue is full or the directory cannot be written.
pub fn push(directory: &Path, attachment: &Attachment) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let name = format!("{}:{}.delete", attachment.container_id, attachment.ifname);
    let target = directory.join(&name);
    if !target.exists() && fs::read_dir(directory)?.count() >= api::DELETE_QUEUE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "the delete queue is full",
        ));
    }
    // Written beside and renamed, so that the agent never reads half a file.
    let partial = directory.join(format!(".{name}.{}", std::process::id()));
    let written = write(&partial, attachment).and_then(|()| fs::rename(&partial, &target));
    if written.is_err() {
        // It would count against the bound for ever.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn write(path: &Path, attachment: &Attachment) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(&serde_json::to_vec(attachment)?)?;
    file.sync_all()
}

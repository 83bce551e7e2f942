//! Deletes that the CNI plugin wrote down while the agent was away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use api::cni::Attachment;

use crate::endpoints::Endpoints;

/// Does every delete that is queued in `directory`; each file goes once its delete was done. A file that cannot be
/// read is removed with a warning, as it would never be readable.
pub(crate) async fn replay(directory: &Path, endpoints: &Endpoints) -> anyhow::Result<()> {
    for path in files(directory)? {
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        match serde_json::from_slice::<Attachment>(&bytes) {
            Ok(attachment) => {
                tracing::info!(
                    container = attachment.container_id,
                    ifname = attachment.ifname,
                    "queued DEL"
                );
                endpoints.delete(&attachment).await?;
            }
            Err(error) => tracing::warn!(file = %path.display(), %error, "not a queued delete, removed"),
        }
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Whole files of the queue; those that are being written begin with a dot.
fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", directory.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", directory.display()))?
            .path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.ends_with(".delete") && !name.starts_with('.') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

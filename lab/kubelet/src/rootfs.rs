//! A container's root: an overlay of the machine's own root. Blocking: for threads.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::catalogue::Image;

/// Why a root could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    #[error("cannot prepare {0}")]
    Prepare(PathBuf, #[source] io::Error),
    #[error(
        "cannot mount an overlay at {0}; is the kubelet's --root-dir on another file system than / that supports overlays \
         (a tmpfs)?"
    )]
    Overlay(PathBuf, #[source] nix::Error),
}

/// Makes the root of the container in `dir` and mounts it at the path returned.
pub(crate) fn make(dir: &Path, image: &Image) -> Result<PathBuf, RootfsError> {
    let (upper, work, root) = (dir.join("upper"), dir.join("work"), dir.join("rootfs"));
    let prepare = |path: &Path, result: io::Result<()>| {
        result.map_err(|error| RootfsError::Prepare(path.to_owned(), error))
    };
    for path in [&upper, &work, &root] {
        prepare(path, fs::create_dir_all(path))?;
        // Unprivileged users of the container must be able to enter its root.
        prepare(path, fs::set_permissions(path, fs::Permissions::from_mode(0o755)))?;
    }
    for (path, content) in &image.files {
        let path = upper.join(path.trim_start_matches('/'));
        prepare(&path, make_parent(&path).and_then(|()| fs::write(&path, content)))?;
    }
    for (path, target) in &image.links {
        let path = upper.join(path.trim_start_matches('/'));
        prepare(&path, make_parent(&path).and_then(|()| symlink(target, &path)))?;
    }
    for path in image.binds.keys() {
        // What is bound needs something to be bound over.
        let path = upper.join(path.trim_start_matches('/'));
        prepare(&path, make_parent(&path).and_then(|()| fs::write(&path, "")))?;
    }
    let options = format!(
        "lowerdir=/,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .and_then(|()| {
        mount(
            None::<&str>,
            &root,
            None::<&str>,
            MsFlags::MS_PRIVATE,
            None::<&str>,
        )
    })
    .map_err(|error| RootfsError::Overlay(root.clone(), error))?;
    Ok(root)
}

/// Unmounts a container's root. One that is not mounted is success.
pub(crate) fn unmount(dir: &Path) -> nix::Result<()> {
    unmount_path(&dir.join("rootfs"))
}

/// Unmounts whatever is on a path; nothing there is success.
pub(crate) fn unmount_path(path: &Path) -> nix::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent),
        None => Ok(()),
    }
}

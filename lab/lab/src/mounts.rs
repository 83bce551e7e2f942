//! Mounts: the few calls the lab makes, with errors that name the path, and the list of what is mounted.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NONE: Option<&str> = None;

/// Mounts a new file system of type `kind` on `target`.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn mount_new(kind: &str, target: &Path, flags: MsFlags, options: &str) -> anyhow::Result<()> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(kind), target, Some(kind), flags, options)
        .with_context(|| format!("cannot mount {kind} on {}", target.display()))
}

/// Makes `target` show what `source` shows. `target` must exist.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE)
        .with_context(|| format!("cannot bind {} on {}", source.display(), target.display()))
}

/// Sets how mounts below `target` travel between mount namespaces.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn set_propagation(target: &Path, flags: MsFlags) -> anyhow::Result<()> {
    mount(NONE, target, NONE, flags, NONE)
        .with_context(|| format!("cannot change the mount propagation of {}", target.display()))
}

/// Takes the mount at `target` away, also while it is busy.
///
/// # Errors
/// The kernel refuses, for example because nothing is mounted there.
pub(crate) fn detach(target: &Path) -> anyhow::Result<()> {
    umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .with_context(|| format!("cannot unmount {}", target.display()))
}

/// The mount points at and below `root` in this mount namespace, the last mounted first.
///
/// # Errors
/// `/proc/self/mountinfo` cannot be read.
pub(crate) fn mounted_below(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = parse_mountinfo(&table)
        .map(|(point, _)| point)
        .filter(|point| point.starts_with(root))
        .collect();
    found.reverse();
    Ok(found)
}

/// Where the unified control group hierarchy is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid machines.
///
/// # Errors
/// It is mounted nowhere.
pub(crate) fn cgroup2_mount() -> anyhow::Result<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    parse_mountinfo(&table)
        .find(|(_, kind)| kind == "cgroup2")
        .map(|(point, _)| point)
        .context("no cgroup2 file system is mounted; the lab keeps its processes together with one (kernel ≥ 5.14)")
}

/// Mount points and file system types out of a mountinfo table, see proc_pid_mountinfo(5). Broken lines are skipped.
fn parse_mountinfo(table: &[u8]) -> impl Iterator<Item = (PathBuf, String)> + '_ {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = unescape(fields.nth(4)?);
        fields.find(|field| *field == b"-")?;
        let kind = String::from_utf8_lossy(fields.next()?).into_owned();
        Some((PathBuf::from(OsString::from_vec(point)), kind))
    })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let table = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw shared:3 master:1 - cgroup2 cgroup2 rw\n\
            broken\n\
            50 27 0:40 / /a\\040b\\134c rw - tmpfs x rw\n";
        let found: Vec<_> = parse_mountinfo(table).collect();
        let expected = [
            ("/proc", "proc"),
            ("/sys/fs/cgroup/unified", "cgroup2"),
            ("/a b\\c", "tmpfs"),
        ];
        assert_eq!(
            found,
            expected.map(|(point, kind)| (PathBuf::from(point), kind.to_owned()))
        );
    }

    #[test]
    fn unescape_leaves_the_rest_alone() {
        for (text, expected) in [
            ("", ""),
            ("\\", "\\"),
            ("\\04", "\\04"),
            ("\\999", "\\999"),
            ("a\\011b", "a\tb"),
        ] {
            assert_eq!(unescape(text.as_bytes()), expected.as_bytes(), "{text}");
        }
    }
}

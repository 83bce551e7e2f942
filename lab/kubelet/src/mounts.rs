//! The mount table of this mount namespace. Blocking: for threads.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Mount points at or below a path, the innermost last.
pub(crate) fn below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    points(&table).filter(|point| point.starts_with(path)).collect()
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    points(&table).any(|point| point == path)
}

/// Mount points in the text of a mountinfo file.
pub(crate) fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
}

/// Spaces and their like are written in octal: `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names() {
        let table = b"36 35 98:0 / /mnt\\040a rw - ext4 x rw\n37 35 0:1 / /run rw - tmpfs x rw\nnonsense\n";
        assert_eq!(
            points(table).collect::<Vec<_>>(),
            [Path::new("/mnt a"), Path::new("/run")]
        );
    }
}

//! `cargo xtask setup --check` on machines that lack something: nothing is installed here.

use std::{os::unix::fs::symlink, path::Path, process::Command};

/// Runs the check with a PATH on which everything of this machine is, but for one program.
fn check_without(program: &str) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = std::env::var_os("PATH").expect("a PATH");
    let sbin = ["/usr/sbin".into(), "/sbin".into()];
    for entry in std::env::split_paths(&path)
        .chain(sbin)
        .filter_map(|bin| bin.read_dir().ok())
        .flatten()
        .flatten()
    {
        let link = directory.path().join(entry.file_name());
        // The first one on the PATH wins.
        if entry.file_name() != program && !link.exists() {
            symlink(entry.path(), link).expect("a link");
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["setup", "--check"])
        .env("PATH", directory.path())
        .output()
        .expect("xtask runs");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    for (program, package) in [
        ("kubectl", "kubernetes-client"),
        ("curl", "curl"),
        ("crun", "crun"),
    ] {
        // Debian's own places are looked at in any case.
        if ["/usr/sbin", "/sbin"]
            .iter()
            .any(|bin| Path::new(bin).join(program).exists())
        {
            continue;
        }
        let (ok, text) = check_without(program);
        assert!(!ok, "a machine without {program} passes:\n{text}");
        let named = text
            .lines()
            .any(|line| line.contains("missing") && line.ends_with(&format!("package {package}")));
        assert!(named, "{package} is not named:\n{text}");
    }
}

#[test]
fn a_machine_with_everything_is_told_so_in_two_lines() {
    let (ok, text) = check_without("no-such-program");
    if !ok {
        eprintln!("SKIP: this machine is not set up:\n{text}");
        return;
    }
    assert!(
        text.lines().count() <= 2 && text.ends_with("everything is there\n"),
        "{text}"
    );
}

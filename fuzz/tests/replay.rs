//! The committed corpora, replayed on stable: what once broke a parser stays fixed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use seta_fuzz::TARGETS;

/// Fewest seeds of a target: an empty directory must not pass for a replay.
const FEWEST: usize = 5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn names(directory: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| {
            entry
                .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
                .path()
        })
        .collect()
}

#[test]
fn every_corpus_is_replayed() {
    for (name, target) in TARGETS {
        let files = names(&root().join("corpus").join(name));
        assert!(files.len() >= FEWEST, "only {} inputs for {name}", files.len());
        for file in files {
            println!("{}", file.display());
            target(&std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        }
    }
}

#[test]
fn every_target_has_its_file_and_every_corpus_its_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |directory: &str| -> BTreeSet<String> {
        names(&root().join(directory))
            .iter()
            .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(stems("fuzz_targets"), targets);
    assert_eq!(stems("corpus"), targets);
}

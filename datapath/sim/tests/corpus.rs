//! The committed corpora of `fuzz/`, replayed; and how they are made from the rows.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};

use seta_sim::{Program, fuzz, rows};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target)
}

fn replay(target: &str, run: impl Fn(&[u8])) {
    let mut files: Vec<_> = std::fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 20, "only {} inputs for {target}", files.len());
    for file in files {
        println!("{}", file.display());
        run(&std::fs::read(file).unwrap());
    }
}

#[test]
fn packet_corpus_is_replayed() {
    replay("packet", fuzz::packet);
}

#[test]
fn stages_corpus_is_replayed() {
    replay("stages", fuzz::stages);
}

/// Seeds: the frames of all rows. Run once with `--ignored` when rows are added.
#[test]
#[ignore = "writes fuzz/corpus"]
fn write_seeds_from_rows() {
    for row in rows::all() {
        let name: String = row
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let frame = &row.before.packet;
        std::fs::write(corpus("packet").join(&name), frame).unwrap();
        let program = Program::ALL
            .iter()
            .position(|program| *program == row.program)
            .unwrap();
        let mut input = vec![u8::try_from(program).unwrap(), 0, 0, 0, 0, 3, 3, 1];
        input.extend(frame);
        std::fs::write(corpus("stages").join(&name), input).unwrap();
    }
}

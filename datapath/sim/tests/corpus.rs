//! How the seeds of `fuzz/corpus/packet` and `fuzz/corpus/stages` are made from the rows. `fuzz/tests` replays them.

use std::path::{Path, PathBuf};

use seta_sim::{Program, rows};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target)
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
        let services = if row.before.config.services == 0 { 0 } else { 4 };
        let mut input = vec![u8::try_from(program).unwrap(), 0, 0, 0, 0, 3, 3 | services, 1];
        input.extend(frame);
        std::fs::write(corpus("stages").join(&name), input).unwrap();
    }
}

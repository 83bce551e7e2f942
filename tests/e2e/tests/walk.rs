//! The README's walk, every line of it.

mod common;

use anyhow::{Result, ensure};
use seta_e2e::walk::{GOODBYE, STEPS};

#[test]
fn every_step_of_the_walk_shows_what_it_promises() -> Result<()> {
    let Some(lab) = common::lab("t-walk")? else {
        return Ok(());
    };
    for step in STEPS.iter().chain(GOODBYE) {
        let text = lab.ok(step.script)?;
        for expected in step.expect {
            let expected = lab.localised(expected);
            ensure!(
                text.contains(&expected),
                "{}: `{expected}` is not in what `{}` printed:\n{text}",
                step.why,
                step.script
            );
        }
    }
    Ok(())
}

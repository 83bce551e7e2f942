//! `cli/seta`: what people set.

use serde_json::{Value, json};
use seta::values::assign::{Typing, assign};
use seta::values::schema::Schema;
use seta::{chart, values};

/// `--set` and `--set-string` in turn, one a line. What comes out is an object that changes nothing when given twice, and
/// that the chart takes or refuses.
pub fn seta_set(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut user = json!({});
    for (line, typing) in text
        .lines()
        .zip([Typing::Typed, Typing::Strings].into_iter().cycle())
    {
        // A refused one leaves the command, so what it has half assigned is nobody's.
        if assign(&mut user, line, typing).is_err() {
            return;
        }
    }
    assert!(user.is_object(), "values that are no object");
    let mut twice = user.clone();
    values::add(&mut twice, user.clone());
    assert_eq!(twice, user, "changed when given twice");
    let Ok(mut all) = chart::default_values() else {
        return;
    };
    values::merge(&mut all, user);
    refusals(&all);
}

/// A values file. The chart accepts the values and makes objects with a kind and a name, or says which value is wrong.
pub fn seta_values(data: &[u8]) {
    let Ok(user) = values::read(&String::from_utf8_lossy(data)) else {
        return;
    };
    let Ok(mut all) = chart::default_values() else {
        return;
    };
    values::merge(&mut all, user);
    if refusals(&all) {
        return;
    }
    let release = chart::Release {
        namespace: "kube-system",
        revision: 1,
    };
    if let Ok(manifests) = chart::render(&all, release) {
        for manifest in &manifests {
            assert!(
                !manifest.kind().is_empty() && !manifest.name().is_empty(),
                "an object without a name"
            );
        }
        let _ = chart::config(&manifests);
    }
}

/// Whether the schema of the chart refuses values. Every refusal says why, and a path that is told is not empty.
fn refusals(values: &Value) -> bool {
    let Ok(schema) = Schema::of_chart() else {
        return false;
    };
    let problems = schema.check(values);
    for problem in &problems {
        assert!(!problem.to_string().is_empty(), "refused without a reason");
    }
    !problems.is_empty()
}

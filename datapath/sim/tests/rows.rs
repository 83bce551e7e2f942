//! The rows in memory.

#[test]
fn every_row_holds_in_memory() {
    let wrong: Vec<String> = seta_sim::rows::all()
        .iter()
        .filter_map(|row| row.check().err())
        .collect();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn names_are_unique() {
    let rows = seta_sim::rows::all();
    let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len());
}

//! `-o json`, `-o jsonpath=…`, and tables with columns three spaces apart.

use std::io::Write;

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::jsonpath::JsonPath;

/// How data is printed when not as a table.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// As it came, indented.
    Json,
    /// A part of it.
    Path(JsonPath),
}

/// Reads the value of `-o`.
pub(crate) fn parse(text: &str) -> anyhow::Result<Output> {
    match text.split_once('=') {
        None if text == "json" => Ok(Output::Json),
        Some(("jsonpath", path)) => Ok(Output::Path(path.parse()?)),
        _ => bail!("output {text:?} is not known, use json or jsonpath='{{.path}}'"),
    }
}

/// An answer of the agent as the type it has in this version.
pub(super) fn typed<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value).context("the agent is of another version than this program")
}

/// Data as it is printed, with the end of its last line.
pub(crate) fn rendered(output: &Output, data: &Value) -> anyhow::Result<String> {
    let mut text = Vec::new();
    write(output, data, &mut text)?;
    Ok(String::from_utf8(text)?)
}

/// Writes data as it is printed.
pub(crate) fn write(output: &Output, data: &impl Serialize, mut to: &mut dyn Write) -> anyhow::Result<()> {
    match output {
        Output::Json => serde_json::to_writer_pretty(&mut to, data)?,
        Output::Path(path) => to.write_all(path.apply(&serde_json::to_value(data)?)?.as_bytes())?,
    }
    Ok(writeln!(to)?)
}

/// Lines of columns; the last of a line is not padded.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        // A cell that ends its line does not widen the column, as in Go's tabwriter.
        for (column, cell) in row.iter().take(row.len().saturating_sub(1)).enumerate() {
            if widths.len() <= column {
                widths.resize(column + 1, 0);
            }
            widths[column] = widths[column].max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                let width = widths.get(column).copied().unwrap_or(0) + 3;
                line.extend(std::iter::repeat_n(
                    ' ',
                    width.saturating_sub(cell.chars().count()),
                ));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A row from texts.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = columns(&[row(["A", "LONG", "C"]), row(["a very wide one", "b", ""])]);
        assert_eq!(text, "A                 LONG   C\na very wide one   b\n");
    }

    #[test]
    fn outputs_are_parsed_or_refused() {
        assert!(matches!(parse("json"), Ok(Output::Json)));
        assert!(matches!(parse("jsonpath={.a}"), Ok(Output::Path(_))));
        for bad in ["", "yaml", "jsonpath", "jsonpath={.a", "json=x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

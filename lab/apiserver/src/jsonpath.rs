//! The JSONPath of `additionalPrinterColumns`: `.a.b`, `['a']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
    All,
    /// Elements whose member (a dotted path) equals a text.
    Where(Vec<String>, String),
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(Vec<Step>);

impl Path {
    /// `None` for what is not understood.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text
            .trim()
            .trim_start_matches('{')
            .trim_end_matches('}')
            .trim_start_matches('$');
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('[') {
                let end = closing(tail)?;
                steps.push(bracket(&tail[..end])?);
                rest = &tail[end + 1..];
            } else {
                let tail = rest.strip_prefix('.').unwrap_or(rest);
                let (key, after) = key(tail);
                if !key.is_empty() {
                    steps.push(if key == "*" { Step::All } else { Step::Key(key) });
                } else if after.len() == tail.len() && !after.starts_with('[') {
                    return if after.is_empty() { Some(Self(steps)) } else { None };
                }
                rest = after;
            }
        }
        Some(Self(steps))
    }

    /// The first value that the path selects.
    pub(crate) fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| select(step, value)).collect();
        }
        found.into_iter().find(|v| !v.is_null())
    }
}

/// Position of the bracket that closes, quotes and nesting heeded.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_usize);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// A key, with `\.` for a dot in it, and what follows.
fn key(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                if let Some((_, next)) = chars.next() {
                    out.push(next);
                }
            }
            '.' | '[' => return (out, &text[at..]),
            c => out.push(c),
        }
    }
    (out, "")
}

fn unquote(text: &str) -> Option<&str> {
    let text = text.trim();
    let strip = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    strip('\'').or_else(|| strip('"'))
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(key) = unquote(text) {
        return Some(Step::Key(key.replace("\\.", ".")));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (left, right) = filter.split_once("==")?;
        let path = left
            .trim()
            .strip_prefix("@.")?
            .split('.')
            .map(str::to_owned)
            .collect();
        return Some(Step::Where(
            path,
            unquote(right).unwrap_or(right.trim()).to_owned(),
        ));
    }
    text.parse().ok().map(Step::Index)
}

fn select<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => map.get(key).into_iter().collect(),
        (Step::Index(index), Value::Array(list)) => list.get(*index).into_iter().collect(),
        (Step::All, Value::Array(list)) => list.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Where(path, wanted), Value::Array(list)) => list
            .iter()
            .filter(|item| match path.iter().fold(*item, |v, key| &v[key.as_str()]) {
                Value::String(text) => text == wanted,
                Value::Null => false,
                other => crate::object::plain_text(other) == *wanted,
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn rows() {
        let object = json!({
            "spec": {"a": 1, "b.c": "dotted", "list": [{"x": 1}, {"x": 2}]},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let rows = [
            (".spec.a", Some(json!(1))),
            ("{.spec.a}", Some(json!(1))),
            ("$.spec.a", Some(json!(1))),
            (r".spec.b\.c", Some(json!("dotted"))),
            (".spec['b.c']", Some(json!("dotted"))),
            (".spec.list[1].x", Some(json!(2))),
            (".spec.list[*].x", Some(json!(1))),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                Some(json!("True")),
            ),
            (
                ".status.conditions[?(@.type=='Ready')].status",
                Some(json!("True")),
            ),
            (".status.nothing", None),
            (".spec.list[7].x", None),
        ];
        for (path, wanted) in rows {
            let parsed = Path::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(parsed.first(&object), wanted.as_ref(), "{path}");
        }
        assert!(Path::parse(".a[?(@.b<3)]").is_none());
        assert!(Path::parse(".a[").is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[.a\\[\\]*'\"?(@)=\\\\{}$ 0]{0,24}") {
            if let Some(path) = Path::parse(&text) {
                path.first(&json!({"a": [1, {"a": 2}]}));
            }
        }
    }
}

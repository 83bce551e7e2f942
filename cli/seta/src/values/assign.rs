//! `--set a.b=c`: the small language of Helm's command line (`pkg/strvals`).
//!
//! Assignments are separated by commas, keys by dots, `a[0]` addresses an item, `{x,y}` is a list, and a backslash
//! takes the meaning from the character behind it. A bare word is a string, a number, a boolean or `null`.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Value};
use thiserror::Error;

/// Longest list that an index may make, as in Helm.
const MAX_INDEX: usize = 65536;
/// Deepest path.
const MAX_DEPTH: usize = 30;

/// Why an assignment cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AssignError {
    /// `a.b` without `=`.
    #[error("`{0}` has no value; write {0}=VALUE")]
    NoValue(String),
    /// `=b`, `a..b=c`.
    #[error("`{0}` has an empty key")]
    EmptyKey(String),
    /// `a[x]=b`.
    #[error("`{0}` has an index that is not a number below {MAX_INDEX}")]
    Index(String),
    /// `a={b`.
    #[error("`{0}` opens a list with {{ and does not close it")]
    OpenList(String),
    /// `a.b=1,a[0]=2`.
    #[error("`{0}` treats something as a list or an object that is none")]
    Shape(String),
    /// More than [`MAX_DEPTH`] keys.
    #[error("`{0}` is nested more than {MAX_DEPTH} levels deep")]
    Depth(String),
}

/// Whether words are typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typing {
    /// `--set`: `true` is a boolean, `5` a number.
    Typed,
    /// `--set-string`: everything is a string.
    Strings,
}

enum Step {
    Key(String),
    Index(usize),
}

/// Reads assignments into `values`.
pub fn assign(values: &mut Value, text: &str, typing: Typing) -> Result<(), AssignError> {
    let mut input = text.chars().peekable();
    while input.peek().is_some() {
        let path = path(&mut input, text)?;
        let value = value(&mut input, text, typing)?;
        put(values, &path, value).ok_or_else(|| AssignError::Shape(text.to_owned()))?;
    }
    Ok(())
}

fn path(input: &mut Peekable<Chars<'_>>, text: &str) -> Result<Vec<Step>, AssignError> {
    let mut steps = Vec::new();
    let mut key = String::new();
    // A key must not be empty, except for the nothing between `a[0]` and the dot or the equals sign behind it.
    let mut after_index = false;
    loop {
        let next = input.next();
        match next {
            Some('\\') => key.extend(input.next()),
            Some('.' | '=' | '[') => {
                if !key.is_empty() {
                    steps.push(Step::Key(std::mem::take(&mut key)));
                } else if !after_index {
                    return Err(AssignError::EmptyKey(text.to_owned()));
                }
                after_index = false;
                if next == Some('[') {
                    let digits: String = input.by_ref().take_while(|character| *character != ']').collect();
                    let index = digits.parse().ok().filter(|index| *index < MAX_INDEX);
                    steps.push(Step::Index(
                        index.ok_or_else(|| AssignError::Index(text.to_owned()))?,
                    ));
                    after_index = true;
                }
                if steps.len() > MAX_DEPTH {
                    return Err(AssignError::Depth(text.to_owned()));
                }
                if next == Some('=') {
                    return Ok(steps);
                }
            }
            Some(',') | None => return Err(AssignError::NoValue(text.trim_end_matches(',').to_owned())),
            Some(other) => key.push(other),
        }
    }
}

fn value(input: &mut Peekable<Chars<'_>>, text: &str, typing: Typing) -> Result<Value, AssignError> {
    if input.next_if_eq(&'{').is_none() {
        return Ok(word(input, |character| character == ',', typing).0);
    }
    let mut list = Vec::new();
    if input.next_if_eq(&'}').is_none() {
        loop {
            let (item, end) = word(input, |character| character == ',' || character == '}', typing);
            list.push(item);
            match end {
                Some(',') => {}
                Some(_) => break,
                None => return Err(AssignError::OpenList(text.to_owned())),
            }
        }
    }
    input.next_if_eq(&',');
    Ok(Value::Array(list))
}

/// A word up to one of the ends, and the end that was met.
fn word(
    input: &mut Peekable<Chars<'_>>,
    is_end: impl Fn(char) -> bool,
    typing: Typing,
) -> (Value, Option<char>) {
    let mut word = String::new();
    let mut end = None;
    while let Some(character) = input.next() {
        if is_end(character) {
            end = Some(character);
            break;
        }
        if character == '\\' {
            word.extend(input.next());
        } else {
            word.push(character);
        }
    }
    (typed(word, typing), end)
}

fn typed(word: String, typing: Typing) -> Value {
    if typing == Typing::Strings {
        return Value::String(word);
    }
    match word.as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        "0" => Value::from(0),
        // A leading zero is part of a name, not of a number.
        digits if !digits.starts_with('0') => digits.parse::<i64>().map_or(Value::String(word), Value::from),
        _ => Value::String(word),
    }
}

fn put(values: &mut Value, path: &[Step], value: Value) -> Option<()> {
    let Some((step, rest)) = path.split_first() else {
        *values = value;
        return Some(());
    };
    let inner = match step {
        Step::Key(key) => {
            if values.is_null() {
                *values = Value::Object(Map::new());
            }
            values.as_object_mut()?.entry(key.as_str()).or_insert(Value::Null)
        }
        Step::Index(index) => {
            if values.is_null() {
                *values = Value::Array(Vec::new());
            }
            let list = values.as_array_mut()?;
            if list.len() <= *index {
                list.resize(index + 1, Value::Null);
            }
            list.get_mut(*index)?
        }
    };
    put(inner, rest, value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, AssignError> {
        let mut values = json!({});
        assign(&mut values, text, Typing::Typed).map(|()| values)
    }

    #[test]
    fn assignments() {
        let rows = [
            ("a=b", json!({"a": "b"})),
            ("a.b=true,a.c=5", json!({"a": {"b": true, "c": 5}})),
            ("a=", json!({"a": ""})),
            ("a=null", json!({"a": null})),
            ("a={x,1}", json!({"a": ["x", 1]})),
            ("a={},b=1", json!({"a": [], "b": 1})),
            ("a[1].b=c", json!({"a": [null, {"b": "c"}]})),
            ("a[0][1]=x", json!({"a": [[null, "x"]]})),
            (
                r"a.kubernetes\.io/os=linux",
                json!({"a": {"kubernetes.io/os": "linux"}}),
            ),
            (r"a=x\,y,b=z", json!({"a": "x,y", "b": "z"})),
            (
                "a=007,b=0,c=-3,d=1.5",
                json!({"a": "007", "b": 0, "c": -3, "d": "1.5"}),
            ),
            (
                "ipv6NativeRoutingCIDR=fd00:10::/32",
                json!({"ipv6NativeRoutingCIDR": "fd00:10::/32"}),
            ),
            ("", json!({})),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn strings_stay_strings() {
        let mut values = json!({});
        assign(&mut values, "a=true,b=5,c={1,2}", Typing::Strings).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(values, json!({"a": "true", "b": "5", "c": ["1", "2"]}));
    }

    #[test]
    fn bad_input_is_told() {
        let deep = format!("{}=1", ["a"; 40].join("."));
        let rows = [
            ("a", AssignError::NoValue("a".into())),
            ("a.b,c=1", AssignError::NoValue("a.b,c=1".into())),
            ("=1", AssignError::EmptyKey("=1".into())),
            ("a..b=1", AssignError::EmptyKey("a..b=1".into())),
            ("a[x]=1", AssignError::Index("a[x]=1".into())),
            ("a[99999999]=1", AssignError::Index("a[99999999]=1".into())),
            ("a={x,y", AssignError::OpenList("a={x,y".into())),
            ("a=1,a.b=2", AssignError::Shape("a=1,a.b=2".into())),
            (&deep, AssignError::Depth(deep.clone())),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text), Err(expected), "{text}");
        }
    }
}

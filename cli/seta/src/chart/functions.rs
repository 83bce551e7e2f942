//! Helm's template functions, as many as the chart uses, with the meaning they have in Helm (Sprig and Helm's own).

use std::sync::{Arc, OnceLock, Weak};

use gotmpl::{FuncMap, Template, TemplateError, Value};
use sha2::{Digest, Sha256};

type Result = std::result::Result<Value, TemplateError>;

/// Everything but `include`, which needs the templates.
pub(super) fn all() -> FuncMap {
    let mut map = FuncMap::new();
    let mut add = |name: &str, function: fn(&[Value]) -> Result| map.insert(name.into(), Arc::new(function));
    add("quote", quote);
    add("default", default);
    add("int", int);
    add("nindent", nindent);
    add("sha256sum", sha256sum);
    add("toYaml", to_yaml);
    map
}

/// `include NAME DATA`: the named template as a string. `set` is filled once all templates are parsed.
pub(super) fn include(set: Weak<OnceLock<Template>>) -> impl Fn(&[Value]) -> Result + Send + Sync + 'static {
    move |arguments| {
        let [name, data] = exactly("include", arguments)?;
        let name = string("include", name)?;
        let set = set.upgrade();
        let templates = set
            .as_deref()
            .and_then(OnceLock::get)
            .ok_or_else(|| TemplateError::Exec("include: the templates are not complete".to_owned()))?;
        templates.execute_template_to_string(name, data).map(Value::from)
    }
}

fn exactly<'a, const N: usize>(
    name: &str,
    arguments: &'a [Value],
) -> std::result::Result<&'a [Value; N], TemplateError> {
    arguments.try_into().map_err(|_| TemplateError::ArgCount {
        name: name.to_owned(),
        expected: N,
        got: arguments.len(),
    })
}

fn string<'a>(name: &str, value: &'a Value) -> std::result::Result<&'a str, TemplateError> {
    value
        .as_str()
        .ok_or_else(|| TemplateError::Exec(format!("{name}: expected a string, got {}", value.type_name())))
}

/// Text of a value in double quotes, escaped as Go escapes it, which YAML understands too; nothing for nil.
fn quote(arguments: &[Value]) -> Result {
    let quoted = arguments
        .iter()
        .filter(|value| !matches!(value, Value::Nil))
        .map(|value| {
            let text = value.to_string();
            let mut out = String::with_capacity(text.len() + 2);
            out.push('"');
            for character in text.chars() {
                match character {
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    other if other.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(other))),
                    other => out.push(other),
                }
            }
            out.push('"');
            out
        });
    Ok(Value::from(quoted.collect::<Vec<_>>().join(" ")))
}

/// `default FALLBACK VALUE`: the value, unless it is empty.
fn default(arguments: &[Value]) -> Result {
    let [fallback, value] = exactly("default", arguments)?;
    Ok(if value.is_truthy() {
        value.clone()
    } else {
        fallback.clone()
    })
}

fn int(arguments: &[Value]) -> Result {
    let [value] = exactly("int", arguments)?;
    let number = match value {
        Value::String(text) => text.parse().ok(),
        // Numbers of YAML and JSON reach Helm as floats; ours may, too.
        Value::Float(number) if number.fract() == 0.0 => format!("{number:.0}").parse().ok(),
        other => other.as_int(),
    };
    number
        .map(Value::Int)
        .ok_or_else(|| TemplateError::Exec(format!("int: {value} is not a whole number")))
}

/// `nindent SPACES TEXT`: a new line, then every line of the text indented.
fn nindent(arguments: &[Value]) -> Result {
    let [spaces, text] = exactly("nindent", arguments)?;
    let spaces = spaces
        .as_int()
        .and_then(|spaces| usize::try_from(spaces).ok())
        .ok_or_else(|| TemplateError::Exec(format!("nindent: {spaces} is not a number of spaces")))?;
    let indent = format!("\n{}", " ".repeat(spaces));
    let text = string("nindent", text)?;
    Ok(Value::from(
        text.split('\n')
            .map(|line| format!("{indent}{line}"))
            .collect::<String>(),
    ))
}

fn sha256sum(arguments: &[Value]) -> Result {
    let [text] = exactly("sha256sum", arguments)?;
    let digest = Sha256::digest(string("sha256sum", text)?.as_bytes());
    Ok(Value::from(
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
    ))
}

fn to_yaml(arguments: &[Value]) -> Result {
    let [value] = exactly("toYaml", arguments)?;
    let text = serde_saphyr::to_string(&json(value)?)
        .map_err(|error| TemplateError::Exec(format!("toYaml: {error}")))?;
    Ok(Value::from(text.trim_end_matches('\n')))
}

fn json(value: &Value) -> std::result::Result<serde_json::Value, TemplateError> {
    Ok(match value {
        Value::Nil => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Uint(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String(value) => value.as_ref().into(),
        Value::List(list) => list
            .iter()
            .map(json)
            .collect::<std::result::Result<Vec<_>, _>>()?
            .into(),
        Value::Map(map) => {
            let entries = map.iter().map(|(key, value)| Ok((key.to_string(), json(value)?)));
            serde_json::Value::Object(entries.collect::<std::result::Result<_, TemplateError>>()?)
        }
        other => {
            return Err(TemplateError::Exec(format!(
                "toYaml: a {} has no YAML",
                other.type_name()
            )));
        }
    })
}

//! The chart's own schema, row by row.

use serde_json::json;

use super::*;
use crate::chart;
use crate::values::{at, merge};

fn schema() -> Schema {
    Schema::of_chart().expect("the schema of the chart is JSON")
}

fn problems(values: &Value) -> Vec<String> {
    let mut all = chart::default_values().expect("values.yaml is YAML");
    merge(&mut all, values.clone());
    schema().check(&all).iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_and_the_demo_are_accepted() {
    assert_eq!(problems(&json!({})), Vec::<String>::new());
    let demo = json!({
        "ipv4": {"enabled": false}, "ipv6": {"enabled": true}, "routingMode": "native", "autoDirectNodeRoutes": true,
        "ipv6NativeRoutingCIDR": "fd00:10::/32", "bpf": {"masquerade": true}, "kubeProxyReplacement": true,
        "debug": {"enabled": true},
    });
    assert_eq!(problems(&demo), Vec::<String>::new());
}

#[test]
fn what_is_off_anyway_may_be_said() {
    for values in [
        json!({"tunnel": "disabled"}),
        json!({"hubble": {"enabled": false, "relay": {"enabled": false}}}),
        json!({"encryption": {"enabled": false}}),
        json!({"clustermesh": {"useAPIServer": false}}),
        json!({"envoy": {"enabled": false}}),
    ] {
        assert_eq!(problems(&values), Vec::<String>::new(), "{values}");
    }
}

#[test]
fn every_problem_is_told_by_name() {
    let rows = [
        (
            json!({"ipv4": {"enabled": true}}),
            "ipv4.enabled=true is not possible: IPv6 is the first family",
        ),
        (
            json!({"routingMode": "tunnel"}),
            "routingMode=tunnel is not possible: packets between nodes are routed",
        ),
        (
            json!({"hubble": {"enabled": true}}),
            "hubble.enabled=true is not possible: Flows and Hubble come with issue 4",
        ),
        (
            json!({"hubble": {"metrics": {"enabled": ["dns"]}}}),
            "hubble.metrics={\"enabled\":[\"dns\"]} is not possible: Flows",
        ),
        (
            json!({"encryption": {"enabled": true}}),
            "encryption.enabled=true is not possible: there is no transparent",
        ),
        (
            json!({"bpf": {"neighMax": 5}}),
            "bpf.neighMax=5 is not possible: only the tables of connections",
        ),
        (
            json!({"bpf": {"mapDynamicSizeRatio": 2}}),
            "bpf.mapDynamicSizeRatio=2 is not possible: it must be from 0 to 1",
        ),
        (
            json!({"bpf": {"natMax": 1023}}),
            "bpf.natMax=1023 is not possible: it must be 0 or from 1024 to 16777216",
        ),
        (
            json!({"ipv6": {"enable": true}}),
            "ipv6.enable: there is no such value; did you mean ipv6.enabled?",
        ),
        (
            json!({"routingmode": "native"}),
            "routingmode: there is no such value; did you mean routingMode?",
        ),
        (
            json!({"autoDirectNodeRoute": true}),
            "did you mean autoDirectNodeRoutes?",
        ),
        (
            json!({"ipv6NativeRoutingCidr": "x"}),
            "did you mean ipv6NativeRoutingCIDR?",
        ),
        (
            json!({"kubeproxyreplacement": true}),
            "did you mean kubeProxyReplacement?",
        ),
        (
            json!({"bpf": {"masquarade": true}}),
            "did you mean bpf.masquerade?",
        ),
        (json!({"zzzzzzzz": 1}), "zzzzzzzz: there is no such value"),
        (
            json!({"debug": {"enabled": "yes"}}),
            "debug.enabled=yes is not possible: it must be true or false",
        ),
        (
            json!({"debug": true}),
            "debug=true is not possible: it must be an object",
        ),
        (
            json!({"healthPort": 70000}),
            "healthPort=70000 is not possible: it must be from 1 to 65535",
        ),
        (
            json!({"ipv6NativeRoutingCIDR": "here"}),
            "ipv6NativeRoutingCIDR=here is not possible: it must match",
        ),
        (
            json!({"bpf": {"monitorAggregation": "high"}}),
            "it must be one of: none, low, medium, maximum",
        ),
        (
            json!({"cluster": {"name": ""}}),
            "cluster.name= is not possible: it must not be empty",
        ),
        (
            json!({"podAnnotations": {"a": 1}}),
            "podAnnotations.a=1 is not possible: it must be a string",
        ),
        (
            json!({"extraConfig": {"a": [1]}}),
            "extraConfig.a=[1] is not possible: it must be a string or an integer",
        ),
    ];
    for (values, expected) in rows {
        let found = problems(&values);
        assert!(
            found.len() == 1 && found.iter().all(|problem| problem.contains(expected)),
            "{values}: {found:?} is not {expected}"
        );
    }
}

#[test]
fn strangers_get_no_suggestion() {
    assert_eq!(nearest("zzzzzzzz", &schema().paths()), None);
}

#[test]
fn every_default_has_its_place_in_the_schema() {
    let defaults = chart::default_values().expect("values.yaml is YAML");
    let paths = schema().paths();
    let mut stack = vec![(String::new(), &defaults)];
    while let Some((path, value)) = stack.pop() {
        assert!(
            path.is_empty() || paths.contains(&path),
            "{path} of values.yaml is not in the schema"
        );
        let open =
            path.is_empty() || schema_at(&path).is_some_and(|schema| schema.get("properties").is_some());
        if let (true, Some(object)) = (open, value.as_object()) {
            stack.extend(object.iter().map(|(key, inner)| (join(&path, key), inner)));
        }
    }
}

fn schema_at(path: &str) -> Option<Value> {
    let Schema(root) = schema();
    path.split('.')
        .try_fold(root, |schema, key| schema["properties"].get(key).cloned())
}

#[test]
fn the_schema_uses_only_words_that_are_understood() {
    let Schema(root) = schema();
    walk(&root, "", &mut |path, schema| {
        for (word, value) in schema.as_object().into_iter().flatten() {
            assert!(WORDS.contains(&word.as_str()), "{path}: {word}");
            if word == "anyOf" {
                // Understood of numbers only.
                assert_eq!(schema["type"], "integer", "{path}");
                let choices = value.as_array().into_iter().flatten();
                for word in choices
                    .filter_map(Value::as_object)
                    .flat_map(|choice| choice.keys())
                {
                    assert!(
                        ["enum", "minimum", "maximum"].contains(&word.as_str()),
                        "{path}: {word}"
                    );
                }
            }
            if word == "pattern" {
                assert!(
                    value.as_str().is_some_and(|pattern| Regex::new(pattern).is_ok()),
                    "{path}: {value}"
                );
            }
        }
    });
}

#[test]
fn refusals_hold_for_keys_too() {
    let schema = schema();
    assert!(
        schema
            .refusal_of_key("enable-ipv6-big-tcp", "true")
            .is_some_and(|why| why.contains("issue 6"))
    );
    assert_eq!(schema.refusal_of_key("enable-ipv6-big-tcp", "false"), None);
    assert_eq!(schema.refusal_of_key("debug", "true"), None);
}

#[test]
fn what_is_not_active_is_a_key_of_the_configuration() {
    let values = chart::default_values().expect("values.yaml is YAML");
    let rendered = chart::render(
        &values,
        chart::Release {
            namespace: "kube-system",
            revision: 1,
        },
    );
    let config = chart::config(&rendered.expect("the chart renders"));
    let inactive = schema().inactive();
    for entry in inactive {
        assert!(config.contains_key(&entry.key), "{}", entry.key);
        assert!(at(&values, &entry.path).is_some(), "{}", entry.path);
    }
}

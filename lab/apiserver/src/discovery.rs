//! Discovery: which groups, versions and resources there are, in the plain and in the aggregated form.

use hyper::{HeaderMap, Response};
use serde_json::{Value, json};

use crate::api::Api;
use crate::http::{self, Body};
use crate::kinds::{Kind, VERBS};
use crate::rest::{REVIEWS, Route, ranges};
use crate::status::Status;

/// The release that the server says it is; `kubectl` dispatchers choose their binary by it.
pub(crate) const RELEASE: (&str, &str, &str) = ("1", "32", "v1.32.0");

/// Answer to `/version`.
pub(crate) fn version() -> Value {
    let (major, minor, release) = RELEASE;
    json!({
        "major": major, "minor": minor, "gitVersion": release, "gitCommit": "seta-lab", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "rust", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// A resource (or part of one) as both forms need it.
struct Entry {
    group: String,
    version: String,
    kind: String,
    name: String,
    singular: String,
    namespaced: bool,
    verbs: Vec<&'static str>,
    short_names: Vec<String>,
    categories: Vec<String>,
    parts: Vec<Part>,
}

struct Part {
    name: String,
    /// Group and version of what it answers, when that is not those of the resource.
    response: Option<(&'static str, &'static str)>,
    kind: String,
    verbs: Vec<&'static str>,
}

fn entry(kind: &Kind) -> Entry {
    let part = |name: &str, kind: &str, verbs: &[&'static str]| {
        let response = match kind {
            "Scale" => Some(("autoscaling", "v1")),
            "Eviction" => Some(("policy", "v1")),
            "TokenRequest" => Some(("authentication.k8s.io", "v1")),
            _ => None,
        };
        Part {
            name: name.into(),
            response,
            kind: kind.into(),
            verbs: verbs.to_vec(),
        }
    };
    let mut parts: Vec<Part> = kind
        .subresources
        .iter()
        .map(|(name, kind, verbs)| part(name, kind, verbs))
        .collect();
    let usual = ["get", "patch", "update"];
    if kind.scale.is_some() {
        parts.push(part("scale", "Scale", &usual));
    }
    if kind.status {
        parts.push(part("status", &kind.kind, &usual));
    }
    Entry {
        group: kind.group.clone(),
        version: kind.version.clone(),
        kind: kind.kind.clone(),
        name: kind.plural.clone(),
        singular: kind.singular.clone(),
        namespaced: kind.namespaced,
        verbs: VERBS.to_vec(),
        short_names: kind.short_names.clone(),
        categories: kind.categories.clone(),
        parts,
    }
}

fn entries(api: &Api) -> Vec<Entry> {
    let reviews = REVIEWS.iter().map(|(group, kind, plural, namespaced)| Entry {
        group: (*group).into(),
        version: "v1".into(),
        kind: (*kind).into(),
        name: (*plural).into(),
        singular: kind.to_lowercase(),
        namespaced: *namespaced,
        verbs: vec!["create"],
        short_names: Vec::new(),
        categories: Vec::new(),
        parts: Vec::new(),
    });
    api.registry
        .all()
        .iter()
        .map(|k| entry(k))
        .chain(reviews)
        .collect()
}

/// Groups in order of appearance, each with its versions.
fn groups(entries: &[Entry]) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    for entry in entries {
        let at = match out.iter().position(|(group, _)| *group == entry.group) {
            Some(at) => at,
            None => {
                out.push((entry.group.clone(), Vec::new()));
                out.len() - 1
            }
        };
        if !out[at].1.contains(&entry.version) {
            out[at].1.push(entry.version.clone());
        }
    }
    out
}

/// Answers a discovery path.
pub(crate) fn answer(api: &Api, route: &Route, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let entries = entries(api);
    match route {
        Route::CoreVersions => match aggregated(headers) {
            Some(version) => Ok(aggregate(&entries, version, true)),
            None => Ok(http::json(
                200,
                &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
            )),
        },
        Route::Groups => match aggregated(headers) {
            Some(version) => Ok(aggregate(&entries, version, false)),
            None => {
                let groups: Vec<Value> = groups(&entries)
                    .iter()
                    .filter(|(g, _)| !g.is_empty())
                    .map(|(g, v)| group(g, v))
                    .collect();
                Ok(http::json(
                    200,
                    &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
                ))
            }
        },
        Route::Group(name) => {
            let groups = groups(&entries);
            let (name, versions) = groups
                .iter()
                .find(|(g, _)| g == name)
                .ok_or_else(Status::no_such_path)?;
            let mut shown = group(name, versions);
            shown["kind"] = "APIGroup".into();
            shown["apiVersion"] = "v1".into();
            Ok(http::json(200, &shown))
        }
        Route::Resources(group, version) => resources(&entries, group, version),
        _ => {
            let mut paths: Vec<String> = [
                "/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/version",
            ]
            .map(str::to_owned)
            .into();
            paths.extend(["/openapi/v2", "/openapi/v3"].map(str::to_owned));
            for (group, versions) in groups(&entries).iter().filter(|(g, _)| !g.is_empty()) {
                paths.push(format!("/apis/{group}"));
                paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
            }
            paths.sort();
            Ok(http::json(200, &json!({"paths": paths})))
        }
    }
}

fn group(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn resources(entries: &[Entry], group: &str, version: &str) -> Result<Response<Body>, Status> {
    let mut out = Vec::new();
    for entry in entries
        .iter()
        .filter(|e| e.group == group && e.version == version)
    {
        let mut shown = json!({
            "name": entry.name, "singularName": entry.singular, "namespaced": entry.namespaced, "kind": entry.kind,
            "verbs": entry.verbs,
        });
        if !entry.short_names.is_empty() {
            shown["shortNames"] = entry.short_names.clone().into();
        }
        if !entry.categories.is_empty() {
            shown["categories"] = entry.categories.clone().into();
        }
        out.push(shown);
        for part in &entry.parts {
            let mut shown = json!({
                "name": format!("{}/{}", entry.name, part.name), "singularName": "", "namespaced": entry.namespaced,
                "kind": part.kind, "verbs": part.verbs,
            });
            if let Some((group, version)) = part.response {
                shown["group"] = group.into();
                shown["version"] = version.into();
            }
            out.push(shown);
        }
    }
    if out.is_empty() {
        return Err(Status::no_such_path());
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Ok(http::json(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": out}),
    ))
}

/// The version of aggregated discovery that the caller prefers to the plain form, if it does.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    for range in ranges(headers) {
        let json = ["application/json", "*/*", "application/*"].contains(&range.media_type);
        match (
            json,
            range.parameter("as"),
            range.parameter("g"),
            range.parameter("v"),
        ) {
            (true, Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Some("v2");
            }
            (true, Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Some("v2beta1");
            }
            (true, None, _, _) => return None,
            _ => {}
        }
    }
    None
}

fn aggregate(entries: &[Entry], version: &'static str, core: bool) -> Response<Body> {
    let items: Vec<Value> = groups(entries)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| {
                    let own = entries.iter().filter(|e| e.group == group && e.version == *v);
                    json!({"version": v, "freshness": "Current", "resources": own.map(aggregated_entry).collect::<Vec<_>>()})
                })
                .collect();
            let metadata = if core { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": items,
    });
    let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    http::answer(200, &media_type, list.to_string())
}

fn aggregated_entry(entry: &Entry) -> Value {
    let parts: Vec<Value> = entry
        .parts
        .iter()
        .map(|part| {
            let (group, version) = part.response.unwrap_or((&entry.group, &entry.version));
            json!({
                "subresource": part.name, "verbs": part.verbs,
                "responseKind": {"group": group, "version": version, "kind": part.kind},
            })
        })
        .collect();
    let mut out = json!({
        "resource": entry.name, "singularResource": entry.singular, "verbs": entry.verbs,
        "scope": if entry.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": {"group": entry.group, "version": entry.version, "kind": entry.kind},
    });
    for (field, list) in [
        ("shortNames", &entry.short_names),
        ("categories", &entry.categories),
    ] {
        if !list.is_empty() {
            out[field] = list.clone().into();
        }
    }
    if !parts.is_empty() {
        out["subresources"] = parts.into();
    }
    out
}

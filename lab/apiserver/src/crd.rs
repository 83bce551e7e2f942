//! Custom resource definitions: rows of the table of kinds that come at run time.
//!
//! All versions of a definition share one schema form of storage (conversion strategy `None`); webhooks and CEL rules
//! (`x-kubernetes-validations`) are not run. Removing a definition removes its objects, finalizers or not.

use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::jsonpath::Path;
use crate::kinds::{Kind, ScalePaths};
use crate::object::{self, default_to, items, items_mut, map_mut};
use crate::printers::{Column, Printer};
use crate::status::{Cause, Status};
use crate::validate::text;

mod structural;
#[cfg(test)]
mod tests;

pub(crate) use structural::{check, decode};

pub(crate) fn defaults(object: &mut Value) {
    let spec = &mut object["spec"];
    let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
    default_to(&mut spec["names"], "singular", kind.to_lowercase());
    default_to(&mut spec["names"], "listKind", format!("{kind}List"));
    default_to(spec, "conversion", json!({"strategy": "None"}));
    if let Some(versions) = map_mut(spec).get_mut("versions") {
        for version in items_mut(versions) {
            for column in map_mut(version)
                .get_mut("additionalPrinterColumns")
                .map(items_mut)
                .unwrap_or_default()
            {
                default_to(column, "priority", 0);
                if column["priority"] == 0 {
                    map_mut(column).remove("priority");
                }
            }
        }
    }
}

/// Accepts the names (they are free: [`validate`] is what refuses) and says so in the status.
pub(crate) fn admit(api: &Api, object: &mut Value, _old: Option<&Value>) -> Result<(), Status> {
    let (group, plural) = (&object["spec"]["group"], &object["spec"]["names"]["plural"]);
    let kind = &object["spec"]["names"]["kind"];
    let taken = api
        .registry
        .all()
        .into_iter()
        .find(|k| k.group == *group && (!k.custom || (k.kind == *kind) != (k.plural == *plural)));
    let accepted = taken.is_none();
    let since = object::now();
    let condition = |ty: &str, good: bool, reason: &str, message: &str| {
        json!({
            "type": ty, "status": if good { "True" } else { "False" }, "reason": reason, "message": message,
            "lastTransitionTime": since,
        })
    };
    let had = items(&object["status"]["conditions"])
        .iter()
        .any(|c| c["type"] == "Established" && c["status"] == "True");
    // Versions that were ever stored stay in the list: whoever drops one edits the status.
    let mut stored = items(&object["status"]["storedVersions"]).to_vec();
    for version in items(&object["spec"]["versions"])
        .iter()
        .filter(|v| v["storage"] == true)
    {
        if !stored.contains(&version["name"]) {
            stored.push(version["name"].clone());
        }
    }
    object["status"]["storedVersions"] = stored.clone().into();
    if accepted && had && object["status"]["acceptedNames"] == object["spec"]["names"] {
        return Ok(());
    }
    let conditions = if accepted {
        json!([
            condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted"
            ),
        ])
    } else {
        json!([
            condition(
                "NamesAccepted",
                false,
                "PluralConflict",
                "the names are already in use"
            ),
            condition("Established", false, "NotAccepted", "not all names are accepted"),
        ])
    };
    object["status"] = json!({
        "conditions": conditions, "storedVersions": stored,
        "acceptedNames": if accepted { object["spec"]["names"].clone() } else { json!({"kind": "", "plural": ""}) },
    });
    Ok(())
}

pub(crate) fn validate(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (word(&spec["group"]), word(&spec["names"]["plural"]));
    for (field, value) in [
        ("spec.group", &spec["group"]),
        ("spec.scope", &spec["scope"]),
        ("spec.names.plural", &spec["names"]["plural"]),
        ("spec.names.kind", &spec["names"]["kind"]),
    ] {
        if word(value).is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if !group.is_empty() && !plural.is_empty() && object::name(object) != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid(
            "metadata.name",
            &object["metadata"]["name"],
            detail,
        ));
    }
    if let Some(rule) = text::label1035(&plural).filter(|_| !plural.is_empty()) {
        causes.push(Cause::invalid(
            "spec.names.plural",
            &spec["names"]["plural"],
            rule,
        ));
    }
    if !group.contains('.') && !group.is_empty() {
        causes.push(Cause::invalid(
            "spec.group",
            &spec["group"],
            "should be a domain with at least one dot",
        ));
    }
    let scopes = ["Cluster", "Namespaced"];
    if !spec["scope"].is_null() && !spec["scope"].as_str().is_some_and(|s| scopes.contains(&s)) {
        causes.push(Cause::unsupported("spec.scope", &spec["scope"], &scopes));
    }
    let versions = items(&spec["versions"]);
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], detail));
    }
    for (index, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{index}]");
        if let Some(rule) = text::label1035(version["name"].as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(format!("{at}.name"), &version["name"], rule));
        }
        if versions[..index]
            .iter()
            .any(|other| other["name"] == version["name"])
        {
            causes.push(Cause::duplicate(format!("{at}.name"), &version["name"]));
        }
        let scale = &version["subresources"]["scale"];
        for (field, parts) in [
            ("specReplicasPath", &[".spec."][..]),
            ("statusReplicasPath", &[".status."]),
            ("labelSelectorPath", &[".spec.", ".status."]),
        ] {
            let field_at = format!("{at}.subresources.scale.{field}");
            match scale[field].as_str().unwrap_or_default() {
                "" if scale.is_object() && field != "labelSelectorPath" => {
                    causes.push(Cause::required(field_at, ""));
                }
                path if !path.is_empty()
                    && !parts
                        .iter()
                        .any(|part| path.len() > part.len() && path.starts_with(part)) =>
                {
                    let detail = format!(
                        "should be a json path under {}",
                        parts.join(" or ").trim_end_matches('.')
                    );
                    causes.push(Cause::invalid(field_at, &scale[field], &detail));
                }
                _ => {}
            }
        }
        if !version["schema"]["openAPIV3Schema"].is_object() {
            causes.push(Cause::required(
                format!("{at}.schema.openAPIV3Schema"),
                "schemas are required",
            ));
        }
    }
    if spec["conversion"]["strategy"] == "Webhook" {
        let detail = "the lab's API server does not call conversion webhooks";
        causes.push(Cause::invalid(
            "spec.conversion.strategy",
            &spec["conversion"]["strategy"],
            detail,
        ));
    }
    for pointer in [
        "/spec/group",
        "/spec/scope",
        "/spec/names/plural",
        "/spec/names/kind",
    ] {
        crate::validate::immutable(object, old, pointer, causes);
    }
}

/// Serves what the definition defines, or stops to.
pub(crate) fn stored(api: &Api, object: &Value, present: bool) -> Result<(), Status> {
    let group = object["spec"]["group"].as_str().unwrap_or_default();
    let plural = object["spec"]["names"]["plural"].as_str().unwrap_or_default();
    let established = items(&object["status"]["conditions"])
        .iter()
        .any(|c| c["type"] == "Established" && c["status"] == "True");
    if !present && established {
        api.store.drop_resource(&format!("{plural}.{group}"));
    }
    let rows = if present && established {
        rows(object)
    } else {
        Vec::new()
    };
    api.registry.replace_custom(group, plural, rows);
    Ok(())
}

/// The kinds that a definition serves, one a version; the newest first.
pub(crate) fn rows(definition: &Value) -> Vec<Kind> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let words = |v: &Value| items(v).iter().map(word).collect::<Vec<_>>();
    let mut versions: Vec<&Value> = items(&spec["versions"])
        .iter()
        .filter(|v| v["served"] == true)
        .collect();
    versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v["name"].as_str().unwrap_or_default())));
    versions
        .into_iter()
        .map(|version| {
            let schema = version["schema"]["openAPIV3Schema"].clone();
            let mut row = Kind::custom(
                &word(&spec["group"]),
                &word(&version["name"]),
                &word(&names["kind"]),
                &word(&names["plural"]),
                schema,
            );
            row.singular = word(&names["singular"]);
            row.list_kind = word(&names["listKind"]);
            row.short_names = words(&names["shortNames"]);
            row.categories = words(&names["categories"]);
            row.namespaced = spec["scope"] == "Namespaced";
            row.printer = printer(&version["additionalPrinterColumns"]);
            let selectable = items(&version["selectableFields"]).iter();
            row.selectable = selectable
                .map(|f| word(&f["jsonPath"]).trim_start_matches('.').to_owned())
                .collect();
            let parts = &version["subresources"];
            row.status = !parts["status"].is_null();
            let path = |field: &str| word(&parts["scale"][field]).trim_start_matches('.').to_owned();
            row.scale = parts["scale"].is_object().then(|| ScalePaths {
                spec: path("specReplicasPath"),
                status: path("statusReplicasPath"),
                selector: path("labelSelectorPath"),
            });
            row
        })
        .collect()
}

/// The order of versions in discovery: stable before beta before alpha, newer before older.
fn version_rank(name: &str) -> (u8, u32, u32) {
    let Some(rest) = name.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let number = |t: &str| t.parse::<u32>().ok();
    if let Some(major) = number(rest) {
        return (3, major, 0);
    }
    for (rank, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word).and_then(|(a, b)| number(a).zip(number(b))) {
            return (rank, major, minor);
        }
    }
    (0, 0, 0)
}

fn printer(columns: &Value) -> Printer {
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut out: Vec<(Column, Path)> = items(columns)
        .iter()
        .filter_map(|c| {
            let column = Column {
                name: word(&c["name"]),
                ty: word(&c["type"]),
                format: word(&c["format"]),
                description: word(&c["description"]),
                priority: c["priority"].as_i64().unwrap_or(0),
            };
            Some((column, Path::parse(c["jsonPath"].as_str()?)?))
        })
        .collect();
    if out.is_empty() {
        let column = Column {
            name: "Age".into(),
            ty: "date".into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
        };
        out.extend(Path::parse(".metadata.creationTimestamp").map(|path| (column, path)));
    }
    Printer::of_paths(out)
}

/// An empty map to look into.
fn nothing() -> &'static Map<String, Value> {
    static NOTHING: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    NOTHING.get_or_init(Map::new)
}

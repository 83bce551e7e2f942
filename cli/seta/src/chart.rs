//! The Helm chart in `deploy/chart`, embedded, and its rendering.
//!
//! `helm install` and `seta install` read the very same files. The template language is Go's, by the crate `gotmpl`;
//! of Helm's own functions there are those that the chart uses ([`functions`]). A template file makes at most one
//! object.

mod files;
mod functions;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use gotmpl::{MissingKey, Template, TemplateError};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

pub use files::{CHART_YAML, FILES, VALUES_SCHEMA, VALUES_YAML};

/// Name of the release, as the cilium CLI looks for it.
pub const RELEASE: &str = "cilium";

/// Kinds in the order in which Helm creates them; what is not in the list comes last.
const INSTALL_ORDER: [&str; 11] = [
    "Namespace",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
];

/// Why the chart could not be rendered.
#[derive(Debug, Error)]
pub enum ChartError {
    /// A template is not valid, or uses a value that does not exist.
    #[error("template {path}: {source}")]
    Template {
        /// Its path.
        path: &'static str,
        /// What is wrong.
        source: TemplateError,
    },
    /// What came out is not YAML.
    #[error("template {path} renders something that is not YAML: {source}")]
    Yaml {
        /// Path of the template.
        path: &'static str,
        /// What is wrong.
        source: Box<serde_saphyr::Error>,
    },
    /// A file of the chart itself is broken.
    #[error("{0} of the chart: {1}")]
    File(&'static str, Box<serde_saphyr::Error>),
    /// The values cannot be data of a template.
    #[error("values: {0}")]
    Values(TemplateError),
}

/// `Chart.yaml`, as far as it is used.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name of the chart.
    pub name: String,
    /// Version of the chart.
    pub version: String,
    /// Version of the images.
    pub app_version: String,
}

/// What is rendered besides the values.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// Namespace of the release.
    pub namespace: &'a str,
    /// Number of the release, from 1.
    pub revision: u32,
}

/// One rendered object.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Path of its template, with the name of the chart in front, as Helm writes it.
    pub path: String,
    /// The YAML as rendered.
    pub text: String,
    /// The same as an object.
    pub object: Value,
}

impl Manifest {
    /// Kind of the object.
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// `Chart.yaml`.
pub fn metadata() -> Result<Metadata, ChartError> {
    serde_saphyr::from_str(CHART_YAML).map_err(|error| ChartError::File("Chart.yaml", Box::new(error)))
}

/// `values.yaml`: the defaults.
pub fn default_values() -> Result<Value, ChartError> {
    serde_saphyr::from_str(VALUES_YAML).map_err(|error| ChartError::File("values.yaml", Box::new(error)))
}

/// Renders every object, in the order in which they are to be created.
pub fn render(values: &Value, release: Release<'_>) -> Result<Vec<Manifest>, ChartError> {
    let metadata = metadata()?;
    let set: Arc<OnceLock<Template>> = Arc::default();
    let mut templates = Template::new(&metadata.name)
        .missing_key(MissingKey::Error)
        .funcs(functions::all())
        .func("include", functions::include(Arc::downgrade(&set)));
    for &(path, source) in FILES {
        // A file with a leading underscore only defines; every other one is itself a template under its path.
        let helper = path.rsplit('/').next().is_some_and(|name| name.starts_with('_'));
        let named;
        let source = if helper {
            source
        } else {
            named = format!(
                "{{{{define \"{}\"}}}}{source}{{{{end}}}}",
                full_path(&metadata.name, path)
            );
            &named
        };
        templates = templates
            .parse(source)
            .map_err(|source| ChartError::Template { path, source })?;
    }
    let templates = set.get_or_init(|| templates);

    let data = json!({
        "Values": values,
        "Release": {
            "Name": RELEASE,
            "Namespace": release.namespace,
            "Service": "Helm",
            "Revision": release.revision,
            "IsInstall": release.revision == 1,
            "IsUpgrade": release.revision > 1,
        },
        "Chart": { "Name": metadata.name, "Version": metadata.version, "AppVersion": metadata.app_version },
        "Template": { "BasePath": format!("{}/templates", metadata.name) },
    });
    let data = gotmpl::to_value(&data).map_err(ChartError::Values)?;
    let mut manifests = Vec::new();
    for &(path, _) in FILES {
        if !path.starts_with("templates/") || !path.ends_with(".yaml") {
            continue;
        }
        let full = full_path(&metadata.name, path);
        let text = templates
            .execute_template_to_string(&full, &data)
            .map_err(|source| ChartError::Template { path, source })?;
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let object = serde_saphyr::from_str(text).map_err(|error| ChartError::Yaml {
            path,
            source: Box::new(error),
        })?;
        manifests.push(Manifest {
            path: full,
            text: text.to_owned(),
            object,
        });
    }
    let order = |manifest: &Manifest| {
        let position = INSTALL_ORDER.iter().position(|kind| *kind == manifest.kind());
        (position.unwrap_or(INSTALL_ORDER.len()), manifest.path.clone())
    };
    manifests.sort_by_cached_key(order);
    Ok(manifests)
}

/// All objects as one stream of YAML documents, as `helm template` prints it.
pub fn stream(manifests: &[Manifest]) -> String {
    manifests
        .iter()
        .map(|manifest| format!("---\n# Source: {}\n{}\n", manifest.path, manifest.text))
        .collect()
}

/// The keys of the rendered ConfigMap `cilium-config`.
pub fn config(manifests: &[Manifest]) -> BTreeMap<String, String> {
    manifests
        .iter()
        .filter(|manifest| manifest.kind() == "ConfigMap" && manifest.name() == "cilium-config")
        .filter_map(|manifest| manifest.object["data"].as_object())
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn full_path(chart: &str, path: &str) -> String {
    format!("{chart}/{path}")
}

#[cfg(test)]
mod tests;

//! The files of the chart, embedded. A test holds the list to what lies in `deploy/chart`.

macro_rules! file {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/chart/", $path))
    };
}

macro_rules! files {
    ($($path:literal),* $(,)?) => { &[$(($path, file!($path))),*] };
}

/// What the chart is.
pub const CHART_YAML: &str = file!("Chart.yaml");
/// Its defaults.
pub const VALUES_YAML: &str = file!("values.yaml");
/// What its values may be.
pub const VALUES_SCHEMA: &str = file!("values.schema.json");

/// Path and content of every file under `templates/`.
pub const FILES: &[(&str, &str)] = files![
    "templates/_helpers.tpl",
    "templates/NOTES.txt",
    "templates/cilium-configmap.yaml",
    "templates/ip-masq-agent-configmap.yaml",
    "templates/cilium-agent/clusterrole.yaml",
    "templates/cilium-agent/clusterrolebinding.yaml",
    "templates/cilium-agent/daemonset.yaml",
    "templates/cilium-agent/serviceaccount.yaml",
    "templates/cilium-operator/clusterrole.yaml",
    "templates/cilium-operator/clusterrolebinding.yaml",
    "templates/cilium-operator/deployment.yaml",
    "templates/cilium-operator/role.yaml",
    "templates/cilium-operator/rolebinding.yaml",
    "templates/cilium-operator/serviceaccount.yaml",
];

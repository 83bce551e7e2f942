//! The user's kubeconfig file: which one it is, and whether what stands there under our context's name is ours.
//! Merging into it and taking out of it is done by [`lab_apiserver::kubeconfig`].

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::Value;

/// The name of the context, cluster and user of a lab cluster: the one that kind would use.
pub(crate) fn context(cluster: &str) -> String {
    format!("kind-{cluster}")
}

/// The file that kubectl would write to: the first of `$KUBECONFIG`, else `~/.kube/config`.
///
/// # Errors
/// There is neither `KUBECONFIG` nor `HOME`.
pub(crate) fn default_path(kubeconfig: Option<&OsStr>, home: Option<&OsStr>) -> anyhow::Result<PathBuf> {
    let first =
        kubeconfig.and_then(|list| std::env::split_paths(list).find(|path| !path.as_os_str().is_empty()));
    match (first, home) {
        (Some(path), _) => Ok(path),
        (None, Some(home)) => Ok(Path::new(home).join(".kube/config")),
        (None, None) => bail!("neither KUBECONFIG nor HOME is set; say --kubeconfig PATH"),
    }
}

/// Whether `file` has, under the name `context`, the very cluster of the kubeconfig `ours`: same server, same
/// certificate authority. So a kind cluster of the same name is not mistaken for one of the lab.
pub(crate) fn is_ours(file: &Path, ours: &Path, context: &str) -> bool {
    match (cluster(file, context), cluster(ours, context)) {
        (Some(there), Some(ours)) => there == ours,
        _ => false,
    }
}

/// The cluster with this name in a kubeconfig; `None` also for a file that is missing or not understood.
fn cluster(file: &Path, name: &str) -> Option<Value> {
    let config: Value = serde_saphyr::from_str(&fs::read_to_string(file).ok()?).ok()?;
    let clusters = config.get("clusters")?.as_array()?;
    clusters
        .iter()
        .find(|cluster| cluster["name"] == name)
        .map(|cluster| cluster["cluster"].clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_not_enough() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let config =
            |server: &str| format!("clusters:\n- name: kind-kind\n  cluster: {{server: \"{server}\"}}\n");
        let ours = write("ours", &config("https://127.0.0.1:1"));
        for (text, expected) in [
            (config("https://127.0.0.1:1"), true),
            (config("https://127.0.0.1:2"), false),
            ("clusters: []".to_owned(), false),
            ("clusters: 7".to_owned(), false),
            ("- a: [".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(
                is_ours(&write("theirs", &text), &ours, "kind-kind"),
                expected,
                "{text}"
            );
        }
        assert!(!is_ours(&dir.path().join("missing"), &ours, "kind-kind"));
        assert!(!is_ours(&ours, &ours, "kind-other"));
    }

    #[test]
    fn default_paths() {
        let path = |kubeconfig: Option<&str>, home: Option<&str>| {
            default_path(kubeconfig.map(OsStr::new), home.map(OsStr::new)).ok()
        };
        assert_eq!(path(Some("/a:/b"), Some("/root")), Some("/a".into()));
        assert_eq!(path(Some(":/b"), None), Some("/b".into()));
        assert_eq!(path(Some(""), Some("/root")), Some("/root/.kube/config".into()));
        assert_eq!(path(None, Some("/root")), Some("/root/.kube/config".into()));
        assert_eq!(path(None, None), None);
    }
}

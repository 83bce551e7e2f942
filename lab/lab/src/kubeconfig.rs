//! The user's kubeconfig file: our cluster, user and context are merged into it and taken out again; everything else in
//! it stays as it is.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

/// The named lists of a kubeconfig.
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// The file that kubectl would write to: the first of `$KUBECONFIG`, else `~/.kube/config`.
///
/// # Errors
/// There is neither `KUBECONFIG` nor `HOME`.
pub(crate) fn default_path(kubeconfig: Option<OsString>, home: Option<OsString>) -> anyhow::Result<PathBuf> {
    let first = kubeconfig
        .as_deref()
        .and_then(|list| std::env::split_paths(list).find(|path| !path.as_os_str().is_empty()));
    match (first, home) {
        (Some(path), _) => Ok(path),
        (None, Some(home)) => Ok(Path::new(&home).join(".kube/config")),
        (None, None) => bail!("neither KUBECONFIG nor HOME is set; say --kubeconfig PATH"),
    }
}

/// Merges the kubeconfig file `ours` into the file `into`, and makes its context the current one.
///
/// # Errors
/// A file cannot be read, understood or written; `into` is left as it was.
pub(crate) fn merge(into: &Path, ours: &Path) -> anyhow::Result<()> {
    let ours = read(ours)?.with_context(|| format!("{} is missing", ours.display()))?;
    let theirs = read(into)?.unwrap_or_else(empty);
    let merged = merged(theirs, &ours);
    write(into, &merged)
}

/// Takes the entries of the kubeconfig file `ours` out of the file `from`: only those that are still the same, so that
/// a real kind cluster of the same name is safe.
///
/// # Errors
/// A file cannot be read, understood or written; `from` is left as it was.
pub(crate) fn remove(from: &Path, ours: &Path) -> anyhow::Result<()> {
    let (Some(ours), Some(theirs)) = (read(ours)?, read(from)?) else { return Ok(()) };
    let remaining = without(theirs.clone(), &ours);
    if remaining == theirs {
        return Ok(());
    }
    if is_empty(&remaining) {
        return fs::remove_file(from).with_context(|| format!("cannot remove {}", from.display()));
    }
    write(from, &remaining)
}

/// Whether the file `file` has the context of `ours`, unchanged.
pub(crate) fn contains(file: &Path, ours: &Path) -> bool {
    let (Ok(Some(file)), Ok(Some(ours))) = (read(file), read(ours)) else { return false };
    LISTS.iter().all(|list| items(&ours, list).all(|item| items(&file, list).any(|other| other == item)))
}

fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "preferences": {}})
}

/// `theirs` with the entries of `ours` instead of those of the same name.
fn merged(mut theirs: Value, ours: &Value) -> Value {
    for list in LISTS {
        let names: HashSet<&str> = items(ours, list).filter_map(name).collect();
        let mut kept: Vec<Value> =
            items(&theirs, list).filter(|item| !name(item).is_some_and(|name| names.contains(name))).cloned().collect();
        kept.extend(items(ours, list).cloned());
        theirs[list] = kept.into();
    }
    theirs["current-context"] = ours["current-context"].clone();
    theirs
}

/// `theirs` without the entries that `ours` has, word for word.
fn without(mut theirs: Value, ours: &Value) -> Value {
    // A context is only names: it is ours if the cluster it names is.
    let our_cluster_is_there =
        items(ours, "clusters").all(|item| items(&theirs, "clusters").any(|other| other == item));
    if !our_cluster_is_there {
        return theirs;
    }
    for list in LISTS {
        let kept: Vec<Value> =
            items(&theirs, list).filter(|item| !items(ours, list).any(|other| other == *item)).cloned().collect();
        theirs[list] = kept.into();
    }
    if theirs["current-context"] == ours["current-context"] {
        theirs["current-context"] = "".into();
    }
    theirs
}

fn is_empty(config: &Value) -> bool {
    LISTS.iter().all(|list| items(config, list).next().is_none())
}

fn items<'a>(config: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    config.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn name(item: &Value) -> Option<&str> {
    item.get("name")?.as_str()
}

/// The file as an object; `None` if there is none.
fn read(path: &Path) -> anyhow::Result<Option<Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if text.trim().is_empty() {
        return Ok(Some(empty()));
    }
    let config: Map<String, Value> =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is no kubeconfig", path.display()))?;
    for list in LISTS {
        if !matches!(config.get(list), None | Some(Value::Null | Value::Array(_))) {
            bail!("{} is no kubeconfig: {list} is not a list", path.display());
        }
    }
    Ok(Some(Value::Object(config)))
}

/// Replaces the file in one step, readable by its owner only.
fn write(path: &Path, config: &Value) -> anyhow::Result<()> {
    // Where the file is a link, the link stays.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".seta-{}", std::process::id()));
    let text = serde_saphyr::to_string(config)?;
    let replace = || -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    replace()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cluster: &str, server: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": cluster,
            "clusters": [{"name": cluster, "cluster": {"server": server}}],
            "users": [{"name": cluster, "user": {"token": server}}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
        })
    }

    #[test]
    fn merging_and_removing_leaves_others_alone() {
        let other = config("other", "https://a");
        let ours = config("kind-kind", "https://b");
        let both = merged(other.clone(), &ours);
        assert_eq!(both["current-context"], "kind-kind");
        assert_eq!(both["clusters"].as_array().unwrap().len(), 2);
        let mut expected = other;
        expected["current-context"] = "".into();
        assert_eq!(without(both, &ours), expected);
    }

    #[test]
    fn merging_replaces_an_older_cluster_of_the_same_name() {
        let both = merged(config("kind-kind", "https://old"), &config("kind-kind", "https://new"));
        assert_eq!(both, config("kind-kind", "https://new"));
    }

    #[test]
    fn removing_spares_a_foreign_cluster_of_the_same_name() {
        let foreign = config("kind-kind", "https://docker");
        assert_eq!(without(foreign.clone(), &config("kind-kind", "https://ours")), foreign);
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (dir.path().join("sub/config"), dir.path().join("ours"));
        fs::write(&ours, config("kind-kind", "https://b").to_string()).unwrap();
        merge(&theirs, &ours).unwrap();
        assert!(contains(&theirs, &ours));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&theirs).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        remove(&theirs, &ours).unwrap();
        assert!(!theirs.exists(), "an empty kubeconfig is removed");

        for bad in ["- a", "clusters: 7", "a: [", "just text"] {
            fs::write(&theirs, bad).unwrap();
            assert!(merge(&theirs, &ours).is_err(), "{bad}");
            assert_eq!(fs::read_to_string(&theirs).unwrap(), bad, "a file that is not understood stays");
        }
    }

    #[test]
    fn default_paths() {
        let path = |kubeconfig: Option<&str>, home: Option<&str>| {
            default_path(kubeconfig.map(Into::into), home.map(Into::into)).ok()
        };
        assert_eq!(path(Some("/a:/b"), Some("/root")), Some("/a".into()));
        assert_eq!(path(Some(":/b"), None), Some("/b".into()));
        assert_eq!(path(Some(""), Some("/root")), Some("/root/.kube/config".into()));
        assert_eq!(path(None, Some("/root")), Some("/root/.kube/config".into()));
        assert_eq!(path(None, None), None);
    }
}

//! The unmodified `kubectl`, every version that is on the machine.

mod common;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::client;

/// Every kubectl on the machine: the one on the PATH, those beside it with a version in the name, and those that
/// `SETA_TEST_KUBECTL` names, separated by colons.
fn versions() -> Result<Vec<PathBuf>> {
    let path = std::env::var_os("PATH").context("no PATH")?;
    let more = std::env::var_os("SETA_TEST_KUBECTL").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&more)
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    for directory in std::env::split_paths(&path) {
        // A kubectl on the PATH may be a link to where its other versions are.
        let Ok(kubectl) = directory.join("kubectl").canonicalize() else {
            continue;
        };
        let Some(home) = kubectl.parent() else { continue };
        for entry in home.read_dir().context("the directory of kubectl")? {
            let entry = entry.context("the directory of kubectl")?.path();
            if entry
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("kubectl"))
                && !found.contains(&entry)
            {
                found.push(entry);
            }
        }
    }
    ensure!(!found.is_empty(), "there is no kubectl: run `make setup`");
    Ok(found)
}

#[test]
fn every_kubectl_creates_reads_patches_executes_and_deletes() -> Result<()> {
    let Some(lab) = common::lab("t-kubectl")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    for kubectl in versions()? {
        println!("with {}", kubectl.display());
        let kubectl = kubectl.display();
        lab.apply(&client("talk", "kind-worker"))?;
        lab.ok("kubectl wait --for=condition=Ready pod/talk --timeout=60s")?;
        for (verb, expected) in [
            ("get nodes -o wide", "INTERNAL-IP"),
            ("get pods -A -o wide", "NOMINATED NODE"),
            ("get po talk -o jsonpath='{.status.phase}'", "Running"),
            ("describe pod talk", "Scheduled"),
            ("label pod talk colour=blue", "labeled"),
            ("annotate pod talk note=x", "annotate"),
            ("get pods -l colour=blue -o name", "pod/talk"),
            (
                "exec talk -- sh -c 'echo out; echo err >&2; exit 3' ; test $? = 3 && echo exit-was-three",
                "exit-was-three",
            ),
            (
                "exec -i talk -- cat <<< 'through standard input'",
                "through standard input",
            ),
            ("logs talk && echo logs-ended", "logs-ended"),
            (
                "create configmap c --from-literal=k=v --dry-run=client -o yaml | kubectl apply -f - && kubectl get cm c -o jsonpath='{.data.k}'",
                "v",
            ),
            ("get events --field-selector involvedObject.name=talk", "Started"),
            ("api-resources --api-group=cilium.io", "ciliumendpoints"),
            ("get ciliumendpoints,ciliumnodes,ciliumidentities", "talk"),
            ("delete pod talk --timeout=30s", "deleted"),
        ] {
            let text = lab.ok(&format!("{kubectl} {verb}"))?;
            ensure!(
                text.contains(expected),
                "`{kubectl} {verb}` does not print `{expected}`:\n{text}"
            );
        }
    }
    Ok(())
}

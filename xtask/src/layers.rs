//! Who may import whom. The table is the design; `cargo metadata` is the fact.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::run::{output, root};

/// Our crates, in the order of the house, and what each may import of ours. `*`: anything (tools and front doors).
const ROOMS: &[(&str, &[&str])] = &[
    ("seta-abi", &[]),
    ("seta-packet", &["seta-abi"]),
    ("seta-stages", &["seta-abi", "seta-packet"]),
    ("seta-ebpf", &["seta-abi", "seta-packet", "seta-stages"]),
    ("seta-sim", &["seta-abi", "seta-packet", "seta-stages"]),
    ("seta-loader", &["seta-abi"]),
    ("seta-api", &[]),
    ("seta-model", &["seta-abi"]),
    ("seta-k8s", &["seta-model"]),
    ("seta-netlink", &[]),
    ("seta-flow", &["seta-abi"]),
    (
        "seta-agent",
        &[
            "seta-abi",
            "seta-packet",
            "seta-model",
            "seta-k8s",
            "seta-netlink",
            "seta-loader",
            "seta-api",
        ],
    ),
    ("seta-cni", &["seta-api"]),
    ("seta-operator", &["seta-model", "seta-k8s"]),
    (
        "seta",
        &[
            "seta-api",
            "seta-abi",
            "seta-agent",
            "seta-cni",
            "seta-operator",
            "seta-lab",
            "seta-k8s",
            "seta-model",
        ],
    ),
    ("seta-lab-streams", &[]),
    ("seta-lab-apiserver", &[]),
    ("seta-lab-dns", &[]),
    ("seta-lab-kubelet", &["seta-lab-streams"]),
    (
        "seta-lab",
        &[
            "seta-lab-apiserver",
            "seta-lab-dns",
            "seta-lab-kubelet",
            "seta-netlink",
        ],
    ),
    ("xtask", &["*"]),
    ("seta-bench", &["*"]),
    ("seta-bench-ebpf", &[]),
    ("seta-e2e", &["*"]),
    ("seta-fuzz", &["*"]),
];

/// Foreign APIs, each with the rooms that may import it directly.
const WALLS: &[(&str, &[&str])] = &[
    ("aya", &["seta-loader"]),
    ("aya-obj", &["seta-loader"]),
    ("aya-ebpf", &["seta-ebpf", "seta-bench-ebpf"]),
    ("rtnetlink", &["seta-netlink"]),
    ("netlink-packet-route", &["seta-netlink"]),
    // The CLI and the lab are plain Kubernetes clients without a domain model to protect.
    ("kube", &["seta-k8s", "seta", "seta-lab-dns", "seta-lab-kubelet"]),
    (
        "k8s-openapi",
        &["seta-k8s", "seta", "seta-lab-dns", "seta-lab-kubelet", "seta-lab"],
    ),
];

/// Crates without IO, clocks or a runtime of their own.
const PURE: &[&str] = &[
    "seta-abi",
    "seta-packet",
    "seta-stages",
    "seta-model",
    "seta-sim",
    "seta-flow",
];
const IMPURE: &[&str] = &[
    "tokio", "nix", "hyper", "axum", "rand", "jiff", "anyhow", "tracing",
];

pub(crate) fn run() -> Result<()> {
    let text = output(
        Command::new("cargo")
            .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
            .current_dir(root()),
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let mut errors = Vec::new();
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may) = rooms.get(name) else {
            errors.push(format!(
                "{name} has no place in xtask/src/layers.rs: add it to ROOMS"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Tests may import what they like (`seta-loader` tests the kernel half against `seta-sim`).
            if dependency["kind"] == "dev" {
                continue;
            }
            let import = dependency["name"].as_str().unwrap_or_default();
            errors.extend(violation(name, may, import, rooms.contains_key(import)));
        }
    }
    if !errors.is_empty() {
        bail!("the layers do not hold:\n  {}", errors.join("\n  "));
    }
    println!("layers hold: {} crates", packages.len());
    Ok(())
}

fn violation(name: &str, may: &[&str], import: &str, ours: bool) -> Option<String> {
    if may.contains(&"*") {
        return None;
    }
    if ours && !may.contains(&import) {
        return Some(format!(
            "{name} imports {import}, which lies above it or beside it"
        ));
    }
    if let Some((_, rooms)) = WALLS.iter().find(|(wall, _)| *wall == import)
        && !rooms.contains(&name)
    {
        return Some(format!("{name} imports {import}; only {} may", rooms.join(", ")));
    }
    (PURE.contains(&name) && IMPURE.contains(&import)).then(|| format!("{name} is pure and imports {import}"))
}

#[cfg(test)]
mod tests {
    use super::violation;

    #[test]
    fn what_the_walls_let_through() {
        for (name, may, import, ours, bad) in [
            ("seta-agent", &["seta-abi"][..], "seta-abi", true, false),
            ("seta-abi", &[], "seta-agent", true, true),
            ("seta-agent", &[], "aya", false, true),
            ("seta-loader", &[], "aya", false, false),
            ("seta-model", &[], "tokio", false, true),
            ("xtask", &["*"], "seta-agent", true, false),
        ] {
            assert_eq!(
                violation(name, may, import, ours).is_some(),
                bad,
                "{name} -> {import}"
            );
        }
    }
}

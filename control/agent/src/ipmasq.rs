//! Destinations that pods reach with their own address: the file of ip-masq-agent, followed while the agent runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use ipnet::IpNet;
use loader::Datapath;
use model::AgentConfig;
use model::ipmasq::{File, Step, steps, to_key};
use serde_json::Value;

/// Longest file that is read; a ConfigMap as a whole has at most 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// The file, and what was last said about it.
pub(crate) struct IpMasq {
    /// Followed only when it is asked for.
    path: Option<PathBuf>,
    enable_ipv4: bool,
    told: Mutex<Vec<String>>,
}

impl IpMasq {
    /// `named`: the file that the command line names, before the one of the configuration.
    pub(crate) fn new(config: &AgentConfig, named: Option<&Path>) -> Self {
        let path = named.unwrap_or_else(|| Path::new(&config.ip_masq_agent_config_path));
        Self {
            path: config.ip_masq_agent.then(|| path.to_owned()),
            enable_ipv4: config.enable_ipv4,
            told: Mutex::default(),
        }
    }

    /// Makes the kernel's table what the file says; empty where no file is followed.
    ///
    /// # Errors
    /// The file cannot be read or used, or the table not be written. What was in the table stays then.
    pub(crate) fn reconcile(&self, datapath: &Datapath) -> anyhow::Result<()> {
        let prefixes = match &self.path {
            Some(path) => {
                let (prefixes, warnings) = read(path)?;
                self.tell(path, warnings);
                prefixes
            }
            None => BTreeSet::new(),
        };
        let reachable = prefixes
            .into_iter()
            .filter(|net| self.enable_ipv4 || matches!(net, IpNet::V6(_)));
        let want: BTreeSet<_> = reachable.map(to_key).collect();
        let table = &datapath.nat().plain;
        let have = table.dump()?;
        for step in steps(&have, &want, table.max_entries()) {
            match step {
                Step::Insert((bits, key)) => table.insert(bits, &key)?,
                Step::Remove((bits, key)) => {
                    table.remove(bits, &key)?;
                }
            }
        }
        if want != have {
            tracing::info!(prefixes = want.len(), "destinations without masquerade changed");
        }
        Ok(())
    }

    /// Warnings are said once, not with every look at the file.
    fn tell(&self, path: &Path, warnings: Vec<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != warnings {
            for warning in &warnings {
                tracing::warn!("{}: {warning}", path.display());
            }
            *told = warnings;
        }
    }
}

/// The file's prefixes, and what is asked for in vain; without a file those of an empty one, as in Cilium.
fn read(path: &Path) -> anyhow::Result<(BTreeSet<IpNet>, Vec<String>)> {
    let name = || path.display().to_string();
    let keys: BTreeMap<String, Value> = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(error).with_context(name),
        Ok(metadata) => {
            ensure!(
                metadata.len() <= MAX_FILE,
                "{} is longer than {MAX_FILE} bytes",
                name()
            );
            let text = std::fs::read_to_string(path).with_context(name)?;
            if text.trim().is_empty() {
                BTreeMap::new()
            } else {
                serde_saphyr::from_str(&text).with_context(name)?
            }
        }
    };
    let (file, unknown) = File::new(keys).with_context(name)?;
    let mut warnings: Vec<String> = unknown
        .iter()
        .map(|key| format!("key {key} is not known and changes nothing"))
        .collect();
    if file.asks_for_link_local_v6() {
        warnings.push(
            "masqLinkLocalIPv6 changes nothing: routers do not forward link-local addresses (RFC 4291)"
                .to_owned(),
        );
    }
    Ok((file.prefixes().with_context(name)?, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_may_be_yaml_json_empty_or_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let (without, _) = read(&path).unwrap();
        assert!(without.contains(&"fe80::/10".parse().unwrap()));
        for text in [
            "nonMasqueradeCIDRs:\n- 2001:db8::/32\nmasqLinkLocal: true\nmasqLinkLocalIPv6: true\n",
            r#"{"nonMasqueradeCIDRs": ["2001:db8::/32"], "masqLinkLocal": true, "masqLinkLocalIPv6": true}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                read(&path).unwrap().0,
                BTreeSet::from(["2001:db8::/32".parse().unwrap()])
            );
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(&path).unwrap(), (without, Vec::new()));
    }

    #[test]
    fn what_changes_nothing_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, "resyncInterval: 60s\nmasqLinkLocalIPv6: true\n").unwrap();
        let (_, warnings) = read(&path).unwrap();
        assert!(
            matches!(warnings.as_slice(), [unknown, vain] if unknown.contains("resyncInterval") && vain.contains("RFC 4291"))
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_says_where_and_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for (text, why) in [
            ("nonMasqueradeCIDRs: [nowhere]", "\"nowhere\" is no prefix"),
            ("masqLinkLocal: 5", "masqLinkLocal"),
            ("[]", ""),
            ("{", ""),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains(why) && error.contains("config"), "{text}: {error}");
        }
    }
}

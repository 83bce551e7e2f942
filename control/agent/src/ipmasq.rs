//! Destinations that pods reach with their own address: the file of ip-masq-agent, followed while the agent runs.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use ipnet::IpNet;
use loader::Datapath;
use model::ipmasq::{File, Step, steps, to_key};

/// Longest file that is read; a ConfigMap as a whole has at most 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// Makes the kernel's table what the file says; empty where no file is followed.
///
/// # Errors
/// The file cannot be read or used, or the table not be written. What was in the table stays then.
pub(crate) fn reconcile(datapath: &Datapath, file: Option<&Path>) -> anyhow::Result<()> {
    let want: BTreeSet<_> = match file {
        Some(path) => read(path)?.into_iter().map(to_key).collect(),
        None => BTreeSet::new(),
    };
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

/// The file's prefixes; without a file those of an empty one, as in Cilium.
fn read(path: &Path) -> anyhow::Result<BTreeSet<IpNet>> {
    let name = || path.display().to_string();
    let file = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
        Err(error) => return Err(error).with_context(name),
        Ok(metadata) => {
            ensure!(
                metadata.len() <= MAX_FILE,
                "{} is longer than {MAX_FILE} bytes",
                name()
            );
            let text = std::fs::read_to_string(path).with_context(name)?;
            if text.trim().is_empty() {
                File::default()
            } else {
                serde_saphyr::from_str(&text).with_context(name)?
            }
        }
    };
    file.prefixes().with_context(name)
}

/// The file that is followed, if any.
pub(crate) fn file(config: &model::AgentConfig, path: &Path) -> Option<PathBuf> {
    config.ip_masq_agent.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_may_be_yaml_json_empty_or_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let without = read(&path).unwrap();
        assert!(without.contains(&"fe80::/10".parse().unwrap()));
        for text in [
            "nonMasqueradeCIDRs:\n- 2001:db8::/32\nmasqLinkLocal: true\nmasqLinkLocalIPv6: true\n",
            r#"{"nonMasqueradeCIDRs": ["2001:db8::/32"], "masqLinkLocal": true, "masqLinkLocalIPv6": true}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                read(&path).unwrap(),
                BTreeSet::from(["2001:db8::/32".parse().unwrap()])
            );
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(&path).unwrap(), without);
    }

    #[test]
    fn a_file_that_cannot_be_used_says_where_and_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for (text, why) in [
            ("nonMasqueradeCIDRs: [nowhere]", "\"nowhere\" is no prefix"),
            ("nonMasqueradeCidrs: []", "nonMasqueradeCidrs"),
            ("{", ""),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains(why) && error.contains("config"), "{text}: {error}");
        }
    }
}
